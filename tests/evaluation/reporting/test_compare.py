"""Comparing runs: common items, values computed by hand, repeats, classes, and errors."""

import json
from dataclasses import asdict

import pytest

from tests.runs import load_program
from tinyvid import ConfigError, DataError, Item, Message, Outcome, Report, Sample, compare_runs, load_runs
from tinyvid.evaluation.reporting.comparison import as_text, write_comparison
from tinyvid.evaluation.reporting.report import write_report


class Made:
    """The minimal benchmark for a report."""

    prompt_style = "official"

    def __init__(self, name, size):
        self.name, self.size = name, size

    def __len__(self):
        return self.size

    def summary(self, outcomes):
        return {}


def write_run(folder, values, *, answer="A", name="made", rule="choice", settings=None, groups=None, points=None):
    """Write the folder of a finished run: ``values`` by id; a string is the prediction of a label."""
    options = {"A": "x", "B": "y"}
    items, outcomes = [], []
    for key, value in values.items():
        right = answer[key] if isinstance(answer, dict) else answer
        predicted = value if isinstance(value, str) else (right if value else "B")
        number = float(value == right) if isinstance(value, str) else value
        sample = Sample([Message("user", "Q?")])
        items.append(Item(key, sample, rule=rule, answer=right, options=options, groups=groups or {"task": key[0]}))
        outcomes.append(
            Outcome(
                key, "answered", number, reply="r", prediction=predicted, answer=right,
                groups=groups or {"task": key[0]}, points=points or {}, video=key[:2],
            )
        )  # fmt: skip
    benchmark = Made(name, len(items))
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes))
    write_report(folder, benchmark, items, outcomes, {"sampler": {"fps": 1}, **(settings or {})})
    return folder


def test_the_study_of_frames_per_second(tmp_path):
    """A published comparison: 242 items, 146 correct in both runs, 4 and 12 in only one; p = 0.077."""
    first = {f"i{n:03d}": float(n < 150) for n in range(257)}
    second = {f"i{n:03d}": float(n < 146 or 150 <= n < 162) for n in range(242)}
    runs = load_runs([write_run(tmp_path / "fps1", first), write_run(tmp_path / "fps6", second)])
    found = compare_runs(runs)
    assert found["n_common"] == 242
    assert [run["value"] for run in found["runs"]] == [150 / 242, 158 / 242]
    pair = found["pairs"][0]
    assert (pair["both"], pair["only_first"], pair["only_second"], pair["neither"]) == (146, 4, 12, 80)
    assert pair["p"] == pytest.approx(0.0768, abs=1e-4)
    assert pair["test"] == "McNemar"
    assert pair["difference"] == pytest.approx(8 / 242)
    assert pair["low"] < pair["difference"] < pair["high"]


@pytest.mark.slow
def test_repeats_have_a_spread_and_the_first_is_tested(tmp_path):
    folders = [
        write_run(tmp_path / str(number), {f"i{n}": float(n < right) for n in range(10)})
        for number, right in enumerate((5, 6, 7, 9))
    ]
    found = compare_runs(load_runs(folders, ["fps1", "fps1", "fps1", "fps6"]))
    spread = found["repeats"]["fps1"]
    assert (spread["n"], spread["low"], spread["high"]) == (3, 0.5, 0.7)
    assert spread["mean"] == pytest.approx(0.6)
    assert spread["deviation"] == pytest.approx(0.1)
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [("fps1", "fps6")]
    assert found["pairs"][0]["only_second"] == 4, "of 5 and 9 right"


@pytest.mark.slow
def test_groups_and_classes_state_their_size(tmp_path):
    answers = {"a0": "A", "a1": "A", "b0": "B"}
    one = write_run(tmp_path / "one", {"a0": "A", "a1": "B", "b0": "B"}, answer=answers, rule="label")
    two = write_run(tmp_path / "two", {"a0": "A", "a1": "A", "b0": "A"}, answer=answers, rule="label")
    found = compare_runs(load_runs([one, two]))
    assert found["classes"]["A"]["n"] == 2
    assert [number["value"] for number in found["classes"]["A"]["runs"]] == [0.5, 1.0]
    assert [number["value"] for number in found["classes"]["B"]["runs"]] == [1.0, 0.0]
    assert found["groups"]["task"]["a"]["n"] == 2
    write_comparison(tmp_path / "out", found)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "comparison.json", "comparison.md", "runs.png", "pairs.png", "by_task.png", "by_answer.png",
    }  # fmt: skip
    text = as_text(found)
    assert "| A | 2 | 50.00 % | 100.00 % |" in text
    assert "McNemar" in text


@pytest.mark.slow
def test_runs_are_named_by_their_differences(tmp_path):
    one = write_run(tmp_path / "one", {"a": 1.0}, settings={"sampler": {"fps": 1}, "ckpt": "c"})
    two = write_run(tmp_path / "two", {"a": 1.0}, settings={"sampler": {"fps": 6}, "ckpt": "c"})
    assert [run.name for run in load_runs([one, two])] == ["sampler.fps=1", "sampler.fps=6"]
    three = write_run(tmp_path / "three", {"a": 1.0}, settings={"sampler": {"fps": 1}, "ckpt": "c"})
    assert [run.name for run in load_runs([one, three])] == ["one", "three"]


@pytest.mark.slow
def test_what_cannot_be_compared_is_refused(tmp_path):
    one = write_run(tmp_path / "one", {"a": 1.0, "b": 0.0})
    with pytest.raises(ConfigError, match="contains 1 run; give at least two"):
        load_runs([one])
    with pytest.raises(ConfigError, match="names= contains 1 names for 2 runs"):
        load_runs([one, one], ["x"])
    with pytest.raises(DataError, match="is not a report"):
        load_runs([one, tmp_path / "nowhere"])
    with pytest.raises(DataError, match=r"different benchmarks \(made, other\)"):
        load_runs([one, write_run(tmp_path / "other", {"a": 1.0}, name="other")])
    with pytest.raises(DataError, match="no item with an answer in common"):
        compare_runs(load_runs([one, write_run(tmp_path / "apart", {"c": 1.0})]))
    changed = write_run(tmp_path / "changed", {"a": 1.0}, answer="B")
    with pytest.raises(DataError, match="item 'a' has the answer 'A' in .* and 'B' in .*the annotation changed"):
        compare_runs(load_runs([one, changed]))
    (one / "predictions.jsonl").write_text("")
    with pytest.raises(DataError, match="contains 0 items, but its report counts 2"):
        load_runs([one, changed])


def test_the_program_lists_the_runs_of_a_folder(tmp_path):
    program = load_program("compare")
    for name in ("b", "a"):
        write_run(tmp_path / name, {"i": 1.0})
    (tmp_path / "empty").mkdir()
    assert program._folders(f"{tmp_path}/*") == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert program._folders("x, y") == ["x", "y"]
    (tmp_path / "c, d").mkdir()
    assert program._folders(f"{tmp_path}/c, d") == [f"{tmp_path}/c, d"]
    with pytest.raises(ConfigError, match="matches no finished run"):
        program._folders(f"{tmp_path}/empty/*")
    with pytest.raises(ConfigError, match="has brackets; separate folders by commas"):
        program._folders("[a,b]")


def test_the_marks_of_several_runs_stand_side_by_side(tmp_path):
    values = {f"i{n}": float(n < 4) for n in range(8)}
    points = {
        "none": {"references": 0.0, "reference_f1": 0.0},
        "right": {
            "references": 2.0,
            "reference_f1": 0.9,
            "reference_f1_chance": 0.15,
            "reference_validity": 1.0,
            "score": 4.0,
        },
        "shuffled": {"references": 2.0, "reference_f1": 0.2, "reference_validity": 1.0, "score": 1.0},
    }
    folders = [write_run(tmp_path / name, values, points=marks) for name, marks in points.items()]
    found = compare_runs(load_runs(folders, list(points)))
    assert [run and run["value"] for run in found["marks"]["reference_f1"]["runs"]] == pytest.approx([0.0, 0.9, 0.2])
    assert found["marks"]["reference_validity"]["runs"][0] is None, "no reply of this run has the mark"
    text = as_text(found)
    assert "| mark | none | right | shuffled |" in text
    assert "| reference_validity | none | 1.00 (0.68 to 1.00), n=8 | 1.00 (0.68 to 1.00), n=8 |" in text
    assert "| score | none | 4.00 (4.00 to 4.00), n=8 | 1.00" in text
    write_comparison(tmp_path / "out", found)
    assert (tmp_path / "out" / "references.png").stat().st_size > 5000
    report = (folders[1] / "report.md").read_text()
    assert "## Marks" in report
    assert "cited frames: F1 90.00 % (at random 15.00 %)" in Report.load(folders[1]).text()
    assert "cited frames" not in Report.load(folders[0]).text()
    assert Report.load(folders[0]).metrics()["made reference_f1"] == 0
    assert "| reference_f1 | 0.90 |" in report
