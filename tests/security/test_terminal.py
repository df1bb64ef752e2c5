"""Names and ids of others reach the terminal without control characters."""

import logging

import pytest

from tests.runs import python
from tinyvid.command_line import escape_logs
from tinyvid.errors import CheckpointError, ConfigError, DataError, PluginError, VideoError

ESCAPE = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202e"


@pytest.mark.parametrize("error", [ConfigError, VideoError, DataError, CheckpointError, PluginError])
def test_escape_sequences_in_errors_are_escaped(error):
    assert str(error(f"a{ESCAPE}b\n\té数据👩‍👧")) == r"a\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202eb" + "\n\té数据👩‍👧"


@pytest.mark.slow
def test_escape_sequences_in_names_do_not_reach_the_terminal(tmp_path):
    name = f"{ESCAPE}.mp4"
    (tmp_path / name).write_text("x")
    done = python("eval.py", f"video={tmp_path / name}", "question=What?")
    assert done.returncode == 2
    assert r"\x1b]0;owned\x07" in done.stderr
    assert not set(ESCAPE[0] + ESCAPE[-1] + "\x07\x9b") & set(done.stdout + done.stderr)


def test_escape_sequences_in_logs_are_escaped(monkeypatch):
    before = logging.getLogRecordFactory()
    try:
        escape_logs()
        record = logging.getLogger("tinyvid.x").makeRecord("x", 30, "f", 1, "Sample %s", (ESCAPE,), None)
        assert logging.Formatter().format(record) == r"Sample \x1b]0;owned\x07\x1b[2J\r\x9b31m\u202e"
    finally:
        logging.setLogRecordFactory(before)
