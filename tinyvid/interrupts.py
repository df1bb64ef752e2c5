"""Stop a program on Ctrl-C or SIGTERM at a point from which it can continue.

Only programs install these handlers, never an import.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """A signal stops the program, with the exit status of a shell: 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class Interrupts:
    """Remember the first signal while the block runs; the second signal ends the process at once.

    Outside the main thread, signals keep their handlers.

    Attributes:
        received: The signal, or 0.
        at_once: Raise ``Interrupted`` when the signal arrives.
        notice: Message to print when the signal arrives.
    """

    def __init__(self, *, at_once: bool = False, notice: str = "") -> None:
        self.received = 0
        self.at_once = at_once
        self.notice = notice
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def raised_within(self, enabled: bool) -> Iterator[None]:
        """Raise ``Interrupted`` as soon as a signal arrives within the block, if enabled.

        Raises:
            Interrupted: A signal has arrived.
        """
        self.at_once = enabled
        try:
            if enabled and self.received:
                raise Interrupted(self.received)
            yield
        finally:
            self.at_once = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._process:  # a child inherits the handler
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        for other in SIGNALS:
            signal.signal(other, signal.SIG_DFL)
        self.received = number
        if self.notice:
            with contextlib.suppress(OSError):  # its reader may be gone
                os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{self.notice}\n".encode())
        if self.at_once:
            raise Interrupted(number)


@contextmanager
def interruptible(how_to_continue: str) -> Iterator[None]:
    """End the program when a signal arrives, and print how to continue it.

    Args:
        how_to_continue: For example ``run the same command again to continue``.

    Raises:
        Interrupted: A signal has arrived.
    """
    with Interrupts(at_once=True):
        try:
            yield
        except Interrupted:
            sys.stderr.write(f"\nInterrupted. {how_to_continue}\n")
            raise


class _Unbroken:
    """A text stream that drops its output once the reader has closed it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._dropped():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropped():
            self._stream.flush()

    @contextmanager
    def _dropped(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def unbroken_output() -> Iterator[None]:
    """Drop the output of the block, instead of raising ``BrokenPipeError``, once its reader has closed it.

    Ctrl-C also ends the program behind a pipe, such as ``tee``, and a graceful stop prints more lines.
    """
    with contextlib.redirect_stdout(_Unbroken(sys.stdout)), contextlib.redirect_stderr(_Unbroken(sys.stderr)):
        yield


def shield_worker(number: int, *, start: Callable[[int], None] | None = None) -> None:
    """Initialize a DataLoader worker that survives signals to the whole process group; its parent ends it.

    Otherwise the step that is being finished would lose its batches.

    Args:
        number: Number of the worker.
        start: The loader's own ``worker_init_fn``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_when_told, daemon=True).start()
    if start is not None:
        start(number)


def _exit_when_told() -> None:
    """Wait for SIGTERM from the parent, and ignore that of others."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
