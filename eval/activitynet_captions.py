"""ActivityNet Captions: three or four timed sentences about each of 4,900 web videos (arXiv:1705.00754).

One task asks when a sentence happens, the other for all events with their times. Two people annotated each validation
video, in ``val_1.json`` and ``val_2.json``; their events overlap and differ.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from tinyvid import BENCHMARKS, Item, Outcome, Sample, require
from tinyvid.data.formats import Moment
from tinyvid.data.timed_questions import DESCRIBE, when
from tinyvid.data.timed_sentences import read_captions
from tinyvid.evaluation.scoring.spans import write_spans

from .prompts import conversation
from .rows import below, digest, first_of, numbered
from .timed import SUFFIXES, TimedItems, by_video, caption_submission, events_of, length_of

SUBMISSION = "activitynet_captions_submission.json"


@BENCHMARKS.register("activitynet_captions")
class ActivityNetCaptions(TimedItems):
    """Ask for the times of sentences, or for dense captions, of ActivityNet Captions.

    Args:
        root: Folder with ``val_1.json``, ``val_2.json`` and the videos in ``videos/``.
        task: ``grounding`` asks when each sentence happens; ``captions`` asks for all events of a video, and writes the
            submission file of the challenge.
        split: ``val``, both annotations; or one of them. With ``task=captions`` and ``val``, the better one counts.
        prompt_style: ``official`` asks in the words of the training rows by ``recipes/convert.py``, because the data
            set has no prompt.

    Raises:
        DataError: Annotation files are missing, or an event is malformed or not inside its video.
    """

    name = "activitynet_captions"
    source = "https://cs.stanford.edu/people/ranjaykrishna/densevid/ (captions.zip) and the videos of ActivityNet"

    def __init__(
        self,
        *,
        root: str,
        task: Literal["grounding", "captions"] = "grounding",
        split: Literal["val", "val_1", "val_2"] = "val",
        prompt_style: Literal["official"] = "official",
    ) -> None:
        splits = ["val_1", "val_2"] if split == "val" else [split]
        self.folder = require(root, [f"{name}.json" for name in splits], source=self.source)
        self.task, self.prompt_style = task, prompt_style
        read = {name: read_captions(self.folder / f"{name}.json") for name in splits}
        self.annotations: dict[str, list[list[Moment]]] = {}
        for moments in read.values():
            for code, events in by_video(moments).items():
                self.annotations.setdefault(code, []).append(events)
        self.paths = {code: self._path(code, several[0][0].where) for code, several in self.annotations.items()}
        if task == "captions":
            self.items = [self._captions(code) for code in self.annotations]
        else:
            asked = [(name, moment) for name, moments in read.items() for moment in moments]
            ids = numbered([f"{name}/{moment.code}/{digest(moment.sentence)}" for name, moment in asked])
            self.items = [self._grounding(id, moment) for id, (_, moment) in zip(ids, asked, strict=True)]

    def files(self, outcomes: Sequence[Outcome]) -> Mapping[str, str]:
        """Return the submission file of dense captions."""
        return {} if self.task == "grounding" else {SUBMISSION: caption_submission(outcomes)}

    def _path(self, code: str, where: str) -> str:
        stem = below(code, where=where)
        stems = (stem, stem.removeprefix("v_"))
        return first_of(self.folder, [f"videos/{stem}{suffix}" for stem in stems for suffix in SUFFIXES])

    def _grounding(self, id: str, moment: Moment) -> Item:
        return Item(
            id=id,
            sample=Sample(conversation(when(moment.sentence)), self.paths[moment.code], id=id),
            rule="span",
            answer=write_spans([(moment.start, moment.end)]),
            groups={"length": length_of(moment)},
            question=moment.sentence,
        )

    def _captions(self, code: str) -> Item:
        first, *others = (events_of(events) for events in self.annotations[code])
        return Item(
            id=code,
            sample=Sample(conversation(DESCRIBE), self.paths[code], id=code),
            rule="events",
            answer=first,
            alternatives=tuple(others),
            question=DESCRIBE,
        )
