"""Draw clips to try the example with. Replace this step by your own: a folder of videos and a CSV of labels.

    python examples/custom_dataset/make_clips.py OUT

writes OUT/clip_0000.mp4 and so on, in each of which a colored shape bounces, and OUT/labels.csv: how often. To count
that is a skill that the model which comes with tinyvid was never taught (docs/shapes.md).
"""

import argparse
import csv
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

from tinyvid.worlds.shapes import ClipPlan, SetOptions, encode, plan_clip

MOST = 4  # bounces


def plans(total: int, seed: int) -> Iterator[ClipPlan]:
    """Yield clips, as many with one bounce as with two, three and four."""
    options = SetOptions(
        seed=seed,
        families=["bounce_count"],
        formats=["open"],
        require_motion="bounce",
        bounces=[1, MOST],
        questions=1,
        num_shapes=1,
    )
    found: Counter[str] = Counter()
    for plan in map(partial(plan_clip, options), count()):
        if found.total() == total:
            return
        label = plan.questions[0].reply
        if found[label] < -(-total // MOST):
            found[label] += 1
            yield plan


def main() -> None:
    """Draw the clips and list them."""
    parser = argparse.ArgumentParser(description="Draw clips of a shape that bounces, and a CSV of how often.")
    parser.add_argument("out", type=Path, help="folder for the clips and labels.csv")
    parser.add_argument("--count", type=int, default=700, help="clips to draw (default: 700)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    labels = arguments.out / "labels.csv"
    with labels.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "label"))
        for number, plan in enumerate(plans(arguments.count, arguments.seed)):
            name = f"clip_{number:04}.mp4"
            (arguments.out / name).write_bytes(encode(plan))
            writer.writerow((name, plan.questions[0].reply))
    print(f"{arguments.count} clips are in {arguments.out}, their labels in {labels}")


if __name__ == "__main__":
    main()
