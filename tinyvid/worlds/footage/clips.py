"""Clips of the footage world: a plan, the photos and videos that show it, and questions.

A clip is a function of the options, its number and the content of the folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinyvid.errors import DataError
from tinyvid.protocols import VideoReader
from tinyvid.worlds.footage import questions as asking
from tinyvid.worlds.footage.drawing import View, boxes, draw, pasted, patch_box
from tinyvid.worlds.footage.loading import Loader, Material
from tinyvid.worlds.footage.options import SPLITS, FootageOptions
from tinyvid.worlds.footage.plan import Plan, draw_plan
from tinyvid.worlds.footage.pool import MediaFile, MediaSource, Pool, scan
from tinyvid.worlds.footage.questions import FootageQuestion
from tinyvid.worlds.footage.visibility import SKETCH, fault_of_frames, fault_of_patch
from tinyvid.worlds.layout import draw_layout, frame_times, sampled_times

PLANS = 2000  # plans to draw until one has a question of the families
VIEWS = 120  # choices of pictures and views; another plan would make answers that are easily shown more frequent
VIDEOS = 0.35  # fraction of shots that show a video, if there are photos too
CHUNK = 64  # frames in memory at once


@dataclass(frozen=True, slots=True)
class FootageShot:
    """What a shot shows.

    Attributes:
        file: A photo or a video.
        start: Where the video is at the start of the clip, in seconds.
        seconds: How much of it plays during the clip.
        view: Where the camera is.
    """

    file: MediaFile
    start: float
    seconds: float
    view: View


@dataclass(frozen=True, slots=True, eq=False)
class FootageClip:
    """A clip before its file is written, as ``writing.PlannedClip`` describes it.

    Attributes:
        index: Number of the clip in its set.
        split: Split of the set.
        plan: What happens.
        shots: What is shown, one entry per shot.
        small: What the small picture shows, if there is one.
        width: Pixels.
        height: Pixels.
        fps: Frames per second.
        num_frames: Frames.
        questions: With their replies.
        lot: From 0 to 1, for what else is drawn for a clip, such as its compression.
        film: The pictures of each shot, with what the camera sees in each frame, and the small picture.
    """

    index: int
    split: str
    plan: Plan
    shots: tuple[FootageShot, ...]
    small: FootageShot | None
    width: int
    height: int
    fps: float
    num_frames: int
    questions: tuple[FootageQuestion, ...]
    lot: float
    film: Film

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_frames / self.fps

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """Family and format of each question."""
        return [(question.family, question.format) for question in self.questions]

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames in chunks, uint8 (N, H, W, 3)."""
        times = frame_times(self.num_frames)
        for first in range(0, self.num_frames, CHUNK):
            numbers = range(first, min(first + CHUNK, self.num_frames))
            yield draw(self.plan, self.film.shots, self.film.small, (self.width, self.height), times, numbers)

    def rows(self, video: str) -> list[dict[str, Any]]:
        """Return a row for ``data=jsonl`` per question; ``video`` is the path of the file in the set."""
        return [
            {
                "id": f"{self.split}-{self.index:06d}-{number}",
                "video": video,
                "conversations": [{"from": "human", "value": each.text}, {"from": "gpt", "value": each.reply}],
                "family": each.family,
                "format": each.format,
                "answer": each.answer,
                "duration": round(self.duration, 3),
                **each.facts(),
            }
            for number, each in enumerate(self.questions)
        ]

    def record(self, video: str, **encoding: Any) -> dict[str, Any]:
        """Return the line of ``scenes.jsonl``, the complete description of the clip."""
        return {
            "clip": self.index,
            "video": video,
            "width": self.width,
            "height": self.height,
            "fps": self.fps,
            "num_frames": self.num_frames,
            **encoding,
            "plan": asdict(self.plan),
            "shots": [_shot_record(shot) for shot in self.shots],
            "moves_by_itself": [material.moves for material, _ in self.film.shots],
            "small_picture": None if self.small is None else _shot_record(self.small),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Film:
    """Decoded pictures of a clip: those of each shot, with what the camera sees in each frame, and the small one."""

    shots: tuple[tuple[Material, np.ndarray], ...]
    small: Image.Image | None


class FootageWorld:
    """The clips of a set, for ``writing.write_set``.

    Args:
        options: Options of the set.
        reader: Decodes video files.

    Raises:
        ConfigError: The folder is missing, or has too few sources for the split.
        DataError: Files cannot be used.
    """

    name = "footage"

    def __init__(self, options: FootageOptions, reader: VideoReader) -> None:
        self.layout = options
        self.pool: Pool = scan(
            options.source,
            reader,
            split=options.split,
            held_out=options.held_out,
            group_folders=options.group_folders,
            skip=options.on_error == "skip",
            frame=options.frame,
        )
        self.loader = Loader(self.pool.folder, reader, options.frame)

    def facts(self) -> dict[str, Any]:
        """Return the sources, for the manifest."""
        return {"sources": self.pool.facts()}

    def plan(self, index: int) -> FootageClip:
        """Plan clip number ``index``.

        Raises:
            DataError: No plan has a question of the families, or none can be seen in any of the pictures.
            VideoError: A file cannot be read.
        """
        options = self.layout
        rng = np.random.default_rng([SPLITS.index(options.split), options.seed, index])
        width, height, fps, num_frames = draw_layout(options, rng)
        lot = float(rng.random())
        moments = sampled_times(num_frames, min(options.frames, num_frames))
        faults: dict[str, int] = {}
        plan, found, kept = self._plan(index, rng, moments)
        for _ in range(VIEWS):
            shots, small = self._shots(plan, rng, num_frames / fps)
            film, fault = self._film(plan, shots, small, (width, height), num_frames, moments)
            moves = film is not None and any(material.moves for material, _ in film.shots)
            families = [family for family in kept if not (moves and family in asking.ABOUT_CAMERA)]
            if not families:
                fault = fault or "a picture that moves as a whole"
            if fault or film is None:
                faults[fault] = faults.get(fault, 0) + 1
                continue
            asked = self._ask(plan, found, families, rng, num_frames / fps)
            size = (width, height, fps, num_frames)
            return FootageClip(index, options.split, plan, shots, small, *size, tuple(asked), lot, film)
        told = ", ".join(f"{fault} ({count} times)" for fault, count in faults.items())
        raise DataError(
            f"source={options.source!r}: clip {index}: none of {VIEWS} choices of photos and videos shows "
            f"what is asked: {told}; add photos and videos with more detail"
        )

    def _plan(
        self, index: int, rng: np.random.Generator, moments: np.ndarray
    ) -> tuple[Plan, dict[str, str], list[str]]:
        """Draw a plan, its answers and the families to ask, of which there is at least one."""
        families, formats = self.layout.asked_families, self.layout.asked_formats
        for _ in range(PLANS):
            plan = draw_plan(rng, moments)
            found = asking.answers(plan, moments)
            if asked := asking.kept(found, rng, families, formats):
                return plan, found, asked
        raise DataError(f"clip {index}: none of {PLANS} plans has a question of the families {', '.join(families)}")

    def _ask(
        self, plan: Plan, found: dict[str, str], families: Sequence[str], rng: np.random.Generator, duration: float
    ) -> list[FootageQuestion]:
        formats, num = self.layout.asked_formats, self.layout.questions
        return [
            question
            for family in families
            for question in asking.ask(plan, found, family, rng, formats=formats, num=num, duration=round(duration, 3))
        ]

    def _shots(
        self, plan: Plan, rng: np.random.Generator, duration: float
    ) -> tuple[tuple[FootageShot, ...], FootageShot | None]:
        """Choose different sources for the shots, and another one for the small picture if there are enough."""
        taken: list[MediaSource] = []
        shots: list[FootageShot] = []
        for number in range(plan.num_shots + (plan.patch is not None)):
            if number == 2 and plan.returns:
                shots.append(shots[0])
                continue
            source, file = self._choose(rng, taken)
            taken.append(source)
            seconds = min(duration, file.duration)
            start = float(rng.uniform(0, file.duration - seconds)) if file.is_video else 0.0
            view = View(float(rng.uniform(0.75, 1)), float(rng.random()), float(rng.random()))
            shots.append(FootageShot(file, round(start, 3), round(seconds, 3), view))
        return tuple(shots[: plan.num_shots]), shots[plan.num_shots] if plan.patch is not None else None

    def _choose(self, rng: np.random.Generator, taken: Sequence[MediaSource]) -> tuple[MediaSource, MediaFile]:
        """Choose a source that is not taken, if there is one, and one of its files."""
        video = bool(rng.random() < VIDEOS)
        free = [source for source in self.pool.sources if source not in taken] or list(self.pool.sources)
        wanted = [source for source in free if source.has(video=video)] or free
        source = wanted[int(rng.integers(len(wanted)))]
        files = [file for file in source.files if file.is_video == video] or source.files
        return source, files[int(rng.integers(len(files)))]

    def _film(
        self,
        plan: Plan,
        shots: Sequence[FootageShot],
        small: FootageShot | None,
        size: tuple[int, int],
        num_frames: int,
        moments: np.ndarray,
    ) -> tuple[Film | None, str]:
        """Read what the shots show; return it, and why it cannot be used."""
        times = frame_times(num_frames)
        done = plan.clock(times)
        which = np.searchsorted(plan.cuts, times, side="right")
        filmed: list[tuple[Material, np.ndarray]] = []
        for number, shot in enumerate(shots):
            if number == 2 and plan.returns:
                filmed.append(filmed[0])
                continue
            shown = np.flatnonzero((which == number) | (plan.returns & (which == number + 2)))
            first, last = int(shown[0]), int(shown[-1]) + 1
            material = self.loader.read(shot.file, shot.start, shot.seconds, done[first:last], first)
            if material.fault:
                return None, f"a video with {material.fault}"
            views = boxes(plan, shot.view, material.at(first).size, size, times)
            if views is None:
                return None, "a small picture file"
            filmed.append((material, views))
        picture = None if small is None else self.loader.still(small.file, small.start)
        film = Film(tuple(filmed), picture)
        return film, self._fault(plan, film, size, times, moments)

    def _fault(self, plan: Plan, film: Film, size: tuple[int, int], times: np.ndarray, moments: np.ndarray) -> str:
        """Return why something cannot be seen in the sampled frames, in small copies of them."""
        factor = SKETCH / min(size)
        little = (round(size[0] * factor), round(size[1] * factor))
        chosen = np.searchsorted(times, moments).tolist()
        bare = replace(plan, patch=None, fade="constant", light=1.0)
        sketch = draw(bare, film.shots, None, little, times, chosen)
        fault = fault_of_frames(sketch, [int(np.searchsorted(moments, cut)) for cut in plan.cuts])
        if fault or plan.patch is None or film.small is None:
            return fault
        places = [patch_box(plan, plan.patch, little, float(time)) for time in moments]
        shown = [(frame, place) for frame, place in zip(sketch, places, strict=True) if place is not None]
        covered = [place for _, place in shown]
        return fault_of_patch(np.stack([frame for frame, _ in shown]), pasted(film.small, covered[0][2]), covered)


def _shot_record(shot: FootageShot) -> dict[str, Any]:
    times = {"start": shot.start, "seconds": shot.seconds} if shot.file.is_video else {}
    return {"file": Path(shot.file.path).as_posix(), **times, "view": asdict(shot.view)}
