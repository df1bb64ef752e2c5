"""MSVD-QA, MSRVTT-QA and ActivityNet-QA: which file is meant, which answer belongs to which question, two averages."""

import pytest

from tests.benchmark_files import assert_contract, build, outcomes, prompts, touch, write_json, write_text
from tinyvid import ConfigError, DataError

QA = [
    {"answer": "guitar", "id": 0, "question": "what is a man playing?", "video_id": 1301},
    {"answer": "two", "id": 1, "question": "How many dogs run?", "video_id": 1301},
]
ASKED = [
    {"video_name": "1QIUV7WYKXg", "question": "is the athlete wearing trousers", "question_id": "v_1QIUV7WYKXg_3"},
    {"video_name": "0O_qMHxBfXg", "question": "what color is it", "question_id": "v_0O_qMHxBfXg_5"},
]
ANSWERS = [
    {"answer": "yes", "type": 3, "question_id": "v_1QIUV7WYKXg_3"},
    {"answer": "red", "type": 4, "question_id": "v_0O_qMHxBfXg_5"},
]


@pytest.mark.parametrize("name", ["msvd_qa", "msrvtt_qa"])
def test_items(tmp_path, name):
    write_json(tmp_path / "test_qa.json", QA)
    benchmark = build(name, tmp_path)
    assert_contract(benchmark)
    assert prompts(benchmark) == [("user", "what is a man playing?")]
    item = benchmark[1]
    assert (item.id, item.answer, item.rule, item.rubric) == ("1", "two", "judge", "qa")
    assert (item.groups, item.question) == ({"question_word": "how"}, "How many dogs run?")
    assert benchmark[0].sample.video == benchmark[1].sample.video
    assert (benchmark.name, benchmark.prompt_style) == (name, "official")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("msvd_qa", "vid1301.avi"),
        ("msvd_qa", "1301.mp4"),
        ("msvd_qa", "-wsuPCjDBc_5_15.avi"),
        ("msrvtt_qa", "video1301.mp4"),
    ],
)
def test_names_of_the_videos(tmp_path, name, file):
    write_json(tmp_path / "test_qa.json", QA)
    write_text(tmp_path / "youtube_mapping.txt", "-wsuPCjDBc_5_15 vid1301\n-other_1_2 vid1302\n")
    touch(tmp_path / "videos" / file)
    assert build(name, tmp_path)[0].sample.video == str(tmp_path / "videos" / file)


def test_a_missing_video_is_named_as_the_original(tmp_path):
    write_json(tmp_path / "test_qa.json", QA)
    assert build("msrvtt_qa", tmp_path)[0].sample.video == str(tmp_path / "videos/video1301.mp4")


def test_rows_without_an_id(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "id"} for row in QA]
    write_json(tmp_path / "val_qa.json", [*rows, rows[0]])
    first, second, third = (item.id for item in build("msvd_qa", tmp_path, split="val"))
    assert first.startswith("1301/")
    assert len({first, second}) == 2
    assert third == f"{first}#2"


def activitynet(root, answers=ANSWERS, asked=ASKED):
    write_json(root / "test_q.json", asked)
    write_json(root / "test_a.json", answers)
    return root


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("official", "is the athlete wearing trousers"),
        ("lmms_eval", "Is the athlete wearing trousers? Answer the question using a single word or phrase."),
    ],
)
def test_activitynet_prompt(tmp_path, style, text):
    assert prompts(build("activitynet_qa", activitynet(tmp_path), prompt_style=style)) == [("user", text)]


def test_activitynet_items(tmp_path):
    touch(tmp_path / "videos/v_1QIUV7WYKXg.mkv")
    benchmark = build("activitynet_qa", activitynet(tmp_path))
    assert_contract(benchmark)
    assert [(item.id, item.answer) for item in benchmark] == [("v_1QIUV7WYKXg_3", "yes"), ("v_0O_qMHxBfXg_5", "red")]
    assert [item.groups["type"] for item in benchmark] == ["yes/no", "color"]
    assert benchmark[0].sample.video == str(tmp_path / "videos/v_1QIUV7WYKXg.mkv")
    assert benchmark[1].sample.video == str(tmp_path / "videos/v_0O_qMHxBfXg.mp4")


def test_answers_belong_to_the_questions_in_their_place(tmp_path):
    with pytest.raises(
        DataError, match=r"test_a.json:1 answers question 'v_0O_qMHxBfXg_5', but the questions list 'v_1QI"
    ):
        build("activitynet_qa", activitynet(tmp_path, ANSWERS[::-1]))
    with pytest.raises(DataError, match="test_q.json has 2 questions, but test_a.json has 1 answers"):
        build("activitynet_qa", activitynet(tmp_path, ANSWERS[:1]))
    bare = [{"answer": row["answer"]} for row in ANSWERS]
    assert [item.answer for item in build("activitynet_qa", activitynet(tmp_path, bare))] == ["yes", "red"]


def test_averages_count_replies_without_a_verdict(tmp_path):
    write_json(tmp_path / "test_qa.json", [*QA, *({**row, "id": row["id"] + 2} for row in QA)])
    benchmark = build("msvd_qa", tmp_path)
    made = outcomes(
        benchmark,
        [1.0, 0.0, 0.0, 0.0],
        points=[{"score": 5.0}, {"score": 2.0}, {}, {}],
        statuses=["answered", "answered", "judge_failed", "media_failed"],
    )
    assert benchmark.summary(made) == {"Accuracy": 25.0, "Score": 1.75}


def test_bad_input(tmp_path):
    with pytest.raises(DataError, match=r"lacks 1 of 1 files: val_qa.json .*xudejing"):
        build("msrvtt_qa", tmp_path, split="val")
    with pytest.raises(DataError, match=r"lacks 2 of 2 files: test_q.json, test_a.json .*MILVLG/activitynet-qa"):
        build("activitynet_qa", tmp_path)
    with pytest.raises(ConfigError, match="prompt_style"):
        build("msvd_qa", tmp_path, prompt_style="lmms_eval")
    write_json(tmp_path / "test_qa.json", [QA[0] | {"video_id": "../1"}])
    with pytest.raises(DataError, match=r"test_qa.json:1: the path '../1' leaves"):
        build("msvd_qa", tmp_path)
