"""Timed sentences of published data sets, for training rows and benchmarks.

ActivityNet Captions (arXiv:1705.00754), YouCook2 (arXiv:1703.09788), QVHighlights (arXiv:2107.09609) and TimeLens
(arXiv:2512.14698). ``tinyvid.data.formats`` reads the lines of Charades-STA and Animal Kingdom.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tinyvid.data.formats import Moment, OnFault, read_moments, refuse
from tinyvid.data.media import is_number
from tinyvid.data.rows import open_rows
from tinyvid.errors import DataError
from tinyvid.files import read_json

SLACK = 0.5  # seconds that a window may end after its video: hundreds of official ones end 0.01 s after it
KEYS = (("timestamps", "sentences"), ("spans", "queries"))  # of ActivityNet Captions, of TimeLens


def read_captions(path: Path, on_fault: OnFault = refuse) -> list[Moment]:
    """Read a file that maps each video to its duration, its windows and a sentence for each window.

    The keys are those of ActivityNet Captions (``timestamps``, ``sentences``) or of TimeLens (``spans``, ``queries``).

    Args:
        path: The JSON file.
        on_fault: Called with the error of each faulty window, which is then left out; raises it by default.

    Raises:
        DataError: The file is missing or has another format, or a window is faulty.
    """
    moments: list[Moment] = []
    for code, entry in read_json(path, error=DataError).items():
        where = f"{path}: '{code}'"
        keys = next((keys for keys in KEYS if isinstance(entry, dict) and set(keys) <= entry.keys()), None)
        if keys is None:
            raise DataError(f"{where} must have a duration, timestamps and sentences, or spans and queries")
        windows, sentences = (_list(entry, key, where) for key in keys)
        if len(windows) != len(sentences):
            raise DataError(f"{where} has {len(windows)} {keys[0]} for {len(sentences)} {keys[1]}; correct the file")
        events = zip(windows, sentences, strict=True)
        moments += _checked(code, events, _duration(entry, where), where, on_fault)
    return moments


def read_recipes(path: Path, subset: str | None = None, on_fault: OnFault = refuse) -> list[Moment]:
    """Read ``youcookii_annotations_trainval.json``.

    Args:
        path: The JSON file.
        subset: ``training`` or ``validation``; ``None`` reads both.
        on_fault: See ``read_captions``.

    Raises:
        DataError: The file is missing or has another format, or a window is faulty.
    """
    database = read_json(path, error=DataError).get("database")
    if not isinstance(database, dict):
        raise DataError(f"{path} has no 'database'; give youcookii_annotations_trainval.json")
    moments: list[Moment] = []
    for code, entry in database.items():
        where = f"{path}: '{code}'"
        if not isinstance(entry, dict):
            raise DataError(f"{where} must be an object with annotations, got {entry!r:.80}")
        if subset in (None, entry.get("subset")):
            found = [event if isinstance(event, dict) else {} for event in _list(entry, "annotations", where)]
            events = ((event.get("segment"), event.get("sentence")) for event in found)
            moments += _checked(code, events, _duration(entry, where), where, on_fault)
    return moments


def read_highlights(path: Path, on_fault: OnFault = refuse) -> list[Moment]:
    """Read ``highlight_<split>_release.jsonl`` of QVHighlights: a moment for each window of each query.

    Args:
        path: The JSON Lines file. Rows of the test split, which have no windows, are an error.
        on_fault: See ``read_captions``.

    Raises:
        DataError: The file is missing, or a row is malformed or has no windows.
    """
    rows = open_rows(path)
    moments: list[Moment] = []
    for index in range(len(rows)):
        row, where = rows[index], rows.where(index)
        if not isinstance(row.get("vid"), str):
            raise DataError(f"{where}: 'vid' must be a text, got {row.get('vid')!r:.80}")
        events = [(window, row.get("query")) for window in _list(row, "relevant_windows", where)]
        moments += _checked(row["vid"], iter(events), _duration(row, where), where, on_fault, numbered=False)
    return moments


READERS: dict[str, Callable[[Path, OnFault], list[Moment]]] = {
    "activitynet": read_captions,
    "animal_kingdom": read_moments,
    "charades_sta": read_moments,
    "qvhighlights": read_highlights,
    "youcook2": lambda path, on_fault: read_recipes(path, None, on_fault),
}


def _list(entry: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = entry.get(key)
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: '{key}' must be a list with at least one entry, got {value!r:.80}")
    return value


def _duration(entry: Mapping[str, Any], where: str) -> float:
    duration: Any = entry.get("duration")
    if not is_number(duration) or not duration > 0:
        raise DataError(f"{where}: 'duration' must be a positive number of seconds, got {duration!r:.80}")
    return float(duration)


def _checked(
    code: str, events: Iterator[tuple[Any, Any]], duration: float, where: str, on_fault: OnFault, numbered: bool = True
) -> Iterator[Moment]:
    """Yield the events of a video as moments; with ``numbered``, messages say which event is faulty."""
    for number, (window, sentence) in enumerate(events, 1):
        place = f"{where}, event {number}" if numbered else where
        try:
            start, end = checked_window(window, duration, where=place)
            if not isinstance(sentence, str) or not sentence.strip():
                raise DataError(f"{place}: the sentence must be a text, got {sentence!r:.80}")
        except DataError as error:
            on_fault(error)
        else:
            yield Moment(code, start, end, " ".join(sentence.split()), duration, place)


def checked_window(window: Any, duration: float | None, *, where: str) -> tuple[float, float]:
    """Return the start and the end of a window in seconds.

    Args:
        window: The value in the file.
        duration: Duration of the video, after which a window may end by ``SLACK``; ``None`` is unknown.
        where: Location of the window, for messages.

    Raises:
        DataError: It is not a pair of numbers, it ends before it starts, or it is not inside the video.
    """
    if not isinstance(window, list) or len(window) != 2 or not all(map(is_number, window)):
        raise DataError(f"{where}: a window must be [start, end] in seconds, got {window!r:.80}")
    start, end = map(float, window)
    if not 0 <= start < end:
        raise DataError(f"{where}: the window {window} must start at 0 or later and end after its start")
    if duration is not None and (end > duration + SLACK or start >= duration):
        raise DataError(f"{where}: the window {window} is not inside its video of {duration:g} s")
    return start, end
