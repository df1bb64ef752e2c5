"""Missing permissions for tests, even if root runs them."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Drop the permissions of root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """Make a temporary folder that every user can enter; the parents of ``tmp_path`` are closed."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
