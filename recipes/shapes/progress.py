"""Show progress as bars on a terminal, and as lines in a log otherwise."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[..., None]]:
    """Yield a function that advances the bar by a count and shows a note next to it."""
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns: list[str | ProgressColumn] = ["{task.description}", BarColumn(), "{task.completed}/{task.total}"]
    columns += [TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")]
    terminal = sys.stderr.isatty()
    shown = Progress(*columns, disable=not terminal)
    begun = last = time.monotonic()
    done = 0
    with shown:
        task = shown.add_task(name, total=total, note="")

        def tick(count: int = 1, note: str = "") -> None:
            nonlocal done, last
            done += count
            shown.update(task, advance=count, note=note)
            if not terminal and (time.monotonic() - last > 10 or done >= total):
                last = time.monotonic()
                print(f"{name} {done}/{total} {last - begun:.0f} s {note}", file=sys.stderr, flush=True)

        yield tick
