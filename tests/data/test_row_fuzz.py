"""Any row gives a sample or an error of tinyvid: in training, check_data.py and a benchmark, which agree about it.

``TINYVID_FUZZ=1000`` tries 1,000 rows.
"""

import contextlib
import json
import os
import sys

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from tests.clips import write_clip
from tinyvid import DataError, TinyvidError, build_benchmark
from tinyvid.data.datasets import RowDataset
from tinyvid.diagnostics.checks import RowChecks
from tinyvid.training.data import TrainingData
from tinyvid.training.options import DataPolicy

EXAMPLES = int(os.environ.get("TINYVID_FUZZ", "25"))
TEXTS = [
    "",
    "What?",
    "<video>A?",
    "<image> or <video>?",
    "<Video>",
    "<|endoftext|>",
    "视频",
    "\ud800",
    "\x1b[2J\0",
    "A. x",
]
PATHS = [
    *(
        "a.mp4",
        "text.mp4",
        "frames",
        ".",
        "",
        "..",
        "/etc/passwd",
        "../a.mp4",
        "out.mp4",
        "~/x",
        "~nosuchuser/x",
        "x" * 300,
    ),
    *(
        "x" * 5_000,
        "https://example.com/a.mp4",
        "file:///etc/passwd",
        "a\0b",
        "\ud800",
        "pipe",
        "loop",
        "a.mp4/b",
        "²1.png",
    ),
]
NUMBERS = [0, 1, -1, 0.5, 10**400, float("nan"), float("inf"), -1e308, True, 9**999]
SCALARS = st.sampled_from([None, *TEXTS, *PATHS, *NUMBERS]) | st.text(max_size=5) | st.integers() | st.floats()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
TURNS = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt", "system", "humn", None]), "value": st.sampled_from(TEXTS) | VALUES},
    optional=dict.fromkeys(("loss", "train", "role", "content", "weight", "Loss", "video"), VALUES),
)
ASKED = [{"from": "human", "value": "What?"}]
TALK = [*ASKED, {"from": "gpt", "value": "It."}]
GOOD = [
    {"conversations": TALK},
    {"conversations": TALK, "video": "a.mp4", "clip": [0, 0.3], "id": "a", "system": "Be brief."},
    {"conversations": TALK, "videos": ["a.mp4", "a.mp4"], "subtitles": None},
    {"conversations": [{"from": "human", "value": "<video> or <video>?"}, TALK[1]], "videos": ["a.mp4", "a.mp4"]},
    {"conversations": ASKED, "video": "a.mp4", "options": ["A. x", "B. y"], "answer_index": 1},
    {"conversations": TALK, "video": "frames", "fps": 2},
]
KEYS = (
    *("id", "clip", "start", "end", "fps", "subtitles", "system", "options", "answer_index", "answer", "rule", "group"),
    *(
        "video",
        "videos",
        "image",
        "video_path",
        "Video",
        "vidoe",
        "start_time",
        "timestamp",
        "nframes",
        "audio",
        "file",
    ),
)
MEANT = {
    **{key: [PATHS[0], *PATHS, PATHS[:2]] for key in ("video", "videos", "image", "video_path")},
    "subtitles": ["a.srt", *PATHS],
    "answer_index": [0, 1, 2],
    "conversations": [TALK, ASKED, TALK * 2],
}
CHANGES = [st.tuples(st.just(key), st.sampled_from(MEANT.get(key, TEXTS)) | VALUES) for key in (*KEYS, *MEANT)]
CHANGES.append(st.tuples(st.just("conversations"), st.lists(TURNS, max_size=4)))
ROWS = st.builds(
    lambda row, changes: row | dict(changes), st.sampled_from(GOOD), st.lists(st.one_of(CHANGES), max_size=2)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a media folder with a clip, a text, frames, a pipe, and links that leave it or lead to themselves."""
    root = tmp_path_factory.mktemp("fuzz")
    folder = root / "media"
    (folder / "frames").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "frames" / "1.png")
    write_clip(folder / "a.mp4", num_frames=8)
    (folder / "text.mp4").write_text("no video")
    (folder / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHi\n")
    (root / "secret.mp4").write_bytes((folder / "a.mp4").read_bytes())
    (folder / "out.mp4").symlink_to(root / "secret.mp4")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    return folder


class Watch:
    """Records the files outside some folders that are opened, and connections, while it is active."""

    def __init__(self):
        self.allowed, self.found = (), []
        sys.addaudithook(self._hook)

    def _hook(self, event, arguments):
        if self.allowed and event == "socket.connect":
            self.found.append(event)
        elif self.allowed and event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if not path.startswith(self.allowed):
                self.found.append(path)

    @contextlib.contextmanager
    def over(self, *folders):
        self.allowed, self.found = tuple(map(os.path.realpath, folders)), []
        try:
            yield self.found
        finally:
            self.allowed = ()


@pytest.fixture(scope="module")
def watch():
    return Watch()


def outcome(action):
    """Return what an action gives, or the error of tinyvid that it raises."""
    try:
        return action()
    except TinyvidError as error:
        return error


@pytest.mark.slow
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= 25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ROWS | VALUES)
def test_every_row_gives_a_sample_or_a_typed_error(folder, processor, watch, row):
    (folder / "rows.jsonl").write_text(json.dumps([row]))
    with watch.over(
        folder, sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "/dev"
    ):
        rows = outcome(lambda: RowDataset(path=str(folder / "rows.jsonl")))
        if isinstance(rows, TinyvidError):
            return  # not a file of rows
        sample = outcome(lambda: rows[0])
        (report,) = RowChecks(rows, processor)
        example = outcome(lambda: TrainingData(rows, processor, DataPolicy())[0])
        asked = outcome(lambda: build_benchmark({"name": "custom", "root": str(folder)}))
    assert watch.found == []
    bad = isinstance(sample, DataError)
    assert bool(report.faults) == isinstance(example, TinyvidError), (report.faults, example)
    assert not bad or (report.faults and isinstance(asked, DataError))
