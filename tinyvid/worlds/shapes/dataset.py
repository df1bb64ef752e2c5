"""The data set ``shapes``: clips rendered on the fly, without files."""

from __future__ import annotations

from typing import Literal

from tinyvid.registry import DATASETS, PositiveInt
from tinyvid.types import Sample, Video
from tinyvid.worlds.shapes.clips import ClipPlan, SetOptions, plan_clip
from tinyvid.worlds.shapes.records import question_sample
from tinyvid.worlds.shapes.rendering import render
from tinyvid.worlds.shapes.traces import TraceStyle

SIZES, FPS, SECONDS = ["64x64"], [8.0], [2.0, 3.0, 4.0, 6.0]
ROW_SIZE = 100  # approximate number of characters: the text of a row is only known once it is drawn


@DATASETS.register("shapes")
class ShapesDataset:
    """Render clips of moving shapes in memory and ask about them: uncompressed frames, one question per row.

    The set has ``clips`` clips; the other options are those of ``SetOptions``.

    Raises:
        ConfigError: An option is invalid, or the options contradict each other.
    """

    def __init__(  # noqa: PLR0913 - the options of a set
        self,
        *,
        clips: PositiveInt = 2000,
        questions: PositiveInt = 8,
        seed: int = 0,
        split: Literal["train", "iid", "unseen"] = "train",
        hold_out: bool = False,
        families: list[str] | None = None,
        formats: list[str] | None = None,
        min_events: int = 0,
        cuts: float = 0.0,
        pans: float = 0.0,
        sizes: list[str] = SIZES,
        fps: list[float] = FPS,
        seconds: list[float] = SECONDS,
        frames: PositiveInt = 16,
        traces: TraceStyle | None = None,
    ) -> None:
        self.clips = clips
        self.options = SetOptions(
            seed=seed,
            split=split,
            hold_out=hold_out,
            questions=questions,
            families=families,
            formats=formats,
            min_events=min_events,
            cuts=cuts,
            pans=pans,
            sizes=sizes,
            fps=fps,
            seconds=seconds,
            frames=frames,
            traces=traces,
        )

    def __len__(self) -> int:
        return self.clips * self.options.questions

    def plan(self, index: int) -> ClipPlan:
        """Return the clip of a row, which contains its scene."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return plan_clip(self.options, index // self.options.questions)

    def __getitem__(self, index: int) -> Sample:
        """Render the clip of a row, and return it with its question.

        Raises:
            DataError: No scene with these options allows enough questions.
        """
        clip = self.plan(index)
        frames = render(clip.scene, num_frames=clip.num_frames, width=clip.width, height=clip.height)
        number = index % self.options.questions
        options = self.options
        video = Video(frames, fps=clip.fps)
        return question_sample(clip, number, video, split=options.split, frames=options.frames)

    def where(self, index: int) -> str:
        """Return the location of a row, as ``shapes/train, seed 0:clip``."""
        return f"shapes/{self.options.split}, seed {self.options.seed}:{index // self.options.questions}"

    def size(self, index: int) -> int:
        """Return a constant, because the text of a row is only known once it is drawn."""
        return ROW_SIZE

    def digest(self) -> str:
        """Return nothing: the options determine the rows."""
        return ""
