"""How an LLM reads more positions than it was trained with: only when asked for, and written down with the model.

Scaled rotary positions change what the LLM computes at every length. Applied because a limit is large, they cost a
short clip much before training makes up for it; so ``llm.max_length`` alone never scales anything.
"""

from dataclasses import dataclass
from typing import Any, Literal

from tinyvid.errors import ConfigError

Scaling = Literal["none", "linear", "yarn"]
STATED = ("linear", "yarn", "dynamic")  # kinds that a configuration gets after the fact; others are how an LLM is made


@dataclass(frozen=True, slots=True)
class Rope:
    """What is done to the rotary positions of an LLM.

    Attributes:
        scaling: ``none`` leaves the LLM as it was made; ``linear`` divides positions by ``factor`` (Chen et al.,
            arXiv:2306.15595); ``yarn`` scales by wavelength (Peng et al., arXiv:2309.00071).
        factor: By how much the positions grow; 1 with ``none``.
    """

    scaling: Scaling = "none"
    factor: float = 1.0

    def __str__(self) -> str:
        return f"llm.rope_scaling={self.scaling} llm.rope_factor={self.factor:g}"


def scale_positions(config: Any, rope: Rope) -> None:
    """Set the rotary scaling in the configuration of an LLM, before it is built.

    Raises:
        ConfigError: ``rope`` contradicts itself, or the configuration states another scaling.
    """
    if (rope.scaling == "none") != (rope.factor == 1):
        raise ConfigError(f"{rope} do not go together: a factor of 1 is no scaling")
    stated = _stated(config)
    if rope.scaling != "none" and "rope_type" not in stated:
        raise ConfigError(f"{rope}: the positions of a '{config.model_type}' cannot be scaled")
    kind, factor = stated.get("rope_type", "default"), float(stated.get("factor") or 1)
    if kind in STATED and (kind, factor) != (rope.scaling, float(rope.factor)):
        raise ConfigError(
            f"the configuration of this LLM states positions scaled by {kind} x {factor:g}, and {rope} differs; "
            "state the same, or use an LLM whose positions are not scaled"
        )
    if kind not in ("default", *STATED) and rope.scaling != "none":
        raise ConfigError(f"{rope}: this LLM scales its positions already, by '{kind}'; use none")
    if rope.scaling != "none":
        config.rope_parameters = {**stated, "rope_type": rope.scaling, "factor": float(rope.factor)}


def check_positions(config: Any, max_length: int) -> None:
    """Raise ``ConfigError`` when sequences of ``max_length`` tokens exceed the positions of an LLM, scaled as it is."""
    positions = getattr(config, "max_position_embeddings", None)
    stated = _stated(config)
    factor = float(stated.get("factor") or 1) if stated.get("rope_type") in STATED else 1.0
    if positions is not None and max_length > positions * factor:
        scaled = f" times llm.rope_factor={factor:g}" if factor > 1 else ""
        raise ConfigError(
            f"llm.max_length={max_length} exceeds the {positions} positions of this LLM{scaled}; lower it, or scale "
            f"them with llm.rope_scaling=yarn llm.rope_factor={-(-max_length // positions)}, which needs training"
        )


def _stated(config: Any) -> dict[str, Any]:
    """Return how a configuration of transformers scales rotary positions; empty where the model has none."""
    return getattr(config, "rope_parameters", None) or {}
