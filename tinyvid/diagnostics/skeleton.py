"""Build a model without weights: all parts with their shapes and names, on the meta device.

Parts are built from a local directory, the hub's cache, or the architectures of timm and open_clip. The table below
contains the configurations of the hub repositories in ``conf/``, so an estimate works offline.
"""

from collections.abc import Mapping
from typing import Any

import torch

from tinyvid.build import build_connector, build_motion
from tinyvid.errors import ConfigError
from tinyvid.models.folders import loading
from tinyvid.models.video_llm import VideoLLM
from tinyvid.models.vision_towers import clip, internvit, siglip
from tinyvid.models.weights import building_on, read_config
from tinyvid.registry import VISION_TOWERS

_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
_QWEN_SIZES = {"0.5B": (896, 4864, 24, 14), "1.5B": (1536, 8960, 28, 12), "3B": (2048, 11_008, 36, 16)}
_QWEN3_SIZES = {
    "0.6B": (1024, 3072, 28, 16), "1.7B": (2048, 6144, 28, 16), "4B-Instruct-2507": (2560, 9728, 36, 32)
}  # fmt: skip
_SMOL_SIZES = {"135M": (576, 1536, 30, 9, 3), "360M": (960, 2560, 32, 15, 5), "1.7B": (2048, 8192, 24, 32, 32)}
_LLAMA_SIZES = {"1B": (2048, 8192, 16, 32), "3B": (3072, 8192, 28, 24)}
_GEMMA_SIZES = {"270m": (640, 2048, 18, 4), "1b": (1152, 6912, 26, 4)}
_LFM_SIZES = {"350M": (1024, 6656, 16, 16), "1.2B": (2048, 12_288, 16, 32)}


def _config(model_type: str, sizes: tuple[int, ...], **settings: Any) -> dict[str, Any]:
    return {"model_type": model_type, **dict(zip(_SIZES, sizes, strict=False)), **settings}


_QWEN = {"vocab_size": 151_936, "num_key_value_heads": 2, "tie_word_embeddings": True}
_QWEN3 = {"vocab_size": 151_936, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}
_LLAMA = {"vocab_size": 128_256, "tie_word_embeddings": True}
_GEMMA = {"vocab_size": 262_144, "head_dim": 256, "tie_word_embeddings": True}
_LFM = {"vocab_size": 65_536, "tie_word_embeddings": True, "full_attn_idxs": [2, 5, 8, 10, 12, 14]}
_PHI_2 = _config("phi", (2560, 10_240, 32, 32), vocab_size=51_200, tie_word_embeddings=False)
_SIGLIP_BASE_224 = _config("siglip_vision_model", (768, 3072, 12, 12), image_size=224, patch_size=16)
_CLIP = "clip_vision_model"
_SIGLIP_SO400M_384 = _config("siglip_vision_model", (1152, 4304, 27, 16), image_size=384, patch_size=14)
# From the config.json of these hub repositories; only values that determine shapes.
KNOWN: dict[str, dict[str, Any]] = {
    **{
        f"Qwen/Qwen2.5-{size}{kind}": _config("qwen2", sizes, **_QWEN)
        for size, sizes in _QWEN_SIZES.items()
        for kind in ("", "-Instruct")
    },
    **{f"Qwen/Qwen3-{size}": _config("qwen3", sizes, **_QWEN3) for size, sizes in _QWEN3_SIZES.items()},
    **{
        f"HuggingFaceTB/SmolLM2-{size}-Instruct": _config("llama", sizes, vocab_size=49_152, tie_word_embeddings=True)
        for size, sizes in _SMOL_SIZES.items()
    },
    "HuggingFaceTB/SmolLM3-3B": _config("smollm3", (2048, 11_008, 36, 16, 4), **_LLAMA),
    **{
        f"meta-llama/Llama-3.2-{size}-Instruct": _config("llama", (*sizes, 8), **_LLAMA)
        for size, sizes in _LLAMA_SIZES.items()
    },
    **{
        f"google/gemma-3-{size}-it": _config("gemma3_text", (*sizes, 1), **_GEMMA)
        for size, sizes in _GEMMA_SIZES.items()
    },
    **{f"LiquidAI/LFM2-{size}": _config("lfm2", (*sizes, 8), **_LFM) for size, sizes in _LFM_SIZES.items()},
    "microsoft/Phi-4-mini-instruct": _config(
        "phi3", (3072, 8192, 32, 24, 8), vocab_size=200_064, tie_word_embeddings=True, pad_token_id=199_999
    ),
    "microsoft/phi-2": _PHI_2,
    "google/siglip-base-patch16-224": _SIGLIP_BASE_224,
    "google/siglip2-base-patch16-224": _SIGLIP_BASE_224,
    "google/siglip-so400m-patch14-384": _SIGLIP_SO400M_384,
    "google/siglip2-so400m-patch14-384": _SIGLIP_SO400M_384,
    "openai/clip-vit-base-patch16": _config(_CLIP, (768, 3072, 12, 12), image_size=224, patch_size=16),
    "openai/clip-vit-large-patch14-336": _config(_CLIP, (1024, 4096, 24, 16), image_size=336, patch_size=14),
    "OpenGVLab/InternViT-300M-448px-V2_5": _config(
        "internvl_vision", (1024, 4096, 24, 16), image_size=448, patch_size=14, attention_bias=True
    ),
}
# For the towers in the table: the class of transformers, ours, and the preprocessing.
_TOWERS: dict[str, tuple[str, Any, Any]] = {
    "siglip": ("SiglipVisionModel", siglip.SiglipTower, siglip.default_image_spec),
    "clip": ("CLIPVisionModel", clip.ClipTower, clip.default_image_spec),
    "internvit": ("InternVLVisionModel", internvit.InternViTTower, internvit.default_image_spec),
}


def build_skeleton(groups: Mapping[str, Mapping[str, Any]], *, dtype: torch.dtype) -> VideoLLM:
    """Build the model that component groups describe, without weights. It cannot run on data.

    Raises:
        CheckpointError: A part's configuration cannot be found.
        ConfigError: Options do not match the parts.
    """
    with building_on("meta"):
        llm = _llm(groups["llm"], dtype)
        vision_tower = _tower(groups["vision_tower"], dtype)
        width = llm.get_input_embeddings().weight.shape[1]
        motion = build_motion(groups.get("motion"), vision_tower.features)
        connector = build_connector(
            groups["connector"],
            features=vision_tower.features if motion is None else motion.features,
            llm_dim=width,
            text_decoder=groups.get("text_decoder"),
            reducer=groups.get("reducer"),
        )
    return VideoLLM(llm, vision_tower, connector.to(dtype), motion)


def _llm(group: Mapping[str, Any], dtype: torch.dtype) -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig  # heavy: only to build a model

    path, revision = group["path"], group["revision"]
    settings = _known(path, revision)
    if settings is None:
        settings = read_config("llm", path, revision=revision)
    with loading("llm", path):
        config = AutoConfig.for_model(**settings)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(
            f"llm.path={path!r} contains a model of type '{config.model_type}', which is not a causal LM; "
            "choose a path of a causal LM"
        )
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._from_config(config, dtype=dtype)


def _tower(group: Mapping[str, Any], dtype: torch.dtype) -> Any:
    settings = _known(group["path"], group["revision"]) if group["name"] in _TOWERS else None
    if settings is None:
        return VISION_TOWERS.build(group, dtype=dtype)
    import transformers  # heavy: only to build a model

    name, tower_class, image_spec = _TOWERS[group["name"]]
    model_class = getattr(transformers, name)
    model = model_class(model_class.config_class(**settings)).to(dtype)
    options = {key: value for key, value in group.items() if key not in ("name", "path", "revision", "resize")}
    return tower_class(model, image_spec(model.config), **options)


def _known(path: str, revision: str | None) -> dict[str, Any] | None:
    """Return the configuration of a path from the table, if it is not available locally; otherwise ``None``."""
    from transformers import PretrainedConfig

    if path not in KNOWN:
        return None
    try:
        PretrainedConfig.get_config_dict(path, revision=revision, local_files_only=True)
    except OSError:
        return dict(KNOWN[path])
    return None
