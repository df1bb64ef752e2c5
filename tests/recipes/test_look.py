"""The look report as a program: a checkpoint of TinyLLaVA-Video, and errors before the model is loaded."""

import json

import pytest

from tests.goldens import TINYLLAVA_VIDEO
from tests.questions import write_two_clips
from tests.runs import load_program
from tinyvid import ConfigError, DataError, compose
from tinyvid.command_line import CommandLine

program = load_program("look")


@pytest.fixture(scope="module")
def two_clips(tmp_path_factory):
    return write_two_clips(tmp_path_factory.mktemp("questions"))


def run(*overrides):
    given = [f"ckpt={TINYLLAVA_VIDEO / 'group_qwen2'}", "device=cpu", "max_new_tokens=2", "workers=0", *overrides]
    line = CommandLine.parse(given)
    program.main(compose(line.overrides, config="look"), line)


@pytest.mark.slow
def test_a_checkpoint_of_another_project_has_a_report(two_clips, tmp_path, capsys):
    few = ("controls=[black,reversed]", "score=likelihood", "sampler.num_frames=2", f"run_dir={tmp_path / 'look'}")
    run("benchmark=custom", f"benchmark.root={two_clips}", *few)
    printed = capsys.readouterr().out
    assert "There are 2 videos, and a finding needs 10" in printed
    assert f"See {tmp_path / 'look'}/look.md for details." in printed
    data = json.loads((tmp_path / "look" / "look.json").read_text())
    assert (data["controls"], data["ckpt"][-11:], data["score"]) == (["black", "reversed"], "group_qwen2", "likelihood")
    with pytest.raises(ConfigError, match="run with other settings, which cannot be continued: sampler"):
        run("benchmark=custom", f"benchmark.root={two_clips}", *few, "sampler.num_frames=1")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "benchmark= is missing"),
        (("benchmark=custom", "controls=[reverse]"), r"controls=\['reverse'\]: .*Did you mean 'reversed'"),
        (("benchmark=custom", "benchmark.blind=black"), "benchmark.blind=black: a look report sets it itself"),
        (("benchmark=custom", "before=nowhere"), "is not a report"),
        (("benchmark=custom", "limit=1"), "it has none for item 'a'"),
        (("benchmark=custom", "connector=mlp"), "connector is fixed by ckpt="),
    ],
)
def test_a_mistake_is_one_clear_line(two_clips, tmp_path, overrides, message):
    root = [f"benchmark.root={two_clips}"] if overrides else []
    with pytest.raises((ConfigError, DataError), match=message):
        run(*overrides, *root, f"run_dir={tmp_path / 'look'}")
    assert not (tmp_path / "look").exists()
