"""Helpers of benchmark classes: required files and option letters. The classes themselves are in ``eval/``."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyvid.data.options import LETTERS, is_padding
from tinyvid.errors import ConfigError, DataError, listed, raised_as
from tinyvid.evaluation.items import Benchmark
from tinyvid.files import expanded
from tinyvid.registry import BENCHMARKS


def build_benchmark(config: Mapping[str, Any]) -> Benchmark:
    """Build a benchmark from a configuration.

    Args:
        config: ``name`` and options, as in ``conf/benchmark``.

    Raises:
        ConfigError: The name or an option is wrong, such as an unknown ``prompt_style``.
        DataError: Annotation files are missing, or no items match the options.
    """
    benchmark: Benchmark = BENCHMARKS.build(config)
    if not len(benchmark):
        raise DataError(f"benchmark '{config['name']}' has no items with the options {dict(config)}; relax them")
    return benchmark


def require(root: str | Path, files: Sequence[str], *, source: str) -> Path:
    """Return ``root`` as a path, after checking that it contains the required files.

    Args:
        root: Folder of the benchmark.
        files: Required files or folders, relative to ``root``.
        source: Where to get the files, for messages.

    Raises:
        DataError: Some are missing; the message lists them.
    """
    with raised_as(ConfigError, f"benchmark.root={str(root)!r}", "correct the path"):
        folder = expanded(root)
    missing = [name for name in files if not os.path.exists(folder / name)]
    if missing:
        found = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else None
        content = "there is no such folder" if found is None else f"it contains {listed(found) or 'nothing'}"
        raise DataError(
            f"benchmark.root={str(root)!r} lacks {len(missing)} of {len(files)} files: {listed(missing)} ({content}); "
            f"get them from {source}"
        )
    return folder


def lettered(options: Sequence[str]) -> dict[str, str]:
    """Return the options of a row by letter, without padding (empty or ``N/A``).

    Example:
        >>> lettered(["a cat", "a dog", "N/A"])
        {'A': 'a cat', 'B': 'a dog'}
    """
    return {letter: text.strip() for letter, text in zip(LETTERS, options, strict=False) if not is_padding(text)}


def letter_of(options: Mapping[str, str], answer: str, *, where: str) -> str:
    """Return the letter of the option whose text is ``answer``.

    Raises:
        DataError: No option has this text, or several options have it.
    """
    letters = [letter for letter, text in options.items() if text == answer.strip()]
    if len(letters) != 1:
        raise DataError(
            f"{where}: the answer {answer!r} matches {len(letters)} of the options {dict(options)}; it must match one"
        )
    return letters[0]
