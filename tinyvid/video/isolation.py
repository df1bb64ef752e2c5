"""Read videos in a child process, so that a native crash, a hang or a huge allocation costs one file.

Each thread that reads has its own child, which reads one file after another and is replaced when it fails. The parent
sends requests over a socket. A reply is one file descriptor of memory that contains JSON and the arrays, which the
parent maps without copying them. The child dies with the thread that started it.
"""

import contextlib
import ctypes
import json
import logging
import math
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyvid import errors
from tinyvid.errors import ConfigError, TinyvidError, VideoError, raised_as
from tinyvid.types import Frames, VideoMeta

if TYPE_CHECKING:  # a child imports no torch, which would take seconds
    from tinyvid.protocols import VideoReader

SECONDS = 60.0  # time limit of a call, to which the time for reading the file at BYTES_PER_SECOND is added
BYTES_PER_SECOND = 10 << 20
MEMORY = 4 << 30  # bytes that a child may allocate
START_SECONDS = 120.0  # time limit of starting a child, which takes half a second on an idle machine
RETAINED = 1 / 4  # fraction of the memory limit that an idle child may retain before it is replaced
ALIGNMENT = 64  # bytes


def isolated(reader: "VideoReader", *, isolate: bool = False) -> "VideoReader":
    """Return the reader, or one that reads in a child process.

    Args:
        reader: The reader.
        isolate: Read in a child process with limits on time and memory.

    Raises:
        ConfigError: The system cannot pass memory between processes.
    """
    return IsolatedReader(reader) if isolate else reader


class IsolatedReader:
    """Read videos with another reader in a child process.

    A crash, or a call over a limit, is a ``VideoError`` of its file, and the next call starts a new child.

    Args:
        reader: The reader. The child receives a pickled copy.
        seconds: Time limit of a call; one second more for each 10 MiB of the file.
        memory: Bytes that the child may allocate; enforced on Linux.

    Raises:
        ConfigError: The system cannot pass memory between processes.
    """

    def __init__(self, reader: "VideoReader", *, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        if not hasattr(socket, "send_fds"):
            raise ConfigError(f"video_reader.isolate=true needs Linux or macOS, not {sys.platform}")
        self.reader = reader
        self.name = reader.name
        self.seconds = seconds
        self.memory = memory
        self._of_thread = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_of_thread"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._of_thread = threading.local()

    def probe(self, path: Path) -> VideoMeta:
        """Return the properties of a video file. See ``protocols.VideoReader.probe``."""
        content, times = self._call("probe", path)
        return VideoMeta(**content["meta"], times=times[0] if times else None)

    def times(self, path: Path) -> np.ndarray:
        """Return the time of each frame, float64 (N,), in seconds after the first frame."""
        _, (times,) = self._call("times", path)
        return times

    def read(self, path: Path, indices: Sequence[int]) -> Frames:
        """Decode the requested frames. See ``protocols.VideoReader.read``."""
        _, (frames, times) = self._call("read", path, [int(index) for index in indices])
        return Frames(frames, times)

    def _call(self, method: str, path: Path, *arguments: Any) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Call a method of the reader in the child of this thread."""
        child: _Child | None = getattr(self._of_thread, "child", None)
        if child is None or not child.is_usable():
            child = self._of_thread.child = _Child(self.reader, self.memory)
        is_new, child.is_new = child.is_new, False
        size = os.path.getsize(path) if os.path.isfile(path) else 0
        absolute = os.path.abspath(path)  # the child keeps the working directory with which it started
        try:
            content, arrays = child.call((method, absolute, arguments), self.seconds + size / BYTES_PER_SECOND)
        except EOFError as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(1.0)  # killing it sooner would hide how it ended
            status = child.end()
            if not is_new:  # an earlier file may be the cause
                return self._call(method, path, *arguments)
            raise VideoError(
                f"{path}: the video reader {self.name} crashed ({status}); the file is damaged: encode or download it "
                "again"
            ) from error
        except TimeoutError as error:
            raise VideoError(
                f"{path}: the video reader {self.name} did not finish within {error} s; encode or download the file "
                "again, or set video_reader.isolate=false for no time limit"
            ) from error
        finally:
            if not child.is_idle:  # also after Ctrl-C
                child.end()
        for name, level, message in content["logs"]:
            logging.getLogger(name).log(level, "%s", message)
        if content["retains"]:
            child.end()
        if "error" in content:
            raise getattr(errors, content["error"])(content["message"].replace(absolute, str(path)))
        return content, arrays


class _Child:
    """A process that reads videos for one thread."""

    def __init__(self, reader: "VideoReader", memory: int) -> None:
        self.owner = os.getpid()
        self.is_new = True
        self.is_idle = True
        self.socket, other = socket.socketpair()
        code = f"from tinyvid.video.isolation import serve; serve({other.fileno()})"
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with other:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-c", code],
                    env={**os.environ, "PYTHONPATH": paths},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[other.fileno()],
                    start_new_session=True,  # Ctrl-C in a terminal reaches the parent only, which ends the child
                )
            except OSError as error:
                raise ConfigError(f"video_reader.isolate=true: no child process can be started: {error}") from error
        self.end = Finalize(self, _end, args=(self.process, self.socket), exitpriority=10)
        level = logging.getLogger("tinyvid").getEffectiveLevel()
        try:
            self.call((os.getpid(), memory, level, pickle.dumps(reader)), START_SECONDS)
        except (EOFError, TimeoutError, pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"video_reader.isolate=true: the child process cannot load the video reader {type(reader).__name__} "
                f"({str(error) or 'it ended'}); define it in a module that can be imported"
            ) from error
        finally:
            if not self.is_idle:  # also after Ctrl-C
                self.end()

    def is_usable(self) -> bool:
        """Return whether the child lives and belongs to this process, not to the one that this process is a fork of."""
        return self.owner == os.getpid() and self.end.still_active() and self.process.poll() is None

    def call(self, request: Any, seconds: float) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Send a request and return the content and the arrays of the reply.

        Raises:
            EOFError: The child died.
            TimeoutError: It did not reply in time.
        """
        self.is_idle = False
        self.socket.settimeout(seconds)
        try:
            self.socket.sendall(_packed(request))
            header, descriptors, _, _ = socket.recv_fds(self.socket, 8, 1)
        except TimeoutError as error:
            raise TimeoutError(f"{seconds:.0f}") from error
        except OSError as error:
            raise EOFError from error
        if not descriptors:
            raise EOFError
        self.is_idle = True
        return _unpacked(descriptors[0], int.from_bytes(header, "little"))


def _end(process: "subprocess.Popen[bytes]", connection: socket.socket) -> str:
    """End a child, and return how it ended."""
    process.kill()
    status = process.wait()
    connection.close()
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _packed(request: Any) -> bytes:
    content = pickle.dumps(request)
    return len(content).to_bytes(8, "little") + content


def _unpacked(descriptor: int, length: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the content of a reply, and its arrays as views of the memory that the child wrote."""
    try:
        memory = mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)
    content = json.loads(memory[:length])
    arrays, start = [], length
    for dtype, shape in content["arrays"]:
        start += -start % ALIGNMENT
        array = np.frombuffer(memory, dtype, math.prod(shape), start).reshape(shape)
        start += array.nbytes
        arrays.append(array)
    return content, arrays


# --- in the child ---------------------------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Answer requests until the parent closes the socket."""
    import resource  # Windows does not have it

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logs = _Logs()
    logging.basicConfig(handlers=[logs])
    logging.captureWarnings(True)
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rb") as requests:
        parent, memory, level, pickled = _next(requests)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            return
        logging.getLogger("tinyvid").setLevel(level)
        reader = pickle.loads(pickled)
        _reply(connection, logs, {"meta": None}, [], False)
        before = _allocated()
        resource.setrlimit(resource.RLIMIT_DATA, (before + memory,) * 2)
        while request := _next(requests):
            content, arrays = _answer(reader, memory, *request)
            _reply(connection, logs, content, arrays, _allocated() - before > RETAINED * memory)
            del arrays


def _answer(reader: "VideoReader", memory: int, method: str, path: str, arguments: Any) -> tuple[dict[str, Any], Any]:
    """Call a method of the reader, and return its result or error as JSON and arrays."""
    try:
        with raised_as(VideoError, path, "the file is damaged: encode or download it again"):
            try:
                result = getattr(reader, method)(Path(path), *arguments)
            except MemoryError as error:
                raise VideoError(
                    f"{path}: reading it needs more than {memory / 2**30:g} GiB of memory; encode it with fewer "
                    "pixels, or set video_reader.isolate=false for no limit"
                ) from error
    except TinyvidError as error:
        return {"error": _public(error), "message": str(error)}, []
    if isinstance(result, VideoMeta):
        values = asdict(result)
        times = values.pop("times")
        return {"meta": values}, [] if times is None else [times]
    return {}, [result.frames, result.times] if isinstance(result, Frames) else [result]


def _public(error: TinyvidError) -> str:
    """Return the name of the type in ``tinyvid.errors`` that an error has."""
    return next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))


def _next(requests: Any) -> Any:
    """Return the next request, or ``None`` at the end."""
    length = int.from_bytes(requests.read(8), "little")
    return pickle.loads(requests.read(length)) if length else None


def _reply(
    connection: socket.socket, logs: "_Logs", content: dict[str, Any], arrays: list[np.ndarray], retains: bool
) -> None:
    """Write a reply to memory, and send its descriptor."""
    described = [[array.dtype.str, array.shape] for array in arrays]
    text = json.dumps({**content, "arrays": described, "logs": logs.taken(), "retains": retains}).encode()
    with os.fdopen(os.memfd_create("frames"), "wb") if sys.platform == "linux" else tempfile.TemporaryFile() as file:
        file.write(text)
        for array in arrays:
            file.write(bytes(-file.tell() % ALIGNMENT))
            file.write(np.ascontiguousarray(array).data)
        file.flush()
        socket.send_fds(connection, [len(text).to_bytes(8, "little")], [file.fileno()])


def _allocated() -> int:
    """Return the bytes that count toward the memory limit."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[5]) * mmap.PAGESIZE


class _Logs(logging.Handler):
    """Collect log records for the parent."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Add a record."""
        self.records.append((record.name, record.levelno, record.getMessage()))

    def taken(self) -> list[tuple[str, int, str]]:
        """Return the records since the last call."""
        records, self.records = self.records, []
        return records
