"""MLVU in its three packings: prompts to the letter, up to six options, macro and micro means, judged tasks."""

import json

import pytest

from tests.benchmark_files import assert_contract, build, outcomes, prompts, touch, write_json, write_parquet
from tinyvid import RUBRICS, ConfigError, DataError

CHOOSE = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, select the best option "
    "that accurately addresses the question."
)
WRITE = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, "
    "answer the given questions."
)
LETTER = "Answer with the option's letter from the given choices directly."
BRACKETED = "(A) Yellow\n(B) Red\n(C) Blue\n(D) Green"
KINDS = {
    "1_plotQA": "plotQA",
    "2_needle": "findNeedle",
    "3_ego": "ego",
    "4_count": "count",
    "5_order": "order",
    "6_anomaly_reco": "anomaly_reco",
    "7_topic_reasoning": "topic_reasoning",
}


def row(kind, *, name="movie101_66.mp4", answer="Yellow", **changes):
    return {
        "video": name,
        "duration": 246,
        "question": "Which color is it?",
        "candidates": ["Yellow", "Red", "Blue", "Green"],
        "answer": answer,
        "question_type": kind,
    } | changes


@pytest.fixture
def root(tmp_path):
    for file, kind in KINDS.items():
        rows = [row(kind), row(kind, answer="Blue", question="And now?")] if kind == "plotQA" else [row(kind)]
        write_json(tmp_path / f"json/{file}.json", rows)
    scene = {"video": "a.mp4", "duration": 300, "question": "What does the cook do?", "question_type": "subPlot"}
    write_json(tmp_path / "json/8_sub_scene.json", [scene | {"scoring_points": ["She stirs.", "She tastes."]}])
    summary = {"video": "b.mp4", "duration": 400, "question": "Summarize the video.", "question_type": "summary"}
    write_json(tmp_path / "json/9_summary.json", [summary | {"answer": "A day at sea."}])
    touch(tmp_path / "video/1_plotQA/movie101_66.mp4")
    return tmp_path


@pytest.fixture
def repacked(tmp_path):
    def write(options, answers, kinds=("needleQA",)):
        letters = "ABCDEF"[: len(options)]
        listed = "\n".join(f"({letter}) {text}" for letter, text in zip(letters, options, strict=True))
        rows = [
            {
                "video_name": f"{kind}_{number}.mp4",
                "duration": 300.5,
                "question": f"Which color is it?\n{listed}",
                "candidates": options,
                "answer": answer,
                "task_type": kind,
                "question_id": f"{kind}_{number}",
            }
            for kind in kinds
            for number, answer in enumerate(answers)
        ]
        return write_parquet(tmp_path / "packed/data/test-00000-of-00001.parquet", rows).parents[1]

    return write


@pytest.mark.parametrize(
    ("style", "messages", "prefix"),
    [
        (
            "official",
            [
                ("system", CHOOSE),
                ("user", f"Question: Which color is it?\nOptions:\n{BRACKETED}\nOnly give the best option."),
            ],
            "Best Option: (",
        ),
        ("tinyllava_video", [("user", f"Which color is it?\n{BRACKETED}\n{LETTER}")], ""),
        (
            "lmms_eval",
            [("user", f"Which color is it?\n{BRACKETED}\nOnly give the best option.\nBest option: (")],
            "",
        ),
    ],
)
def test_prompt(root, style, messages, prefix):
    benchmark = build("mlvu", root, prompt_style=style)
    assert prompts(benchmark) == messages
    assert benchmark[0].prefix == prefix


def test_contract(root):
    assert_contract(build("mlvu", root, tasks="all"))


def test_items(root):
    benchmark = build("mlvu", root)
    assert [item.groups["task"] for item in benchmark] == ["plotQA", *KINDS.values()]
    assert [item.answer for item in benchmark] == ["A", "C", "A", "A", "A", "A", "A", "A"]
    assert str(benchmark[0].sample.video) == str(root / "video/1_plotQA/movie101_66.mp4")
    assert benchmark[0].sample.video == benchmark[1].sample.video
    assert len({item.id for item in benchmark}) == 8
    assert benchmark[0].id.startswith("plotQA/movie101_66.mp4/")


def test_macro_and_micro_means(root):
    benchmark = build("mlvu", root)
    summary = benchmark.summary(outcomes(benchmark, [1.0, 0.0, 1.0, 0, 0, 0, 0, 1.0]))
    assert summary == {"M-Avg": pytest.approx(100 * (0.5 + 1 + 1) / 7), "Micro": 37.5}


@pytest.mark.parametrize(("style", "system"), [("official", WRITE), ("tinyllava_video", ""), ("lmms_eval", "")])
def test_writing_tasks_go_to_a_judge(root, style, system):
    benchmark = build("mlvu", root, tasks="writing", prompt_style=style)
    scene, summary = benchmark[0], benchmark[1]
    assert prompts(benchmark) == [*([("system", system)] if system else []), ("user", "What does the cook do?")]
    assert (scene.rule, scene.rubric, scene.prefix) == ("judge", "mlvu_sub_scene", "")
    assert scene.answer == "Scoring point: She stirs.\nScoring point: She tastes."
    assert (summary.rubric, summary.answer, summary.groups["task"]) == ("mlvu_summary", "A day at sea.", "summary")
    for name, marks in (
        ("mlvu_sub_scene", ("accuracy", "relevance")),
        ("mlvu_summary", ("completeness", "reliability")),
    ):
        marks_of = {mark: [*allowed] for mark, allowed in RUBRICS[name].marks.items()}
        assert marks_of == {mark: [1, 2, 3, 4, 5] for mark in marks}


def test_points_of_the_writing_tasks(root):
    second = json.loads((root / "json/8_sub_scene.json").read_text())[0] | {"question": "And then?"}
    write_json(root / "json/8_sub_scene.json", [second, second | {"question": "Finally?"}])
    benchmark = build("mlvu", root, tasks="all")
    assert len(benchmark) == 11
    points = [{}] * 8 + [{"accuracy": 4.0, "relevance": 3.0}, {}, {"completeness": 5.0, "reliability": 4.0}]
    made = outcomes(benchmark, [0.0] * 11, points=points)
    summary = benchmark.summary(made)
    assert summary == {"M-Avg": 0.0, "Micro": 0.0, "G-subPlot": 3.5, "G-summary": 9.0, "G-Avg": 6.25}
    assert benchmark.files(made) == {}


@pytest.mark.parametrize("lettered", [False, True])
def test_six_options(repacked, lettered):
    options = ["Yellow", "Red", "Blue", "Green", "White", "Black"]
    written = [f"({letter}) {text}" for letter, text in zip("ABCDEF", options, strict=True)] if lettered else options
    root = repacked(options, ["F", "A"])
    if lettered:
        benchmark_rows = [
            {"video_name": "a.mp4", "question": "Which?\n" + "\n".join(written), "candidates": written, "answer": "F"}
            | {"task_type": "needleQA", "question_id": "needleQA_0"}
        ]
        write_parquet(root / "data/test-00000-of-00001.parquet", benchmark_rows)
    benchmark = build("mlvu", root, packing="test")
    assert benchmark[0].options == dict(zip("ABCDEF", options, strict=True))
    assert benchmark[0].answer == "F"
    assert benchmark[0].id == "needleQA_0"
    assert benchmark[0].question == ("Which?" if lettered else "Which color is it?")


def test_prompts_of_the_repacked_sets(repacked):
    options = ["Yellow", "Red"]
    root = repacked(options, ["B"])
    inside = "Which color is it?\n(A) Yellow\n(B) Red"
    assert prompts(build("mlvu", root, packing="test", prompt_style="lmms_eval")) == [("user", inside)]
    assert prompts(build("mlvu", root, packing="dev", prompt_style="lmms_eval")) == [
        ("user", f"{inside}\nOnly give the best option.\nBest option: (")
    ]
    assert prompts(build("mlvu", root, packing="dev")) == [
        ("system", CHOOSE),
        ("user", "Question: Which color is it?\nOptions:\n(A) Yellow\n(B) Red\nOnly give the best option."),
    ]


def test_repacked_videos_and_their_averages(repacked):
    root = repacked(["Yellow", "Red"], ["B", "A"], kinds=("sportsQA", "tutorialQA"))
    touch(root / "video/sportsQA_1.mp4")
    benchmark = build("mlvu", root, packing="test")
    assert [str(item.sample.video) for item in benchmark][:2] == [
        str(root / "sportsQA_0.mp4"),
        str(root / "video/sportsQA_1.mp4"),
    ]
    made = outcomes(benchmark, [1.0, 1.0, 1.0, 0.0], predictions=["B", "A", "B", None])
    assert benchmark.summary(made) == {"M-Avg": 75.0, "Micro": 75.0}
    assert json.loads(benchmark.files(made)["mlvu_test_results.json"])[1:] == [
        {"question_id": "sportsQA_1", "question_type": "sportsQA", "option": "A"},
        {"question_id": "tutorialQA_0", "question_type": "tutorialQA", "option": "B"},
        {"question_id": "tutorialQA_1", "question_type": "tutorialQA", "option": ""},
    ]


def test_bad_input(root, tmp_path):
    with pytest.raises(DataError, match=r"lacks 7 of 7 files: json/1_plotQA.json.*MLVU/MVLU"):
        build("mlvu", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"data/test-00000-of-00001.parquet.*sy1998/MLVU_Test"):
        build("mlvu", root, packing="test")
    with pytest.raises(ConfigError, match="packing=dev has no writing tasks"):
        build("mlvu", root, packing="dev", tasks="all")
    with pytest.raises(ConfigError, match="prompt_style"):
        build("mlvu", root, prompt_style="videochat")
    write_json(root / "json/4_count.json", [row("count", answer="5")])
    with pytest.raises(DataError, match=r"4_count.json:1: 'answer' is '5', not one of the options"):
        build("mlvu", root)
    write_json(root / "json/9_summary.json", [{"video": "b.mp4", "question": "?", "question_type": "summary"}])
    with pytest.raises(DataError, match="neither 'answer' nor 'scoring_points'"):
        build("mlvu", root, tasks="writing")


def test_an_answer_that_is_no_option_of_a_repacked_row(repacked):
    with pytest.raises(DataError, match=r"row 1: 'answer' is 'E', not one of the options \['A', 'B'\]"):
        build("mlvu", repacked(["Yellow", "Red"], ["E"]), packing="test")


def test_several_annotations(repacked):
    root = repacked(["Yellow", "Red"], ["A"])
    (root / "test-1.parquet").write_bytes((root / "data/test-00000-of-00001.parquet").read_bytes())
    with pytest.raises(DataError, match="contains several annotation files"):
        build("mlvu", root, packing="dev")
