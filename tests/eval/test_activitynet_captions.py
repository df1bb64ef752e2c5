"""ActivityNet Captions: times of sentences, dense captions by two annotators, and the submission."""

import json

import pytest

from tests.benchmark_files import assert_contract, build, prompts, touch, write_json
from tests.eval.test_charades_sta import answered
from tests.timed_files import VAL_1, write_activitynet
from tinyvid import DataError
from tinyvid.evaluation.scoring.scores import check_answers

DESCRIBE = "Describe the events in the video in order, one per line, each with its start and its end."
EVENTS = "<time:0> to <time:8> A man lights the stove.\n<time:6> to <time:20.01> He cooks two eggs."


@pytest.fixture
def root(tmp_path):
    touch(tmp_path / "videos/v_one.mp4")
    touch(tmp_path / "videos/two.webm")
    return write_activitynet(tmp_path)


def test_grounding(root):
    benchmark = build("activitynet_captions", root)
    assert_contract(benchmark)
    assert [item.answer for item in benchmark] == [
        "<time:0> to <time:8>",
        "<time:6> to <time:20.01>",
        "<time:2.5> to <time:7.5>",
        "<time:0> to <time:20>",
    ]
    assert [item.id.split("/")[0] for item in benchmark] == ["val_1"] * 3 + ["val_2"]
    asked = 'When does this happen in the video: "He cooks two eggs"? Give the start and the end.'
    assert prompts(benchmark, 1) == [("user", asked)]
    assert benchmark[2].sample.video == str(root / "videos/two.webm")
    assert [len(build("activitynet_captions", root, split=split)) for split in ("val_1", "val_2")] == [3, 1]
    # IoU: 1; 7.005 of 14.01 s; 0; 0.8
    outcomes = answered(benchmark, ["0 - 8 s", "6 to 13.005", "8 to 9 s", "2 to 18 s"])
    assert benchmark.summary(outcomes) == pytest.approx({"mIoU": 57.5, "R@0.3": 75, "R@0.5": 75, "R@0.7": 50})
    assert benchmark.files(outcomes) == {}


def test_captions(root):
    benchmark = build("activitynet_captions", root, task="captions")
    assert_contract(benchmark)
    one, two = benchmark
    assert prompts(benchmark) == [("user", DESCRIBE)]
    assert (one.id, one.rule, one.answer) == ("v_one", "events", EVENTS)
    assert one.alternatives == ("<time:0> to <time:20> A man makes breakfast.",)
    assert (two.id, two.alternatives) == ("v_two", ())
    for item in benchmark:
        check_answers(item)


def test_averages_and_submission_of_captions(root):
    benchmark = build("activitynet_captions", root, task="captions")
    replies = ["0 to 8 s, a man lights a stove.\n10 to 20.01 s, he eats.", "nothing"]
    outcomes = answered(benchmark, replies)
    # The second event covers 10.01 of 14.01 s, 0.714, so both events match the first annotation up to 0.7, and one at
    # 0.9, where precision and recall are 1/2. The second annotation has an IoU of 8/20 and 10/20 with the two events.
    assert [outcome.value for outcome in outcomes] == pytest.approx([(3 * 1 + 0.5) / 4, 0])
    found = benchmark.summary(outcomes)
    assert {name: found[name] for name in ("F1", "Precision", "Recall", "F1@0.5", "F1@0.9")} == pytest.approx(
        {"F1": 43.75, "Precision": 43.75, "Recall": 100 * (1 + 1 + 1 + 0.5) / 8, "F1@0.5": 50, "F1@0.9": 25}
    )
    assert 0 < found["SODA (F1 of words)"] < 100
    gold = answered(benchmark, [item.answer for item in benchmark])
    assert benchmark.summary(gold)["F1"] == benchmark.summary(gold)["SODA (F1 of words)"] == 100
    (text,) = benchmark.files(outcomes).values()
    submission = json.loads(text)
    assert set(submission) == {"version", "results", "external_data"}
    assert submission["results"] == {
        "v_one": [
            {"sentence": "a man lights a stove.", "timestamp": [0.0, 8.0]},
            {"sentence": "he eats.", "timestamp": [10.0, 20.01]},
        ],
        "v_two": [],
    }
    assert list(benchmark.files(outcomes)) == ["activitynet_captions_submission.json"]


def test_bad_input(root):
    (root / "val_2.json").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 2 files: val_2.json .*densevid"):
        build("activitynet_captions", root)
    assert len(build("activitynet_captions", root, split="val_1")) == 3
    write_json(root / "val_1.json", {"../v": VAL_1["v_two"]})
    with pytest.raises(DataError, match=r"val_1.json: '../v', event 1: the path '../v' leaves"):
        build("activitynet_captions", root, split="val_1")
    write_json(root / "val_1.json", {"v_two": VAL_1["v_two"] | {"timestamps": [[2.5, 11]]}})
    with pytest.raises(DataError, match=r"'v_two', event 1: the window \[2.5, 11\] is not inside its video of 10 s"):
        build("activitynet_captions", root, split="val_1")
