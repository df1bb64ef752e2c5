"""The shapes world as files: clips as video files, and sets of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyvid.worlds import writing
from tinyvid.worlds.encoding import encode_frames
from tinyvid.worlds.layout import frame_times
from tinyvid.worlds.shapes.clips import ClipPlan, SetOptions, plan_clip
from tinyvid.worlds.shapes.records import question_row, scene_record
from tinyvid.worlds.shapes.rendering import render_at

CHUNK = 64  # frames in memory at once


def write_set(
    options: SetOptions,
    out: Path,
    *,
    clips: int,
    crf: list[int],
    codecs: list[str],
    **how: Any,
) -> dict[str, Any]:
    """Write a set of clips; the other arguments, the result and the errors are those of ``writing.write_set``."""
    described = describe_set(options, clips=clips, crf=crf, codecs=codecs)
    return writing.write_set(ShapesWorld(options), out, described=described, clips=clips, crf=crf, codecs=codecs, **how)


def describe_set(options: SetOptions, *, clips: int, crf: list[int], codecs: list[str]) -> dict[str, Any]:
    """Return the options that determine a set, as in its manifest; the arguments are those of ``write_set``."""
    made_of = {"clips": clips, **asdict(options), "crf": list(crf), "codecs": list(codecs)}
    if options.traces is None:
        del made_of["traces"]  # sets without traces, which are older than the option, keep their description
    return writing.described(made_of)


def encode(clip: ClipPlan, *, codec: str = "h264", crf: int = 23) -> bytes:
    """Return the bytes of a video file that shows a clip; ``codec`` and ``crf`` are those of ``encode_frames``."""
    return encode_frames(_frames(clip), width=clip.width, height=clip.height, fps=clip.fps, codec=codec, crf=crf)


@dataclass(frozen=True, slots=True)
class ShapesWorld:
    """The clips of a set, for ``writing.write_set``."""

    layout: SetOptions
    name = "shapes"

    def plan(self, index: int) -> ShapesClip:
        """Plan a clip; raises the errors of ``plan_clip``."""
        return ShapesClip(self.layout, plan_clip(self.layout, index))

    def facts(self) -> Mapping[str, Any]:
        """Return nothing: the options say everything."""
        return {}


class ShapesClip:
    """A clip of the set, as ``writing.PlannedClip`` describes it."""

    def __init__(self, options: SetOptions, clip: ClipPlan) -> None:
        self.options, self.clip = options, clip
        self.width, self.height, self.fps, self.lot = clip.width, clip.height, clip.fps, clip.lot

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """Family and format of each question."""
        return [(question.family, question.format) for question in self.clip.questions]

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames in chunks."""
        return _frames(self.clip)

    def rows(self, video: str) -> list[dict[str, Any]]:
        """Return a row per question."""
        split, frames = self.options.split, self.options.frames
        numbers = range(len(self.clip.questions))
        return [question_row(self.clip, number, video, split=split, frames=frames) for number in numbers]

    def record(self, video: str, **encoding: Any) -> dict[str, Any]:
        """Return the line of ``scenes.jsonl``."""
        return scene_record(self.clip, video, **encoding)


def _frames(clip: ClipPlan) -> Iterator[np.ndarray]:
    times = frame_times(clip.num_frames)
    for first in range(0, clip.num_frames, CHUNK):
        yield render_at(clip.scene, times[first : first + CHUNK], width=clip.width, height=clip.height)
