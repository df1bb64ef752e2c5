"""The shapes world as a benchmark: a test set of video files that tinyvid generates from a fixed seed.

The set is the same as that of ``recipes/make_world.py``; docs/shapes.md describes it. It is generated in
``benchmark.root`` if that folder does not exist, and reused if it was generated with the same options.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tinyvid import BENCHMARKS, DATASETS, Item, Outcome, PositiveInt, Rule, Sample, micro
from tinyvid.files import expanded
from tinyvid.worlds.shapes import SetOptions, describe_set, key_frames, write_set

from .world_sets import DEFAULT_ROOT, bar, draw, item_of, short_hash, span_recall

SIZES = ["64x64", "64x64", "96x96", "128x128", "96x72", "128x72"]
FPS, SECONDS = [8.0, 10.0, 12.0], [2.0, 3.0, 4.0, 6.0]
CRF, CODECS = [18, 23, 28], ["h264"]
RULES: dict[str, Rule] = {"grounding": "span", "dense_caption": "events"}


@BENCHMARKS.register("shapes")
class Shapes:
    """Ask about generated clips of moving shapes.

    Args:
        root: Folder of the set, generated if it does not exist; null for a folder in ``runs/worlds``.
        clips: Number of clips.
        questions: Questions per clip.
        seed: Random seed of the set.
        split: ``iid`` for new clips like those of the default model's training; ``unseen`` for clips that contain one
            of the pairs of color and shape that ``hold_out`` leaves out.
        hold_out: Leave these pairs out of ``iid``.
        families: Question families; null for all but those reserved for teaching a new skill.
        formats: Question formats: ``open``, ``choice``, ``yesno``, ``caption``; null for all.
        num_shapes: Shapes per clip; null for 1 to 4.
        cuts: Fraction of clips with a cut.
        pans: Fraction of clips with a camera pan.
        sizes: Sizes in pixels, as ``WIDTHxHEIGHT``; one is drawn per clip, as for the options that follow.
        fps: Frame rates.
        seconds: Durations.
        crf: Compression levels of ``h264`` and ``vp9``.
        codecs: ``h264``, ``mpeg4`` or ``vp9``.
        frames: Number of frames that the model samples, for questions about frame numbers.
        workers: Additional processes that generate clips; the set does not depend on their number.
        prompt_style: ``official`` asks the questions of the world.

    Raises:
        ConfigError: The options contradict each other, or ``root`` contains something else.
        DataError: The set cannot be written; run again to continue.
    """

    name = "shapes"
    source = "tinyvid itself: the set is generated if the folder does not exist"

    def __init__(  # noqa: PLR0913 - the options of a set
        self,
        *,
        root: str | None = None,
        clips: PositiveInt = 500,
        questions: PositiveInt = 8,
        seed: int = 1,
        split: Literal["iid", "unseen"] = "iid",
        hold_out: bool = False,
        families: list[str] | None = None,
        formats: list[str] | None = None,
        num_shapes: PositiveInt | None = None,
        cuts: float = 0.0,
        pans: float = 0.0,
        sizes: list[str] = SIZES,
        fps: list[float] = FPS,
        seconds: list[float] = SECONDS,
        crf: list[int] = CRF,
        codecs: list[str] = CODECS,
        frames: PositiveInt = 16,
        workers: int = 0,
        prompt_style: Literal["official"] = "official",
    ) -> None:
        options = SetOptions(
            seed=seed,
            split=split,
            hold_out=hold_out,
            questions=questions,
            families=families,
            formats=formats,
            num_shapes=num_shapes,
            cuts=cuts,
            pans=pans,
            sizes=sizes,
            fps=[float(rate) for rate in fps],
            seconds=[float(length) for length in seconds],
            frames=frames,
        )
        described = describe_set(options, clips=clips, crf=crf, codecs=codecs)
        self.set = short_hash(described)
        folder = Path(DEFAULT_ROOT, f"shapes-{split}-{self.set}") if root is None else expanded(root)
        write = partial(write_set, options, clips=clips, crf=crf, codecs=codecs, workers=workers, track=bar(clips))
        draw(write, folder, described, world="shapes")
        self.prompt_style = prompt_style
        self.rows = DATASETS.build({"name": "jsonl", "path": str(folder / "rows.jsonl")}, key="benchmark")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        """Return a row as an item; its id contains the hash of the set, so items of different sets differ."""
        sample: Sample = self.rows[index]
        meta = {**sample.meta, "key_frames": _evidence(sample.meta)}
        return item_of(replace(sample, id=f"{self.set}/{sample.id}", meta=meta), RULES)

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return averages in percent: ``Overall`` is the accuracy without captions, which must match exactly.

        Families with times count apart: ``mIoU`` and ``R@0.7`` of ``grounding``, and ``F1`` of ``dense_caption``. The
        group ``part`` of the report contains the averages with confidence intervals.
        """
        names = {"questions": "Overall", "captions": "Captions", "grounding": "mIoU", "dense_caption": "F1"}
        parts = {part: [outcome for outcome in outcomes if outcome.groups["part"] == part] for part in names}
        found = {names[part]: 100 * micro(members) for part, members in parts.items() if members}
        if spans := parts["grounding"]:
            found["R@0.7"] = span_recall(spans)
        return found


def _evidence(row: Mapping[str, Any]) -> list[float]:
    """Return the seconds of the frames that decide the answer of a row."""
    num_frames, duration = row["frames"][-1] + 1, row["duration"]
    times = [seconds / duration for seconds in row["seconds"]]
    return key_frames(times, num_frames=num_frames, fps=num_frames / duration, frames=row["frames"])
