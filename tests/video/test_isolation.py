"""Reading in a child process: the same frames, and every way to fail is an error of one file."""

import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from tests.clips import write_clip
from tests.faulty_reader import EXCEPTIONS, FaultyReader, faulty_clips
from tests.test_contracts import violations
from tinyvid import ConfigError, VideoError, protocols
from tinyvid.registry import VIDEO_READERS
from tinyvid.video.isolation import IsolatedReader
from tinyvid.video.readers import PyAVReader

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")]

INDICES = [0, 3, 3, 11]


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4", num_frames=12)


@pytest.fixture
def isolated():
    """An isolated reader that fails on purpose, with a short time limit."""
    return IsolatedReader(FaultyReader(), seconds=3.0, memory=1 << 30)


def children():
    """Return the living children of this process that read videos, and its zombies."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,stat=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    lines = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    return [int(pid) for pid, state, arguments in lines if "isolation" in arguments or state.startswith("Z")]


def same(first, second):
    return np.array_equal(first.frames, second.frames) and np.array_equal(first.times, second.times)


def test_it_fulfills_the_contract():
    assert violations(IsolatedReader, protocols.VideoReader) == []


def test_it_reads_the_same(clip):
    reader = VIDEO_READERS.build({"name": "pyav"})
    isolated = VIDEO_READERS.build({"name": "pyav", "isolate": True})
    assert isinstance(reader, PyAVReader)
    assert isinstance(isolated, IsolatedReader)
    assert isolated.name == reader.name
    assert isolated.probe(clip) == reader.probe(clip)
    assert np.array_equal(isolated.times(clip), reader.times(clip))
    frames = isolated.read(clip, INDICES)
    assert same(frames, reader.read(clip, INDICES))
    assert frames.frames.flags.writeable
    assert len(children()) == 1, "one child reads all files of a thread"
    (clip.parent / "text.mp4").write_text("no video, but long enough to look at it closely")
    for name, message in (("text.mp4", "is not a video"), ("gone.mp4", "no such file")):
        with pytest.raises(VideoError, match=message):
            isolated.probe(clip.parent / name)
    assert len(children()) == 1, "it survives typed errors"
    del isolated, frames
    assert children() == []


def test_paths_are_relative_to_the_working_directory(isolated, clip, monkeypatch):
    isolated.probe(clip)
    monkeypatch.chdir(clip.parent)
    assert isolated.probe(Path("clip.mp4")).num_frames == 12
    with pytest.raises(VideoError, match=r"^gone.mp4: no such file"):
        isolated.probe(Path("gone.mp4"))


def test_it_keeps_the_times_of_a_variable_rate(tmp_path, isolated):
    clip = write_clip(tmp_path / "variable.mp4", num_frames=4, times=[0, 40, 400, 900])
    meta, expected = isolated.probe(clip), PyAVReader().probe(clip)
    assert meta == expected
    assert np.array_equal(meta.times, expected.times)


def test_unknown_options_are_still_refused():
    with pytest.raises(ConfigError, match=r"has no option 'isolat'. Did you mean 'isolate'\?"):
        VIDEO_READERS.check({"name": "pyav", "isolat": True})


def test_native_faults_cost_one_file_each(isolated, clip):
    messages = {
        "abort": r"abort.mp4: the video reader pyav crashed \(SIGABRT\)",
        "segfault": r"segfault.mp4: the video reader pyav crashed \(SIGSEGV\)",
        "hang": r"hang.mp4: the video reader pyav did not finish within 3 s",
        "allocate": "allocate.mp4: reading it needs more than 1 GiB of memory",
        **{kind.__name__: f"{kind.__name__}: " for kind in EXCEPTIONS if kind is not MemoryError},
    }
    expected = PyAVReader().read(clip, INDICES)
    for path in faulty_clips(clip.parent, [*messages], moments=["read"]):
        assert isolated.probe(path).num_frames == 12
        with pytest.raises(VideoError, match=messages[path.stem.partition(" ")[2]]):
            isolated.read(path, INDICES)
        assert same(isolated.read(clip, INDICES), expected)
        assert len(children()) == 1


def test_each_thread_has_its_own_child(isolated, clip):
    (hang,) = faulty_clips(clip.parent, ["hang"], moments=["read"])
    expected = PyAVReader().read(clip, INDICES)
    with ThreadPoolExecutor(2) as pool:
        late = pool.submit(isolated.read, hang, INDICES)
        assert all(same(isolated.read(clip, INDICES), expected) for _ in range(3))
        assert isinstance(late.exception(), VideoError)
    assert same(isolated.read(clip, INDICES), expected), "the child of this thread outlives the others"
    assert len(children()) == 1


def test_data_loader_workers_read(isolated, clip):
    isolated.probe(clip)  # a child of this process, which a forked worker must not use
    (abort,) = faulty_clips(clip.parent, ["abort"], moments=["read"])
    data = Read(isolated, [clip, abort, clip])
    loader = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="fork")
    for _ in range(2):
        assert [str(found) for found in loader] == ["[0, 3, 3, 11]", "crashed", "[0, 3, 3, 11]"]
    assert isolated.probe(clip).num_frames == 12
    assert len(children()) == 1


class Read:
    """A data set that reads files."""

    def __init__(self, reader, paths):
        self.reader, self.paths = reader, paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        try:
            return [round(float(second) * 25) for second in self.reader.read(self.paths[index], INDICES).times]
        except VideoError as error:
            return "crashed" if "crashed (SIGABRT)" in str(error) else str(error)


def wait_for(condition):
    began = time.monotonic()
    while not condition() and time.monotonic() - began < 30:
        time.sleep(0.05)
    return condition()


def hang(path, own):
    """Read a file that hangs, in a process that writes its children to ``own``."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of pytest-xdist ignore Ctrl-C
    reader = IsolatedReader(FaultyReader())
    threading.Thread(target=lambda: (wait_for(children), Path(own).write_text(str(children()[0])))).start()
    try:
        reader.read(path, [0])
    except KeyboardInterrupt:
        os._exit(7 if children() == [] else 8)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_child_outlives_its_parent(clip, tmp_path, how):
    (path,) = faulty_clips(clip.parent, ["hang"], moments=["read"])
    parent = multiprocessing.get_context("fork").Process(target=hang, args=(path, str(tmp_path / "own")))
    parent.start()
    assert wait_for(lambda: (tmp_path / "own").exists() and (tmp_path / "own").read_text())
    child = int((tmp_path / "own").read_text())
    time.sleep(1)
    os.kill(parent.pid, how)
    parent.join(10)
    assert parent.exitcode == (7 if how == signal.SIGINT else -how)
    assert wait_for(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text())


def test_warnings_of_the_reader_reach_the_log(isolated, clip, caplog):
    (path,) = faulty_clips(clip.parent, ["warning"], moments=["probe"])
    with caplog.at_level(logging.WARNING):
        isolated.probe(path)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("tinyvid.reader", "odd")]


def test_a_reader_that_cannot_be_sent_is_refused(clip):
    class Local(PyAVReader):
        pass

    with pytest.raises(ConfigError, match="cannot load the video reader Local .*define it in a module"):
        IsolatedReader(Local()).probe(clip)


def test_it_can_be_pickled(isolated, clip):
    isolated.probe(clip)
    assert pickle.loads(pickle.dumps(isolated)).probe(clip) == isolated.probe(clip)
