"""Scale the rotary positions of an LLM to read longer sequences than it was trained on.

Scaling changes what the LLM computes at every length, and costs accuracy on short clips until the model is trained
with it. It is therefore always explicit: ``llm.max_length`` alone never scales anything.
"""

from dataclasses import dataclass
from typing import Any, Literal

from tinyvid.errors import ConfigError

Scaling = Literal["none", "linear", "yarn"]
STATED = ("linear", "yarn", "dynamic")  # kinds that are added after training; other kinds are part of the LLM's design


@dataclass(frozen=True, slots=True)
class Rope:
    """How to scale the rotary positions of an LLM.

    Attributes:
        scaling: ``none`` leaves the LLM unchanged; ``linear`` divides positions by ``factor`` (Chen et al.,
            arXiv:2306.15595); ``yarn`` scales by wavelength (Peng et al., arXiv:2309.00071).
        factor: Factor by which the positions are extended; 1 with ``none``.
    """

    scaling: Scaling = "none"
    factor: float = 1.0

    def __str__(self) -> str:
        return f"llm.rope_scaling={self.scaling} llm.rope_factor={self.factor:g}"


def scale_positions(config: Any, rope: Rope) -> None:
    """Set the rotary scaling in the configuration of an LLM, before the LLM is built.

    Raises:
        ConfigError: ``rope`` contradicts itself, or the configuration already has another scaling.
    """
    if (rope.scaling == "none") != (rope.factor == 1):
        raise ConfigError(
            f"{rope} contradict each other: use rope_scaling=none with rope_factor=1, and a larger factor otherwise"
        )
    stated = _stated(config)
    if rope.scaling != "none" and "rope_type" not in stated:
        raise ConfigError(
            f"{rope}: the positions of a '{config.model_type}' model cannot be scaled; use llm.rope_scaling=none"
        )
    kind, factor = stated.get("rope_type", "default"), float(stated.get("factor") or 1)
    if kind in STATED and (kind, factor) != (rope.scaling, float(rope.factor)):
        raise ConfigError(
            f"the configuration of this LLM scales positions by {kind} x {factor:g}, which differs from {rope}; "
            "use the same values, or an LLM whose positions are not scaled"
        )
    if kind not in ("default", *STATED) and rope.scaling != "none":
        raise ConfigError(f"{rope}: this LLM already scales its positions by '{kind}'; use llm.rope_scaling=none")
    if rope.scaling != "none":
        config.rope_parameters = {**stated, "rope_type": rope.scaling, "factor": float(rope.factor)}


def check_positions(config: Any, max_length: int) -> None:
    """Raise ``ConfigError`` if sequences of ``max_length`` tokens exceed the positions of an LLM after scaling."""
    positions = getattr(config, "max_position_embeddings", None)
    stated = _stated(config)
    factor = float(stated.get("factor") or 1) if stated.get("rope_type") in STATED else 1.0
    if positions is not None and max_length > positions * factor:
        scaled = f" times llm.rope_factor={factor:g}" if factor > 1 else ""
        raise ConfigError(
            f"llm.max_length={max_length} exceeds the {positions} positions of this LLM{scaled}; lower it, or scale "
            f"the positions with llm.rope_scaling=yarn llm.rope_factor={-(-max_length // positions)}, which requires "
            "training"
        )


def _stated(config: Any) -> dict[str, Any]:
    """Return the rotary scaling in a configuration of transformers; empty if the model has no rotary positions."""
    return getattr(config, "rope_parameters", None) or {}
