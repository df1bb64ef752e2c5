"""Video-Bench as it is published: prompts by the number of options, and averages by the tree."""

import pytest

from tests.benchmark_files import assert_contract, build, outcomes, prompts, write_json
from tinyvid import ConfigError, DataError

SETS = (
    "ActivityNet", "MSVD", "MSRVTT", "TGIF", "Youcook2", "Ucfcrime", "MOT", "TVQA", "MV", "NBA", "Driving-exam",
    "Driving-decision-making", "SQA3D",
)  # fmt: skip


def row(name, count=4, *, of="Driving-exam", answer="B"):
    choices = dict(zip("ABCDEF"[:count], [" go", " stop", " turn", " wait", " run", " hide"], strict=False))
    return {
        "vid_path": f"Eval_video/{of}/{name}.mp4",
        "video_id": name,
        "question": "What should it do?",
        "answer": answer,
        "choices": choices,
    }


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate(SETS):
        rows = {f"v{i}": row(f"v{i}", of=name) for i in range(1 + number % 2)}
        write_json(tmp_path / f"Eval_QA/{name}_QA_new.json", rows)
    return tmp_path


@pytest.mark.parametrize(
    ("count", "tail"),
    [
        (
            2,
            "What should it do? A. go B. stop \n "
            "Among the two options A, B above, the one closest to the correct answer is: ",
        ),
        (
            3,
            "What should it do? A. go B. stop C. turn \n "
            "Among the three options A, B, C above, the one closest to the correct answer is: ",
        ),
        (
            4,
            "What should it do? A. go B. stop C. turn D. wait \n "
            "Among the four options A, B, C, D above, the one closest to the correct answer is:",
        ),
        (
            5,
            "What should it do? A. go B. stop C. turn D. wait E. run \n "
            "Among the five options A, B, C, D, E above, the one closest to the correct answer is: ",
        ),
        (
            6,
            "What should it do?Choices: A. go B. stop C. turn D. wait E. run F. hide \n "
            "Among the six options A, B, C, D, E, F above, the one closest to the correct answer is:",
        ),
    ],
)
def test_prompt(root, count, tail):
    write_json(root / "Eval_QA/NBA_QA_new.json", {"v0": row("v0", count)})
    assert prompts(build("videobench", root, sets=["NBA"])) == [("user", tail)]


def test_contract(root):
    assert_contract(build("videobench", root))


def test_items(root):
    benchmark = build("videobench", root)
    assert len(benchmark) == 13 + 6
    item = next(item for item in benchmark if item.id == "Driving-exam/v0")
    assert (item.answer, item.options) == ("B", {"A": "go", "B": "stop", "C": "turn", "D": "wait"})
    assert str(item.sample.video) == str(root / "Eval_video/Driving-exam/v0.mp4")
    assert item.groups == {"set": "Driving-exam", "level": "Comprehension and Decision-making"}


def test_averages_by_the_tree(root):
    """Whole sets are right or wrong here, so that every level can be computed in the head."""
    right = {"MSVD", "MOT", "NBA", "Driving-exam"}
    benchmark = build("videobench", root)
    made = outcomes(benchmark, [float(item.groups["set"] in right) for item in benchmark])
    first, second, third = 100 * 1.5 / 6.5, 100 / 3, 100 * 0.5 / 2.5
    assert benchmark.summary(made) == {
        "Video-exclusive Understanding": pytest.approx(first),
        "Prior Knowledge-based QA": pytest.approx(second),
        "Comprehension and Decision-making": pytest.approx(third),
        "Final": pytest.approx((first + second + third) / 3),
    }
    micro = 100 * sum(o.value for o in made) / len(made)
    assert abs(benchmark.summary(made)["Final"] - micro) > 1, "sets of unequal sizes"


def test_a_level_in_parts_has_no_score(root):
    benchmark = build("videobench", root, sets=["TVQA", "MV", "NBA", "MSVD"])
    made = outcomes(benchmark, [1.0] * len(benchmark))
    assert benchmark.summary(made) == {"Prior Knowledge-based QA": 100.0}


def test_rows_without_an_answer_are_not_scored(root):
    hidden = {key: value for key, value in row("v0").items() if key != "answer"}
    write_json(root / "Eval_QA/NBA_QA_new.json", {"v0": hidden})
    benchmark = build("videobench", root, sets=["NBA"])
    assert benchmark[0].answer is None
    assert benchmark.summary(outcomes(benchmark, [None])) == {}


def test_bad_input(root, tmp_path):
    with pytest.raises(
        DataError, match=r"lacks 13 of 13 files: Eval_QA/ActivityNet_QA_new.json.*LanguageBind/Video-Bench"
    ):
        build("videobench", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="unknown set 'TVQ'. Did you mean 'TVQA'"):
        build("videobench", root, sets=["TVQ"])
    with pytest.raises(ConfigError, match=r"prompt_style.*Available: official\."):
        build("videobench", root, prompt_style="lmms_eval")
    write_json(root / "Eval_QA/NBA_QA_new.json", [row("v0")])
    with pytest.raises(DataError, match="NBA_QA_new.json does not contain a JSON object"):
        build("videobench", root)
    write_json(root / "Eval_QA/NBA_QA_new.json", {"v0": row("v0", answer="E")})
    with pytest.raises(DataError, match="NBA_QA_new.json: 'v0': 'answer' is 'E', not one of the options"):
        build("videobench", root)
    write_json(root / "Eval_QA/NBA_QA_new.json", {"v0": "x"})
    with pytest.raises(DataError, match="'v0': the row has no 'choices'"):
        build("videobench", root)
