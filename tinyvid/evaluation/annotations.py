"""What benchmark classes share: their files, their letters, and where the built-in ones are found.

No benchmark is described here; each is a small class in ``eval/``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyvid.data.parsing import LETTERS
from tinyvid.errors import DataError
from tinyvid.evaluation.items import Benchmark
from tinyvid.registry import BENCHMARKS

LISTED = 8  # names that a message shows before it only counts
PADDING = {"", "n/a"}  # texts that fill up rows with fewer options


def build_benchmark(config: Mapping[str, Any]) -> Benchmark:
    """Build the benchmark that a configuration names.

    Args:
        config: ``name`` and options, as ``conf/benchmark`` lists them.

    Raises:
        ConfigError: The name or an option is wrong; an unknown ``prompt_style`` is one.
        DataError: Files of the annotation are missing, or the options leave no item.
    """
    benchmark: Benchmark = BENCHMARKS.build(config)
    if not len(benchmark):
        raise DataError(f"benchmark '{config['name']}' has no items with {dict(config)}")
    return benchmark


def require(root: str | Path, files: Sequence[str], *, source: str) -> Path:
    """Return ``root`` as a path, after checking that files lie in it.

    Args:
        root: Folder of the benchmark.
        files: Paths relative to it, of files or folders.
        source: Where they come from.

    Raises:
        DataError: Some are missing; the message lists them.
    """
    folder = Path(root).expanduser()
    missing = [name for name in files if not (folder / name).exists()]
    if missing:
        found = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else None
        holds = "there is no such folder" if found is None else f"it holds {listed(found) or 'nothing'}"
        raise DataError(
            f"benchmark.root={str(root)!r} lacks {len(missing)} of {len(files)} files: {listed(missing)} ({holds}); "
            f"they come from {source}"
        )
    return folder


def listed(names: Sequence[str], limit: int = LISTED) -> str:
    """Return names separated by commas; beyond ``limit``, how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def lettered(options: Sequence[str]) -> dict[str, str]:
    """Return the options of a row by letter, without those that only fill it up (empty, ``N/A``).

    Example:
        >>> lettered(["a cat", "a dog", "N/A"])
        {'A': 'a cat', 'B': 'a dog'}
    """
    return {
        letter: text.strip()
        for letter, text in zip(LETTERS, options, strict=False)
        if text.strip().lower() not in PADDING
    }


def letter_of(options: Mapping[str, str], answer: str, *, where: str) -> str:
    """Return the letter whose text is ``answer``, as rows that state their answer as text need it.

    Raises:
        DataError: No option has this text, or several have.
    """
    letters = [letter for letter, text in options.items() if text == answer.strip()]
    if len(letters) != 1:
        raise DataError(f"{where}: the answer {answer!r} is {len(letters)} of the options {dict(options)}, not one")
    return letters[0]
