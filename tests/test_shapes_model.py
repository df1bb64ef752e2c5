"""The model that is included in tinyvid: it matches its report, and answers questions about the shapes world."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml

from recipes.shapes.measure import measure
from recipes.shapes.release import digest
from tests.clips import write_clip
from tinyvid import Message, Sample
from tinyvid.checkpoints.hub import DEFAULT_MODEL
from tinyvid.worlds.shapes import SetOptions, encode, plan_clip

ROOT = Path(__file__).parents[1]
CLIPS = SetOptions(split="iid", seed=40, questions=4)


@pytest.fixture(scope="module")
def report():
    return json.loads((DEFAULT_MODEL / "report.json").read_text())


def test_weights_match_the_report(report):
    assert digest(DEFAULT_MODEL) == report["sha256"]
    assert report["sha256"] in (DEFAULT_MODEL / "README.md").read_text()


def test_the_report_explains_how_to_reproduce_it(report):
    assert report["start"]["command"].startswith("python -m recipes.shapes ")
    assert report["command"].startswith("python -m recipes.shapes.continued ")
    assert {"seed", "versions", "precision", "cpu_seconds", "parameters", "test", "test_of_spans"} <= report.keys()
    assert {"torch", "transformers", "tinyvid"} <= report["versions"].keys()


def test_it_is_small_and_included_in_the_package():
    files = [path for path in DEFAULT_MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl")]
    assert '"assets/**/*"' in (ROOT / "pyproject.toml").read_text()


def test_it_is_composed_from_the_registries():
    manifest = yaml.safe_load((DEFAULT_MODEL / "tinyvid.yaml").read_text())
    assert {kind: manifest[kind]["name"] for kind in ("llm", "vision_tower", "connector", "sampler", "template")} == {
        "llm": "qwen2_5",
        "vision_tower": "siglip",
        "connector": "group",
        "sampler": "uniform",
        "template": "turns",
    }
    assert manifest["connector"]["mixer_layers"] > 0
    assert manifest["stored"] == ["llm", "vision_tower"]


@pytest.mark.slow
def test_forty_questions_about_ten_clips(shipped, tmp_path):
    """Replies are generated as for users."""
    asked, wrong = 0, []
    for index in range(10):
        plan = plan_clip(CLIPS, index)
        path = tmp_path / f"{index}.mp4"
        path.write_bytes(encode(plan))
        samples = [Sample([Message("user", question.text)], video=str(path)) for question in plan.questions]
        replies = shipped.answer(samples, max_new_tokens=80)
        for question, reply in zip(plan.questions, replies, strict=True):
            asked += 1
            if reply != question.reply:
                wrong.append((question.family, question.text, reply, question.reply))
    assert asked == 40
    assert len(wrong) <= 4, wrong


@pytest.mark.slow
def test_it_looks_at_the_video(shipped):
    """With another clip, accuracy is much lower, so replies depend on the video."""
    seeing = measure(shipped, CLIPS, clips=24)["overall"]["accuracy"]
    blind = measure(shipped, CLIPS, clips=24, blind=True)["overall"]["accuracy"]
    assert seeing >= 0.85
    assert blind <= 0.65


# --- the first command of the README ------------------------------------------------------------------------------


def run_script(monkeypatch, *arguments):
    spec = importlib.util.spec_from_file_location("eval_script", ROOT / "eval.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(sys, "argv", ["eval.py", *map(str, arguments)])
    script.main()


@pytest.mark.slow
def test_eval_without_arguments_answers_a_question(monkeypatch, capsys):
    run_script(monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    card = (DEFAULT_MODEL / "README.md").read_text()
    assert "128 x 128 pixels, 48 frames, 4 s" in lines[1]
    question = (DEFAULT_MODEL / "question.txt").read_text().strip()
    assert lines[2] == f"question: {question}"
    answer = lines[3].removeprefix("answer:   ")
    assert f'"{question}"))  # {answer}\n' in card  # the card shows the right one
    assert "only knows moving colored shapes" in lines[4]
    assert "ckpt=DIR" in lines[4]
    assert len(lines) == 5


@pytest.mark.slow
def test_eval_asks_the_default_model_about_any_file(monkeypatch, capsys, tmp_path):
    plan = plan_clip(SetOptions(split="iid", seed=41, families=["shape"], formats=["open"], questions=1), 0)
    path = tmp_path / "mine (1).mp4"
    path.write_bytes(encode(plan))
    run_script(monkeypatch, f"video={path}", f"question={plan.questions[0].text}", "device=cpu")
    shown = capsys.readouterr()
    assert shown.out.strip() == plan.questions[0].reply
    assert shown.err.count("only knows moving colored shapes") == 1


def test_unrelated_videos_and_questions_get_an_answer(shipped, tmp_path):
    path = write_clip(tmp_path / "numbers.mp4", num_frames=30)
    assert isinstance(shipped.ask(str(path), "Which year was it, Señor? ☃", max_new_tokens=8), str)
