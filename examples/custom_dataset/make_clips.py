"""Draw clips to try the example with. Replace this step by your own: a folder of videos and a CSV of labels.

    python examples/custom_dataset/make_clips.py OUT

writes OUT/clips/*.mp4, a bright square that moves to the left or to the right, and OUT/labels.csv.
"""

import argparse
import csv
import random
from pathlib import Path

import av
import numpy as np

SIZE, SQUARE, FPS, NUM_FRAMES = 112, 36, 8, 16  # pixels, pixels, frames per second, frames
LABELS = ("left", "right")


def draw_clip(path: Path, label: str, rng: random.Random) -> None:
    """Write an mp4 in which a square crosses the picture, at a height and in colours of its own."""
    background = np.array([rng.randrange(0, 60) for _ in range(3)])
    colour = np.array([rng.randrange(180, 256) for _ in range(3)])
    top = rng.randrange(0, SIZE - SQUARE)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for number in range(NUM_FRAMES):
            done = number / (NUM_FRAMES - 1)
            left = round((SIZE - SQUARE) * (done if label == "right" else 1 - done))
            picture = np.empty((SIZE, SIZE, 3), dtype=np.uint8)
            picture[:] = background
            picture[top : top + SQUARE, left : left + SQUARE] = colour
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())


def main() -> None:
    """Draw the clips and list them."""
    parser = argparse.ArgumentParser(description="Draw clips of a moving square, and a CSV of where it moves.")
    parser.add_argument("out", type=Path, help="folder for clips/ and labels.csv")
    parser.add_argument("--count", type=int, default=48, help="clips to draw (default: 48)")
    parser.add_argument("--seed", type=int, default=0, help="of colours and heights (default: 0)")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    clips = arguments.out / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "label"))
        for number in range(arguments.count):
            name, label = f"clip_{number:03}.mp4", LABELS[number % len(LABELS)]
            draw_clip(clips / name, label, rng)
            writer.writerow((name, label))
    print(f"{arguments.count} clips are in {clips}, their labels in {arguments.out / 'labels.csv'}")


if __name__ == "__main__":
    main()
