"""The media of a row: paths below the media folder, bounds, frame rate and subtitles. Files are not opened."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyvid.data.keys import END_KEYS, IMAGE_KEYS, START_KEYS, VIDEO_KEYS, given
from tinyvid.errors import DataError
from tinyvid.files import is_below
from tinyvid.text.subtitles import json_cue
from tinyvid.types import Cue

_URL = re.compile(r"(?:[A-Za-z][\w+.-]+://|data:)")
_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # no file name contains them


def media_of(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the media of a row as pairs of ``video`` or ``image`` and a path; videos first.

    Raises:
        DataError: The row has two keys for videos, or two for images.
    """
    media: list[tuple[str, Any]] = []
    for kind, names in (("video", VIDEO_KEYS), ("image", IMAGE_KEYS)):
        key = given(row, names)
        if key is not None:
            paths = row[key] if isinstance(row[key], list) else [row[key]]
            media += [(kind, path) for path in paths]
    return media


def checked_path(path: Any, media_root: Path, allowed: Sequence[Path] = ()) -> str:
    """Return a media path, which must stay in ``media_root`` or in an ``allowed`` folder, links included.

    Raises:
        DataError: It is not a path, or it leaves these folders.
    """
    if not isinstance(path, str) or not path:
        raise DataError(f"a media path must be a string, got {path!r:.80}; a video of frame images is a folder")
    if _URL.match(path):
        raise DataError(f"{path!r:.80} is a URL; download the file and give its path below data.media_root")
    if _UNUSABLE.search(path):
        raise DataError(f"the path {path!r:.80} contains a character that no file name has; correct it")
    roots = [os.path.normpath(folder) for folder in (media_root, *allowed)]
    whole = os.path.normpath(os.path.join(roots[0], path))
    is_named = any(whole == root or whole.startswith(root.rstrip(os.sep) + os.sep) for root in roots)
    if not is_named and not is_below(whole, roots):
        raise DataError(
            f"the path {path!r:.200} leaves the media folder {str(media_root)!r}; set media_root (of data= or "
            "benchmark=) to a parent folder, or list its folder in allowed_roots=[DIR]"
        )
    for name in (whole, *_links(whole)):
        if not is_below(name, roots):
            raise DataError(
                f"the path {path!r:.200} leads through a link to {os.path.realpath(name)!r:.200}, outside the media "
                f"folder {str(media_root)!r}; list the folder of that file in allowed_roots=[DIR]"
            )
    return whole


def _links(folder: str) -> list[str]:
    """Return the links in a folder of frames; none if it is a file."""
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_symlink()]
    except OSError:  # a file, or a problem that opening it reports
        return []


def bounds_of(row: Mapping[str, Any], num_videos: int) -> tuple[float | None, float | None]:
    """Return the start and end of a row's single video, in seconds.

    Raises:
        DataError: They are not numbers in order, or the row does not have exactly one video.
    """
    start, end = given(row, START_KEYS), given(row, END_KEYS)
    keys = [key for key in (None if row.get("clip") is None else "clip", start, end) if key is not None]
    if not keys:
        return None, None
    if num_videos != 1:
        raise DataError(f"'{keys[0]}' needs exactly one video, but the row has {num_videos}")
    if "clip" in keys and len(keys) > 1:
        raise DataError(f"the row has both 'clip' and '{keys[1]}'; keep one")
    clip = row["clip"] if "clip" in keys else [row.get(key) if key else None for key in (start, end)]
    if not isinstance(clip, list) or len(clip) != 2 or not all(t is None or is_number(t) for t in clip):
        raise DataError(f"'{keys[0]}' must give seconds, as in 'clip': [2.5, 10], got {clip!r:.80}")
    first, last = clip[0] or 0, clip[1]
    if first < 0 or (last is not None and last <= first):
        raise DataError(f"'{keys[0]}' must give a start of at least 0 and a later end, in seconds, got {clip!r:.80}")
    return clip[0], clip[1]


def fps_of(row: Mapping[str, Any]) -> float | None:
    """Return the frame rate of a row's folders of frames.

    Raises:
        DataError: It is not a positive number.
    """
    fps = row.get("fps")
    if fps is not None and not (is_number(fps) and fps > 0):
        raise DataError(f"'fps' must be a positive number of frames per second, got {fps!r:.80}")
    return fps


def subtitles_of(
    row: Mapping[str, Any], num_videos: int, media_root: Path, allowed: Sequence[Path] = ()
) -> str | tuple[Cue, ...] | None:
    """Return the subtitles of a row's single video: the path of a file, or cues.

    Raises:
        DataError: They are malformed, or the row does not have exactly one video.
    """
    subtitles = row.get("subtitles")
    if subtitles is None:
        return None
    if num_videos != 1:
        raise DataError(f"'subtitles' need exactly one video, but the row has {num_videos}")
    if isinstance(subtitles, str):
        return checked_path(subtitles, media_root, allowed)
    if not isinstance(subtitles, list) or not all(isinstance(cue, Mapping) for cue in subtitles):
        raise DataError(
            f"'subtitles' must be a file or a list of objects with start, end and text, got {subtitles!r:.80}"
        )
    cues = [json_cue(cue, where=f"subtitle {n}", last=n + 1 == len(subtitles)) for n, cue in enumerate(subtitles)]
    return tuple(sorted(cues, key=lambda cue: cue.start))


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a finite number that fits in a float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
