"""Animal Kingdom (arXiv:2204.08129) as one description per video, as in a reproduction study of LLaMA-VID.

The reference answer joins all grounding sentences of a video in file order, without times. A judge scores replies.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from tinyvid import BENCHMARKS, Item, Outcome, Sample, require
from tinyvid.data.formats import read_moments

from .prompts import conversation
from .rows import below, first_of
from .videoqa import accuracy_and_score

QUESTION = (
    "Find the action each animal performs in the video. Provide independent sentences for each animal and their "
    "corresponding action in the video. Do not repeat sentences. Pay careful attention, as some videos only have a "
    "single animal through the video."
)
FOLDERS = ("dataset", "videos", "video")


@BENCHMARKS.register("animal_kingdom")
class AnimalKingdom:
    """Ask what the animals of each video do.

    Args:
        root: Folder ``video_grounding`` of the data set, with ``annotation/`` and the videos in ``dataset/``.
        split: Name of the file in ``annotation/``.
        prompt_style: ``official`` asks the question of the study.

    Raises:
        DataError: The annotation is missing, or a line is malformed.
    """

    name = "animal_kingdom"
    source = "https://github.com/sutdcv/Animal-Kingdom (video grounding; the videos on request)"

    def __init__(
        self,
        *,
        root: str,
        split: Literal["train", "val", "test"] = "test",
        prompt_style: Literal["official"] = "official",
    ) -> None:
        folder = require(root, [f"annotation/{split}.txt"], source=self.source)
        self.prompt_style = prompt_style
        sentences: dict[str, list[str]] = {}
        annotation = folder / f"annotation/{split}.txt"
        for moment in read_moments(annotation):
            sentences.setdefault(below(moment.code, where=str(annotation)), []).append(moment.sentence)
        paths = {code: first_of(folder, [f"{place}/{code}.mp4" for place in FOLDERS]) for code in sentences}
        self.items = [
            Item(
                id=code,
                sample=Sample(conversation(QUESTION), paths[code], id=code),
                rule="judge",
                answer=" ".join(texts),
                question=QUESTION,
                rubric="qa",
            )
            for code, texts in sentences.items()
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        """Return the question about one video."""
        return self.items[index]

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return the accuracy in percent and the mean score from 0 to 5."""
        return accuracy_and_score(outcomes)
