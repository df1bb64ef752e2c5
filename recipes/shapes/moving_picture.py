"""Draw the animation of the README: clips play while the default model answers questions about them.

    python -m recipes.shapes.moving_picture

The clips and questions are fixed; the replies come from the model at run time, and wrong ones are red. The EXIF
description of the image contains them as JSON.
"""

import argparse
import json
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from tinyvid import Assistant
from tinyvid.registry import VIDEO_READERS
from tinyvid.types import Video
from tinyvid.video.open_video import open_video
from tinyvid.worlds.shapes import ClipPlan, SetOptions, encode, plan_clip

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "answers.webp"
SHOWN = ((2, (0, 4, 5)), (4, (0, 4, 3)), (0, (4, 2, 1)))  # numbers of clips, and of the questions about each
SIDE, FPS, SECONDS, LOOPS = 256, 10.0, 4.0, 2  # of a clip
OPTIONS = SetOptions(
    split="iid",
    seed=100,
    questions=6,
    formats=["open", "yesno", "caption"],
    num_shapes=3,
    min_events=2,
    sizes=[f"{SIDE}x{SIDE}"],
    fps=[FPS],
    seconds=[SECONDS],
)
WIDTH, MARGIN = 800, 20
HEIGHT = SIDE + 2 * MARGIN
FONT, BOLD = (f"{get_data_path()}/fonts/ttf/DejaVuSans{weight}.ttf" for weight in ("", "-Bold"))
TEXT_SIZE, LINE, COLUMNS = 16, 22, 52
CARD, QUESTION, RIGHT, WRONG = "#1c2128", "#9da7b3", "#7ee2a8", "#ff7b72"
DESCRIPTION = 0x010E  # the EXIF tag ImageDescription


@dataclass(frozen=True)
class Talk:
    """A clip with questions and replies.

    Attributes:
        frames: Decoded frames of the clip.
        turns: Question, reply, and whether the reply is correct.
    """

    frames: list[Image.Image]
    turns: list[tuple[str, str, bool]]


def talk_about(assistant: Assistant, plan: ClipPlan, numbers: tuple[int, ...], folder: Path) -> Talk:
    """Write a clip to a file, and ask the model the given questions about it."""
    path = folder / f"{plan.index}.mp4"
    path.write_bytes(encode(plan))
    opened = open_video(Video(str(path)), VIDEO_READERS.build({"name": "pyav"}))
    frames = [Image.fromarray(frame) for frame in opened.read(list(range(opened.meta.num_frames))).frames]
    turns = []
    for question in (plan.questions[number] for number in numbers):
        reply = assistant.ask(str(path), question.text)
        turns.append((question.text, reply, reply == question.reply))
    return Talk(frames, turns)


def draw(talk: Talk, tick: int) -> Image.Image:
    """Draw frame ``tick`` of the animation: the clip, a timeline, and the text up to this frame."""
    card = Image.new("RGB", (WIDTH, HEIGHT), CARD)
    now = tick % len(talk.frames)
    card.paste(talk.frames[now], (MARGIN, MARGIN))
    pen = ImageDraw.Draw(card)
    bottom = MARGIN + SIDE + 6
    pen.rectangle((MARGIN, bottom, MARGIN + SIDE - 1, bottom + 2), fill="#30363d")
    pen.rectangle((MARGIN, bottom, MARGIN + (SIDE - 1) * (now + 1) // len(talk.frames), bottom + 2), fill=QUESTION)
    left, top = 2 * MARGIN + SIDE + 4, MARGIN
    pause = LOOPS * len(talk.frames) // (len(talk.turns) + 1)  # from one question to the next
    for number, (question, reply, right) in enumerate(talk.turns):
        age = tick - number * pause - 2
        if age < 0:
            break
        font = ImageFont.truetype(FONT, TEXT_SIZE)
        for line in textwrap.wrap(question, COLUMNS):
            pen.text((left, top), line, font=font, fill=QUESTION)
            top += LINE
        # A reply starts half a second after its question, and takes half a second regardless of its length.
        said = reply[: max(0, round(len(reply) * (age - 4) / 5))]
        font = ImageFont.truetype(BOLD, TEXT_SIZE)
        lines = textwrap.wrap(reply, COLUMNS - 6)
        for line in lines:
            pen.text((left, top), line[: len(said)], font=font, fill=RIGHT if right else WRONG)
            said = said[len(line) + 1 :]
            top += LINE
        top += 14
    return card


def save(talks: list[Talk], path: Path) -> None:
    """Write the talks in sequence as a looping animated WebP."""
    pictures = [draw(talk, tick) for talk in talks for tick in range(LOOPS * len(talk.frames))]
    exif = Image.Exif()
    exif[DESCRIPTION] = json.dumps([turn for talk in talks for turn in talk.turns])
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(
        path,
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / FPS),
        loop=0,
        quality=80,
        method=4,
        minimize_size=True,
        exif=exif,
    )


def main() -> None:
    """Ask the default model, print its replies, and draw the animation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE, help="WebP file to write")
    parser.add_argument("--clips", type=int, default=len(SHOWN), help="number of clips to show")
    args = parser.parse_args()
    assistant = Assistant.from_pretrained(device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        shown = SHOWN[: args.clips]
        talks = [talk_about(assistant, plan_clip(OPTIONS, clip), numbers, Path(folder)) for clip, numbers in shown]
    for question, reply, _ in (turn for talk in talks for turn in talk.turns):
        print(f"{question} {reply}")
    save(talks, args.out)
    print(f"Wrote {args.out}")


if __name__ == "__main__":
    main()
