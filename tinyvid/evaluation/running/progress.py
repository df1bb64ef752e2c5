"""A bar on standard error: what is done, how much of it is right, and the time that is left."""

from collections.abc import Sequence
from types import TracebackType

from tinyvid.evaluation.items import Outcome
from tinyvid.evaluation.scoring.averages import micro


class Progress:
    """Show how far a run is.

    Args:
        total: Items to be asked by this process.
        name: What is run.
        done: Outcomes of an earlier run, for the accuracy.
        shown: Whether to show anything.
    """

    def __init__(self, total: int, *, name: str, done: Sequence[Outcome] = (), shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.outcomes = list(done)
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[accuracy]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Bar(*columns, console=Console(stderr=True), disable=not shown)
        self._task = self._bar.add_task(name, total=total, accuracy=self._accuracy())

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Count outcomes."""
        self.outcomes += outcomes
        self._bar.update(self._task, advance=len(outcomes), accuracy=self._accuracy())

    def _accuracy(self) -> str:
        share = micro(self.outcomes)
        return "" if share != share else f"accuracy {share:.1%}"  # NaN is not itself
