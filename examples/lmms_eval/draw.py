"""Generate a small task for lmms-eval that ``benchmark=custom`` can also read.

    python examples/lmms_eval/draw.py OUT

Writes clips of moving shapes, rows.jsonl and the lmms-eval task tinyvid_shapes to OUT. The questions are about whole
videos, second halves of videos, an image, and text only.
"""

import argparse
import json
import shutil
from pathlib import Path

from PIL import Image

from tinyvid.worlds.shapes import SceneQuestion, SetOptions, encode, plan_clip, render

TASK = Path(__file__).parent / "task"


def draw(out: Path, *, clips: int = 6, questions: int = 3) -> int:
    """Write the task and return its number of questions; the last question about each video shows its second half."""
    out.mkdir(parents=True, exist_ok=True)
    options = SetOptions(seed=7, split="iid", questions=questions)
    rows = []
    for index in range(clips):
        clip = plan_clip(options, index)
        (out / f"clip_{index}.mp4").write_bytes(encode(clip))
        for number, question in enumerate(clip.questions):
            half = [clip.duration / 2, clip.duration] if number == questions - 1 else None
            rows.append(row(f"{index}-{number}", question, video=f"clip_{index}.mp4", clip=half))
    Image.fromarray(render(clip.scene, num_frames=1)[0]).save(out / "frame.png")
    rows += [row("image", clip.questions[0], image="frame.png"), row("text", clip.questions[0])]
    (out / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    for name in ("tinyvid_shapes.yaml", "utils.py"):
        shutil.copy(TASK / name, out)
    return len(rows)


def row(name: str, question: SceneQuestion, **media) -> dict:
    """Return a row with a conversation for tinyvid and the question for lmms-eval, without empty media keys."""
    asked = {"conversations": [{"from": "human", "value": question.text}], "question": question.text}
    return {"id": name, **asked, "answer": question.reply, **{key: value for key, value in media.items() if value}}


def main() -> None:
    """Write the task."""
    parser = argparse.ArgumentParser(description="Generate a small task for lmms-eval and benchmark=custom.")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--clips", type=int, default=6, help="number of clips (default: 6)")
    parser.add_argument("--questions", type=int, default=3, help="questions about each clip (default: 3)")
    given = parser.parse_args()
    count = draw(given.out, clips=given.clips, questions=given.questions)
    print(f"Wrote {count} questions and the task tinyvid_shapes; run lmms-eval with --include_path {given.out}")


if __name__ == "__main__":
    main()
