"""Check rows before a run: ``python recipes/check_data.py --help``. It takes the arguments of ``recipes/train.py``.

Reads, lays out and measures every row exactly as training does, and reports all faults with file and line, not just
the first. Loads no weights: the model is built on the meta device for its tokenizer, token budget and length limit.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text
from torch.utils.data import DataLoader

from tinyvid import Assistant, build_benchmark
from tinyvid.build import check
from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.data.datasets import held_out_rows
from tinyvid.diagnostics.checks import Fault, RowChecks, RowReport, as_row
from tinyvid.diagnostics.transcript import transcript
from tinyvid.errors import ConfigError, printable, suggest
from tinyvid.files import expanded
from tinyvid.processing.processor import Processor
from tinyvid.registry import DATASETS

NOT_OF_THE_DATA_SET = ("on_error", "max_skip", "skip_listed")  # keys of data= that tell training how to handle faults
STYLES = {"prompt": "dim", "reply": "green", "video": "cyan"}
BINS = 12


def main(config: DictConfig, line: CommandLine) -> None:
    """Check the rows given on the command line; exit with status 1 if any has a fault."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # prevents a warning in every worker
    settings: Any = OmegaConf.to_container(config, resolve=True)
    if settings["decode"] not in ("none", "first", "all"):
        raise ConfigError(
            f"decode={settings['decode']!r} is unknown. {suggest(settings['decode'], ['none', 'first', 'all'])}"
        )
    data = {key: value for key, value in settings["data"].items() if key not in NOT_OF_THE_DATA_SET}
    DATASETS.check(data)  # fail before building the model, which takes longer
    groups = line.checkpoint_groups(config, allow=("experiment",)) if settings["ckpt"] else {}
    if settings.get("benchmark"):
        build_benchmark(settings["benchmark"])  # raises an error for its first bad row
    sets = {"training rows": DATASETS.build(data), "held-out rows": held_out_rows(settings["eval_path"], data)}
    used = processor(settings, groups)
    out = expanded(settings["out"])
    out.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 160)
    faulty = False
    for name, rows in sets.items():
        if rows is None:
            continue
        checks = RowChecks(rows, used, decode=settings["decode"])
        append = name != "training rows"
        findings, finished = find(checks, out, workers=settings["workers"], append=append)
        if append:
            console.print(f"[bold]{name}[/bold]", highlight=False)
        elif findings.totals:
            draw(findings, used.max_length, out / "lengths.png")
        show(console, checks, findings.measured[: 0 if append else settings["show"]])
        report(console, findings, used.max_length, max_shown=settings["max_shown"])
        faulty |= bool(findings.faults)
        if not finished:
            console.print(f"[bold]Interrupted[/bold] after {findings.rows:,} of {len(checks):,} rows", highlight=False)
            sys.exit(130)
    console.print(f"Report written to {out}", highlight=False, markup=False)
    sys.exit(1 if faulty else 0)


def processor(settings: Mapping[str, Any], groups: Mapping[str, Any]) -> Processor:
    """Return the Processor that training would use, from a model without weights."""
    if settings["ckpt"] is None:
        check(settings)
        return Assistant.from_config(settings, device="meta").processor
    return Assistant.from_pretrained(settings["ckpt"], device="meta", **groups).processor


@dataclass
class Findings:
    """Results for the rows checked so far; keeps only a few numbers per row."""

    rows: int = 0
    faults: dict[Fault, None] = field(default_factory=dict)  # an ordered set: a mixture may repeat rows
    media: Counter[str] = field(default_factory=Counter)  # number of rows per medium
    measured: list[int] = field(default_factory=list)  # indices of the rows that have a layout
    text: list[int] = field(default_factory=list)
    video: list[int] = field(default_factory=list)
    labels: int = 0

    @property
    def totals(self) -> list[int]:
        """Total number of tokens of each measured row."""
        return [text + video for text, video in zip(self.text, self.video, strict=True)]

    def add(self, row: RowReport) -> list[Fault]:
        """Add the report of one row, and return its new faults."""
        self.rows += 1
        self.media[row.medium or "unreadable row"] += 1
        new = [fault for fault in row.faults if fault not in self.faults]
        self.faults |= dict.fromkeys(new)
        if row.text is not None:
            self.measured.append(row.index)
            self.text.append(row.text)
            self.video.append(row.video)
            self.labels += row.labels
        return new


def find(checks: RowChecks, out: Path, *, workers: int, append: bool = False) -> tuple[Findings, bool]:
    """Check every row and write results as they come; return them, and whether all rows were checked before Ctrl-C."""
    mode = "a" if append else "w"
    findings = Findings()
    rows: Any = checks  # a DataLoader only needs __len__ and __getitem__
    loader: DataLoader[RowReport] = DataLoader(rows, batch_size=None, num_workers=workers, collate_fn=_identity)
    console = Console(stderr=True)
    hidden = not console.is_terminal
    progress = track(loader, "checking", total=len(checks), console=console, transient=True, disable=hidden)
    with (out / "faults.jsonl").open(mode) as faults, (out / "lengths.jsonl").open(mode) as lengths:
        try:
            for row in progress:
                write(faults, *findings.add(row))
                write(lengths, row)
        except KeyboardInterrupt:
            return findings, False
    return findings, True


def write(file: IO[str], *items: Fault | RowReport) -> None:
    """Append each item to a file as one JSON line."""
    for item in items:
        file.write(json.dumps(as_row(item)) + "\n")


def _identity(row: Any) -> Any:
    return row


def report(console: Console, findings: Findings, limit: int, *, max_shown: int) -> None:
    """Print tables of rows by medium, lengths and faults."""
    console.print(_counts("rows by medium", findings.media))
    if findings.totals:
        console.print(_lengths(findings, limit))
        console.print(_histogram(findings.totals, limit))
        console.print(f"Label tokens per epoch: {findings.labels:,}", highlight=False)
    if not findings.faults:
        console.print(f"No faults in {findings.rows:,} rows", style="green", highlight=False)
        return
    table = Table("where", "kind", "message", title="faults", title_justify="left")
    for fault in list(findings.faults)[:max_shown]:
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in (fault.where, fault.kind, fault.message)))
    console.print(table)
    if len(findings.faults) > max_shown:
        console.print(f"{len(findings.faults) - max_shown:,} more faults are in faults.jsonl", highlight=False)
    console.print(_counts("faults by kind", Counter(fault.kind for fault in findings.faults), "faults"))


def show(console: Console, checks: RowChecks, rows: list[int]) -> None:
    """Print samples as the model sees them; replies are green, or between ``{+`` and ``+}`` without colors."""
    plain = console.no_color or not console.is_terminal
    if rows:
        marks = "between {+ and +}" if plain else "green"
        console.print(f"The first rows as the model sees them; replies are {marks}", highlight=False, markup=False)
    for index in rows:
        layout = checks.plan(index)
        console.rule(Text(printable(f"{checks.rows.where(index)}: {len(layout.input_ids):,} tokens")), align="left")
        text = Text()
        for passage in transcript(layout, checks.processor):
            marked = plain and passage.kind == "reply"
            words = printable(passage.text)
            text.append(f"{{+{words}+}}" if marked else words, style=STYLES[passage.kind])
        console.print(text, soft_wrap=True)


def _counts(title: str, counts: Counter[str], unit: str = "rows") -> Table:
    table = Table(title, unit)
    for name, count in counts.most_common():
        table.add_row(name, f"{count:,}")
    return table


def _lengths(findings: Findings, limit: int) -> Table:
    table = Table("tokens", "min", "median", "95 %", "max", f"over {limit:,}")
    for name, values in (("text", findings.text), ("video", findings.video), ("total", findings.totals)):
        points = np.percentile(values, [0, 50, 95, 100])
        over = sum(value > limit for value in values) if name == "total" else ""
        table.add_row(name, *(f"{point:,.0f}" for point in points), str(over))
    return table


def _histogram(totals: list[int], limit: int) -> Table:
    counts, edges = np.histogram(totals, bins=min(BINS, max(totals) - min(totals) + 1))
    table = Table("total tokens", "rows", "")
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        bar = "#" * int(np.ceil(40 * count / counts.max()))
        table.add_row(f"{low:,.0f} to {high:,.0f}", f"{count:,}", Text(bar, style="red" if high > limit else "cyan"))
    return table


def draw(findings: Findings, limit: int, path: Path) -> None:
    """Plot histograms of text, video and total tokens, with the length limit."""
    from matplotlib.figure import Figure  # takes a second to import; a bare Figure needs no display

    figure = Figure(figsize=(12, 3.5), layout="constrained")
    kinds = (("text", findings.text), ("video", findings.video), ("total", findings.totals))
    for axes, (name, values) in zip(figure.subplots(1, 3), kinds, strict=True):
        axes.hist(values, bins=min(40, max(values) - min(values) + 1))
        axes.set(title=f"{name} tokens", xlabel="tokens", ylabel="rows", yscale="symlog")
        if name == "total":
            axes.axvline(limit, color="tab:red", label=f"llm.max_length = {limit:,}")
            axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    run_hydra(main, config="check_data")
