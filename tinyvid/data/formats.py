"""File formats of published data sets that are used for both training rows and benchmarks.

In UCF-Crime (arXiv:1801.04264), the file name of a video begins with its class. Animal Kingdom (arXiv:2204.08129) and
Charades-STA (arXiv:1705.02101) have a text file with one grounded sentence per line.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tinyvid.errors import DataError, suggest

NORMAL = "Normal Video"
# The classes listed by a reproduction study of LLaMA-VID, and the three classes that it leaves out.
CRIMES = (
    "Abuse", "Arrest", "Arson", "Assault", "Burglary", "Explosion", "Fighting", "Robbery", "Road Accident", "Shooting",
    NORMAL,
)  # fmt: skip
NOT_ASKED = ("Shoplifting", "Stealing", "Vandalism")
_SPELLINGS = {
    "RoadAccidents": "Road Accident",
    "Normal Videos": NORMAL,
}  # spellings in file names that differ from the label
_CLASS = re.compile(r"(\D+)\d")
_MOMENT = re.compile(r"(\S+)\s+(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)\s*##\s*(\S.*?)")


def crime_of(name: str, *, where: object) -> str:
    """Return the UCF-Crime class of a video from its file name.

    Example:
        >>> crime_of("RoadAccidents133_x264.mp4", where="test")
        'Road Accident'

    Args:
        name: The file name.
        where: Location of the name, for messages.

    Raises:
        DataError: The file name does not begin with a class.
    """
    found = _CLASS.match(name)
    label = found[1].replace("_", " ").strip() if found else ""
    label = _SPELLINGS.get(label, label)
    if label not in (*CRIMES, *NOT_ASKED):
        raise DataError(
            f"{where}: {name!r} does not begin with a UCF-Crime class. {suggest(label, (*CRIMES, *NOT_ASKED))}"
        )
    return label


OnFault = Callable[[DataError], None]


@dataclass(frozen=True, slots=True)
class Moment:
    """A sentence about the video ``code`` from ``start`` to ``end``, in seconds.

    Attributes:
        code: Name of the video.
        start: Start of the window.
        end: End of the window.
        sentence: What happens in it.
        duration: Duration of the video; ``None`` if the file does not give it.
        where: Location in the file, for messages.
    """

    code: str
    start: float
    end: float
    sentence: str
    duration: float | None = None
    where: str = field(default="", compare=False)


def refuse(error: DataError) -> None:
    """Raise the error of a faulty window."""
    raise error


def read_moments(path: Path, on_fault: OnFault = refuse) -> list[Moment]:
    """Read a grounding file of Animal Kingdom or Charades-STA, with lines of the form ``CODE start end##sentence``.

    Args:
        path: The text file.
        on_fault: Called with the error of each window that ends before it starts, which is then left out; raises it
            by default.

    Raises:
        DataError: The file does not exist, or a line is malformed or ends before it starts.
    """
    if not path.is_file():
        raise DataError(
            f"annotation file {str(path)!r} does not exist; give a file with lines 'CODE start end##sentence'"
        )
    moments = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        found = _MOMENT.fullmatch(line.strip())
        if found is None:
            raise DataError(f"{path}:{number}: expected 'CODE start end##sentence', found {line!r:.80}")
        moment = Moment(found[1], float(found[2]), float(found[3]), found[4], where=f"{path}:{number}")
        if moment.end <= moment.start:
            on_fault(DataError(f"{moment.where}: end={moment.end:g} s must come after start={moment.start:g} s"))
        else:
            moments.append(moment)
    return moments
