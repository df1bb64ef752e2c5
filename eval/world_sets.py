"""What the benchmarks of generated worlds share: a set that is generated once, and items from its rows."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from tinyvid import LETTERS, ConfigError, DataError, Item, Outcome, Rule, Sample, lettered
from tinyvid.errors import listed

DEFAULT_ROOT = "runs/worlds"  # contains a folder for each set without benchmark.root


def short_hash(described: Mapping[str, Any]) -> str:
    """Return a text that changes with the options of a set, for names and ids."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8]


def span_recall(spans: Sequence[Outcome]) -> float:
    """Return the percentage of the spans with an IoU of at least 0.7."""
    return 100 * sum((outcome.value or 0.0) >= 0.7 for outcome in spans) / len(spans)


def draw(
    write: Callable[[Path], Any],
    folder: Path,
    described: Mapping[str, Any],
    *,
    world: str,
    ignored: Sequence[str] = (),
) -> dict[str, Any]:
    """Generate a set unless it exists; if several processes need it, one generates it and the others wait.

    Args:
        write: Generates the set in a folder. Its errors are raised.
        folder: The folder.
        described: Options that the set must have.
        world: Name of the world.
        ignored: Options of the set that may differ.

    Returns:
        The options of the set.

    Raises:
        ConfigError: The folder contains something else.
        DataError: The set cannot be written.
    """
    if not folder.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f"{folder.name}.lock")):
                if not folder.exists():
                    write(folder)
        except OSError as error:
            raise DataError(f"benchmark.root={str(folder)!r} cannot be written: {error}") from error
    advice = "use its options, choose another benchmark.root, or remove the folder to generate the set again"
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        found, name = manifest["options"], manifest["world"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        found, name = None, str(error)
    if name != world or not isinstance(found, dict):
        raise ConfigError(
            f"benchmark.root={str(folder)!r} exists but does not contain a set of the {world} world; {advice}"
        )
    changed = [key for key in {**described, **found} if found.get(key) != described.get(key) and key not in ignored]
    if changed:
        others = listed((f"{key} is {found.get(key)!r:.60}, not {described.get(key)!r:.60}" for key in changed), 4)
        raise ConfigError(f"benchmark.root={str(folder)!r} contains a set with other options ({others}); {advice}")
    return found


def item_of(sample: Sample, rules: Mapping[str, Rule]) -> Item:
    """Return a row as an item: letters, and yes or no, have their own rules, other replies must match exactly.

    Args:
        sample: The row.
        rules: Rules by family, for families with times; they are parts of the report.
    """
    *asked, reply = sample.messages
    form, family = str(sample.meta["format"]), str(sample.meta["family"])
    of_format: dict[str, Rule] = {"choice": "choice", "yesno": "yes_no"}
    part = family if family in rules else "captions" if form == "caption" else "questions"
    options = [str(option) for option in sample.meta.get("options") or ()]
    written = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return Item(
        id=sample.id,
        sample=replace(sample, messages=asked),
        rule=rules.get(family) or of_format.get(form, "exact"),
        answer=reply.text,
        options=lettered(options),
        groups={"part": part, "family": family, "format": form},
        question=asked[-1].text.removesuffix("\n".join(["", *written])),
    )


def bar(clips: int) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """Return a function that shows a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import track

    def show(written: Iterable[Any]) -> Iterable[Any]:
        return track(written, "generating clips", total=clips, console=Console(stderr=True), transient=True)

    return show
