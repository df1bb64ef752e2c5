"""Numbers with bounds, as the types of options: the registry checks them before anything is built."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, slots=True)
class AtLeast:
    """Lower bound of a number in an option's type."""

    minimum: float


@dataclass(frozen=True, slots=True)
class AtMost:
    """Upper bound of a number in an option's type: what a stranger's configuration may make us build."""

    maximum: float


PositiveInt = Annotated[int, AtLeast(1), AtMost(1e6)]
PositiveFloat = Annotated[float, AtLeast(1e-9)]
NumLayers = Annotated[int, AtLeast(1), AtMost(100)]
