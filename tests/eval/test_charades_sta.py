"""Charades-STA: both annotations, the prompt styles, the captions of LLM4VG, and what the report says."""

import json
import re

import pytest

from tests.benchmark_files import assert_contract, build, fields, prompts, touch, write_json, write_text
from tests.timed_files import TIMELENS, write_charades
from tinyvid import ConfigError, DataError, Outcome
from tinyvid.evaluation.scoring.scores import check_answers, rescore

WHEN = 'When does this happen in the video: "person turn a light on"? Give the start and the end.'
LMMS_EVAL = (
    "Please find the visual event described by a sentence in the video, determining its starting and ending times. The "
    "format should be: 'The event happens in the start time - end time'. For example, The event 'person turn a light "
    "on' happens in the 24.3 - 30.4 seonds. Now I will give you the textual sentence: person turn a light on. Please "
    "return its start time and end time."
)
TIMELENS_PROMPT = (
    "Please find the visual event described by the sentence 'person turn a light on', determining its starting and "
    "ending times. The format should be: 'The event happens in <start time> - <end time> seconds'."
)


@pytest.fixture
def root(tmp_path):
    touch(tmp_path / "Charades_v1_480/3MSZA.mp4")
    touch(tmp_path / "videos/AMT7R.mkv")
    return write_charades(tmp_path)


def answered(benchmark, replies):
    return [
        rescore(item, Outcome(item.id, "answered", None, reply=reply))
        for item, reply in zip(benchmark, replies, strict=True)
    ]


@pytest.mark.parametrize(
    ("style", "text"), [("official", WHEN), ("lmms_eval", LMMS_EVAL), ("timelens", TIMELENS_PROMPT)]
)
def test_prompts(root, style, text):
    benchmark = build("charades_sta", root, prompt_style=style)
    assert_contract(benchmark)
    assert prompts(benchmark) == [("user", text)]


def test_items(root):
    benchmark = build("charades_sta", root)
    items = list(benchmark)
    assert [item.answer for item in items] == [
        *["<time:24.3> to <time:30.4>"] * 2,
        "<time:0> to <time:2.5>",
        "<time:4.3> to <time:12.5>",
    ]
    assert {(item.rule, item.id.split("/")[0]) for item in items} == {("span", "3MSZA"), ("span", "AMT7R")}
    assert items[0].sample.video == str(root / "Charades_v1_480/3MSZA.mp4")
    assert items[2].sample.video == str(root / "videos/AMT7R.mkv")
    assert items[2].question == items[3].question, "one sentence with two windows is two questions"
    assert [item.groups["length"] for item in items] == ["5 to 15 s", "5 to 15 s", "0 to 5 s", "5 to 15 s"]
    for item in items:
        check_answers(item)


def test_the_refined_annotation(root):
    touch(root / "videos/charades/3MSZA.mp4")
    (root / "Charades_v1_480/3MSZA.mp4").unlink()
    benchmark = build("charades_sta", root, annotation="timelens", prompt_style="timelens")
    assert_contract(benchmark)
    assert [item.answer for item in benchmark] == ["<time:25.1> to <time:29>", "<time:4.3> to <time:12.5>"]
    assert "'A person hangs up a picture'" in prompts(benchmark, 1)[0][1]
    assert benchmark[0].sample.video == str(root / "videos/charades/3MSZA.mp4")


def test_averages(root):
    benchmark = build("charades_sta", root)
    # IoU: 1; 3.05 of 6.1 s; 2.5 of 6.25 s; none
    replies = ["From 24.3 to 30.4 seconds.", "24.3s - 27.35s", "<time:0> to <time:6.25>", "in the middle"]
    outcomes = answered(benchmark, replies)
    assert [outcome.value for outcome in outcomes] == pytest.approx([1, 0.5, 0.4, 0])
    assert [outcome.status for outcome in outcomes] == ["answered"] * 3 + ["unparsed"]
    assert benchmark.summary(outcomes) == pytest.approx({"mIoU": 47.5, "R@0.3": 75, "R@0.5": 50, "R@0.7": 25})
    assert benchmark.summary(outcomes[:1])["mIoU"] == 100, "a run with limit= has some of the items"


def write_captions(root, **changes):
    rows = {"3MSZA": ["A dark room.", "A  man\nwalks."], "AMT7R": ["A wall.", "", "A picture."]} | changes
    lines = [json.dumps({"video": f"{name}.mp4", "captions": texts}) for name, texts in rows.items() if texts]
    return str(write_text(root / "captions.jsonl", "\n".join(lines)))


def test_captions_instead_of_the_video(root):
    write_captions(root)
    benchmark = build("charades_sta", root, prompt_style="captions")
    assert [item.sample.videos for item in benchmark] == [()] * 4
    assert prompts(benchmark) == [
        (
            "user",
            "Each line below describes one second of a video.\n0 to 1 s: A dark room.\n1 to 2 s: A man walks.\n"
            'When does this happen: "person turn a light on"? End with the start and the end, as in: from 3 to 8 '
            "seconds.",
        )
    ]
    assert "1 to 2 s: \n2 to 3 s: A picture." in prompts(benchmark, 3)[0][1], "a caption may be empty"
    judged = build("charades_sta", root, prompt_style="captions", confidence=True)
    assert "\nFirst judge in one sentence whether these descriptions are good enough" in prompts(judged)[0][1]
    plain = build("charades_sta", root)
    assert [item.id for item in benchmark] == [item.id for item in plain], "so that runs can be compared"
    assert [fields(item)[2:4] for item in benchmark] == [fields(item)[2:4] for item in plain]


def test_captions_that_say_everything_give_every_window(root):
    """A reader of text that looks for the sentence finds the window, if seconds and captions are aligned."""
    write_text(root / "charades_sta_test.txt", "3MSZA 2 5##a dog runs\nAMT7R 0 3##a cat eats\n")
    captions = {"3MSZA": ["nothing"] * 2 + ["Now a dog runs."] * 3 + ["nothing"], "AMT7R": ["a cat eats"] * 3}
    benchmark = build("charades_sta", root, prompt_style="captions", captions=write_captions(root, **captions))
    replies = []
    for item in benchmark:
        lines = item.sample.messages[0].text.split("\n")
        seen = [line.split() for line in lines if re.match(r"\d+ to \d+ s: ", line) and item.question in line]
        replies.append(f"from {seen[0][0]} to {seen[-1][2]} seconds")
    assert benchmark.summary(answered(benchmark, replies))["R@0.7"] == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"AMT7R": None},
            r"captions.jsonl has no captions of 1 of 2 videos: AMT7R; write them with recipes/caption_sec",
        ),
        ({"AMT7R": [1.5, None]}, "captions.jsonl:2: 'captions' must be a list of texts"),
        ({"folder/3MSZA": ["x"]}, "captions.jsonl:3: the video '3MSZA' has captions above; keep one of the rows"),
    ],
)
def test_faulty_captions(root, changes, message):
    write_captions(root, **changes)
    with pytest.raises(DataError, match=message):
        build("charades_sta", root, prompt_style="captions")


def test_bad_input(root):
    with pytest.raises(DataError, match=r"captions.jsonl .*; get them from recipes/caption_seconds.py"):
        build("charades_sta", root, prompt_style="captions")
    with pytest.raises(DataError, match=r"lacks 1 of 1 files: charades_sta_test.txt .*jiyanggao/TALL"):
        build("charades_sta", root / "videos")
    with pytest.raises(ConfigError, match="confidence=true needs benchmark.prompt_style=captions"):
        build("charades_sta", root, confidence=True)
    write_text(root / "charades_sta_test.txt", "../x 0.0 1.0##x\n")
    with pytest.raises(DataError, match=r"charades_sta_test.txt:1: the path '../x' leaves"):
        build("charades_sta", root)
    write_json(root / "charades-timelens.json", {"3MSZA": TIMELENS["3MSZA"] | {"spans": [[29.0, 25.1]]}})
    with pytest.raises(DataError, match=r"charades-timelens.json: '3MSZA', event 1: the window \[29.0, 25.1\]"):
        build("charades_sta", root, annotation="timelens")
