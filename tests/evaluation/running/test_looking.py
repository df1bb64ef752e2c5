"""Look reports of tiny models: their runs, resuming, items that are left out, earlier runs and errors."""

import json

import pytest
from PIL import Image

from tests.clips import write_clip
from tests.questions import OPTIONS, read_rows, write_rows
from tests.runs import turns
from tinyvid import ConfigError, DataError, EvaluationOptions, build_benchmark
from tinyvid.evaluation.running.looking import LookOptions, check_look, look_at

SHORT = EvaluationOptions(max_new_tokens=2, workers=0, score="likelihood")
FEW = LookOptions(controls=["shuffled"])


def custom(folder, **options):
    return build_benchmark({"name": "custom", "root": str(folder), **options})


def row(id, **media):
    return {"id": id, "conversations": turns("Which animal?"), "options": OPTIONS, "answer_index": 0, **media}


@pytest.mark.slow
def test_a_report_has_a_run_for_each_control(assistant, questions, tmp_path, monkeypatch):
    benchmark, folder, about, controls = custom(questions), tmp_path / "look", {"ckpt": "DIR"}, ["other", "shuffled"]
    look = LookOptions(controls=controls)
    data = look_at(assistant, benchmark, run_dir=folder, look=look, options=SHORT, settings=about)
    assert data["controls"] == controls
    assert {path.name for path in folder.iterdir()} == {"clip", *controls, "look.json", "look.md", "look.png"}
    assert [row["name"] for row in data["rows"]] == ["overall", "clip 0", "clip 1", "clip 2"]
    assert (data["rows"][0]["clip"]["n"], data["rows"][0]["videos"], data["left_out"]["without a video"]) == (9, 3, 1)
    assert data["findings"][-1] == "There are 3 videos, and a finding needs 10; ask about more."
    for control in controls:
        report = json.loads((folder / control / "report.json").read_text())
        assert (report["blind"], report["settings"]["ckpt"]) == (control, "DIR")
        value = sum(found["value"] for found in read_rows(folder / control) if found["id"] != "text") / 9
        assert data["rows"][0]["controls"][control]["value"] == pytest.approx(value)
    monkeypatch.setattr("tinyvid.evaluation.running.answering.log_probs", None)
    (folder / "look.json").unlink()
    assert look_at(assistant, benchmark, run_dir=folder, look=look, options=SHORT, settings=about) == data


@pytest.mark.slow
def test_an_earlier_run_or_report_shows_what_changed(assistant, tmp_path):
    write_clip(tmp_path / "a.mp4", num_frames=6)
    benchmark = custom(write_rows(tmp_path, [row("a", video="a.mp4")]))
    look_at(assistant, benchmark, run_dir=tmp_path / "first", look=FEW, options=SHORT)
    check_look(benchmark, LookOptions(controls=[], before=str(tmp_path / "first")), SHORT)
    look = LookOptions(controls=[], before=str(tmp_path / "first" / "clip"))
    data = look_at(assistant, benchmark, run_dir=tmp_path / "after", look=look, options=SHORT)
    assert (data["controls"], data["rows"][0]["before"]["lost"]["difference"]) == ([], 0)
    with pytest.raises(DataError, match="this run shows shuffled in place of the clips"):
        check_look(benchmark, LookOptions(controls=[], before=str(tmp_path / "first" / "shuffled")), SHORT)
    other = custom(write_rows(tmp_path / "other", [row("b", video="a.mp4")]))
    write_clip(tmp_path / "other" / "a.mp4", num_frames=6)
    with pytest.raises(DataError, match="before=.*none of the 1 items of benchmark 'custom'; give a run of the same"):
        check_look(other, LookOptions(controls=[], before=str(tmp_path / "first")), SHORT)
    with pytest.raises(DataError, match="is not a report"):
        check_look(benchmark, LookOptions(controls=[], before=str(tmp_path / "nothing")), SHORT)


@pytest.mark.slow
def test_images_have_no_order(assistant, tmp_path, caplog):
    for name in ("a", "b"):
        Image.new("RGB", (32, 32), "red").save(tmp_path / f"{name}.png")
    root = write_rows(tmp_path, [row("a", image="a.png"), row("b", image="b.png")])
    data = look_at(assistant, custom(root), run_dir=tmp_path / "look", options=SHORT)
    assert data["controls"] == ["black", "other"]
    assert "All videos are images" in caplog.text


@pytest.mark.slow
def test_items_that_are_not_asked_are_left_out(assistant, tmp_path):
    write_clip(tmp_path / "good.mp4", num_frames=8)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    root = write_rows(tmp_path, [row("a", video="good.mp4"), row("b", video="bad.mp4")])
    data = look_at(assistant, custom(root), run_dir=tmp_path / "some", look=FEW, options=SHORT)
    assert (data["rows"][0]["clip"]["n"], data["left_out"]["not asked"]) == (1, 1)
    root = write_rows(tmp_path, [row("b", video="bad.mp4")])
    with pytest.raises(DataError, match="no item can be compared: 1 not asked; .*bad.mp4"):
        look_at(assistant, custom(root), run_dir=tmp_path / "none", look=FEW, options=SHORT)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([row("a")], {}, "no item of benchmark 'custom' has a video"),
        ([row("a", video="a.mp4"), row("b", video="a.mp4")], {}, "none for item 'a' .*; ask about more videos"),
        ([row("a", video="a.mp4")], {"blind": "black"}, "benchmark.blind=black: a look report sets it itself"),
    ],
)
def test_what_cannot_be_compared_is_an_error_before_the_run(tmp_path, rows, options, message):
    write_clip(tmp_path / "a.mp4", num_frames=4)
    with pytest.raises(ConfigError, match=message):
        check_look(custom(write_rows(tmp_path, rows), **options), LookOptions(), SHORT)


def test_controls_are_known_and_not_empty():
    with pytest.raises(ConfigError, match=r"controls=\['shufled'\]: .*Did you mean 'shuffled'\?"):
        LookOptions(controls=["shufled"])
    with pytest.raises(ConfigError, match="controls=.. leaves nothing to compare"):
        LookOptions(controls=[])
