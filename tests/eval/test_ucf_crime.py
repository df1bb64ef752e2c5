"""UCF-Crime and Animal Kingdom as the reproduction study of LLaMA-VID asked them."""

import pytest

from tests.benchmark_files import assert_contract, build, outcomes, prompts, touch, write_text
from tinyvid import ConfigError, DataError
from tinyvid.evaluation.scoring.scores import read

LIST = """Abuse028_x264.mp4  Abuse  165  240  -1  -1
RoadAccidents133_x264.mp4  RoadAccidents  100  240  -1  -1
Shoplifting001_x264.mp4  Shoplifting  1550  2000  -1  -1
Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1
Normal_Videos_006_x264.mp4  Normal  -1  -1  -1  -1
Normal_Videos_010_x264.mp4  Normal  -1  -1  -1  -1
"""
NAME = "Temporal_Anomaly_Annotation_for_Testing_Videos.txt"
QUESTION = (
    "You will perform anomaly detection on a surveillance camera video. Classify the activity in the video by using "
    "ONLY ONE of the mentioned categories: Abuse, Arrest, Arson, Assault, Burglary, Explosion, Fighting, Robbery, "
    "Road Accident, Shooting, or Normal Video."
)


@pytest.fixture
def root(tmp_path):
    write_text(tmp_path / NAME, LIST)
    touch(tmp_path / "Anomaly-Videos-Part-1/Abuse/Abuse028_x264.mp4")
    touch(tmp_path / "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4")
    return tmp_path


def test_contract(root):
    assert_contract(build("ucf_crime", root))


def test_items(root):
    benchmark = build("ucf_crime", root)
    assert prompts(benchmark) == [("user", QUESTION)]
    assert [item.id for item in benchmark] == [line.split()[0] for line in LIST.splitlines() if "lifting" not in line]
    assert [item.answer for item in benchmark] == ["Abuse", "Road Accident", *["Normal Video"] * 3]
    assert (benchmark[0].rule, len(benchmark[0].options)) == ("label", 11)
    assert benchmark[1].groups == {"label": "Road Accident", "anomaly": "anomaly"}
    assert benchmark[0].sample.video == str(root / "Anomaly-Videos-Part-1/Abuse/Abuse028_x264.mp4")
    assert benchmark[1].sample.video == str(root / "videos/RoadAccidents133_x264.mp4")


@pytest.mark.parametrize(
    ("reply", "label", "exact"),
    [
        ("Road Accident", "Road Accident", True),
        ("road accident.", "Road Accident", True),
        ("This is a road accident.", "Road Accident", False),
        ("A normal video of a fighting couple", None, False),
        ("", None, False),
    ],
)
def test_replies(root, reply, label, exact):
    reading = read(build("ucf_crime", root)[1], reply)
    assert (reading.prediction, reading.exact) == (label, exact)


def test_averages(root):
    benchmark = build("ucf_crime", root)
    said = ["Abuse", "Shooting", "Normal Video", "Arson", None]
    made = outcomes(benchmark, [1.0, 0, 1.0, 0, 0], predictions=said, exact=[True, False, False, False, False])
    assert benchmark.summary(made) == {
        "Accuracy": 40.0,
        "Majority": 60.0,
        "Strict": 20.0,
        "Macro": pytest.approx(100 * (1 + 0 + 1 / 3) / 3),
        "Anomalies": 50.0,
        "Binary": 60.0,
    }


def test_bad_input(root, tmp_path):
    with pytest.raises(DataError, match=rf"lacks 1 of 1 files: {NAME} .*crcv.ucf.edu"):
        build("ucf_crime", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="prompt_style"):
        build("ucf_crime", root, prompt_style="lmms_eval")
    write_text(root / NAME, "Jaywalking001_x264.mp4 Jaywalking 1 2 -1 -1\n")
    with pytest.raises(
        DataError, match=r"Videos.txt:1: 'Jaywalking001_x264.mp4' does not begin with a UCF-Crime class"
    ):
        build("ucf_crime", root)
    write_text(root / NAME, "Stealing001_x264.mp4 Stealing 1 2 -1 -1\n\n")
    with pytest.raises(DataError, match="has no items"):
        build("ucf_crime", root)


# --- Animal Kingdom ---------------------------------------------------------------------------------------------

GROUNDING = """AANNQNXN 0.0 1.5##The jellyfish is swimming.
ABASTCVX 0.00 4##The whooper swan is flying.
AANNQNXN 2.5 7.25##The bird dips its face into the water.

AANNQNXN 0.0 1.5##The jellyfish is swimming.
"""
WHAT = (
    "Find the action each animal performs in the video. Provide independent sentences for each animal and their "
    "corresponding action in the video. Do not repeat sentences. Pay careful attention, as some videos only have a "
    "single animal through the video."
)


def test_sentences_of_a_video_are_one_answer(tmp_path):
    write_text(tmp_path / "annotation/test.txt", GROUNDING)
    touch(tmp_path / "videos/ABASTCVX.mp4")
    benchmark = build("animal_kingdom", tmp_path)
    assert_contract(benchmark)
    first, second = benchmark[0], benchmark[1]
    assert len(benchmark) == 2
    assert prompts(benchmark) == [("user", WHAT)]
    assert (first.id, first.rule, first.rubric) == ("AANNQNXN", "judge", "qa")
    assert first.answer == (
        "The jellyfish is swimming. The bird dips its face into the water. The jellyfish is swimming."
    ), "in the order of the file, repeats kept"
    assert first.sample.video == str(tmp_path / "dataset/AANNQNXN.mp4")
    assert second.sample.video == str(tmp_path / "videos/ABASTCVX.mp4")
    assert first.sample.videos[0].start is None
    made = outcomes(benchmark, [1.0, 0.0], points=[{"score": 4.0}, {"score": 1.0}])
    assert benchmark.summary(made) == {"Accuracy": 50.0, "Score": 2.5}


@pytest.mark.parametrize("line", ["AANNQNXN 0.0##x", "AANNQNXN 0.0 1.0 x", "AANNQNXN 0.0 1.0##", "AANNQNXN a b##x"])
def test_lines_of_another_form(tmp_path, line):
    write_text(tmp_path / "annotation/test.txt", f"AANNQNXN 0.0 1.0##x\n{line}\n")
    with pytest.raises(DataError, match=r"annotation/test.txt:2: expected 'CODE start end##sentence'"):
        build("animal_kingdom", tmp_path)


def test_animal_kingdom_wrong_root(tmp_path):
    with pytest.raises(DataError, match=r"annotation/val.txt .*sutdcv/Animal-Kingdom"):
        build("animal_kingdom", tmp_path, split="val")
    write_text(tmp_path / "annotation/test.txt", "../x 0.0 1.0##x\n")
    with pytest.raises(DataError, match=r"test.txt: the path '../x' leaves"):
        build("animal_kingdom", tmp_path)
