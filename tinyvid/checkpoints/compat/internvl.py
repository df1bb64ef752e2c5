"""Read InternVL 2.5 and 3 and models made from them, such as Chain-of-Frames, offline and without their code.

There are two layouts: OpenGVLab's (``model_type`` ``internvl_chat``), and that of transformers (``internvl``). Both
have the same parts: InternViT, ``pixel_shuffle``, and a Qwen2, Qwen3, InternLM2 or Llama. The layouts differ in the
prompt: only OpenGVLab's has a default system message. Frames are read as in their videos, one tile each; the tiling of
large images is not read.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tinyvid.build import check
from tinyvid.checkpoints.compat import internlm2
from tinyvid.checkpoints.compat.assembly import (
    complete_weights,
    join,
    longest,
    presets,
    refuse_unsupported,
    report_guesses,
    section,
    text_config,
    tied,
    tower_model,
    with_rows,
)
from tinyvid.checkpoints.compat.keys import canonical, split
from tinyvid.checkpoints.native import Loaded, Overrides, apply_overrides
from tinyvid.errors import CheckpointError, suggest
from tinyvid.files import read_json, read_text
from tinyvid.models.vision_towers import internvit
from tinyvid.models.vision_towers.preprocessor import read_image_spec

logger = logging.getLogger(__name__)

ORIGINAL, TRANSFORMERS = "internvl_chat", "internvl"
PREFIXES = {
    ORIGINAL: {
        "vision_model.": "vision_tower.",
        "mlp1.0.": "connector.norm.",
        "mlp1.1.": "connector.layers.0.",
        "mlp1.3.": "connector.layers.2.",
        "language_model.": "llm.",
    },
    TRANSFORMERS: {
        "model.vision_tower.": "vision_tower.",
        "model.multi_modal_projector.layer_norm.": "connector.norm.",
        "model.multi_modal_projector.linear_1.": "connector.layers.0.",
        "model.multi_modal_projector.linear_2.": "connector.layers.2.",
        "model.language_model.": "llm.model.",
        "lm_head.": "llm.lm_head.",
    },
}
# LLMs of the original layout: architecture, and model_type in transformers.
LLMS = {
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "LlamaForCausalLM": "llama",
    "InternLM2ForCausalLM": "internlm2",
}
# Settings that change the computation or the prompt: supported values, and what another value means.
SUPPORTED: dict[str, dict[str, tuple[tuple[Any, ...], str]]] = {
    ORIGINAL: {
        "template": (("internvl2_5",), "it is the prompt of another version of InternVL"),
        "ps_version": (("v2",), "it transposes the video tokens of a frame; InternVL 2.5 and 3 have v2"),
        "use_llm_lora": ((0, None), "the weights of the LLM are adapters, which must be merged first"),
        "use_backbone_lora": ((0, None), "the weights of the vision tower are adapters, which must be merged first"),
        "pad2square": ((False, None), "frames are stretched, not padded"),
    },
    TRANSFORMERS: {
        "vision_feature_select_strategy": (("default",), "it keeps the class token as a video token"),
        "projector_hidden_act": (("gelu",), "the connector has exact GELU"),
    },
}
MARKER = '"<Frame-1>"'  # a token that only Chain-of-Frames adds


def recognizes(path: Path) -> bool:
    """Return whether a directory contains an InternVL checkpoint."""
    return str(read_json(path / "config.json").get("model_type")) in PREFIXES


def load(path: Path, *, device: str, dtype: str, quant: str, overrides: Overrides) -> Loaded:
    """Read a checkpoint of InternVL. Arguments and errors are those of ``native.load``."""
    config = read_json(path / "config.json")
    layout = config["model_type"]
    _refuse_unsupported(config, layout)
    text = _text_settings(config, layout)
    vision = internvit.translated(section(config, "vision_config"), "config.json")
    groups = check(apply_overrides(_groups(path, config, text), overrides))
    report_guesses(path, groups, overrides)
    weights = _weights(path, config, layout)
    model = _tower_model(path, vision, weights["vision_tower"])
    default = internvit.default_image_spec(model.config)
    # OpenGVLab's code does not read its preprocessor_config.json for frames of a video.
    image = default if layout == ORIGINAL else read_image_spec(path, str(path), default)
    logger.warning("%s: an image is shown as one tile of %d x %d pixels", path, image.size, image.size)
    return join(
        path,
        groups,
        text_config=text_config(path, with_rows(text, weights["llm"], tied=tied(config, text))),
        vision_tower=internvit.InternViTTower(model, image, layer=groups["vision_tower"]["layer"]),
        weights=weights,
        device=device,
        dtype=dtype,
        quant=quant,
    )


def _refuse_unsupported(config: Mapping[str, Any], layout: str) -> None:
    refuse_unsupported({"ps_version": "v1", **config}, SUPPORTED[layout])  # v1 is the original's default
    size, forced = section(config, "vision_config").get("image_size"), config.get("force_image_size")
    if layout == ORIGINAL and forced not in (None, size):
        raise CheckpointError(
            f"config.json: force_image_size={forced!r:.80} differs from vision_config.image_size={size!r:.80}, for "
            "which the weights have positions"
        )


def _groups(path: Path, config: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Translate the configuration into component groups."""
    original = config["model_type"] == ORIGINAL
    layer = config.get("select_layer" if original else "vision_feature_layer", -1)
    if type(layer) is not int:
        raise CheckpointError(f"config.json: the layer {layer!r:.80} of the vision tower must be one integer")
    cites = _cites_frames(path)
    groups = presets(template="chain_of_frames" if cites else "internvl", sampler="midpoint")
    if cites:
        groups["sampler"]["num_frames"] = 30
    if not original:
        groups["template"]["system"] = ""
    elif (system := config.get("system_message")) is not None:
        if not isinstance(system, str):
            raise CheckpointError(f"config.json: system_message={system!r:.80} must be a text or null")
        groups["template"]["system"] = system
    return {
        "llm": {"name": "auto", "path": "llm", "max_length": longest(path, text)},
        "vision_tower": {"name": "internvit", "path": "vision_tower", "layer": layer},
        "connector": {"name": "pixel_shuffle", "factor": _factor(config)},
        **groups,
    }


def _factor(config: Mapping[str, Any]) -> int:
    ratio = config.get("downsample_ratio", 0.5)
    factor = round(1 / ratio) if isinstance(ratio, int | float) and 0.01 <= ratio <= 1 else 0
    if not factor or abs(factor * ratio - 1) > 1e-6:
        raise CheckpointError(
            f"config.json: downsample_ratio={ratio!r:.80} must be 1 divided by an integer, such as 0.5"
        )
    return factor


def _cites_frames(path: Path) -> bool:
    """Return whether the tokenizer has the tokens that Chain-of-Frames adds."""
    files = (path / name for name in ("added_tokens.json", "tokenizer_config.json", "tokenizer.json"))
    return any(MARKER in read_text(file) for file in files if file.is_file())


def _text_settings(config: Mapping[str, Any], layout: str) -> dict[str, Any]:
    """Return the settings of the LLM, with the ``model_type`` that reads it in transformers."""
    text = section(config, "llm_config" if layout == ORIGINAL else "text_config")
    if layout == ORIGINAL:
        names = text.get("architectures")
        name = names[0] if isinstance(names, list) and names else None
        if not isinstance(name, str) or name not in LLMS:
            raise CheckpointError(
                f"config.json: llm_config.architectures={names!r:.80} is not supported; it must be a list with one of "
                f"{', '.join(LLMS)}"
            )
        text = internlm2.as_llama(text) if LLMS[name] == "internlm2" else {**text, "model_type": LLMS[name]}
    elif (kind := text.get("model_type", "qwen2")) not in ("qwen2", "qwen3", "llama"):
        known = suggest(str(kind), ["qwen2", "qwen3", "llama"])
        raise CheckpointError(f"config.json: text_config.model_type={kind!r:.80} is not supported. {known}")
    return _without_dynamic(text)


def _without_dynamic(text: Mapping[str, Any]) -> dict[str, Any]:
    """Remove dynamic scaling of positions, which changes nothing up to the trained length.

    Raises:
        CheckpointError: The positions are scaled in another way.
    """
    result = {"model_type": "qwen2", **text}
    for key in ("rope_scaling", "rope_parameters"):
        stated = text.get(key) or {}
        kind = stated.get("rope_type", stated.get("type", "default")) if isinstance(stated, dict) else stated
        if kind not in ("default", "dynamic"):
            raise CheckpointError(f"config.json: {key}={stated!r:.80} of the LLM is not supported; only dynamic is")
        if kind == "dynamic":
            result[key] = {"rope_type": "default", **{k: v for k, v in stated.items() if k == "rope_theta"}}
    return result


def _weights(path: Path, config: Mapping[str, Any], layout: str) -> dict[str, dict[str, Tensor]]:
    """Return the weights of each part by the names in its module."""
    tensors = complete_weights(path)
    if layout == TRANSFORMERS:
        return split(path, canonical(tensors), PREFIXES[layout])
    parts = split(path, tensors, PREFIXES[layout])
    parts["vision_tower"] = internvit.renamed(parts["vision_tower"])
    text = section(config, "llm_config")
    if text["architectures"][0] == "InternLM2ForCausalLM":
        parts["llm"] = internlm2.llama_weights(parts["llm"], text)
    return parts


def _tower_model(path: Path, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    from transformers import InternVLVisionModel  # heavy: only when a model is loaded

    return tower_model(path, InternVLVisionModel, settings, weights)
