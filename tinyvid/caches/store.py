"""A folder of safetensors files under a size limit: what both caches stand on.

Any number of processes may read, write and evict at once, and any of them may be killed at any moment. An entry is
written to a temporary file and renamed, and renamed only after its bytes were added to the account, under a lock; so
the entries never exceed the limit, whoever dies. A read takes no lock and looks at one file. What is read is checked
against the key and the checksum that the entry carries.
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
from safetensors import SafetensorError
from torch import Tensor

from tinyvid.errors import ConfigError

logger = logging.getLogger(__name__)

GIB = 1 << 30
ENTRY, TEMPORARY = ".cache.safetensors", ".cache.tmp"  # unlike the names of weights: what ends so may be deleted
SLACK = 1 / 20  # share of the limit that an eviction frees beyond need, so that the folder is listed rarely
LOCK_SECONDS = 60.0  # a process that was stopped while it held the lock must not stop the others
ABANDONED_SECONDS = 3600.0  # age at which a temporary file of another machine is taken for a left-over
UNREADABLE = (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


@dataclass(slots=True)
class Statistics:
    """What a cache did in this process.

    Attributes:
        hits: Entries found.
        misses: Entries not found, or found unusable.
        rebuilds: Those misses whose entry was there and stale, truncated or corrupted.
        evictions: Entries removed to make room.
    """

    hits: int = 0
    misses: int = 0
    rebuilds: int = 0
    evictions: int = 0


class Store:
    """Keep tensors under string keys, the least recently used ones making way for new ones.

    Temporary files count toward no limit: while entries are written, the folder holds up to one more entry per writer.

    Args:
        folder: Made if absent. Stores in one folder share its limit, so they must agree on it.
        max_gib: Most bytes of entries, in GiB.
        name: The configuration key that the folder comes from, for messages.

    Raises:
        ConfigError: The folder cannot be made, or the limit is not positive.
    """

    def __init__(self, folder: str | Path, *, max_gib: float, name: str) -> None:
        if not max_gib > 0:
            raise ConfigError(f"cache.max_gib={max_gib!r} must be a positive number of GiB")
        self.folder = Path(os.path.abspath(Path(folder).expanduser()))
        self.max_bytes = int(max_gib * GIB)
        self.name = name
        self.statistics = Statistics()
        self._writes = True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{name}={str(folder)!r} cannot be made a folder: {error}; name another one") from error
        try:
            with self._lock():
                self._account(self._sweep(room=0))
        except OSError as error:
            self._stop_writing(error)

    def path(self, key: str) -> Path:
        """Return where the entry of a key lies, if there is one."""
        return self.folder / f"{key}{ENTRY}"

    def read(self, key: str) -> dict[str, Tensor] | None:
        """Return the tensors kept under a key, or ``None``. An entry that is not what was written is deleted."""
        path = self.path(key)
        try:
            tensors = _unpack(path.read_bytes(), key)
            self.statistics.hits += 1
        except FileNotFoundError:
            self.statistics.misses += 1
            return None
        except UNREADABLE as error:
            logger.warning("%s is unusable (%s); it is deleted and computed again", path, error)
            self.statistics.misses += 1
            self.statistics.rebuilds += 1
            _remove(path)
            return None
        _touch(path)
        return tensors

    def write(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Keep tensors under a key. Failing to (a full disk, say) is a warning once, and the end of writing."""
        if not self._writes:
            return
        payload = _pack(key, tensors)
        if len(payload) > self.max_bytes:
            self._stop_writing(f"an entry takes {len(payload):,} bytes, cache.max_gib allows {self.max_bytes:,}")
            return
        temporary = self.folder / f"{uuid.uuid4().hex}@{os.getpid()}@{socket.gethostname()}{TEMPORARY}"
        try:
            temporary.write_bytes(payload)
            with self._lock():
                self._account(self._total(room=len(payload)) + len(payload))
                os.replace(temporary, self.path(key))
            _touch(self.path(key))
        except FileNotFoundError:  # someone emptied the folder meanwhile: this entry is lost, the next one is kept
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._stop_writing(error)
        finally:
            _remove(temporary)

    def _stop_writing(self, reason: object) -> None:
        self._writes = False
        logger.warning(
            "%s=%s keeps nothing more in this process, and the run goes on: %s", self.name, self.folder, reason
        )

    def _lock(self) -> FileLock:
        return FileLock(self.folder / "cache.lock", timeout=LOCK_SECONDS)  # its Timeout is an OSError

    def _account(self, total: int) -> None:
        (self.folder / "cache.bytes").write_text(str(total), encoding="ascii")

    def _total(self, *, room: int) -> int:
        """Return the bytes of all entries, which leave ``room``; it may count removed ones, and misses none."""
        try:
            total = int((self.folder / "cache.bytes").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):  # killed between emptying and writing it
            return self._sweep(room=room)
        return total if total + room <= self.max_bytes else self._sweep(room=room)

    def _sweep(self, *, room: int) -> int:
        """List the folder, clear left-overs, evict what stands in the way of ``room``; return the bytes that remain."""
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
            raise OSError(f"old entries cannot be removed from {self.folder}")
        return total


def _pack(key: str, tensors: dict[str, Tensor]) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(tensors, {"key": key, "checksum": _checksum(tensors)})


def _unpack(payload: bytes, key: str) -> dict[str, Tensor]:
    """Return the tensors of an entry.

    Raises:
        ValueError: The entry belongs to another key, or its bytes have changed. Other errors mean the same.
    """
    length = int.from_bytes(payload[:8], "little")
    metadata = json.loads(payload[8 : 8 + length])["__metadata__"]
    if metadata["key"] != key:
        raise ValueError("it carries another key")
    tensors = safetensors.torch.load(payload)
    if metadata["checksum"] != _checksum(tensors):
        raise ValueError("its checksum does not fit its content")
    return tensors


def _checksum(tensors: dict[str, Tensor]) -> str:
    """Return a CRC of names, types, shapes and values: against decay of a disk, not against an attacker."""
    crc = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def _touch(path: Path) -> None:
    """Set the clock by which entries grow old."""
    now = time.time_ns()
    try:
        os.utime(path, ns=(now, now))
    except OSError:  # evicted meanwhile, or a folder that may only be read
        return


def _remove(path: Path) -> bool:
    """Delete a file, and return whether it is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError:  # not ours to delete, or, on Windows, being read
        return False
    return True


def _abandoned(name: str, modified: float) -> bool:
    """Tell whether the writer of a temporary file is dead. If it is not after all, its entry is lost, no more."""
    _, process, host = [*name.removesuffix(TEMPORARY).split("@", 2), "", ""][:3]
    if host == socket.gethostname() and process.isdecimal() and not _alive(int(process)):
        return True
    return time.time() - modified > ABANDONED_SECONDS


def _alive(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
