"""Generate clips for this example. Replace this step with your own data: a folder of videos and a CSV of labels.

    python examples/custom_dataset/make_clips.py OUT

Writes OUT/clip_0000.mp4 and so on, each with one bouncing shape, and OUT/labels.csv with the number of bounces. The
default model was not trained to count bounces (docs/shapes.md).
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
    """Yield clips with equal numbers of one, two, three and four bounces."""
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
    """Write the clips and labels.csv."""
    parser = argparse.ArgumentParser(
        description="Generate clips of a bouncing shape, labeled with the number of bounces."
    )
    parser.add_argument("out", type=Path, help="folder for the clips and labels.csv")
    parser.add_argument("--count", type=int, default=700, help="number of clips (default: 700)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
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
    print(f"Wrote {arguments.count} clips to {arguments.out} and their labels to {labels}")


if __name__ == "__main__":
    main()
