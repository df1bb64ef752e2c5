"""QVHighlights: all moments of a video of two minutes that a query describes, and its highlights (arXiv:2107.09609)."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

from tinyvid import BENCHMARKS, DataError, Item, Outcome, Sample, require
from tinyvid.data.media import is_number
from tinyvid.data.timed_questions import when
from tinyvid.data.timed_sentences import checked_window
from tinyvid.evaluation.scoring.spans import (
    CLIP,
    Span,
    average_precision,
    clip_scores,
    hit_at_1,
    read_spans,
    saliency_average_precision,
    write_spans,
)

from .prompts import conversation
from .rows import Row, first_of, read_rows
from .timed import SUFFIXES, TimedItems

FILES = {
    "train": "highlight_train_release.jsonl",
    "val": "highlight_val_release.jsonl",
    "test": "highlight_test_release.jsonl",
    "test_with_gt": "highlight_test_with_gt.jsonl",
}
ANNOTATORS = 3  # saliency scores of a clip
LENGTHS = {"short": (0, 10), "middle": (10, 30), "long": (30, 150)}  # of windows in seconds: above the first
NOTHING = [[0.0, 0.0, 0.0]]  # window of a query without one, because the official scorer needs a first window


@BENCHMARKS.register("qvhighlights")
class QVHighlights(TimedItems):
    """Ask for the moments that each query of QVHighlights describes.

    Args:
        root: Folder with ``highlight_<split>_release.jsonl`` and ``videos/``.
        split: Split to ask. ``test`` has no answers: a submission is written instead of scores. ``test_with_gt`` is the
            same with the answers that were published later.
        prompt_style: ``official`` asks in the words of the training rows by ``recipes/convert.py``, because the data
            set has no prompt.

    Raises:
        DataError: The annotation is missing, or a row is malformed, or its windows overlap or leave the video.
    """

    name = "qvhighlights"
    source = "https://github.com/jayleicn/moment_detr (data/, and the link to the videos)"

    def __init__(
        self,
        *,
        root: str,
        split: Literal["train", "val", "test", "test_with_gt"] = "val",
        prompt_style: Literal["official"] = "official",
    ) -> None:
        self.folder = require(root, [FILES[split]], source=self.source)
        self.split, self.prompt_style = split, prompt_style
        self.rows: dict[str, Row] = {}
        for row in read_rows(self.folder / FILES[split]):
            if self.rows.setdefault(row.text("qid"), row) is not row:
                raise DataError(
                    f"{row.where}: the qid {row.text('qid')} is also that of {self.rows[row.text('qid')].where}"
                )
        self.windows = {} if split == "test" else {qid: _windows(row) for qid, row in self.rows.items()}
        self.saliency = {} if split == "test" else {qid: _saliency(row) for qid, row in self.rows.items()}
        self.items = [self._item(qid, row) for qid, row in self.rows.items()]

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return the official averages in percent; empty for the test.

        ``R1``: the first predicted window. ``mAP``: all windows, ranked by order; also for short (up to 10 s), middle
        and long (over 30 s) ones. ``HIT@1`` and ``HL-mAP``: the clips of two seconds that an annotator finds very good,
        where a clip in the k-th predicted window scores 1/k. A query without a predicted window scores 0; the official
        scorer ranks its clips in order.
        """
        found = dict(super().summary(outcomes))
        if found:
            found |= self._by_length(outcomes)
            ranked = [(self._clips(outcome), self.saliency[outcome.id]) for outcome in outcomes if outcome.prediction]
            found["HIT@1"] = 100 * sum(hit_at_1(*pair) for pair in ranked) / len(outcomes)
            found["HL-mAP"] = 100 * sum(saliency_average_precision(*pair) for pair in ranked) / len(outcomes)
        return found

    def files(self, outcomes: Sequence[Outcome]) -> Mapping[str, str]:
        """Return the official submission file; the k-th window of a reply scores 1/k."""
        lines = []
        for outcome in outcomes:
            row = self.rows[outcome.id]
            windows = [[start, end, 1 / rank] for rank, (start, end) in enumerate(_predicted(outcome), 1)]
            entry = {
                "qid": row.values["qid"],
                "query": row.text("query"),
                "vid": row.text("vid"),
                "pred_relevant_windows": windows or NOTHING,
                "pred_saliency_scores": self._clips(outcome),
            }
            lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
        return {f"hl_{self.split.partition('_')[0]}_submission.jsonl": "".join(lines)}

    def _by_length(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Return the mAP for each range of lengths, over the queries that have such windows; others do not count."""
        found: dict[str, float] = {}
        for name, (least, most) in LENGTHS.items():
            gold = {o.id: [span for span in self.windows[o.id] if least < span[1] - span[0] <= most] for o in outcomes}
            scores = [average_precision(_predicted(o), gold[o.id]) for o in outcomes if gold[o.id]]
            found |= {f"mAP {name}": 100 * sum(scores) / len(scores)} if scores else {}
        return found

    def _clips(self, outcome: Outcome) -> list[float]:
        return clip_scores(_predicted(outcome), int(self.rows[outcome.id].number("duration") / CLIP))

    def _item(self, qid: str, row: Row) -> Item:
        query, video = row.text("query"), row.path("vid")
        row.number("duration")
        windows = self.windows.get(qid)
        return Item(
            id=qid,
            sample=Sample(
                conversation(when(query, several=True)),
                first_of(self.folder, [f"videos/{video}{suffix}" for suffix in SUFFIXES]),
                id=qid,
            ),
            rule="spans",
            answer=None if windows is None else write_spans(windows),
            question=query,
        )


def _predicted(outcome: Outcome) -> list[Span]:
    return read_spans(outcome.prediction or "")


def _windows(row: Row) -> list[Span]:
    """Return the windows of a row, in the order of the file."""
    windows = row.values.get("relevant_windows")
    if not isinstance(windows, list) or not windows:
        raise DataError(f"{row.where}: 'relevant_windows' must be a list of windows, got {windows!r:.80}")
    duration = row.number("duration")
    found = [checked_window(window, duration, where=row.where) for window in windows]
    for (_, end), (start, _) in pairwise(sorted(found)):
        if start < end:
            raise DataError(f"{row.where}: the windows {windows} overlap; join or separate them")
    return found


def _saliency(row: Row) -> list[list[float]]:
    """Return what each annotator gave each clip of two seconds; clips outside the windows have zeros."""
    clips, scores = row.values.get("relevant_clip_ids"), row.values.get("saliency_scores")
    num_clips = int(row.number("duration") / CLIP)
    if not isinstance(clips, list) or not isinstance(scores, list) or len(clips) != len(scores) or not clips:
        raise DataError(f"{row.where}: 'relevant_clip_ids' and 'saliency_scores' must be lists of equal length")
    for clip, given in zip(clips, scores, strict=True):
        if type(clip) is not int or not 0 <= clip < num_clips:
            raise DataError(f"{row.where}: clip {clip!r} is not one of the {num_clips} clips of the video")
        if not isinstance(given, list) or len(given) != ANNOTATORS or not all(map(is_number, given)):
            raise DataError(f"{row.where}: clip {clip} must have {ANNOTATORS} saliency scores, got {given!r:.80}")
    known = dict(zip(clips, scores, strict=True))
    return [known.get(clip, [0.0] * ANNOTATORS) for clip in range(num_clips)]
