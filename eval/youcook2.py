"""YouCook2: all steps of a cooking video of five minutes, with their times (arXiv:1703.09788)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tinyvid import BENCHMARKS, Item, Outcome, Sample, require
from tinyvid.data.timed_questions import DESCRIBE
from tinyvid.data.timed_sentences import read_recipes

from .prompts import conversation
from .rows import below, first_of
from .timed import SUFFIXES, TimedItems, by_video, caption_submission, events_of

FILE = "youcookii_annotations_trainval.json"
SUBMISSION = "youcook2_submission.json"
TIMECHAT = (
    "You are given a cooking video from the YouCook2 dataset. Please watch the video and extract a maximum of 10 "
    "significant cooking steps. For each step, determine the starting and ending times and provide a concise "
    "description. The format should be: 'start time - end time, brief step description'. For example, ' 90 - 102 "
    "seconds, spread margarine on two slices of white bread'."
)


@BENCHMARKS.register("youcook2")
class YouCook2(TimedItems):
    """Ask for the steps of each cooking video.

    Args:
        root: Folder with ``youcookii_annotations_trainval.json``; the videos may be in any subfolders.
        split: Split to ask; published scores are on ``validation``.
        prompt_style: ``official`` asks in the words of the training rows by ``recipes/convert.py``, because the data
            set has no prompt; ``timechat`` asks as TimeChat does.

    Raises:
        DataError: The annotation is missing, or a step is malformed or not inside its video.
    """

    name = "youcook2"
    source = "http://youcook2.eecs.umich.edu (youcookii_annotations_trainval.tar.gz, raw_videos)"

    def __init__(
        self,
        *,
        root: str,
        split: Literal["validation", "training"] = "validation",
        prompt_style: Literal["official", "timechat"] = "official",
    ) -> None:
        folder = require(root, [FILE], source=self.source)
        self.prompt_style = prompt_style
        steps_of = by_video(read_recipes(folder / FILE, split))
        files = {path.stem: str(path.relative_to(folder)) for path in _videos(folder)}
        text = TIMECHAT if prompt_style == "timechat" else DESCRIBE
        self.items = [
            Item(
                id=code,
                sample=Sample(conversation(text), first_of(folder, [files.get(code, f"videos/{code}.mp4")]), id=code),
                rule="events",
                answer=events_of(steps),
                question=DESCRIBE,
            )
            for code, steps in steps_of.items()
            if below(code, where=steps[0].where)
        ]

    def files(self, outcomes: Sequence[Outcome]) -> Mapping[str, str]:
        """Return the predicted steps in the format of the ActivityNet Captions challenge."""
        return {SUBMISSION: caption_submission(outcomes)}


def _videos(folder: Path) -> list[Path]:
    """Return the videos below a folder, so that of several with one name, the first path comes last."""
    return [path for path in sorted(folder.rglob("*"), reverse=True) if path.suffix.lower() in SUFFIXES]
