"""MVBench: 20 tasks of 200 questions about short videos, some about a clip cut from one (arXiv:2311.17005).

Supports both revisions of the data set. ``main`` contains whole videos (mp4, webm, avi and, for one task, folders of
frames) with start and end in seconds; ``video`` contains clips that are already cut.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tinyvid import (
    BENCHMARKS,
    ConfigError,
    DataError,
    Item,
    Message,
    Outcome,
    Sample,
    Video,
    lettered,
    macro,
    require,
    suggest,
)
from tinyvid.files import expanded

from .prompts import BEST_OPTION, LETTER_PROMPT, bracketed, conversation
from .rows import Row, below, digest, first_of, numbered, read_object, read_rows

FRAMES_PER_SECOND = 3.0  # rate of the frame folders, whose first file is 00001.jpg
SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)


@dataclass(frozen=True, slots=True)
class Task:
    """A task: its official title, its folders in both revisions, and whether it asks about clips cut from videos."""

    title: str
    folder: str
    cut: str
    bound: bool = False
    frames: bool = False


_CLEVRER, _PERCEPTION = "clevrer/video_validation", "perception/videos"
_STAR, _STAR_CUT = "star/Charades_v1_480", "star/Charades_segment"
_MOMENTS = "Moments_in_Time_Raw/videos"
_TVQA, _TVQA_CUT = "tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment"
TASKS = {
    "action_sequence": Task("Action Sequence", _STAR, _STAR_CUT, bound=True),
    "action_prediction": Task("Action Prediction", _STAR, _STAR_CUT, bound=True),
    "action_antonym": Task("Action Antonym", "ssv2_video", "ssv2_video_mp4"),
    "fine_grained_action": Task("Fine-grained Action", _MOMENTS, _MOMENTS),
    "unexpected_action": Task("Unexpected Action", "FunQA_test/test", "FunQA_test/test"),
    "object_existence": Task("Object Existence", _CLEVRER, _CLEVRER),
    "object_interaction": Task("Object Interaction", _STAR, _STAR_CUT, bound=True),
    "object_shuffle": Task("Object Shuffle", _PERCEPTION, _PERCEPTION),
    "moving_direction": Task("Moving Direction", _CLEVRER, _CLEVRER),
    "action_localization": Task("Action Localization", "sta/sta_video", "sta/sta_video_segment", bound=True),
    "scene_transition": Task("Scene Transition", "scene_qa/video", "scene_qa/video"),
    "action_count": Task("Action Count", _PERCEPTION, _PERCEPTION),
    "moving_count": Task("Moving Count", _CLEVRER, _CLEVRER),
    "moving_attribute": Task("Moving Attribute", _CLEVRER, _CLEVRER),
    "state_change": Task("State Change", _PERCEPTION, _PERCEPTION),
    "fine_grained_pose": Task("Fine-grained Pose", "nturgbd", "nturgbd_convert"),
    "character_order": Task("Character Order", _PERCEPTION, _PERCEPTION),
    "egocentric_navigation": Task("Egocentric Navigation", "vlnqa", "vlnqa"),
    "episodic_reasoning": Task("Episodic Reasoning", _TVQA, _TVQA_CUT, bound=True, frames=True),
    "counterfactual_inference": Task("Counterfactual Inference", _CLEVRER, _CLEVRER),
}


@BENCHMARKS.register("mvbench")
class MVBench:
    """Ask the questions of MVBench.

    Args:
        root: Folder with ``json/`` and ``video/`` (``main``), or with ``test.json`` or ``json/`` next to the folders
            of videos (``video``).
        revision: Branch of the data set that was downloaded.
        tasks: Names of the tasks to ask, without ``.json``; empty for all 20.
        bounds: Show only the clip of each question. False shows whole video files, as TinyLLaVA-Video does in four
            tasks; folders of frames are always cut.
        prompt_style: ``official``, or the prompts of TinyLLaVA-Video or lmms-eval.

    Raises:
        DataError: Annotation files are missing, or a row is malformed.
        ConfigError: A task is unknown.
    """

    name = "mvbench"
    source = "https://huggingface.co/datasets/OpenGVLab/MVBench (its zip files into video/; NTU RGB+D needs a license)"

    def __init__(
        self,
        *,
        root: str,
        revision: Literal["main", "video"] = "main",
        tasks: list[str] = (),  # type: ignore[assignment]
        bounds: bool = True,
        prompt_style: Literal["official", "tinyllava_video", "lmms_eval"] = "official",
    ) -> None:
        for task in tasks:
            if task not in TASKS:
                raise ConfigError(f"benchmark.tasks: unknown task {task!r}. {suggest(task, TASKS)}")
        self.revision, self.bounds, self.prompt_style = revision, bounds, prompt_style
        chosen = [task for task in TASKS if not tasks or task in tasks]
        folder = expanded(root)
        if revision == "video" and (folder / "test.json").is_file():
            found = _cut_rows(folder / "test.json", chosen)
        else:
            require(root, [f"json/{task}.json" for task in chosen], source=self.source)
            places = {task: TASKS[task].cut if revision == "video" else TASKS[task].folder for task in chosen}
            found = [(task, places[task], row) for task in chosen for row in read_rows(folder / f"json/{task}.json")]
        # One zip file, data0613, unpacks into its own folder.
        self.media = ("", "video/") if revision == "video" else ("video/", "video/data0613/")
        self.folder = folder
        ids = numbered([_id(task, row) for task, _, row in found])
        self.items = [self._item(name, *rest) for name, rest in zip(ids, found, strict=True)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        """Return a question."""
        return self.items[index]

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return the mean accuracy over tasks, in percent."""
        return {"Avg": 100 * macro(outcomes, "task")}

    def _item(self, name: str, task: str, place: str, row: Row) -> Item:
        options = lettered(row.texts("candidates"))
        return Item(
            id=name,
            sample=Sample(self._prompt(row.text("question"), options), self._video(TASKS[task], place, row), id=name),
            answer=row.letter_of("answer", options),
            options=options,
            groups={"task": TASKS[task].title},
            prefix="Best option:(" if self.prompt_style == "official" else "",
            question=row.text("question"),
        )

    def _video(self, task: Task, place: str, row: Row) -> Video:
        path = first_of(self.folder, [f"{part}{place}/{row.path('video')}" for part in self.media])
        if self.revision == "video" or not task.bound:
            return Video(path)
        if not task.frames:
            return Video(path, row.number("start"), row.number("end")) if self.bounds else Video(path)
        # The official code places file k, counted from 1, at second k / 3; this reader places the first file at 0.
        first = 1 / FRAMES_PER_SECOND
        return Video(path, max(0.0, row.number("start") - first), row.number("end") - first, FRAMES_PER_SECOND)

    def _prompt(self, question: str, options: Mapping[str, str]) -> list[Message]:
        if self.prompt_style == "tinyllava_video":
            return conversation(f"{question}\n{bracketed(options)}\n{LETTER_PROMPT}")
        if self.prompt_style == "lmms_eval":
            return conversation(f"Question:{question}\nOption:\n{bracketed(options)}\n{BEST_OPTION}\n")
        return conversation(f"Question: {question}\nOptions:\n{bracketed(options)}\n{BEST_OPTION}", system=SYSTEM)


def _cut_rows(path: Path, chosen: Sequence[str]) -> list[tuple[str, str, Row]]:
    """Return task, folder and row of each question in ``test.json``, which lists tasks by file name or by title."""
    content = read_object(path)
    names = {task.title.lower(): name for name, task in TASKS.items()} | {name: name for name in TASKS}
    tables: dict[str, Any] = {}
    for key in ("root", "meta"):
        table = content.get(key)
        if not isinstance(table, dict):
            raise DataError(f"{path} must contain 'root' (a folder per task) and 'meta' (rows per task)")
        unknown = [name for name in table if name.lower() not in names]
        if unknown:
            raise DataError(f"{path}: '{key}' has the unknown task {unknown[0]!r}. {suggest(unknown[0], TASKS)}")
        tables[key] = {names[name.lower()]: value for name, value in table.items()}
    missing = [task for task in chosen if task not in tables["meta"] or task not in tables["root"]]
    if missing:
        raise DataError(
            f"{path} lacks {len(missing)} tasks: {', '.join(missing)}; download it again from {MVBench.source}"
        )
    places = {task: below(str(tables["root"][task]), where=f"{path}: root of {task}") for task in chosen}
    return [
        (task, places[task], Row(row, f"{path}: {task} row {number}"))
        for task in chosen
        for number, row in enumerate(tables["meta"][task], 1)
    ]


def _id(task: str, row: Row) -> str:
    keys = ("question", "candidates", "start", "end")
    return f"{task}/{row.text('video')}/{digest(*(row.values.get(key) for key in keys))}"
