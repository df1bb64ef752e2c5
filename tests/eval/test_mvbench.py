"""MVBench in both revisions: clips, containers, frame folders counted from 1, and prompts to the letter."""

import sys

import pytest

from tests.benchmark_files import assert_contract, build, frames, outcomes, prompts, touch, video, write_json
from tests.clips import frame_numbers
from tinyvid import BENCHMARKS, SAMPLERS, VIDEO_READERS, ConfigError, DataError
from tinyvid.video.open_video import open_video

TASKS = sys.modules[BENCHMARKS.get("mvbench").__module__].TASKS
SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)
LETTER = "Answer with the option's letter from the given choices directly."


def row(name, answer="Three.", **more):
    return {"video": name, "question": "How many?", "candidates": ["Two.", "Three."], "answer": answer} | more


ROWS = {
    "action_sequence": [row("ZS9XR.mp4", start=0.5, end=1.2), row("ZS9XR.mp4", "Two.", start=0.0, end=1.0)],
    "action_antonym": [row("166583.webm")],
    "fine_grained_pose": [row("S001.avi")],
    "episodic_reasoning": [row("castle_s01", start=1.0, end=3.0, subtitle="unused")],
}


@pytest.fixture
def root(tmp_path):
    for task in TASKS:
        write_json(tmp_path / f"json/{task}.json", ROWS.get(task, [row("video_1.mp4", start=0.0, end=1.0)]))
    for name in (
        "star/Charades_v1_480/ZS9XR.mp4",
        "ssv2_video/166583.webm",
        "nturgbd/S001.avi",
        "data0613/clevrer/video_validation/video_1.mp4",
    ):
        touch(tmp_path / "video" / name)
    return tmp_path


@pytest.mark.parametrize(
    ("style", "messages", "prefix"),
    [
        (
            "official",
            [
                ("system", SYSTEM),
                ("user", "Question: How many?\nOptions:\n(A) Two.\n(B) Three.\nOnly give the best option."),
            ],
            "Best option:(",
        ),
        ("tinyllava_video", [("user", f"How many?\n(A) Two.\n(B) Three.\n{LETTER}")], ""),
        (
            "lmms_eval",
            [("user", "Question:How many?\nOption:\n(A) Two.\n(B) Three.\nOnly give the best option.\n")],
            "",
        ),
    ],
)
def test_prompt(root, style, messages, prefix):
    benchmark = build("mvbench", root, prompt_style=style)
    assert prompts(benchmark) == messages
    assert benchmark[0].prefix == prefix


def test_contract(root):
    assert_contract(build("mvbench", root))


def test_items(root):
    benchmark = build("mvbench", root)
    assert len(benchmark) == 21
    titles = list(dict.fromkeys(item.groups["task"] for item in benchmark))
    assert (len(titles), titles[0], titles[3], titles[15]) == (
        20,
        "Action Sequence",
        "Fine-grained Action",
        "Fine-grained Pose",
    )
    item = benchmark[0]
    assert (item.answer, item.options, item.rule) == ("B", {"A": "Two.", "B": "Three."}, "choice")
    assert len({item.id for item in benchmark}) == 21
    assert item.id.startswith("action_sequence/ZS9XR.mp4/")
    again = build("mvbench", root, tasks=["action_sequence"])
    assert [item.id for item in again] == [benchmark[0].id, benchmark[1].id], "ids do not depend on what else is asked"


def test_where_the_videos_are(root):
    paths = {item.groups["task"]: str(item.sample.videos[0].source) for item in build("mvbench", root)}
    assert paths["Action Antonym"] == str(root / "video/ssv2_video/166583.webm")
    assert paths["Fine-grained Pose"] == str(root / "video/nturgbd/S001.avi")
    assert paths["Episodic Reasoning"] == str(root / "video/tvqa/frames_fps3_hq/castle_s01")
    assert paths["Moving Count"] == str(root / "video/data0613/clevrer/video_validation/video_1.mp4")
    assert paths["Scene Transition"] == str(root / "video/scene_qa/video/video_1.mp4"), "missing: where it should be"


def official_numbers(start, end, rate, first, last, count):
    """Sixteen segments by the published formula, in the numbers that the files carry."""
    low, high = max(first, round(start * rate)), min(round(end * rate), last)
    size = (high - low) / count
    return [int(low + size / 2 + round(size * i)) for i in range(count)]


@pytest.mark.parametrize("index", [0, 1])
def test_only_the_clip_of_a_video_is_seen(root, index):
    video(root / "video/star/Charades_v1_480/ZS9XR.mp4")
    item = build("mvbench", root, tasks=["action_sequence"])[index]
    clip = open_video(item.sample.videos[0], VIDEO_READERS.build({"name": "pyav"}))
    read = clip.read(SAMPLERS.build({"name": "midpoint", "num_frames": 4})(clip.meta))
    asked = ROWS["action_sequence"][index]
    assert frame_numbers(read.frames) == official_numbers(asked["start"], asked["end"], 10, 0, 19, 4)


@pytest.mark.parametrize(("start", "end"), [(1.0, 3.0), (0.0, 2.0), (2.0, 100.0)])
def test_only_the_clip_of_a_frame_folder_is_seen(root, start, end):
    frames(root / "video/tvqa/frames_fps3_hq/castle_s01", 12)
    write_json(root / "json/episodic_reasoning.json", [row("castle_s01", start=start, end=end)])
    item = build("mvbench", root, tasks=["episodic_reasoning"])[0]
    clip = open_video(item.sample.videos[0], VIDEO_READERS.build({"name": "pyav"}))
    read = clip.read(SAMPLERS.build({"name": "midpoint", "num_frames": 3})(clip.meta))
    assert frame_numbers(read.frames) == official_numbers(start, end, 3, 1, 12, 3)


def test_whole_videos_as_tinyllava_video_took_them(root):
    benchmark = build("mvbench", root, tasks=["action_sequence", "episodic_reasoning"], bounds=False)
    bounds = [(item.sample.videos[0].start is None, item.sample.videos[0].end is None) for item in benchmark]
    assert bounds == [(True, True), (True, True), (False, False)], "frame folders are cut in any case"


def test_cut_revision_with_one_annotation(root, tmp_path):
    cut = tmp_path / "cut"
    rows = {"Action Sequence": [row("ZS9XR_0.5_1.2.mp4", start=0.5, end=1.2)], "action_antonym": [row("166583.mp4")]}
    folders = {"Action Sequence": "star/Charades_segment", "action_antonym": "ssv2_video_mp4/"}
    write_json(cut / "test.json", {"root": folders, "meta": rows})
    benchmark = build("mvbench", cut, revision="video", tasks=["action_antonym", "action_sequence"])
    first, second = (item.sample.videos[0] for item in benchmark)
    assert (str(first.source), first.start) == (str(cut / "star/Charades_segment/ZS9XR_0.5_1.2.mp4"), None)
    assert str(second.source) == str(cut / "ssv2_video_mp4/166583.mp4")
    assert benchmark[0].groups == {"task": "Action Sequence"}
    with pytest.raises(DataError, match="test.json lacks 18 tasks: action_prediction, fine_grained_action"):
        build("mvbench", cut, revision="video")
    write_json(cut / "test.json", {"root": folders, "meta": rows | {"Sequence of Actions": []}})
    with pytest.raises(DataError, match="'meta' has the unknown task 'Sequence of Actions'"):
        build("mvbench", cut, revision="video", tasks=["action_antonym"])
    write_json(cut / "test.json", {"root": folders | {"action_antonym": "/etc"}, "meta": rows})
    with pytest.raises(DataError, match="root of action_antonym: the path '/etc' leaves"):
        build("mvbench", cut, revision="video", tasks=["action_antonym"])


def test_cut_revision_with_a_file_per_task(root):
    item = build("mvbench", root, revision="video", tasks=["episodic_reasoning"])[0]
    assert str(item.sample.videos[0].source) == str(root / "tvqa/video_fps3_hq_segment/castle_s01")
    assert item.sample.videos[0].fps is None


def test_average_is_the_mean_of_the_tasks(root):
    benchmark = build("mvbench", root, tasks=["action_sequence", "action_antonym"])
    assert benchmark.summary(outcomes(benchmark, [1.0, 0.0, 1.0])) == {"Avg": 75.0}
    failed = outcomes(benchmark, [1.0, 0.0, 0.0], statuses=["answered", "answered", "media_failed"])
    assert benchmark.summary(failed) == {"Avg": 25.0}, "what could not be decoded stays in the denominator"


def test_bad_input(root, tmp_path):
    with pytest.raises(
        DataError, match=r"lacks 20 of 20 files: json/action_sequence.json.* and 12 more.*OpenGVLab/MVBench"
    ):
        build("mvbench", tmp_path / "nowhere")
    (root / "json/action_antonym.json").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 20 files: json/action_antonym.json"):
        build("mvbench", root)
    with pytest.raises(ConfigError, match="unknown task 'action_sequenc'. Did you mean 'action_sequence'"):
        build("mvbench", root, tasks=["action_sequenc"])
    with pytest.raises(ConfigError, match="prompt_style"):
        build("mvbench", root, prompt_style="vlmevalkit")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [row("a.mp4", "Four.", start=0.0, end=1.0)],
            "action_sequence.json:1: 'answer' is 'Four.', not one of the options",
        ),
        ([row("a.mp4", end=1.0)], "has no 'start'"),
        ([row("/a.mp4", start=0.0, end=1.0)], "'video': the path '/a.mp4' leaves"),
        ([row("a.mp4", candidates="Two.", start=0.0, end=1.0)], "'candidates' must be a list of texts, got 'Two.'"),
        (["x"], "a row must be a JSON object"),
        ([], "has no rows"),
    ],
)
def test_bad_rows(root, content, message):
    write_json(root / "json/action_sequence.json", content)
    with pytest.raises(DataError, match=message):
        build("mvbench", root, tasks=["action_sequence"])


def test_of_two_equal_options_the_last_one_counts(root, caplog):
    write_json(root / "json/action_antonym.json", [row("a.webm", candidates=["Three.", "Two.", "Three."])])
    assert build("mvbench", root, tasks=["action_antonym"])[0].answer == "C"
    assert "are all 'Three.'; C counts as correct" in caplog.text


def test_the_same_row_twice_is_two_items(root):
    write_json(root / "json/action_antonym.json", [row("a.webm"), row("a.webm")])
    first, second = (item.id for item in build("mvbench", root, tasks=["action_antonym"]))
    assert second == f"{first}#2"
