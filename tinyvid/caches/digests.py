"""Hash the content of sources, so that a copied or renamed file has the same cache key.

Hashing reads the whole file, so the result is cached in the process and in a file in the cache folder, together with
the size and times of the source. A video is hashed once, not once per worker and epoch.
"""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

from tinyvid.files import expanded
from tinyvid.types import VideoSource

CHUNK = 1 << 22  # bytes read at a time
REMEMBERED = 1 << 16  # digests cached in a process


class Digests:
    """Return the digests of sources, and cache them.

    Args:
        memory: A JSON Lines file, created with the first digest. Several processes can append to it; an incomplete
            line of a killed process is skipped.
    """

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        self._known: dict[str, str] = {}
        self._read = 0  # bytes of the file that ``_known`` reflects

    def __call__(self, source: VideoSource) -> str | None:
        """Return the digest of a file or a folder; ``None`` for frames in memory and unreadable sources.

        The digest of a folder covers the names and contents of its files.
        """
        if not isinstance(source, str | Path):
            return None
        path = os.path.abspath(expanded(source))
        try:
            stamp = _stamp(path)
            known = self._known.get(stamp) or self._look_up(stamp)
            if known is None:
                known = self._known[stamp] = _digest(path, stamp)
                self._append(stamp, known)
        except (OSError, ValueError):  # opening the source will report the error
            return None
        return known

    def _look_up(self, stamp: str) -> str | None:
        """Read the lines that were appended since the last call, and look up ``stamp``."""
        try:
            with self.memory.open("rb") as file:
                file.seek(self._read)
                lines = file.read().splitlines(keepends=True)
        except OSError:
            return None
        for line in lines:
            if not line.endswith(b"\n"):
                break  # still being written
            self._read += len(line)
            try:
                path_and_times, digest, check = json.loads(line)
            except (ValueError, TypeError):
                continue
            if check == _short(f"{path_and_times} {digest}"):
                self._known[path_and_times] = digest
        return self._known.get(stamp)

    def _append(self, stamp: str, digest: str) -> None:
        line = json.dumps([stamp, digest, _short(f"{stamp} {digest}")])
        try:
            with self.memory.open("ab", buffering=0) as file:
                file.write(f"\n{line}\n".encode())  # begins on a new line, even after an incomplete one
        except OSError:
            return  # cached in this process only


def _stamp(path: str) -> str:
    """Return a string that changes with the content: path, size and times, for a folder those of its files."""
    if not os.path.isdir(path):
        return f"{path} {_times(os.stat(path))}"
    files = [f"{item.name} {_times(item.stat())}" for item in _files(path)]
    return f"{path} {len(files)} {_short(json.dumps(files))}"


def _times(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _files(folder: str) -> list["os.DirEntry[str]"]:
    with os.scandir(folder) as items:
        return sorted((item for item in items if item.is_file() and item.name[0] != "."), key=lambda item: item.name)


@lru_cache(maxsize=REMEMBERED)
def _digest(path: str, stamp: str) -> str:
    """Hash a source. ``stamp`` distinguishes a rewritten source from the cached one."""
    del stamp
    if not os.path.isdir(path):
        return _hash(path)
    return _short(json.dumps([[item.name, _hash(item.path)] for item in _files(path)]))


def _hash(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:40]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:40]
