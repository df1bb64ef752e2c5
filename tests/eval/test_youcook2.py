"""YouCook2: the steps of a video, wherever its file is, and the submission."""

import json

import pytest

from tests.benchmark_files import assert_contract, build, prompts, touch, write_json
from tests.eval.test_charades_sta import answered
from tests.timed_files import write_youcook2
from tinyvid import DataError

EVENTS = "<time:4> to <time:10> chop the lettuce\n<time:15> to <time:25> mix it with oil"


@pytest.fixture
def root(tmp_path):
    touch(tmp_path / "raw_videos/validation/226/xHr8X2Wpmno.webm")
    return write_youcook2(tmp_path)


def test_items(root):
    benchmark = build("youcook2", root)
    assert_contract(benchmark)
    (item,) = benchmark
    assert (item.id, item.rule, item.answer) == ("xHr8X2Wpmno", "events", EVENTS)
    assert item.sample.video == str(root / "raw_videos/validation/226/xHr8X2Wpmno.webm")
    assert prompts(benchmark)[0][1].startswith("Describe the events in the video in order, one per line")
    (other,) = build("youcook2", root, split="training", prompt_style="timechat")
    assert other.sample.messages[0].text.endswith("' 90 - 102 seconds, spread margarine on two slices of white bread'.")
    assert other.sample.video == str(root / "videos/GLd3aX16zBg.mp4"), "where a message expects the missing file"


def test_averages_and_submission(root):
    benchmark = build("youcook2", root)
    # 6 of 8 s: found at 0.3, 0.5 and 0.7. F1 at these: precision 1, recall 1/2.
    outcomes = answered(benchmark, ["2 - 10 seconds, chop the lettuce"])
    found = benchmark.summary(outcomes)
    assert found["F1"] == pytest.approx(100 * 3 * (2 / 3) / 4)
    assert (found["Precision"], found["Recall"]) == pytest.approx((75, 37.5))
    assert found["SODA (F1 of words)"] == pytest.approx(100 * 2 * 0.75 / 3), "IoU times similarity 1, 1 + 2 events"
    (submission,) = benchmark.files(outcomes).items()
    assert submission[0] == "youcook2_submission.json"
    steps = json.loads(submission[1])["results"]["xHr8X2Wpmno"]
    assert steps == [{"sentence": "chop the lettuce", "timestamp": [2.0, 10.0]}]


def test_bad_input(root, tmp_path):
    with pytest.raises(DataError, match=r"lacks 1 of 1 files: youcookii_annotations_trainval.json .*youcook2.eecs"):
        build("youcook2", tmp_path / "nowhere")
    write_json(root / "youcookii_annotations_trainval.json", {"database": {}})
    with pytest.raises(DataError, match="has no items"):
        build("youcook2", root)
