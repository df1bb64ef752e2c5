"""Tiny random vision towers, written to a directory in the format of their library."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

VISION = {
    "hidden_size": 24,
    "image_size": 56,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "patch_size": 14,
}


def save_siglip(folder: Path, *, whole: bool = False, preprocessor: bool = True, vocab_size: int = 32) -> Path:
    """Write SigLIP or its vision encoder, with 3 blocks, width 24, and 4 x 4 patches of 14 pixels."""
    from transformers import SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

    text = {
        "hidden_size": 24,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": vocab_size,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    torch.manual_seed(0)
    if whole:
        SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).save_pretrained(folder)
    else:
        SiglipVisionModel(SiglipVisionConfig(**VISION)).save_pretrained(folder)
    if preprocessor:
        write_preprocessor(
            folder, size={"height": 56, "width": 56}, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3
        )
    return folder


def save_clip(folder: Path, *, whole: bool = False) -> Path:
    """Write CLIP or its vision encoder, with 3 blocks, width 24, 4 x 4 patches of 14 pixels and a class token."""
    from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

    text = {"hidden_size": 24, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}
    torch.manual_seed(0)
    if whole:
        config = CLIPConfig(text_config=text | {"vocab_size": 32}, vision_config=VISION, projection_dim=16)
        CLIPModel(config).save_pretrained(folder)
    else:
        CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(folder)
    write_preprocessor(folder, size=56, crop_size=56, image_mean=[0.5] * 3, image_std=[0.3] * 3, resample=3)
    return folder


def save_internvit(folder: Path, *, original: bool = False) -> Path:
    """Write InternViT with 3 blocks, width 24, 4 x 4 patches and a class token, as transformers or OpenGVLab do."""
    from safetensors.torch import save_file
    from transformers import InternVLVisionConfig, InternVLVisionModel

    torch.manual_seed(0)
    model = InternVLVisionModel(InternVLVisionConfig(**VISION, attention_bias=True, layer_scale_init_value=0.5))
    for parameter in model.parameters():  # positions and the class token start at zero
        torch.nn.init.normal_(parameter, std=0.2)
    write_preprocessor(folder, size={"height": 56, "width": 56}, image_mean=[0.4] * 3, image_std=[0.3] * 3)
    if not original:
        model.save_pretrained(folder)
        return folder
    settings = {"model_type": "intern_vit_6b", "norm_type": "layer_norm", "qk_normalization": False, "qkv_bias": True}
    (folder / "config.json").write_text(json.dumps(VISION | settings | {"drop_path_rate": 0.1}))
    tensors = model.state_dict()
    names = {
        "embeddings.cls_token": "embeddings.class_embedding",
        "embeddings.position_embeddings": "embeddings.position_embedding",
        "embeddings.patch_embeddings.projection.weight": "embeddings.patch_embedding.weight",
        "embeddings.patch_embeddings.projection.bias": "embeddings.patch_embedding.bias",
    }
    written = {new: tensors[old] for old, new in names.items()}
    layer = {"layernorm_before": "norm1", "layernorm_after": "norm2", "attention.projection_layer": "attn.proj"}
    for i in range(3):
        old, new = f"encoder.layer.{i}.", f"encoder.layers.{i}."
        written |= {f"{new}ls{n}": tensors[f"{old}lambda_{n}"] for n in (1, 2)}
        for kind in ("weight", "bias"):
            written |= {f"{new}{b}.{kind}": tensors[f"{old}{a}.{kind}"] for a, b in layer.items()}
            written |= {f"{new}mlp.fc{n}.{kind}": tensors[f"{old}mlp.fc{n}.{kind}"] for n in (1, 2)}
            written[f"{new}attn.qkv.{kind}"] = torch.cat([tensors[f"{old}attention.{x}_proj.{kind}"] for x in "qkv"])
    save_file(written, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_preprocessor(folder: Path, **settings: object) -> None:
    """Write the image processor settings of a transformers model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def save_timm(folder: Path, architecture: str = "vit_tiny_patch16_224", **options: object) -> Path:
    """Write a timm vision transformer with 3 blocks, width 24, 4 x 4 patches and a class token."""
    import timm
    from timm.models import save_for_hf

    tiny = {"embed_dim": 24, "depth": 3, "num_heads": 4, "img_size": 56, "patch_size": 14, "num_classes": 5} | options
    tiny = {option: value for option, value in tiny.items() if value is not None}  # None keeps the architecture's own
    torch.manual_seed(0)
    model = timm.create_model(architecture, **tiny)
    save_for_hf(model, str(folder), model_args=tiny, safe_serialization=True)
    return folder


_TINY_QWEN3 = {"img_size": 64, "embed_dim": 32, "depth": 3, "num_heads": 2, "pos_embed_grid_size": 4}
# Architectures whose features are grids, with the options of a small one. timm computes the third and the last in NHWC.
GRIDS: dict[str, dict[str, object]] = {
    "test_efficientnet": {},
    "mobilenetv3_small_050": {},
    "test_mambaout": {},
    "fastvit_t8": {"layers": (1, 1, 1, 1)},
    "qwen3_vit_88m": _TINY_QWEN3,
    "qwen3_vit_88m_enc": _TINY_QWEN3,
}


def save_grids(folder: Path, architecture: str) -> Path:
    """Write a small random model of timm whose features are grids, for images of 64 pixels."""
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    size = {"input_size": (3, 64, 64), "pool_size": (2, 2)}
    model = timm.create_model(architecture, pretrained_cfg_overlay=size, **GRIDS[architecture])
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):  # as if it had been trained
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    save_for_hf(model, str(folder), model_args=GRIDS[architecture], safe_serialization=True)
    return folder


def save_open_clip(folder: Path, *, text: bool = True, **vision: object) -> Path:
    """Write an open_clip CLIP whose image tower has 3 blocks, width 64, 4 x 4 patches and a class token."""
    import open_clip
    from safetensors.torch import save_file

    settings = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 56, "layers": 3, "width": 64, "head_width": 32, "patch_size": 14} | vision,
        "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**settings)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": {}}))
    tensors = {k: v.contiguous() for k, v in model.state_dict().items() if text or k.startswith("visual.")}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


TOWERS: dict[str, Callable[[Path], Path]] = {
    "siglip": save_siglip,
    "clip": save_clip,
    "internvit": save_internvit,
    "timm": save_timm,
    "open_clip": save_open_clip,
}
