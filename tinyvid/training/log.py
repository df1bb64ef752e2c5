"""Write the metrics of a run: ``metrics.jsonl``, ``metrics.csv`` and ``loss.png``."""

import csv
import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from tinyvid.outputs import cut_torn_line

DRAW_EVERY = 30  # seconds between plots; a plot takes half a second, which short evaluations would notice
COLUMNS = ("step", "epoch", "loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy")


class RunLog(TrainerCallback):
    """Append the Trainer's logs to the run's files, and plot the loss at evaluations, at saves and at the end."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.drawn = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remove incomplete lines of a killed run."""
        if state.is_world_process_zero:
            for name in ("metrics.jsonl", "metrics.csv"):
                cut_torn_line(self.run_dir / name)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Append one record."""
        if not state.is_world_process_zero or not logs:
            return
        record = {"step": state.global_step, **logs}
        with (self.run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if not record.keys() & {"loss", "eval_loss"}:
            return  # the summary at the end is not part of the curve
        table = self.run_dir / "metrics.csv"
        is_new = not table.exists()
        with table.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            if is_new:
                writer.writeheader()
            writer.writerow(record)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Plot the loss, unless the last plot is recent."""
        if time.monotonic() - self.drawn >= DRAW_EVERY:
            self.on_train_end(args, state, control)

    on_save = on_evaluate

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Plot the loss."""
        if state.is_world_process_zero:
            draw_losses(read_metrics(self.run_dir), self.run_dir / "loss.png")
            self.drawn = time.monotonic()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the records of a run. Lines truncated by a kill are skipped; a resumed run writes them again."""
    file = run_dir / "metrics.jsonl"
    records = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def draw_losses(records: list[dict[str, Any]], path: Path) -> None:
    """Plot the training and evaluation loss, and the accuracy if there is one, against the step."""
    import matplotlib  # slow to import, so imported only for plots

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # A resumed run may have logged a step twice; the later record counts.
    curves = {
        name: {r["step"]: r[name] for r in records if name in r} for name in ("loss", "eval_loss", "eval_accuracy")
    }
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name in ("loss", "eval_loss"):
        if curves[name]:
            axes.plot(*zip(*sorted(curves[name].items()), strict=True), marker=".", label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("cross-entropy per token")
    if curves["loss"] or curves["eval_loss"]:
        axes.legend(loc="upper left")
    if curves["eval_accuracy"]:
        right = axes.twinx()
        right.plot(*zip(*sorted(curves["eval_accuracy"].items()), strict=True), "g--", marker=".", label="accuracy")
        right.set_ylim(0, 1)
        right.set_ylabel("accuracy")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
