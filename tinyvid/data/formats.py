"""File formats of published data sets that both rows to train on and benchmarks are made of.

UCF-Crime (arXiv:1801.04264) names the class of a video at the beginning of its file name; Animal Kingdom
(arXiv:2204.08129) grounds sentences in lines of their own. The questions are asked elsewhere.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tinyvid.errors import DataError, suggest

NORMAL = "Normal Video"
# As a reproduction study of LLaMA-VID lists them, and the three classes that it does not ask.
CRIMES = (
    "Abuse", "Arrest", "Arson", "Assault", "Burglary", "Explosion", "Fighting", "Robbery", "Road Accident", "Shooting",
    NORMAL,
)  # fmt: skip
NOT_ASKED = ("Shoplifting", "Stealing", "Vandalism")
_SPELLINGS = {"RoadAccidents": "Road Accident", "Normal Videos": NORMAL}  # of file names that are no label
_CLASS = re.compile(r"(\D+)\d")
_MOMENT = re.compile(r"(\S+)\s+(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)\s*##\s*(\S.*?)")


def crime_of(name: str, *, where: object) -> str:
    """Return the class of UCF-Crime that a file's name begins with.

    Example:
        >>> crime_of("RoadAccidents133_x264.mp4", where="test")
        'Road Accident'

    Args:
        name: Of the file.
        where: Place of the name, for the message.

    Raises:
        DataError: It begins with no class.
    """
    found = _CLASS.match(name)
    label = found[1].replace("_", " ").strip() if found else ""
    label = _SPELLINGS.get(label, label)
    if label not in (*CRIMES, *NOT_ASKED):
        raise DataError(f"{where}: {name!r} begins with no class of UCF-Crime. {suggest(label, (*CRIMES, *NOT_ASKED))}")
    return label


@dataclass(frozen=True, slots=True)
class Moment:
    """What happens in the video ``code`` from second ``start`` to second ``end``."""

    code: str
    start: float
    end: float
    sentence: str


def read_moments(path: Path) -> list[Moment]:
    """Return the lines ``CODE start end##sentence`` of a grounding file of Animal Kingdom.

    Raises:
        DataError: There is no such file, or a line has another form or ends before it starts.
    """
    if not path.is_file():
        raise DataError(f"there is no annotation {str(path)!r}; it is a file of lines 'CODE start end##sentence'")
    moments = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        found = _MOMENT.fullmatch(line.strip())
        if found is None:
            raise DataError(f"{path}:{number}: expected 'CODE start end##sentence', found {line!r:.80}")
        moment = Moment(found[1], float(found[2]), float(found[3]), found[4])
        if moment.end <= moment.start:
            raise DataError(f"{path}:{number}: ends at {moment.end:g} s, which is not after {moment.start:g} s")
        moments.append(moment)
    return moments
