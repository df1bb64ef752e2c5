"""QVHighlights: windows, saliency, the official averages and the submission."""

import json

import pytest

from tests.benchmark_files import assert_contract, build, prompts, touch
from tests.eval.test_charades_sta import answered
from tests.timed_files import HIGHLIGHTS, write_highlights
from tinyvid import DataError
from tinyvid.evaluation.scoring.scores import check_answers


@pytest.fixture
def root(tmp_path):
    touch(tmp_path / "videos/NUsG9BgSes0_210.0_360.0.mp4")
    return write_highlights(tmp_path)


def test_items(root):
    benchmark = build("qvhighlights", root)
    assert_contract(benchmark)
    first, second = benchmark
    assert (first.id, first.rule, first.answer) == ("2579", "spans", "<time:8> to <time:12>\n<time:0> to <time:4>")
    assert second.answer == "<time:2> to <time:6>"
    assert first.sample.video == str(root / "videos/NUsG9BgSes0_210.0_360.0.mp4")
    assert prompts(benchmark)[0][1] == (
        'When does this happen in the video: "Two women cook together"? Give the start and the end of every '
        "occurrence, the best match first."
    )
    for item in benchmark:
        check_answers(item)


def test_averages(root):
    benchmark = build("qvhighlights", root)
    outcomes = answered(benchmark, ["[[8, 12], [5, 7], [0, 3]]", "nowhere"])
    # IoU of the three windows: 1, 0, 3/4. Precision at the two hits: 1 and 2/3 for thresholds up to 0.75, which are 6
    # of 10; above them, only the first window hits one of two.
    found = (6 * (1 + 2 / 3) / 2 + 4 * 1 / 2) / 10
    assert [outcome.value for outcome in outcomes] == pytest.approx([found, 0])
    summary = benchmark.summary(outcomes)
    # All correct windows are short. The first window has clips 4 and 5; clip 4 is very good for one annotator.
    assert {name: summary[name] for name in summary if name != "HL-mAP"} == pytest.approx(
        {"mAP": 50 * found, "mAP@0.5": 50 * 5 / 6, "mAP@0.75": 50 * 5 / 6, "R1@0.5": 50, "R1@0.7": 50, "HIT@1": 50}
        | {"mAP short": 50 * found}
    )
    # Very good clips: 4 and 5, only 5, only 5. Both score 1, so precision is 1, 1/2, 1/2.
    assert summary["HL-mAP"] == pytest.approx(50 * (1 + 0.5 + 0.5) / 3)


def test_windows_of_each_range_of_lengths(root):
    rows = [
        HIGHLIGHTS[0] | {"duration": 150, "relevant_windows": [[0, 10], [20, 31], [60, 91]]},
        HIGHLIGHTS[1] | {"duration": 150, "relevant_windows": [[0, 30]]},
    ]
    benchmark = build("qvhighlights", write_highlights(root, rows))
    summary = benchmark.summary(answered(benchmark, ["60 - 91 s, 20 - 31 s", "0 - 30 s"]))
    assert [summary[f"mAP {name}"] for name in ("short", "middle", "long")] == [0, pytest.approx(75), 100]


def test_submission(root):
    benchmark = build("qvhighlights", root)
    ((name, text),) = benchmark.files(answered(benchmark, ["[[8, 12], [5, 7]]", "nowhere"])).items()
    assert name == "hl_val_submission.jsonl"
    first, second = [json.loads(line) for line in text.splitlines()]
    assert first == {
        "qid": 2579,
        "query": "Two women cook together.",
        "vid": "NUsG9BgSes0_210.0_360.0",
        "pred_relevant_windows": [[8.0, 12.0, 1.0], [5.0, 7.0, 0.5]],
        "pred_saliency_scores": [0, 0, 0.5, 0.5, 1.0, 1.0],
    }
    assert second["pred_relevant_windows"] == [[0.0, 0.0, 0.0]], "the official scorer needs a first window"
    assert second["pred_saliency_scores"] == [0.0] * 5


def test_the_test_is_not_scored_but_submitted(root):
    write_highlights(root, split="test")
    benchmark = build("qvhighlights", root, split="test")
    assert_contract(benchmark)
    outcomes = answered(benchmark, ["8 to 12 s", "2 to 6 s"])
    assert {outcome.value for outcome in outcomes} == {None}
    assert benchmark.summary(outcomes) == {}
    assert list(benchmark.files(outcomes)) == ["hl_test_submission.jsonl"]
    (root / "highlight_test_release.jsonl").rename(root / "highlight_test_with_gt.jsonl")
    with pytest.raises(DataError, match="with_gt.jsonl:1: 'relevant_windows' must be a list of windows, got None"):
        build("qvhighlights", root, split="test_with_gt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relevant_windows": [[0, 5], [4, 8]]}, r"the windows \[\[0, 5\], \[4, 8\]\] overlap; join or separate them"),
        ({"relevant_windows": [[4, 2]]}, "end after its start"),
        ({"relevant_windows": [[0, 13]]}, "is not inside its video of 12 s"),
        ({"relevant_windows": []}, "'relevant_windows' must be a list of windows"),
        ({"relevant_windows": "0-4"}, "'relevant_windows' must be a list of windows"),
        ({"relevant_clip_ids": [0, 1, 4]}, "'relevant_clip_ids' and 'saliency_scores' must be lists of equal length"),
        ({"relevant_clip_ids": [0, 1, 4, 6]}, "clip 6 is not one of the 6 clips of the video"),
        ({"saliency_scores": [[1, 2, 3]] * 3 + [[1, 2]]}, "clip 5 must have 3 saliency scores, got"),
        ({"vid": "../x"}, "'vid': the path '../x' leaves"),
        ({"duration": None}, "the row has no 'duration'"),
        ({"query": ["x"]}, "'query' must be a text"),
    ],
)
def test_a_faulty_row_is_named(root, change, message):
    write_highlights(root, [HIGHLIGHTS[1], HIGHLIGHTS[0] | change])
    with pytest.raises(DataError, match=rf"highlight_val_release.jsonl:2: {message}|release.jsonl:2: .*{message}"):
        build("qvhighlights", root)


def test_a_query_with_the_id_of_another(root):
    write_highlights(root, [HIGHLIGHTS[0], HIGHLIGHTS[0]])
    with pytest.raises(DataError, match="release.jsonl:2: the qid 2579 is also that of .*release.jsonl:1"):
        build("qvhighlights", root)
