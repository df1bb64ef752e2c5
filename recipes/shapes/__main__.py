"""Train the default model from scratch: generate clips of the shapes world and train all parts in four stages.

    python -m recipes.shapes                       # writes runs/shapes; about 90 minutes on two CPU cores
    python -m recipes.shapes --size smoke          # one or two minutes, for a small model that has learned something
    python -m recipes.shapes --size patches        # a model with connector=mlp, from the parts of the default model
    python -m recipes.shapes --out DIR --seed 1 --device cuda

Finished stages are skipped, so run the same command again to continue an interrupted run. The folder contains the model
in ``model``, its hash and accuracies in ``report.json``, and learning curves as ``*.jsonl`` and ``*.png``.
"""

import argparse
import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

# Replicas and question workers already use all cores; more threads per operation would slow them down.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from recipes.shapes.patches import PATCH_STAGES
from recipes.shapes.release import add_options, check_options, release, ship
from recipes.shapes.sizes import SIZES, with_extra
from recipes.shapes.stages import STAGES, RecipeRun
from tinyvid.interrupts import interruptible
from tinyvid.worlds.shapes import EXTRA_FAMILIES

logger = logging.getLogger("tinyvid.shapes")


def main() -> None:
    """Run all stages that are not finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/shapes"), help="folder of the run (default: runs/shapes)"
    )
    parser.add_argument("--size", choices=list(SIZES), default="default", help="model size and training length")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="device to train on")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto",
                        help="precision of matrix products; auto is bfloat16 if the hardware supports it")  # fmt: skip
    parser.add_argument("--workers", type=int, default=2, help="processes that generate clips and questions")
    parser.add_argument("--hold-out", action="store_true",
                        help="exclude four pairs of color and shape from training, and test on them")  # fmt: skip
    parser.add_argument("--extra-families", nargs="+", choices=EXTRA_FAMILIES, default=(),
                        help="also train on these families, which the world asks only on request")  # fmt: skip
    add_options(parser)
    parser.add_argument("--until", choices=list(dict.fromkeys([*STAGES, *PATCH_STAGES])), help="stop after this stage")
    args = parser.parse_args()
    check_options(parser, args)
    if args.ship and args.size.startswith("patches"):
        parser.error(f"--ship is for the default model; copy {args.out / 'model'} instead")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    size = SIZES[args.size]
    size = replace(size, hold_out=args.hold_out, families=with_extra(size.families, args.extra_families))
    run = RecipeRun(args.out, size, args.seed, device, has_bf16(args.precision, device), args.workers)
    with interruptible("Finished stages are kept; run the same command again to continue."):
        run_stages(run, until=args.until)
    if args.until is not None:
        return
    more = " --hold-out" if args.hold_out else ""
    more += f" --extra-families {' '.join(args.extra_families)}" if args.extra_families else ""
    if not (args.out / "report.json").exists():
        release(run, command=f"python -m recipes.shapes --size {args.size} --seed {args.seed}{more}")
    if args.ship:
        ship(args.out, args.ship, args.real_videos)


def run_stages(run: RecipeRun, *, until: str | None = None) -> None:
    """Run the stages without a result, in order, and record how long each takes."""
    run.out.mkdir(parents=True, exist_ok=True)
    stages = PATCH_STAGES if run.size.connector["name"] == "mlp" else STAGES
    for name, (stage, result) in stages.items():
        if not (run.out / result).exists():
            began = time.monotonic()
            stage(run)
            seconds = time.monotonic() - began
            logger.info("Stage %s took %.0f s", name, seconds)
            with (run.out / "seconds.jsonl").open("a", encoding="utf-8") as file:
                file.write(f'{{"stage": "{name}", "seconds": {seconds:.0f}}}\n')
        if name == until:
            return


def has_bf16(precision: str, device: str) -> bool:
    """Return whether to multiply matrices in bfloat16, which many CPUs do a hundred times slower than float32."""
    if precision != "auto":
        return precision == "bfloat16"
    return device == "cuda" or torch.cpu._is_avx512_bf16_supported()


if __name__ == "__main__":
    main()
