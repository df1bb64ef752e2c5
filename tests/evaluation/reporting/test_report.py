"""Reports of the timed rules: published averages, and the same report from the rows alone."""

import pytest

from tests.evaluation.reporting.test_compare import Made
from tinyvid import Item, Message, Outcome, Sample, compare_runs, load_runs
from tinyvid.evaluation.reporting.comparison import as_text
from tinyvid.evaluation.reporting.predictions import Predictions
from tinyvid.evaluation.reporting.report import summarize, write_report
from tinyvid.evaluation.scoring.scores import rescore

ANSWERS = {
    "span": "<time:2> to <time:12>",
    "spans": "<time:2> to <time:12>\n<time:20> to <time:30>",
    "events": "<time:2> to <time:12> A man lights the stove.\n<time:20> to <time:30> He cooks two eggs.",
}


def items_of(rule, count):
    sample = Sample([Message("user", "When?")])
    return [Item(f"{number}", sample, rule=rule, answer=ANSWERS[rule]) for number in range(count)]


def write_run(folder, items, replies, **settings):
    """Write the folder of a finished run as ``evaluate`` does; ``None`` stands for a video that cannot be read."""
    rows = [
        Outcome(item.id, "media_failed" if reply is None else "answered", None, reply=reply, video=f"v{item.id}")
        for item, reply in zip(items, replies, strict=True)
    ]
    outcomes = [rescore(item, row) for item, row in zip(items, rows, strict=True)]
    folder.mkdir(parents=True)
    Predictions(folder).rewrite(outcomes)
    write_report(folder, Made("made", len(items)), items, outcomes, settings)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["span", "spans", "events"])
def test_a_report_follows_from_the_rows(rule, tmp_path):
    items = items_of(rule, 5)
    replies = [ANSWERS[rule], "2 - 12 s, A man.", "[2, 8] a man", "no idea", None]
    folder = write_run(tmp_path / "run", items, replies)
    (run, _) = load_runs([folder, folder])
    data = run.report.data
    assert (data["n_answered"], data["n_unparsed"], data["n_media_failed"], data["unparsed"]) == (3, 1, 1, ["3"])
    mean = {"span": "mIoU", "spans": "mAP", "events": "F1"}[rule]
    assert data["official"][mean] == pytest.approx(100 * data["accuracy"]["all"]["value"])
    assert data["accuracy"]["all"]["low"] < data["accuracy"]["all"]["value"] < data["accuracy"]["all"]["high"]
    text = (folder / "report.md").read_text()
    names = {"span": ["R@0.3", "R@0.5", "R@0.7"], "spans": ["mAP@0.5", "R1@0.7"], "events": ["CIDEr-D", "SODA (F1 of"]}
    assert all(f"| {name}" in text for name in (mean, *names[rule]))
    rows = [rescore(item, run.outcomes[item.id]) for item in items]
    again = summarize(Made("made", len(items)), items, rows, {})
    assert {**again, "versions": 0} == {**data, "versions": 0}, "the rows and the annotation are enough"


def test_a_benchmark_may_include_the_averages_of_its_rule():
    class Whole(Made):
        def summary(self, outcomes):
            return {"mIoU": 12.0}

    items = items_of("span", 1)
    outcomes = [rescore(items[0], Outcome("0", "answered", None, reply="2 - 12 s"))]
    assert summarize(Whole("made", 1), items, outcomes, {})["official"] == {"mIoU": 12.0}
    assert list(summarize(Made("made", 1), items, outcomes, {})["official"]) == ["mIoU", "R@0.3", "R@0.5", "R@0.7"]


@pytest.mark.slow
def test_runs_with_values_between_0_and_1_are_compared_by_the_bootstrap(tmp_path):
    items = items_of("span", 40)
    wide = [f"<time:2> to <time:{12 + number % 4}>" for number in range(40)]
    close = [f"<time:2> to <time:{12 + number % 3}>" for number in range(40)]
    folders = [write_run(tmp_path / name, items, replies, name=name) for name, replies in (("a", wide), ("b", close))]
    comparison = compare_runs(load_runs(folders, ["a", "b"]))
    (pair,) = comparison["pairs"]
    assert (pair["only_first"], pair["only_second"], pair["both"]) == (0, 0, 40), "at an IoU of 0.5, they are equal"
    assert pair["test"] == "bootstrap"
    assert 0 < pair["low"] < pair["difference"] < pair["high"]
    assert pair["p"] < 0.05
    assert "| bootstrap |" in as_text(comparison)
    assert "those of at least 0.5 count as right" in as_text(comparison)
    same = compare_runs(load_runs([folders[0], folders[0]], ["a", "b"]))["pairs"][0]
    assert (same["difference"], same["p"]) == (0, 1)
