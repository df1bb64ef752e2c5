"""MMVU as it is published: both kinds of questions, empty choices, prompts to the letter, rules for open answers."""

import pytest

from tests.benchmark_files import assert_contract, build, outcomes, prompts, touch, write_json
from tinyvid import RUBRICS, ConfigError, DataError
from tinyvid.evaluation.scoring.scores import read

REMOTE = "https://huggingface.co/datasets/yale-nlp/MMVU/resolve/main/videos"
CHOICES = {"A": "sorting", "B": "search", "C": "hashing", "D": "a tree", "E": ""}
DIRECT = "Do not generate any intermediate reasoning process."


def row(number, *, open=False, folder="Computer_Science", **changes):
    return {
        "id": f"validation_{number}",
        "video": f"{REMOTE}/{folder}/{number}.mp4",
        "youtube_url": "https://www.youtube.com/watch?v=x",
        "question_type": "open-ended" if open else "multiple-choice",
        "metadata": {"subject": "another subject", "textbook": "", "knowledge": [], "rationale": ""},
        "question": "Which algorithm is it?",
        "choices": dict.fromkeys("ABCDE", "") if open else CHOICES,
        "answer": "quick sort" if open else "A",
    } | changes


ROWS = [row(0), row(1, open=True), row(2, folder="Clinical_Medicine"), row(3, open=True, folder="Art")]


@pytest.fixture
def root(tmp_path):
    write_json(tmp_path / "validation.json", ROWS)
    touch(tmp_path / "videos/Computer_Science/0.mp4")
    return tmp_path


@pytest.mark.parametrize(
    ("style", "choice", "open"),
    [
        (
            "official",
            "\nQuestion: Which algorithm is it?\nA: sorting\nB: search\nC: hashing\nD: a tree\n\n"
            f"{DIRECT} Answer directly with the option letter from the given choices.\n",
            f"\nQuestion: Which algorithm is it?\n\n{DIRECT} Directly output the final short answer.\n",
        ),
        (
            "tinyllava_video",
            "Which algorithm is it?\nA. sorting\nB. search\nC. hashing\nD. a tree\n"
            "Answer with the option's letter from the given choices directly.",
            "Which algorithm is it?\nAnswer the question directly without explanation.",
        ),
        (
            "lmms_eval",
            "\nQuestion:Which algorithm is it?\nA: sorting\nB: search\nC: hashing\nD: a tree\n"
            f"Visual Information: processed video\n{DIRECT} Answer directly with the option letter from the\n"
            "given choices.\n",
            "\nQuestion:Which algorithm is it?\nVisual Information: processed video\n"
            f"{DIRECT} Directly output the final answer.\n",
        ),
    ],
)
def test_prompts(root, style, choice, open):
    benchmark = build("mmvu", root, prompt_style=style)
    assert prompts(benchmark, 0) == [("user", choice)]
    assert prompts(benchmark, 1) == [("user", open)]


def test_five_choices(root):
    write_json(root / "validation.json", [row(0, choices=CHOICES | {"E": "a heap"}, answer="E")])
    item = build("mmvu", root)[0]
    assert (item.answer, list(item.options)) == ("E", list("ABCDE"))
    assert "\nD: a tree\nE: a heap\n\nDo not" in item.sample.messages[0].text


def test_contract(root):
    assert_contract(build("mmvu", root))


def test_items(root):
    benchmark = build("mmvu", root)
    choice, open = benchmark[0], benchmark[1]
    assert (choice.id, choice.rule, choice.answer, list(choice.options)) == (
        "validation_0",
        "choice",
        "A",
        list("ABCD"),
    )
    assert (open.rule, open.answer, open.options, open.rubric) == ("judge", "quick sort", {}, "match")
    assert "match" in RUBRICS
    assert choice.sample.video == str(root / "videos/Computer_Science/0.mp4")
    assert [item.groups["discipline"] for item in benchmark] == [
        "Engineering",
        "Engineering",
        "Healthcare",
        "Humanities and Social Science",
    ]
    assert benchmark[2].groups["subject"] == "Clinical Medicine", "by folder: metadata.subject disagrees in places"


def test_one_kind_of_questions(root):
    assert [item.id for item in build("mmvu", root, questions="open-ended")] == ["validation_1", "validation_3"]
    write_json(root / "validation.json", ROWS[:1])
    with pytest.raises(DataError, match="no items"):
        build("mmvu", root, questions="open-ended")


@pytest.mark.parametrize(
    ("reply", "value"), [("It is Quick  Sort.", 1.0), ("", 0.0), ("o", 0.0), ("sort", 0.0), ("quick sorting", 0.0)]
)
def test_containment_is_strict(root, reply, value):
    item = build("mmvu", root, open_rule="contains")[1]
    assert read(item, reply).value == value


def test_averages(root):
    benchmark = build("mmvu", root)
    summary = benchmark.summary(outcomes(benchmark, [1.0, 0.0, 1.0, 1.0]))
    assert summary == {"Overall": 75.0, "multiple-choice": 100.0, "open-ended": 50.0}


def test_all_27_subjects_have_a_discipline(root):
    folders = (
        "Computer_Science", "Clinical_Medicine", "Biomedical_Engineering", "Electromagnetism", "Mechanical_Engineering",
        "Electronics_and_Communication", "Pharmacy", "Electrical_Engineering", "Neurobiology", "Mechanics",
        "Civil_Engineering", "Basic_Medicine", "Modern_Physics", "Economics", "Art", "Thermodynamics", "Literature",
        "Biology", "Chemistry", "Geography", "Management", "Preventive_Medicine", "Materials_Science", "Law",
        "Dentistry", "Astronomy", "History",
    )  # fmt: skip
    write_json(root / "validation.json", [row(n, folder=folder) for n, folder in enumerate(folders)])
    found = [item.groups["discipline"] for item in build("mmvu", root)]
    assert {name: found.count(name) for name in found} == {
        "Engineering": 6,
        "Healthcare": 5,
        "Science": 10,
        "Humanities and Social Science": 6,
    }


def test_a_wrong_root(tmp_path):
    with pytest.raises(DataError, match=r"lacks 1 of 1 files: validation.json .*yale-nlp/MMVU"):
        build("mmvu", tmp_path)
    write_json(tmp_path / "validation.json", ROWS)
    with pytest.raises(ConfigError, match="open_rule"):
        build("mmvu", tmp_path, open_rule="fuzzy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "E"}, r"validation.json:1: 'answer' is 'E', not one of the options \['A', 'B', 'C', 'D'\]"),
        ({"question_type": "essay"}, "unknown question_type 'essay'"),
        ({"video": f"{REMOTE}/../../../secret.mp4"}, "leaves the benchmark's folder"),
        ({"video": f"{REMOTE}/Alchemy/0.mp4"}, "'videos/Alchemy/0.mp4' is not in the folder of a subject"),
        ({"choices": ["x"]}, "'choices' must map letters to texts"),
    ],
)
def test_bad_rows(root, changes, message):
    write_json(root / "validation.json", [ROWS[0] | changes])
    with pytest.raises(DataError, match=message):
        build("mmvu", root)
