"""Model sizes and training lengths of the recipe."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tinyvid.worlds.shapes import DEFAULT_FAMILIES, FAMILIES, FORMATS
from tinyvid.worlds.shapes.traces import TraceStyle

NUM_FRAMES = 16
MAX_SHAPES = 4  # also the number of video tokens per frame, one for each shape


# Families with a higher weight than in the world, because they are hard or their scenes are rare.
MORE = {
    "order_between": 3.0,
    "when": 4.5,
    "which_frame": 2.5,
    "pass": 2.0,
    "collision": 3.0,
    "position": 4.0,
    "count": 3.0,
    "change": 1.5,
    "caption": 1.5,
    "event_list": 0.7,
    "order_within": 2.5,
    "motion": 2.0,
    "grounding": 6.0,
}
TIMED = ("grounding", "dense_caption")  # families with times in their replies
WEIGHTS = {name: MORE.get(name, FAMILIES[name].weight) for name in DEFAULT_FAMILIES}


def with_extra(families: Mapping[str, float], extra: Iterable[str]) -> dict[str, float]:
    """Return the weights of families with those of extra ones."""
    return {**families, **{name: MORE.get(name, FAMILIES[name].weight) for name in extra}}


@dataclass(frozen=True, slots=True)
class Size:
    """A size of the recipe.

    Attributes:
        clips: Number of training clips; each epoch asks new questions about them.
        held_out: Number of clips for the accuracy during training.
        test: Number of clips for the reported accuracy.
        vision: ``SiglipVisionConfig`` of the vision tower.
        llm: ``Qwen2Config`` of the LLM.
        connector: Options of the ``group`` connector.
        vision_steps: Steps of the vision warm-up.
        connector_steps: Steps of the connector warm-up.
        mixer_steps: Steps that train only the mixer.
        answer_steps: Steps of training on questions.
        open_steps: Number of first answer steps with only open questions and captions. Their replies describe what was
            seen and teach the model to find the shape in question; letters and "yes" or "no" hardly do.
        batch_size: Clips per step.
        questions: Questions per clip.
        families: Question families with their weights.
        formats: Question formats.
        lr: Learning rate of training on questions.
        check_every: Steps between measurements of accuracy.
        hold_out: Exclude the held-out pairs of color and shape from clips and questions, to test on them later.
        traces: Trace before replies that times decide, as in ``data=shapes``; ``None`` for none.
    """

    clips: int
    held_out: int
    test: int
    vision: dict[str, Any]
    llm: dict[str, Any]
    connector: dict[str, Any]
    vision_steps: int
    connector_steps: int
    mixer_steps: int
    answer_steps: int
    open_steps: int
    batch_size: int
    questions: int
    families: dict[str, float]
    formats: tuple[str, ...]
    lr: float
    check_every: int
    hold_out: bool = False
    traces: TraceStyle | None = None


def _vision(width: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "image_size": 64,
        "patch_size": 8,
        "hidden_act": "relu",
        "vision_use_head": False,
    }


def _llm(width: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": width * 8 // 3 // 64 * 64,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "num_key_value_heads": width // 32,
        "hidden_act": "relu",
        "tie_word_embeddings": True,
        "max_position_embeddings": 1024,
    }


def _connector(width: int, depth: int, mixer_layers: int) -> dict[str, Any]:
    return {
        "name": "group",
        "num_queries": NUM_FRAMES * MAX_SHAPES,
        "num_groups": NUM_FRAMES,
        "depth": depth,
        "heads": width // 32,
        "head_dim": 32,
        "mixer_layers": mixer_layers,
    }


SIZES = {
    "default": Size(
        clips=16_000,
        held_out=200,
        test=500,
        vision=_vision(96, 3),
        llm=_llm(192, 5),
        connector=_connector(192, 2, 3),
        vision_steps=800,
        connector_steps=2000,
        mixer_steps=2000,
        answer_steps=6600,
        open_steps=1000,
        batch_size=16,
        questions=8,
        families=WEIGHTS,
        formats=FORMATS,
        lr=3e-3,
        check_every=500,
    ),
    "smoke": Size(
        clips=400,
        held_out=40,
        test=40,
        vision=_vision(64, 2),
        llm=_llm(64, 4),
        connector=_connector(64, 1, 1),
        vision_steps=200,
        connector_steps=150,
        mixer_steps=80,
        answer_steps=240,
        open_steps=240,
        batch_size=8,
        questions=4,
        families={"color": 1.0, "event": 1.0},
        formats=("open",),
        lr=4e-3,
        check_every=120,
    ),
}
# A model whose LLM reads every patch (``recipes.shapes.patches``), trained on the families that it learns in minutes.
PATCH_FAMILIES = {"color": 1.0, "shape": 1.0, "existence": 1.5, "change": 1.0, "position": 2.5}
SIZES["patches"] = replace(
    SIZES["default"],
    clips=2900,
    held_out=80,
    test=150,
    llm=_llm(192, 4),
    connector={"name": "mlp"},
    vision_steps=0,
    connector_steps=500,
    mixer_steps=0,
    answer_steps=200,
    open_steps=0,
    batch_size=8,
    families=PATCH_FAMILIES,
    formats=("open", "yesno"),
    lr=1e-3,
    check_every=100,
)
SIZES["patches_smoke"] = replace(
    SIZES["patches"], clips=40, held_out=8, test=8, connector_steps=100, answer_steps=4, check_every=4, batch_size=2
)
