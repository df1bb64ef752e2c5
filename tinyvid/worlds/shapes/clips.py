"""Plan clips: scene, file format and questions are a function of the seed and the number of the clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tinyvid.errors import ConfigError, DataError, suggest
from tinyvid.registry import PositiveInt
from tinyvid.worlds.layout import MIN_FRAMES, check_layout, draw_layout, sampled_times
from tinyvid.worlds.shapes.palette import COLORS, HELD_OUT
from tinyvid.worlds.shapes.questions import DEFAULT_FAMILIES, FORMATS, SceneQuestion, ask
from tinyvid.worlds.shapes.sampling import sample_scene
from tinyvid.worlds.shapes.scene import Scene
from tinyvid.worlds.shapes.traces import TRACE_STYLES, TraceStyle, traced

SPLITS = ("train", "iid", "unseen")
SCENES = 40  # maximum number of scenes to draw until one allows enough questions


@dataclass(frozen=True, slots=True)
class SetOptions:
    """Options for the clips of a set. Each clip draws one value from each list; repeat a value to draw it more often.

    Attributes:
        seed: Random seed of the set.
        split: ``train``, ``iid`` (new clips of the same kind) or ``unseen`` (new clips with a held-out pair of color
            and shape).
        hold_out: Leave the four held-out pairs out of ``train`` and ``iid``, so ``unseen`` is new to a model.
        questions: Questions per clip.
        families: Question families; ``null`` for all but those reserved for teaching a new skill.
        formats: Question formats: ``open``, ``choice``, ``yesno``, ``caption``; ``null`` for all.
        num_shapes: Shapes per clip; ``null`` draws 1 to 4.
        min_events: Minimum number of shapes per clip that appear, disappear or change color.
        colors: Colors to draw from; ``null`` for the seven default colors.
        require_motion: A motion that one shape of each clip must have; ``null`` for none.
        bounces: Minimum and maximum number of bounces of a bouncing shape.
        cuts: Fraction of clips with a cut to another background and view.
        pans: Fraction of clips with a camera pan.
        sizes: Sizes in pixels, as ``WIDTHxHEIGHT``, even numbers.
        fps: Frame rates.
        seconds: Durations.
        frames: Number of frames that a model samples, for questions about frame numbers and for traces.
        traces: Put what decides the answer before each reply that times decide: ``text``, ``cited`` with references to
            frames, or ``shuffled`` with references to random frames; ``null`` for replies without a trace.
    """

    seed: int = 0
    split: Literal["train", "iid", "unseen"] = "train"
    hold_out: bool = False
    questions: PositiveInt = 8
    families: list[str] | None = None
    formats: list[str] | None = None
    num_shapes: PositiveInt | None = None
    min_events: int = 0
    colors: list[str] | None = None
    require_motion: str | None = None
    bounces: list[int] = (2, 4)  # type: ignore[assignment]
    cuts: float = 0.0
    pans: float = 0.0
    sizes: list[str] = ("64x64", "64x64", "96x96", "128x128", "96x72", "128x72")  # type: ignore[assignment]
    fps: list[float] = (8.0, 10.0, 12.0)  # type: ignore[assignment]
    seconds: list[float] = (2.0, 3.0, 4.0, 6.0)  # type: ignore[assignment]
    frames: PositiveInt = 16
    traces: TraceStyle | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ConfigError: An option is invalid, or the options contradict each other.
        """
        if self.split not in SPLITS:
            raise ConfigError(f"split={self.split!r} is unknown. {suggest(str(self.split), SPLITS)}")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must be at least 0")
        if len(self.bounces) != 2:
            raise ConfigError(f"bounces={list(self.bounces)} must be two numbers, a minimum and a maximum")
        if self.split == "unseen" and self.colors and not {color for color, _ in HELD_OUT} & set(self.colors):
            raise ConfigError(
                f"split=unseen needs red, blue, yellow or cyan, but colors={list(self.colors)}; add one of them"
            )
        if self.traces not in (None, *TRACE_STYLES):
            raise ConfigError(f"traces={self.traces!r} is unknown. {suggest(str(self.traces), TRACE_STYLES)}")
        self._check_files()
        self.draw_scene(np.random.default_rng(self.seed))  # fail now if no scene is possible
        self.ask(Scene(shapes=(), shots=()), np.random.default_rng(0), num=0, num_frames=MIN_FRAMES, fps=1.0)

    def _check_files(self) -> None:
        for name in ("cuts", "pans"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be a fraction of the clips, from 0 to 1")
        check_layout(self)

    def ask(
        self, scene: Scene, rng: np.random.Generator, *, num: int, num_frames: int, fps: float
    ) -> list[SceneQuestion]:
        """Generate questions about a scene with ``num_frames`` frames at ``fps`` frames per second."""
        return ask(
            scene,
            rng,
            num=num,
            families=DEFAULT_FAMILIES if self.families is None else self.families,
            formats=FORMATS if self.formats is None else self.formats,
            moments=sampled_times(num_frames, self.frames),
            duration=round(num_frames / fps, 2),
        )

    def add_traces(
        self, questions: Sequence[SceneQuestion], scene: Scene, index: int, *, num_frames: int, fps: float
    ) -> list[SceneQuestion]:
        """Return questions about clip number ``index`` with the traces of these options in their replies."""
        if self.traces is None:
            return list(questions)
        rng = np.random.default_rng([SPLITS.index(self.split), self.seed, index, 1])  # leaves the questions unchanged
        moments = sampled_times(num_frames, self.frames)
        seconds = [frame / fps for frame in np.linspace(0, num_frames - 1, self.frames, dtype=int).tolist()]
        return [traced(each, scene, rng, style=self.traces, moments=moments, seconds=seconds) for each in questions]

    def draw_scene(self, rng: np.random.Generator) -> Scene:
        """Draw a scene with these options; raises the errors of ``sample_scene``."""
        unseen = self.split == "unseen"
        return sample_scene(
            rng,
            num_shapes=self.num_shapes,
            min_events=self.min_events,
            exclude=HELD_OUT if self.hold_out and not unseen else (),
            require=HELD_OUT if unseen else (),
            colors=self.colors or COLORS,
            require_motion=self.require_motion,
            bounces=(self.bounces[0], self.bounces[1]),
            cut=bool(rng.random() < self.cuts),
            pan=bool(rng.random() < self.pans),
        )


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """A clip before it is rendered.

    Attributes:
        index: Number of the clip in its set.
        scene: What it shows.
        width: Pixels.
        height: Pixels.
        fps: Frames per second.
        num_frames: Frames.
        questions: With their replies.
        lot: From 0 to 1, for what else is drawn for a clip, such as its compression.
    """

    index: int
    scene: Scene
    width: int
    height: int
    fps: float
    num_frames: int
    questions: tuple[SceneQuestion, ...]
    lot: float

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_frames / self.fps


def plan_clip(options: SetOptions, index: int) -> ClipPlan:
    """Plan clip number ``index``; it depends only on the options and the number.

    Raises:
        DataError: No scene with these options allows enough questions.
    """
    rng = np.random.default_rng([SPLITS.index(options.split), options.seed, index])
    width, height, fps, num_frames = draw_layout(options, rng)
    lot = float(rng.random())
    most = 0
    for _ in range(SCENES):
        scene = options.draw_scene(rng)
        questions = options.ask(scene, rng, num=options.questions, num_frames=num_frames, fps=fps)
        if len(questions) == options.questions:
            questions = options.add_traces(questions, scene, index, num_frames=num_frames, fps=fps)
            return ClipPlan(index, scene, width, height, fps, num_frames, tuple(questions), lot)
        most = max(most, len(questions))
    families = ", ".join(DEFAULT_FAMILIES if options.families is None else options.families)
    raise DataError(
        f"clip {index}: none of {SCENES} scenes allows questions={options.questions} of the families {families}, at "
        f"most {most}; lower questions, or allow more families and formats"
    )
