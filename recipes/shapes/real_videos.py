"""Ask the model about real videos, which contain none of its shapes; the model card reports the replies.

    python -m recipes.shapes.real_videos bikes.mp4 bigbuckbunny.mp4          # the default model
    python -m recipes.shapes.real_videos bikes.mp4 --ckpt runs/shapes/model

Asks about each clip whether every pair of color and shape is present, where "no" is correct, and how many objects there
are, where no reply is correct.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.shapes.progress import progress
from tinyvid import Assistant, Message, Sample
from tinyvid.evaluation.scoring.averages import wilson
from tinyvid.worlds.shapes import COLORS, KINDS
from tinyvid.worlds.shapes.wording import with_article

Findings = dict[str, Any]


def ask_real_videos(assistant: Assistant, clips: Sequence[Path]) -> Findings:
    """Count how often the model reports a shape in clips without shapes, and how many objects it counts."""
    questions = [f"Is there {with_article(f'{color} {kind}')} in the video?" for color in COLORS for kind in KINDS]
    replies: list[str] = []
    counted: list[str] = []
    with progress("real videos", len(clips)) as tick:
        for clip in clips:
            asked = [*questions, "How many objects are there in the video?"]
            found = assistant.answer([Sample([Message("user", text)], video=str(clip)) for text in asked])
            replies += found[:-1]
            counted.append(found[-1])
            tick(1)
    return {"clips": len(clips), "asked": len(replies), "yes": replies.count("yes"), "counted": counted}


def paragraph(found: Findings) -> str:
    """Return the findings as a paragraph for the card."""
    low, high = wilson(found["yes"], found["asked"])
    pairs, clips = len(COLORS) * len(KINDS), found["clips"]
    return (
        f"It describes real videos in the only words it knows. In {clips} clips without such shapes, it was asked "
        f"about each of the\n{pairs} colored shapes, and it said yes {found['yes']} of {found['asked']} times "
        f"({100 * low:.0f} - {100 * high:.0f} %; 0 is right). Asked how many objects there are,\nit said "
        f"{', '.join(found['counted'])}.\n"
    )


def main() -> None:
    """Ask about the clips given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+", help="videos without any of the shapes")
    parser.add_argument("--ckpt", type=Path, help="checkpoint (default: the default model)")
    args = parser.parse_args()
    print(paragraph(ask_real_videos(Assistant.from_pretrained(args.ckpt), args.clips)))


if __name__ == "__main__":
    main()
