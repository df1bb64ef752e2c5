"""Write output folders: one process at a time, and no file that a kill could leave half-written."""

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyvid.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK = ".lock"
_BUSY = (errno.EACCES, errno.EAGAIN)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: after a kill, it has its old or its new content."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))  # a file name may not be UTF-8


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: after a kill, it has its old or its new content."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def cut_torn_line(path: Path) -> None:
    """Remove an incomplete last line, which a kill can leave, so that the next line is not appended to it."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def share(folder: Path) -> None:
    """Give the files in a folder the permissions of the umask. safetensors lets only their owner read them."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


@contextmanager
def owned(folder: Path, *, key: str) -> Iterator[None]:
    """Create a folder, and lock it against other processes while the block runs.

    The operating system releases the lock of a process that dies. Child processes do not share the lock.

    Args:
        folder: The folder.
        key: The option that names the folder, for messages.

    Raises:
        ConfigError: Another process owns the folder, or it cannot be created or written to, or the disk is full.
    """
    lock, where = folder / LOCK, f"{key}={str(folder)!r}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(lock, where)
    except OSError as error:
        raise ConfigError(
            f"{where} cannot be written to: {error.strerror}: {error.filename or lock}; choose another folder"
        ) from error
    try:
        yield
    except OSError as error:
        if error.errno in _FULL or str(error.filename).startswith(str(folder)):
            advice = "free disk space or correct the permissions, then continue with the same folder"
            raise ConfigError(f"{where} cannot be written to: {error}; {advice}") from error
        raise
    finally:
        lock.unlink(missing_ok=True)  # before the lock is released: no other process has this file yet
        os.close(file)


def _locked(lock: Path, where: str) -> int:
    """Return the descriptor of the lock file, with the lock of this process and its name in it."""
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _acquire(file, where)
            if lock.exists() and os.path.samestat(os.fstat(file), lock.stat()):
                os.truncate(file, 0)
                os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # the last owner removed the file in between


def _acquire(file: int, where: str) -> None:
    if fcntl is None:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _BUSY:
            logger.warning("%s: the file system has no locks (%s). Start only one process there.", where, error)
            return
        holder = os.read(file, 200).decode(errors="replace") or "another process"
        raise ConfigError(f"{where} is used by {holder}; wait until it ends, or choose another folder") from None
