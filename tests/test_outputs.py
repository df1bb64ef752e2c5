"""Output folders: one process at a time, whole files, and the permissions of the umask."""

import multiprocessing
import os

import pytest
import torch
from safetensors.torch import save_file

from tests.runs import owner_of
from tinyvid.errors import ConfigError
from tinyvid.outputs import LOCK, cut_torn_line, owned, share, write_text

FORK = multiprocessing.get_context("fork")


def test_a_folder_has_one_owner_whose_death_frees_it(tmp_path):
    with owner_of(tmp_path / "run") as owner:
        message = rf"run_dir='.*run' is used by process {owner} on .*; wait until it ends, or choose another folder"
        with pytest.raises(ConfigError, match=message), owned(tmp_path / "run", key="run_dir"):
            pass
    with owned(tmp_path / "run", key="run_dir"):
        assert str(os.getpid()) in (tmp_path / "run" / LOCK).read_text()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_typed_error(tmp_path):
    (tmp_path / "file").write_text("x")
    message = r"out='.*file/run' cannot be written to: Not a directory: .*; choose"
    with pytest.raises(ConfigError, match=message), owned(tmp_path / "file" / "run", key="out"):
        pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OSError(28, "No space left"), ConfigError), (PermissionError(13, "Permission denied", "x"), ConfigError),
     (OSError(111, "Connection refused"), OSError)],
)  # fmt: skip
def test_an_error_of_writing_is_typed(tmp_path, error, kind):
    error.filename = error.filename and str(tmp_path / "x")
    with pytest.raises(kind, match=error.strerror), owned(tmp_path, key="run_dir"):
        raise error


@pytest.mark.parametrize(("before", "after"), [("a\nb\nhal", "a\nb\n"), ("hal", ""), ("a\n", "a\n"), ("", "")])
def test_a_torn_line_is_cut(tmp_path, before, after):
    (tmp_path / "lines").write_text(before)
    cut_torn_line(tmp_path / "lines")
    assert (tmp_path / "lines").read_text() == after
    cut_torn_line(tmp_path / "missing")
    assert [path.name for path in tmp_path.iterdir()] == ["lines"]


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_text(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "file", "\ud800")
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_umask_decides_who_may_read_weights(tmp_path):
    before = os.umask(0o027)
    try:
        save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
        share(tmp_path)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o640]
