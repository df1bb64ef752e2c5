"""Options of the footage world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tinyvid.errors import ConfigError, suggest
from tinyvid.registry import PositiveInt
from tinyvid.worlds.footage.plan import LEAST_SAMPLED
from tinyvid.worlds.footage.questions import DEFAULT_FAMILIES, FORMATS, check_families
from tinyvid.worlds.layout import check_layout, parse_size

SPLITS = ("train", "iid", "all")


@dataclass(frozen=True, slots=True)
class FootageOptions:
    """Options for the clips of a set. Each clip draws one value from each list; repeat a value to draw it more often.

    Attributes:
        source: Folder of photos and videos; it is only read.
        seed: Random seed of the set.
        split: ``train`` and ``iid`` have different sources; ``all`` has both, to test a model not trained on them.
        held_out: Fraction of the sources that ``iid`` has.
        group_folders: Treat all files of a subfolder as one source, for series of similar pictures.
        on_error: ``raise`` if files cannot be used, or ``skip`` them and list them in the manifest.
        questions: Questions about each family that a clip has, in different formats.
        families: Question families; ``null`` for all but those with times.
        formats: Question formats: ``open``, ``choice``, ``yesno``; ``null`` for all.
        sizes: Sizes in pixels, as ``WIDTHxHEIGHT``, even numbers.
        fps: Frame rates.
        seconds: Durations.
        frames: Number of frames that a model samples at least; every event is seen in them.
    """

    source: str = ""
    seed: int = 0
    split: Literal["train", "iid", "all"] = "train"
    held_out: float = 0.25
    group_folders: bool = False
    on_error: Literal["raise", "skip"] = "raise"
    questions: PositiveInt = 1
    families: list[str] | None = None
    formats: list[str] | None = None
    sizes: list[str] = ("224x224",)  # type: ignore[assignment]
    fps: list[float] = (8.0, 10.0, 12.0)  # type: ignore[assignment]
    seconds: list[float] = (2.0, 3.0, 4.0)  # type: ignore[assignment]
    frames: PositiveInt = 8

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ConfigError: An option is invalid.
        """
        if self.split not in SPLITS:
            raise ConfigError(f"split={self.split!r} is unknown. {suggest(str(self.split), SPLITS)}")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must be at least 0")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out={self.held_out:g} must be a fraction of the sources, between 0 and 1")
        if self.frames < LEAST_SAMPLED:
            raise ConfigError(f"frames={self.frames} must be at least {LEAST_SAMPLED}; fewer cannot show three shots")
        check_layout(self)
        check_families(self.asked_families, self.asked_formats)

    @property
    def asked_families(self) -> Sequence[str]:
        """The families, with the default filled in."""
        return DEFAULT_FAMILIES if self.families is None else self.families

    @property
    def asked_formats(self) -> Sequence[str]:
        """The formats, with the default filled in."""
        return FORMATS if self.formats is None else self.formats

    @property
    def frame(self) -> tuple[int, int]:
        """Width and height that no clip exceeds, in pixels."""
        widths, heights = zip(*map(parse_size, self.sizes), strict=True)
        return max(widths), max(heights)
