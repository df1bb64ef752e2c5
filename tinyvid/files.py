"""Open untrusted files: only regular files, inside their folder, of a bounded size."""

import json
import os
import stat
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tinyvid.errors import CheckpointError, TinyvidError

MAX_TEXT = 64 << 20  # bytes of a text file
MAX_DEPTH = 100  # of nested values in JSON
POINTER = b"version https://git-lfs.github.com/"  # the start of the file that a clone without Git LFS contains
MAX_HEADER = 8 << 20  # bytes of the list of tensors of a safetensors file; a model of 4B parameters needs 0.1 MB


def expanded(path: str | Path) -> Path:
    """Return a path with the home directory in place of a ``~`` at its start.

    ``~a.mp4`` is a plain name, unless this machine has a user ``a.mp4`` and no such file exists.
    """
    text = str(path)
    if not text.startswith("~") or (text[1:2] not in ("", os.sep) and os.path.lexists(text)):
        return Path(text)
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError):  # no such user
        return Path(text)


def refuse_special(path: str | Path, error: type[TinyvidError]) -> None:
    """Raise an error of the given type if a path is a pipe, a socket or a device, which could block forever.

    Args:
        path: A path that may be missing: the code that opens it says so.
        error: Type of the error.
    """
    try:
        mode = os.stat(path).st_mode
    except PermissionError as denied:
        raise error(f"{path}: permission denied; check the permissions of its folders") from denied
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise error(f"{path} is not a regular file (a pipe, a socket or a device); give a file")


def refuse_outside(path: Path, folder: Path) -> None:
    """Raise an error if a path is a link that leaves a folder. The hub's cache may link to its own files.

    Raises:
        CheckpointError: The link leaves the folder.
    """
    try:
        target, root = path.resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself
        raise CheckpointError(f"{path} cannot be resolved: {error}") from error
    if not any(target.is_relative_to(place) for place in _homes(root)):
        raise CheckpointError(f"{path} is a link to {target}, outside {folder}; replace it with a copy of the file")


def is_below(path: str | Path, folders: Sequence[str | Path]) -> bool:
    """Return whether a path, with its links followed, stays in one of some folders, with theirs followed.

    As in ``refuse_outside``, a folder in the hub's cache includes the files that the hub links to.
    """
    target = os.path.join(os.path.realpath(path), "")
    return any(target.startswith(home) for folder in folders for home in _real_homes(str(folder)))


@lru_cache(maxsize=64)  # the folders are the user's, and every row asks
def _real_homes(folder: str) -> list[str]:
    return [os.path.join(home, "") for home in _homes(Path(os.path.realpath(folder)))]


def _homes(folder: Path) -> list[Path]:
    """Return a folder and, if it is in the hub's cache, the folder that the hub's links lead to."""
    snapshots = next((parent for parent in (folder, *folder.parents) if parent.parent.name == "snapshots"), None)
    return [folder] if snapshots is None else [folder, snapshots.parents[1] / "blobs"]


def refuse_links(folder: Path) -> None:
    """Raise an error if a link in a checkpoint, or in one of its folders, leaves it.

    Raises:
        CheckpointError: A link leaves the checkpoint.
    """
    for entry in folder.iterdir():
        refuse_outside(entry, folder)
        for below in entry.iterdir() if entry.is_dir() else []:
            refuse_outside(below, folder)


def refuse_unreadable(path: Path) -> None:
    """Raise an error if a file cannot be opened, or its list of tensors is too long.

    safetensors reports a file without permission as missing, and reads a million names in half a minute.

    Raises:
        CheckpointError: See above; or it is not a regular file, or a pointer of Git LFS.
    """
    refuse_special(path, CheckpointError)
    try:
        with path.open("rb") as file:
            start = file.read(len(POINTER))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if start == POINTER:
        raise CheckpointError(f"{path} is a pointer of Git LFS in place of the file; run 'git lfs pull' in its folder")
    length = int.from_bytes(start[:8], "little")
    if path.suffix == ".safetensors" and length > MAX_HEADER:
        raise CheckpointError(
            f"{path} cannot be read: its header claims {length:,} bytes, and at most {MAX_HEADER:,} are read; the file "
            "is damaged or not a safetensors file"
        )


def read_text(path: Path, *, limit: int = MAX_TEXT, error: type[TinyvidError] = CheckpointError) -> str:
    """Return the text of a file, of at most ``limit`` bytes.

    Raises:
        TinyvidError: It is missing, not a regular file, too large, or not UTF-8; of the type ``error``.
    """
    refuse_special(path, error)
    try:
        size = path.stat().st_size
        if size > limit:
            raise error(f"{path} has {size:,} bytes; at most {limit:,} are read")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as cause:
        raise error(f"{path} cannot be read: {cause}") from cause


def read_json(path: Path, *, error: type[TinyvidError] = CheckpointError) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        TinyvidError: See ``read_text``; or it is not JSON, not an object, or nested too deeply.
    """
    text = read_text(path, error=error)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise error(f"{path} cannot be read: {cause}; correct the file, or copy it again") from cause
    if not isinstance(content, dict):
        raise error(f"{path} does not contain a JSON object")
    if _is_deeper(content, MAX_DEPTH):
        raise error(f"{path} cannot be read: its values are nested more than {MAX_DEPTH} deep")
    return content


def _is_deeper(value: Any, depth: int) -> bool:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < 0 or any(_is_deeper(member, depth - 1) for member in members)
