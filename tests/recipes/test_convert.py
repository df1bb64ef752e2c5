"""The converters: labels from file names, ids that do not depend on other files, times, and training rows."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from tests.benchmark_files import write_json
from tests.clips import write_clip
from tests.factories import tiny_overrides
from tests.runs import turns
from tests.timed_files import (
    HIGHLIGHTS,
    RECIPES,
    VAL_1,
    write_activitynet,
    write_charades,
    write_highlights,
    write_youcook2,
)
from tinyvid import Assistant, ConfigError, DataError, compose
from tinyvid.data.datasets import RowDataset
from tinyvid.diagnostics.checks import RowChecks

spec = importlib.util.spec_from_file_location("convert_recipe", Path(__file__).parents[2] / "recipes" / "convert.py")
convert = importlib.util.module_from_spec(spec)
sys.modules["convert_recipe"] = convert  # where dataclasses look their module up
spec.loader.exec_module(convert)

CRIMES = [
    "Abuse/Abuse028_x264.mp4",
    "Abuse/Abuse030_x264.mp4",
    "RoadAccidents/RoadAccidents001_x264.mp4",
    "Shoplifting/Shoplifting001_x264.mp4",
    "Normal/Normal_Videos_003_x264.mp4",
    "Normal/Normal_Videos307_x264.mp4",
]
TEST_LIST = """Abuse028_x264.mp4  Abuse  165  240  -1  -1
Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1
"""
MOMENTS = """AAXMQGLL 0.0 5.5##The bird is flying.
AAXMQGLL 6.0 9.5##The bird is eating.
AAXMQGLL 12 14##The bird is flying.

BBQ 1.25 3.5##A frog is swimming.
CCR 0 2##A fox is sleeping.
"""


def place(folder, names, order=1):
    for name in names[::order]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def run(tmp_path, *arguments, name="rows.jsonl"):
    """Convert, and return the report, the rows, and the samples that training reads from them."""
    out = tmp_path / name
    args = convert.parse([*arguments, "--videos", str(tmp_path / "videos"), "--out", str(out)])
    report = convert.convert(args)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    samples = RowDataset(path=str(out), media_root=str(tmp_path / "videos"))
    return report, rows, [samples[i] for i in range(len(samples))]


@pytest.fixture
def crimes(tmp_path):
    place(tmp_path / "videos", CRIMES)
    (tmp_path / "test.txt").write_text(TEST_LIST)
    return tmp_path


@pytest.fixture
def animals(tmp_path):
    place(tmp_path / "videos", ["AAXMQGLL.mp4", "BBQ.mp4", "CCR.mp4"])
    (tmp_path / "train.txt").write_text(MOMENTS)
    return tmp_path


def crime(folder, *arguments, **kwargs):
    return run(folder, "ucf_crime", "--test-list", str(folder / "test.txt"), *arguments, **kwargs)


def animal(folder, *arguments, **kwargs):
    return run(folder, "animal_kingdom", "--annotation", str(folder / "train.txt"), *arguments, **kwargs)


# --- UCF-Crime --------------------------------------------------------------------------------------------------


def test_the_official_test_list_splits_the_videos(crimes):
    report, rows, _ = crime(crimes, "--split", "test")
    assert [row["id"] for row in rows] == ["ucf_crime:Abuse028_x264", "ucf_crime:Normal_Videos_003_x264"]
    assert report["rows"] == 2
    report, rows, _ = crime(crimes, "--split", "train", name="train.jsonl")
    assert [row["label"] for row in rows] == ["Abuse", "Normal Video", "Road Accident"]
    assert report["left out: Shoplifting (--classes eleven)"] == 1
    report, rows, _ = crime(crimes, "--split", "all", "--classes", "fourteen", name="all.jsonl")
    assert len(rows) == 6
    assert not any(name.startswith("left out") for name in report)


def test_a_row_asks_for_a_label_and_lists_the_categories(crimes):
    _, rows, samples = crime(crimes)
    question, reply = samples[0].messages
    assert reply.text == rows[0]["label"] == "Abuse"
    assert question.text.endswith(
        "Abuse, Arrest, Arson, Assault, Burglary, Explosion, Fighting, Robbery, Road Accident, "
        "Shooting, or Normal Video."
    )
    assert samples[0].videos[0].source == str(crimes / "videos" / "Abuse/Abuse030_x264.mp4")


def test_choices_are_fixed_or_shuffled_by_row_and_seed(crimes):
    _, fixed, samples = crime(crimes, "--target", "choice")
    assert all(tuple(row["options"]) == convert.ELEVEN for row in fixed)
    assert [row["options"][row["answer_index"]] for row in fixed] == [row["label"] for row in fixed]
    assert samples[0].messages[1].text == "A"
    _, one, _ = crime(crimes, "--target", "choice", "--shuffle", "1", name="1.jsonl")
    _, again, _ = crime(crimes, "--target", "choice", "--shuffle", "1", name="2.jsonl")
    _, two, _ = crime(crimes, "--target", "choice", "--shuffle", "2", name="3.jsonl")
    assert one == again
    assert one != two
    assert len({tuple(row["options"]) for row in one}) == len(one)
    assert [row["options"][row["answer_index"]] for row in one] == [row["label"] for row in one]
    assert all(sorted(row["options"]) == sorted(convert.ELEVEN) for row in one)


def test_rows_do_not_depend_on_the_order_of_files_or_on_other_files(tmp_path):
    results = []
    for number, (names, order) in enumerate([(CRIMES, 1), (CRIMES, -1), (CRIMES[1:], 1)]):
        folder = tmp_path / str(number)
        place(folder / "videos", names, order)
        (folder / "test.txt").write_text(TEST_LIST)
        results.append(crime(folder, "--target", "choice", "--shuffle", "5")[1])
    assert results[0] == results[1] == results[2]


def test_missing_videos_raise_or_are_counted(crimes):
    (crimes / "videos" / CRIMES[0]).unlink()
    with pytest.raises(DataError, match="1 test videos that are not in the folder: Abuse028_x264; --allow-missing"):
        crime(crimes, "--split", "test")
    assert not list(crimes.glob("rows.jsonl*"))
    report, rows, _ = crime(crimes, "--split", "test", "--allow-missing")
    assert len(rows) == report["left out: test videos that are not in the folder"] == 1


def test_long_videos_are_skipped_with_max_seconds(tmp_path):
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "videos" / "Abuse001.mp4", num_frames=30, fps=10)
    write_clip(tmp_path / "videos" / "Arson001.mp4", num_frames=60, fps=10)
    report, rows, _ = run(tmp_path, "ucf_crime", "--split", "all", "--max-seconds", "4")
    assert [row["label"] for row in rows] == ["Abuse"]
    assert report["left out: longer than 4 s"] == 1


def test_wrong_arguments_of_ucf_crime(crimes):
    with pytest.raises(ConfigError, match="--split train needs --test-list"):
        run(crimes, "ucf_crime")
    with pytest.raises(DataError, match="--test-list .* does not exist"):
        run(crimes, "ucf_crime", "--test-list", "nowhere.txt")
    place(crimes / "videos", ["Other/Abuse028_x264.avi"])
    with pytest.raises(DataError, match=r"Abuse028_x264.mp4 and .*Abuse028_x264.avi have the same name"):
        crime(crimes)


# --- Animal Kingdom ---------------------------------------------------------------------------------------------


def test_descriptions_join_unique_sentences_in_order(animals):
    _, rows, samples = animal(animals)
    assert [row["id"] for row in rows] == ["animal_kingdom:AAXMQGLL", "animal_kingdom:BBQ", "animal_kingdom:CCR"]
    assert samples[0].messages[-1].text == "The bird is flying. The bird is eating."
    _, _, samples = animal(animals, "--keep-repeats", name="repeats.jsonl")
    assert samples[0].messages[-1].text == "The bird is flying. The bird is eating. The bird is flying."


def test_grounding_keeps_every_time(animals):
    _, rows, samples = animal(animals, "--task", "grounding")
    assert len({row["id"] for row in rows}) == 4
    assert rows[0]["spans"] == [[0.0, 5.5], [12.0, 14.0]]
    assert samples[0].messages[0].text.startswith('When does this happen in the video: "The bird is flying."?')
    assert samples[0].messages[1].text == "0.0 - 5.5 s, 12.0 - 14.0 s"
    assert samples[0].meta["spans"] == rows[0]["spans"]
    assert "clip" not in rows[0]


def test_choices_show_the_moment_and_draw_wrong_options_from_other_videos(animals):
    _, rows, samples = animal(animals, "--task", "choice", "--options", "3")
    assert len({row["id"] for row in rows}) == 5
    first = rows[0]
    assert first["options"][first["answer_index"]] == "The bird is flying."
    assert set(first["options"]) == {"The bird is flying.", "A frog is swimming.", "A fox is sleeping."}
    assert (samples[0].videos[0].start, samples[0].videos[0].end) == (0.0, 5.5)
    assert samples[0].messages[1].text in ("A", "B", "C")
    assert animal(animals, "--task", "choice", "--options", "3", name="again.jsonl")[1] == rows
    assert animal(animals, "--task", "choice", "--options", "3", "--seed", "4", name="other.jsonl")[1] != rows
    with pytest.raises(DataError, match="AAXMQGLL: 2 sentences of other videos are too few for --options 4"):
        animal(animals, "--task", "choice", name="four.jsonl")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("AAX 1.0##Hi", r"train.txt:1: expected 'CODE start end##sentence', found 'AAX 1.0##Hi'"),
        ("AAX 1.0 2.0 Hi", "train.txt:1: expected"),
        ("AAX 1.0 2.0##", "train.txt:1: expected"),
        ("AAX 3.0 2.0##Hi", "train.txt:1: end=2 s must come after start=3 s"),
    ],
)
def test_broken_lines_are_reported(animals, line, message):
    (animals / "train.txt").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        animal(animals)


def test_codes_without_a_video_raise_or_are_counted(animals):
    (animals / "videos" / "BBQ.mp4").unlink()
    with pytest.raises(DataError, match="1 videos that are not in the folder: BBQ; --allow-missing leaves them out"):
        animal(animals)
    report, rows, _ = animal(animals, "--allow-missing")
    assert len(rows) == 2
    assert report["left out: videos that are not in the folder"] == 1


# --- timed sentences --------------------------------------------------------------------------------------------


@pytest.fixture
def captioned(tmp_path):
    place(tmp_path / "videos", ["v_one.mp4", "more/v_two.webm"])
    write_activitynet(tmp_path)
    return tmp_path


def timed(folder, program, *arguments, file="val_1.json", **kwargs):
    return run(folder, program, "--format", "activitynet", "--annotation", str(folder / file), *arguments, **kwargs)


def test_cotasks_are_dialogs_about_all_events(captioned):
    report, rows, samples = timed(captioned, "cotasks", "--route", "time_first", "direct")
    assert [row["id"] for row in rows][:2] == [
        "cotasks:activitynet:v_one:time_first",
        "cotasks:activitynet:v_one:direct",
    ]
    assert [row["video"] for row in rows] == ["v_one.mp4"] * 2 + ["more/v_two.webm"] * 2
    assert report["rows"] == 4
    assert [len(sample.messages) for sample in samples] == [6, 2] * 2
    assert (
        samples[0].messages[-1].text
        == samples[1].messages[-1].text
        == ("<time:0> to <time:8> A man lights the stove.\n<time:6> to <time:20.01> He cooks two eggs.")
    )


def test_traces_cite_the_middles_of_windows(captioned):
    with pytest.raises(DataError, match=r"'v_one', event 2: the window .* --skip-faulty leaves out and counts such"):
        timed(captioned, "traces")
    assert not list(captioned.glob("rows.jsonl*"))
    report, rows, samples = timed(captioned, "traces", "--skip-faulty")
    assert report == {"rows of kind when": 3, "rows": 3, "left out: faulty sentences or pairs (--skip-faulty)": 1}
    assert len({row["id"] for row in rows}) == 3
    assert samples[0].messages[1].text == "In <frame:4> a man lights the stove. Answer: From <time:0> to <time:8>."
    assert samples[0].meta["key_frames"] == [4.0]
    _, rows, _ = timed(captioned, "traces", "--kinds", "when", "--arm", "none", name="none.jsonl")
    assert rows[0]["conversations"][1]["value"] == "From <time:0> to <time:8>."


def test_faulty_windows_are_left_out_only_on_request(captioned):
    write_json(captioned / "val_1.json", {"v_one": VAL_1["v_one"] | {"timestamps": [[0, 0], [6, 20]]}})
    with pytest.raises(DataError, match=r"val_1.json: 'v_one', event 1: the window \[0, 0\] .* --skip-faulty leaves"):
        timed(captioned, "cotasks")
    report, rows, _ = timed(captioned, "cotasks", "--skip-faulty")
    assert report == {"left out: faulty windows (--skip-faulty)": 1, "rows": 1}
    assert rows[0]["conversations"][1]["value"] == "1 event."


def test_windows_are_cut_to_their_video_only_on_request(tmp_path):
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "videos" / "v_one.mp4", num_frames=12, fps=1, bframes=0)
    events = {"timestamps": [[0, 8], [8, 20], [14, 18]], "sentences": ["One.", "Two.", "Three."], "duration": 20}
    write_json(tmp_path / "val_1.json", {"v_one": events})
    assert timed(tmp_path, "traces", "--kinds", "when", name="whole.jsonl")[0] == {"rows of kind when": 3, "rows": 3}
    with pytest.raises(
        DataError, match=r"'v_one', event 3: the window starts at 14 s, after its video of 12 s. --skip"
    ):
        timed(tmp_path, "traces", "--cut-windows")
    report, rows, _ = timed(tmp_path, "traces", "--cut-windows", "--skip-faulty", "--kinds", "when")
    assert report["windows cut to their video (--cut-windows)"] == 1
    assert report["left out: faulty windows (--skip-faulty)"] == 1
    assert [row["key_frames"] for row in rows] == [[4.0], [10.0]]
    assert rows[1]["conversations"][1]["value"].endswith("Answer: From <time:8> to <time:12>.")


def test_videos_without_a_file_are_left_out_only_on_request(captioned):
    (captioned / "videos" / "v_one.mp4").unlink()
    with pytest.raises(DataError, match="1 videos that are not in the folder: v_one; --allow-missing"):
        timed(captioned, "traces")
    assert timed(captioned, "traces", "--allow-missing")[0]["rows"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("program", ["cotasks", "traces"])
def test_training_reads_the_rows_and_writes_shown_frames_and_times(tmp_path, models, program):
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "videos" / "v_one.mp4", num_frames=200, fps=10)
    write_json(tmp_path / "val_1.json", {"v_one": VAL_1["v_one"] | {"timestamps": [[0, 8], [8, 20.01]]}})
    _, rows, samples = timed(tmp_path, program)
    processor = Assistant.from_config(compose(tiny_overrides(models)), device="meta").processor
    checks = RowChecks(RowDataset(path=str(tmp_path / "rows.jsonl"), media_root=str(tmp_path / "videos")), processor)
    assert [fault for index in range(len(checks)) for fault in checks[index].faults] == []
    layout = processor.plan(samples[0])
    times = layout.clips[0].times(layout.indices[0])
    text = processor.tokenizer.decode([int(token) for token in layout.labels if token >= 0])
    if program == "traces":
        nearest = min(range(4), key=lambda index: abs(times[index] - rows[0]["key_frames"][0])) + 1
        assert f"In Frame {nearest} a man lights the stove. Answer: From 0.0 s to 8.0 s." in text
    else:
        assert "0.0 s to 8.0 s A man lights the stove.\n8.0 s to 20.0 s He cooks two eggs." in text


@pytest.mark.parametrize("form", ["animal_kingdom", "charades_sta", "qvhighlights", "youcook2"])
def test_every_format_of_timed_sentences(tmp_path, form):
    write_charades(tmp_path), write_youcook2(tmp_path), write_highlights(tmp_path)
    files = {"qvhighlights": "highlight_val_release.jsonl", "youcook2": "youcookii_annotations_trainval.json"}
    codes = {"qvhighlights": [row["vid"] for row in HIGHLIGHTS], "youcook2": RECIPES["database"]}
    place(tmp_path / "videos", [f"{code}.mp4" for code in codes.get(form, ["3MSZA", "AMT7R"])])
    annotation = tmp_path / files.get(form, "charades_sta_test.txt")
    arguments = ["--format", form, "--annotation", str(annotation), "--kinds", "when"]
    report, rows, _ = run(tmp_path, "traces", *arguments)
    assert report["rows"] == len(rows) == {"youcook2": 3, "qvhighlights": 2}.get(form, 3)
    assert all(row["key_frames"] for row in rows)


def test_nothing_is_overwritten(animals):
    animal(animals)
    with pytest.raises(DataError, match=r"rows.jsonl already exists"):
        animal(animals)
    with pytest.raises(SystemExit):
        convert.parse(["animal_kingdom", "--annotation", "x", "--videos", "x", "--out", "x", "--options", "1"])


def test_chain_of_frames(tmp_path):
    place(tmp_path, ["videos/a.mp4"])
    cited = "The cup falls in Frame 2 (Frames 2-3). Answer: the cup"
    published = [
        {"video": "a.mp4", "conversations": turns("<video>\nWhat falls?", cited), "aug": "gau", "length": 60},
        {"video": "a.mp4", "conversations": turns("<video>\nWho?", "A dog in Frame 31.")},
        {"video": "gone.mp4", "conversations": turns("<video>\nWho?", "A cat.")},
        {"video": "a.mp4", "conversations": turns("<video>\nWho?", "A cat."), "aug": "rev"},
    ]
    (tmp_path / "cof_data.jsonl").write_text("\n".join(json.dumps(row) for row in published))
    arguments = ["cof", "--annotation", str(tmp_path / "cof_data.jsonl")]
    with pytest.raises(DataError, match="1 videos that are not in the folder: gone.mp4; --allow-missing"):
        run(tmp_path, *arguments)
    with pytest.raises(DataError, match=r"cof_data.jsonl:2: Frame 31 is not one of .*--skip-faulty leaves out"):
        run(tmp_path, *arguments, "--allow-missing")
    assert not list(tmp_path.glob("rows*"))
    report, _, (sample,) = run(tmp_path, *arguments, "--allow-missing", "--skip-faulty")
    assert report == {
        "left out: videos that are not in the folder": 1,
        "left out: references outside the frames (--skip-faulty)": 1,
        "left out: aug=rev (--skip-faulty)": 1,
        "rows: frames are not blurred (aug=gau)": 1,
        "references to frames": 3,
        "rows with key frames": 1,
        "rows": 1,
    }
    assert sample.messages[1].text == "The cup falls in <frame:1.5> (<frame:1.5> to <frame:2.5>). Answer: the cup"
    assert (sample.messages[0].text, sample.meta["key_frames"]) == ("What falls?", [1.5, 2.5])
    (row,) = run(tmp_path, *arguments, "--allow-missing", "--skip-faulty", "--arm", "none", name="none.jsonl")[1]
    assert row["conversations"][1]["value"] == "the cup"
