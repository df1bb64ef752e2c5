"""Make the default model, which knows the shapes world, from nothing: clips, parts with random weights, four stages.

    python -m recipes.shapes                       # runs/shapes; about 90 minutes on two CPU cores
    python -m recipes.shapes --size smoke          # about two minutes, a model that has learned something
    python -m recipes.shapes --out DIR --seed 1 --device cuda

A stage that is in the folder already is not repeated, so the same command goes on after a kill. The folder holds the
model in ``model``, its hash and numbers in ``report.json``, losses and accuracies as ``*.jsonl`` and as pictures.
"""

import argparse
import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

# Cores are kept busy by replicas and by processes that make questions; threads within an operation would only wait.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from recipes.shapes.release import release, replaceable, ship
from recipes.shapes.sizes import SIZES
from recipes.shapes.stages import STAGES, RecipeRun

logger = logging.getLogger("tinyvid.shapes")


def main() -> None:
    """Run the stages that are not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/shapes"), help="folder of the run (runs/shapes)")
    parser.add_argument("--size", choices=list(SIZES), default="default", help="how large and how long (default)")
    parser.add_argument("--seed", type=int, default=0, help="of clips, weights, order and questions (0)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train (auto)")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
                        help="of matrix products; auto is bfloat16 where the hardware has it (auto)")  # fmt: skip
    parser.add_argument("--workers", type=int, default=2, help="processes that make clips and questions (2)")
    parser.add_argument("--hold-out", action="store_true",
                        help="leave four pairs of color and shape out, and measure on them in the end")  # fmt: skip
    parser.add_argument("--ship", type=Path, help="copy the finished model, with card and demo clip, to this folder")
    parser.add_argument("--footage", type=Path, nargs="+", default=(),
                        help="with --ship: videos without shapes; the card says what is seen in them")  # fmt: skip
    parser.add_argument("--until", choices=list(STAGES), help="stop after this stage")
    args = parser.parse_args()
    if args.ship and not replaceable(args.ship):
        parser.error(
            f"--ship {args.ship}: it holds other things than a model that came from here, and would be replaced"
        )
    if args.footage and not args.ship:
        parser.error("--footage belongs to the card, which --ship writes")
    if missing := [str(path) for path in args.footage if not path.is_file()]:
        parser.error(f"--footage: no such file: {', '.join(missing)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    size = replace(SIZES[args.size], hold_out=args.hold_out)
    run = RecipeRun(args.out, size, args.seed, device, has_bf16(args.precision, device), args.workers)
    run_stages(run, until=args.until)
    if args.until is not None:
        return
    held_out = " --hold-out" if args.hold_out else ""
    if not (args.out / "report.json").exists():
        release(run, command=f"python -m recipes.shapes --size {args.size} --seed {args.seed}{held_out}")
    if args.ship:
        ship(run, args.ship, args.footage)


def run_stages(run: RecipeRun, *, until: str | None = None) -> None:
    """Run the stages whose result is not there, in order, and note how long each took."""
    run.out.mkdir(parents=True, exist_ok=True)
    for name, (stage, result) in STAGES.items():
        if not (run.out / result).exists():
            began = time.monotonic()
            stage(run)
            seconds = time.monotonic() - began
            logger.info("%s: %.0f s", name, seconds)
            with (run.out / "seconds.jsonl").open("a", encoding="utf-8") as file:
                file.write(f'{{"stage": "{name}", "seconds": {seconds:.0f}}}\n')
        if name == until:
            return


def has_bf16(precision: str, device: str) -> bool:
    """Return whether to multiply matrices in bfloat16: many CPUs do it a hundred times slower than in float32."""
    if precision != "auto":
        return precision == "bfloat16"
    return device == "cuda" or torch.cpu._is_avx512_bf16_supported()


if __name__ == "__main__":
    main()
