"""Ask the same questions through lmms-eval and through ``tinyvid.evaluation``, and compare the replies one by one.

    python examples/lmms_eval/compare.py OUT --ckpt DIR

Requires lmms-eval, and the output of draw.py in OUT. The exit status is 1 if any reply differs.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

# The task is local, but packages would still contact the hub without these variables.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from tinyvid import Assistant, EvaluationOptions, build_benchmark, evaluate, read_outcomes

TASK, TOKENS = "tinyvid_shapes", 32  # must match the task


def through_lmms_eval(folder: Path, ckpt: str | None, *, device: str, batch_size: int) -> dict[str, str]:
    """Return the replies by row id."""
    model_args = f"pretrained={ckpt},dtype=float32" if ckpt else "dtype=float32"
    found = simple_evaluate(
        model="tinyvid",
        model_args=model_args,
        tasks=[TASK],
        batch_size=batch_size,
        device=device,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False, model_name="tinyvid"),
        bootstrap_iters=0,
    )
    print(f"lmms-eval: {found['results'][TASK]}")
    return {sample["doc"]["id"]: sample["resps"][0][0] for sample in found["samples"][TASK]}


def through_tinyvid(folder: Path, ckpt: str | None, *, device: str, batch_size: int) -> dict[str, str]:
    """Return the replies by row id."""
    assistant = Assistant.from_pretrained(ckpt, device=device, dtype="float32")
    benchmark = build_benchmark({"name": "custom", "root": str(folder)})
    options = EvaluationOptions(batch_size=batch_size, max_new_tokens=TOKENS)
    with tempfile.TemporaryDirectory() as run:
        report = evaluate(assistant, benchmark, run_dir=run, options=options)
        print(f"tinyvid: accuracy {report.accuracy:.4f} of {report.data['n_total']}")
        return {outcome.id: outcome.reply for outcome in read_outcomes(Path(run) / "predictions.jsonl")}


def main() -> None:
    """Compare the replies and print the ones that differ."""
    parser = argparse.ArgumentParser(description="Compare the replies through lmms-eval with those through tinyvid.")
    parser.add_argument("folder", type=Path, help="folder written by draw.py")
    parser.add_argument("--ckpt", help="checkpoint (default: the default model)")
    parser.add_argument("--device", default="auto", help="default: auto")
    parser.add_argument("--batch-size", type=int, default=4, help="default: 4")
    given = parser.parse_args()
    both = {
        name: ask(given.folder, given.ckpt, device=given.device, batch_size=given.batch_size)
        for name, ask in (("lmms-eval", through_lmms_eval), ("tinyvid", through_tinyvid))
    }
    theirs, ours = both["lmms-eval"], both["tinyvid"]
    differing = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    for name in differing:
        print(f"{name}: lmms-eval {theirs.get(name)!r}, tinyvid {ours.get(name)!r}")
    print(f"{len(ours) - len(differing)} of {len(ours)} replies are equal; {len(set(ours.values()))} are distinct")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
