"""Every command and every Python snippet of the README runs unchanged."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.runs import python
from tinyvid import __version__
from tinyvid.checkpoints.hub import DEFAULT_MODEL

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, flags=re.DOTALL)
# This comment marks lines that need the hub, a GPU or another project's data.
ELSEWHERE = "# needs"
COMMANDS = [
    line
    for kind, block in BLOCKS
    if kind == "bash"
    for line in block.splitlines()
    if line.startswith("python ") and ELSEWHERE not in line
]
SNIPPETS = [block for kind, block in BLOCKS if kind == "python" and ELSEWHERE not in block]


def test_the_two_setup_commands_are_present():
    assert "pip install -e . && python eval.py\n" in README
    assert 'pip install -e ".[dev]" && pytest' in README


def test_the_citation_has_the_current_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert f"version = {{{__version__}}}" in README
    assert f"title   = {{{citation['title']}}}" in README


def test_results_match_the_report():
    """The table about the default model matches the results of its recipe."""
    report = json.loads((DEFAULT_MODEL / "report.json").read_text())
    for name, text in (("overall", "{:.1f} % of {:,} right"), ("captions", "{:.1f} % of {:,}")):
        row = report["test"][name]
        assert text.format(100 * row["accuracy"], row["questions"]) in README
    spans = report["test_of_spans"]
    told = "mean IoU {miou:.3f}; at least 0.7 for {r70:.1%} of {spans:,.0f} spans".format(**spans).replace("%", " %")
    assert told in README
    start, then = sum(report["start"]["seconds"].values()) / 60, report["cpu_seconds"] / 60
    assert f"| {start:.0f} minutes, then {then:.0f} minutes of CPU time for spans of time |" in README


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, tmp_path):
    arguments = [argument.replace("/tmp/", f"{tmp_path}/") for argument in shlex.split(command, comments=True)[1:]]
    done = python(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet(snippet, tmp_path):
    done = python("-c", snippet.replace("/tmp/", f"{tmp_path}/"))
    assert done.returncode == 0, done.stderr
