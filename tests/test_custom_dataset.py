"""``examples/custom_dataset``: every command of its README in turn, and each fault of a CSV by its line."""

import importlib.util
import re
import shlex
import subprocess
import sys

import pytest

from tests.runs import ROOT
from tests.test_readme import ELSEWHERE
from tinyvid.training.log import read_metrics

EXAMPLE = ROOT / "examples" / "custom_dataset"
README = (EXAMPLE / "README.md").read_text()


def steps():
    """Return what the README runs, as arguments of Python, in order."""
    found = []
    for kind, block in re.findall(r"```(bash|python)\n(.*?)```", README, flags=re.DOTALL):
        if kind == "python":
            found.append(["-c", block])
            continue
        commands = re.split(r"\n(?=python )", block.replace("\\\n", ""))
        found += [shlex.split(command)[1:] for command in commands if ELSEWHERE not in command]
    return found


def test_from_clips_to_a_model_that_answers(tmp_path):
    printed = []
    for arguments in steps():
        moved = [argument.replace("/tmp/", f"{tmp_path}/") for argument in arguments]
        done = subprocess.run([sys.executable, *moved], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (arguments, done.stderr[-3000:])
        printed.append(done.stdout.strip())
    assert len(printed) == 7

    records = read_metrics(tmp_path / "moving" / "run")
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < 0.2 * losses[0]
    accuracies = [record["eval_accuracy"] for record in records if "eval_accuracy" in record]
    assert len(accuracies) == 4
    assert max(accuracies) > 0.6, "always the same letter makes 0.5"
    assert printed[-2] in "AB"
    right, total = map(int, re.findall(r"\d+", printed[-1]))
    assert (right / total, total) == (accuracies[-1], 16)


@pytest.fixture(scope="module")
def prepare():
    spec = importlib.util.spec_from_file_location("example_prepare", EXAMPLE / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def listed(folder, *lines, header="file,label"):
    (folder / "clips").mkdir()
    for name in "abcdef":
        (folder / "clips" / f"{name}.mp4").touch()
    (folder / "labels.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder / "labels.csv", folder / "clips"


GOOD = ["a.mp4,left", "b.mp4,left", "c.mp4,right", "d.mp4,right"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*GOOD, "x.mp4,left"], r"labels.csv:6: there is no file '.*x.mp4'"),
        ([*GOOD, "e.mp4,"], "labels.csv:6: 'file' and 'label' must not be empty"),
        ([*GOOD, "a.mp4,right"], "labels.csv:6: 'a.mp4' stands in line 2 already"),
        ([*GOOD, "e.mp4,up"], "labels.csv:6: only this clip has the label 'up'"),
        ([*GOOD, "e.mp4,left,up"], "labels.csv:6: the line has more or fewer cells"),
        (GOOD[:2], "labels.csv:2: 'Where to\\?' has 1 different labels"),
        ([], "lists no clips"),
    ],
)
def test_a_faulty_line_is_named(prepare, tmp_path, lines, message):
    labels, clips = listed(tmp_path, *lines)
    with pytest.raises(prepare.LabelError, match=message):
        prepare.read_labels(labels, clips, "Where to?")


def test_all_faults_are_listed_at_once(prepare, tmp_path):
    labels, clips = listed(tmp_path, *GOOD, "x.mp4,left", "y.mp4,right")
    with pytest.raises(prepare.LabelError, match=r"(?s)csv:6: .*csv:7: "):
        prepare.read_labels(labels, clips, "Where to?")


@pytest.mark.parametrize("header", ["file,lable", "path,label", "file,label,weight"])
def test_other_columns_are_refused(prepare, tmp_path, header):
    labels, clips = listed(tmp_path, *GOOD, header=header)
    with pytest.raises(prepare.LabelError, match=r"labels.csv:1: the columns are .* must be 'file', 'label'"):
        prepare.read_labels(labels, clips, "Where to?")


def test_every_question_has_options_of_its_own(prepare, tmp_path):
    lines = ["a.mp4,left,", "b.mp4,left,", "c.mp4,right,", "d.mp4,right,"]
    colours = ["a.mp4,red,Colour?", "b.mp4,blue,Colour?", "c.mp4,red,Colour?", "d.mp4,blue,Colour?"]
    labels, clips = listed(tmp_path, *lines, *colours, header="file,label,question")
    train, held_out = prepare.split(prepare.read_labels(labels, clips, "Where to?"), 0.5, 0)
    assert len(train) == len(held_out) == 4
    for row in train + held_out:
        question = row["conversations"][0]["value"]
        assert row["options"] == (["blue", "red"] if question == "Colour?" else ["left", "right"])
    of = {(row["video"], row["options"][row["answer_index"]]) for row in train + held_out}
    assert len(of) == 8
    assert {("a.mp4", "left"), ("a.mp4", "red"), ("d.mp4", "right"), ("d.mp4", "blue")} <= of
