"""Store tensors in a folder of safetensors files with a size limit; both caches use it.

Any number of processes may read, write and evict at the same time, and any of them may be killed at any time. An entry
is written to a temporary file. Under a lock, its size is added to the recorded total before the file is renamed, so the
entries never exceed the limit. A read takes no lock, opens one file, and checks the key and checksum of the entry.
"""

import json
import logging
import os
import socket
import time
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor

from tinyvid.errors import ConfigError, DataError, raised_as
from tinyvid.files import expanded

logger = logging.getLogger(__name__)

GIB = 1 << 30
ENTRY, TEMPORARY = (
    ".cache.safetensors",
    ".cache.tmp",
)  # unlike names of weight files, because these files may be deleted
SLACK = 1 / 20  # fraction of the limit that an eviction frees in addition, so that evictions are rare
LOCK_SECONDS = 60.0  # a process that is suspended while it has the lock must not block the others
ABANDONED_SECONDS = 3600.0  # age after which a temporary file of another machine is deleted


@dataclass(slots=True)
class Statistics:
    """Counts of a cache in this process.

    Attributes:
        hits: Entries found.
        misses: Entries not found or not usable.
        rebuilds: Misses with an existing entry that was stale, truncated or corrupted.
        evictions: Entries removed to free space.
    """

    hits: int = 0
    misses: int = 0
    rebuilds: int = 0
    evictions: int = 0


class Store:
    """Store tensors under string keys, and evict the least recently used entries when the store is full.

    Temporary files do not count toward the limit, so the folder may contain one additional entry per writer.

    Args:
        folder: Created if it does not exist. Stores in the same folder share its limit and must set the same one.
        max_gib: Maximum size of all entries, in GiB.
        name: The configuration key of the folder, for messages.

    Raises:
        ConfigError: The folder cannot be created, or the limit is not positive.
    """

    def __init__(self, folder: str | Path, *, max_gib: float, name: str) -> None:
        if not max_gib > 0:
            raise ConfigError(f"cache.max_gib={max_gib!r} must be a positive number of GiB")
        self.folder = Path(os.path.abspath(expanded(folder)))
        self.max_bytes = int(max_gib * GIB)
        self.name = name
        self.statistics = Statistics()
        self._writes = True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{name}={str(folder)!r} cannot be created: {error}; choose another folder") from error
        try:
            with self._lock():
                self._account(self._sweep(room=0))
        except OSError as error:
            self._stop_writing(error)

    def path(self, key: str) -> Path:
        """Return the path of the entry of a key, whether it exists or not."""
        return self.folder / f"{key}{ENTRY}"

    def read(self, key: str) -> dict[str, Tensor] | None:
        """Return the tensors stored under a key, or ``None``. An invalid entry is deleted."""
        path = self.path(key)
        try:
            with raised_as(DataError, f"the cache entry {path} is invalid", "it is deleted and computed again"):
                tensors = _unpack(path.read_bytes(), key)
        except DataError as error:
            self.statistics.misses += 1
            if not isinstance(error.__cause__, FileNotFoundError):
                logger.warning("%s", error)
                self.statistics.rebuilds += 1
                _remove(path)
            return None
        self.statistics.hits += 1
        _touch(path)
        return tensors

    def write(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store tensors under a key. On an error, such as a full disk, warn once and stop writing."""
        if not self._writes:
            return
        payload = _pack(key, tensors)
        if len(payload) > self.max_bytes:
            self._stop_writing(f"an entry has {len(payload):,} bytes, but cache.max_gib allows only {self.max_bytes:,}")
            return
        temporary = self.folder / f"{uuid.uuid4().hex}@{os.getpid()}@{socket.gethostname()}{TEMPORARY}"
        try:
            temporary.write_bytes(payload)
            with self._lock():
                self._account(self._total(room=len(payload)) + len(payload))
                os.replace(temporary, self.path(key))
            _touch(self.path(key))
        except FileNotFoundError:  # the folder was deleted meanwhile: this entry is lost
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._stop_writing(error)
        finally:
            _remove(temporary)

    def _stop_writing(self, reason: object) -> None:
        self._writes = False
        logger.warning(
            "%s=%s: this process stops writing to the cache; the run continues. %s", self.name, self.folder, reason
        )

    def _lock(self) -> FileLock:
        return FileLock(self.folder / "cache.lock", timeout=LOCK_SECONDS)  # filelock.Timeout is an OSError

    def _account(self, total: int) -> None:
        (self.folder / "cache.bytes").write_text(str(total), encoding="ascii")

    def _total(self, *, room: int) -> int:
        """Free ``room`` bytes if necessary, and return the size of all entries; it may include removed ones."""
        try:
            total = int((self.folder / "cache.bytes").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):  # a process was killed while writing it
            return self._sweep(room=room)
        return total if total + room <= self.max_bytes else self._sweep(room=room)

    def _sweep(self, *, room: int) -> int:
        """Delete abandoned files, evict entries until ``room`` bytes are free, and return the size of the rest."""
        entries, total = [], 0
        for item in os.scandir(self.folder):
            try:
                status = item.stat()
            except FileNotFoundError:
                continue
            if item.name.endswith(TEMPORARY) and _abandoned(item.name, status.st_mtime):
                _remove(Path(item.path))
            elif item.name.endswith(ENTRY):
                entries.append((status.st_mtime_ns, item.path, status.st_size))
                total += status.st_size
        if total + room <= self.max_bytes:
            return total
        goal = self.max_bytes * (1 - SLACK) - room
        for _, path, size in sorted(entries):
            if total <= max(goal, 0):
                break
            if _remove(Path(path)):
                total -= size
                self.statistics.evictions += 1
        if total + room > self.max_bytes:
            raise OSError(f"old entries cannot be deleted from {self.folder}")
        return total


def _pack(key: str, tensors: dict[str, Tensor]) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(tensors, {"key": key, "checksum": _checksum(tensors)})


def _unpack(payload: bytes, key: str) -> dict[str, Tensor]:
    """Return the tensors of an entry.

    Raises:
        ValueError: The entry has another key, or its content has changed. Other errors also mean a damaged entry.
    """
    length = int.from_bytes(payload[:8], "little")
    metadata = json.loads(payload[8 : 8 + length])["__metadata__"]
    if metadata["key"] != key:
        raise ValueError("it has another key")
    tensors = safetensors.torch.load(payload)
    if metadata["checksum"] != _checksum(tensors):
        raise ValueError("its checksum does not match its content")
    return tensors


def _checksum(tensors: dict[str, Tensor]) -> str:
    """Return a CRC of names, dtypes, shapes and values; it detects corruption, not tampering."""
    crc = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def _touch(path: Path) -> None:
    """Set the modification time, by which entries are evicted."""
    now = time.time_ns()
    try:
        os.utime(path, ns=(now, now))
    except OSError:  # evicted meanwhile, or a read-only folder
        return


def _remove(path: Path) -> bool:
    """Delete a file, and return whether it no longer exists."""
    try:
        path.unlink(missing_ok=True)
    except OSError:  # no permission or, on Windows, in use
        return False
    return True


def _abandoned(name: str, modified: float) -> bool:
    """Return whether the writer of a temporary file is dead. A wrong guess only loses that entry."""
    _, process, host = [*name.removesuffix(TEMPORARY).split("@", 2), "", ""][:3]
    if host == socket.gethostname() and process.isdecimal() and not _alive(int(process)):
        return True
    return time.time() - modified > ABANDONED_SECONDS


def _alive(process: int) -> bool:
    if os.name == "nt":  # on Windows, signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
