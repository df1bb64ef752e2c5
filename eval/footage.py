"""The footage world as a benchmark: questions about controlled changes of your own photos and videos.

The set is the same as that of ``recipes/make_world.py world=footage``; docs/footage.md describes it. It is generated in
``benchmark.root`` if that folder does not exist, and reused if it was generated with the same options.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tinyvid import BENCHMARKS, DATASETS, VIDEO_READERS, ConfigError, Item, Outcome, PositiveInt, Rule, macro, micro
from tinyvid.files import expanded
from tinyvid.worlds.footage import TIMED_FAMILIES, FootageOptions, describe_set, write_set

from .world_sets import DEFAULT_ROOT, bar, draw, item_of, short_hash, span_recall

SIZES, FPS, SECONDS = ["224x224"], [8.0, 10.0, 12.0], [2.0, 3.0, 4.0]
CRF, CODECS = [18, 23, 28], ["h264"]
RULES: dict[str, Rule] = dict.fromkeys(TIMED_FAMILIES, "span")


@BENCHMARKS.register("footage")
class Footage:
    """Ask about clips made of a folder of photos and videos.

    Args:
        source: Folder of photos and videos; it is only read. Not needed if ``root`` contains the set.
        root: Folder of the set, generated if it does not exist; null for a folder in ``runs/worlds``.
        clips: Number of clips.
        questions: Questions about each family that a clip has, in different formats.
        seed: Random seed of the set.
        split: ``iid`` for sources that ``train`` does not have; ``all`` for a model that was trained on none of them.
        held_out: Fraction of the sources that ``iid`` has.
        group_folders: Treat all files of a subfolder as one source.
        on_error: ``raise`` if files cannot be used, or ``skip`` them.
        families: Question families; null for all but those with times.
        formats: Question formats: ``open``, ``choice``, ``yesno``; null for all.
        sizes: Sizes in pixels, as ``WIDTHxHEIGHT``; one is drawn per clip, as for the options that follow.
        fps: Frame rates.
        seconds: Durations.
        crf: Compression levels of ``h264`` and ``vp9``.
        codecs: ``h264``, ``mpeg4`` or ``vp9``.
        frames: Number of frames that a model samples at least; every event is seen in them.
        workers: Additional processes that generate clips; the set does not depend on their number.
        prompt_style: ``official`` asks the questions of the world.

    Raises:
        ConfigError: The options contradict each other, the source has too few photos and videos, or ``root`` contains
            something else.
        DataError: Files of the source cannot be used, or the set cannot be written; run again to continue.
    """

    name = "footage"
    source = "your own photos and videos: the set is generated from benchmark.source if it does not exist"

    def __init__(  # noqa: PLR0913 - the options of a set
        self,
        *,
        source: str | None = None,
        root: str | None = None,
        clips: PositiveInt = 200,
        questions: PositiveInt = 1,
        seed: int = 1,
        split: Literal["iid", "all"] = "iid",
        held_out: float = 0.25,
        group_folders: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        families: list[str] | None = None,
        formats: list[str] | None = None,
        sizes: list[str] = SIZES,
        fps: list[float] = FPS,
        seconds: list[float] = SECONDS,
        crf: list[int] = CRF,
        codecs: list[str] = CODECS,
        frames: PositiveInt = 8,
        workers: int = 0,
        prompt_style: Literal["official"] = "official",
    ) -> None:
        options = FootageOptions(
            source=source or "",
            seed=seed,
            split=split,
            held_out=held_out,
            group_folders=group_folders,
            on_error=on_error,
            questions=questions,
            families=families,
            formats=formats,
            sizes=sizes,
            fps=[float(rate) for rate in fps],
            seconds=[float(length) for length in seconds],
            frames=frames,
        )
        described = describe_set(options, clips=clips, crf=crf, codecs=codecs)
        folder = Path(DEFAULT_ROOT, f"footage-{split}-{short_hash(described)}") if root is None else expanded(root)
        if source is None and (root is None or not folder.exists()):
            raise ConfigError(
                "benchmark.source is missing; give a folder of photos and videos, as in benchmark.source=~/Pictures"
            )
        reader = VIDEO_READERS.build({"name": "auto"})
        files: dict[str, Any] = {"clips": clips, "crf": crf, "codecs": codecs, "workers": workers}
        write = partial(write_set, options, reader=reader, **files, track=bar(clips))
        ignored = ("sources",) if source else ("sources", "source", "on_error")
        self.set = short_hash(draw(write, folder, described, world="footage", ignored=ignored))
        self.prompt_style = prompt_style
        self.rows = DATASETS.build({"name": "jsonl", "path": str(folder / "rows.jsonl")}, key="benchmark")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        """Return a row as an item; its id contains the hash of the set, so items of different sets differ."""
        sample = self.rows[index]
        return item_of(replace(sample, id=f"{self.set}/{sample.id}"), RULES)

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return averages in percent: over all questions, and over families; ``mIoU`` and ``R@0.7`` of times."""
        questions = [outcome for outcome in outcomes if outcome.groups["part"] == "questions"]
        found: dict[str, float] = {}
        if questions:
            found = {"Overall": 100 * micro(questions), "mean over family": 100 * macro(questions, "family")}
        if spans := [outcome for outcome in outcomes if outcome.groups["part"] != "questions"]:
            found["mIoU"] = 100 * micro(spans)
            found["R@0.7"] = span_recall(spans)
        return found
