"""InternViT, the vision tower of InternVL, through transformers."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinyvid.errors import CheckpointError, ConfigError
from tinyvid.models.folders import CONFIG, WEIGHTS, opened, settings_in
from tinyvid.models.vision_towers.metadata import Resize, blocks_to_run, resized, square
from tinyvid.models.vision_towers.preprocessor import PREPROCESSOR, read_image_spec, write_image_spec
from tinyvid.models.weights import check_sizes, load_pretrained, read_weights, without_weights
from tinyvid.registry import VISION_TOWERS
from tinyvid.types import FeatureSpec, ImageSpec

ORIGINAL = "intern_vit_6b"  # model_type of OpenGVLab's configurations, also of the tower with 300M parameters
# Settings that would change the computation, by their names in both layouts, and their supported values.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "norm_type": ("layer_norm",),
    "qk_normalization": (False,),
    "use_qk_norm": (False,),
    "use_mean_pooling": (True,),  # otherwise a norm follows the last block
    "use_mask_token": (False,),
    "use_absolute_position_embeddings": (True,),
    "num_channels": (3,),
}
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
# Of OpenGVLab's code, for the tower with 6B parameters.
_DEFAULTS = {
    "norm_type": "rms_norm",
    "qk_normalization": True,
    "qkv_bias": False,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0,
}
# What transformers calls the modules of OpenGVLab's code.
_NAMES = (
    (re.compile(r"embeddings\.class_embedding$"), "embeddings.cls_token"),
    (re.compile(r"embeddings\.position_embedding$"), "embeddings.position_embeddings"),
    (re.compile(r"embeddings\.patch_embedding\."), "embeddings.patch_embeddings.projection."),
    (re.compile(r"encoder\.layers\."), "encoder.layer."),
    (re.compile(r"\.norm1\."), ".layernorm_before."),
    (re.compile(r"\.norm2\."), ".layernorm_after."),
    (re.compile(r"\.ls([12])$"), r".lambda_\1"),
    (re.compile(r"\.attn\.proj\."), ".attention.projection_layer."),
    (re.compile(r"\.attn\."), ".attention."),
)


@VISION_TOWERS.register("internvit")
def internvit(
    *, path: str, revision: str | None = None, layer: int = -1, resize: Resize = "auto", dtype: torch.dtype
) -> "InternViTTower":
    """Load InternViT from a directory or the hub.

    Args:
        path: Directory or hub id of the tower, in the layout of OpenGVLab or of transformers.
        revision: Commit, branch or tag on the hub.
        layer: Index of the hidden state to return; -1 is the output of the last block.
        resize: How frames become square; ``auto`` stretches them, as InternVL does.
        dtype: Dtype of the weights.

    Raises:
        ConfigError: ``path`` is not an InternViT, or ``layer`` is out of range.
        CheckpointError: The path cannot be read, its weights do not match, or a setting is not supported.
    """
    from transformers import InternVLVisionModel  # heavy: only when a tower is loaded

    tensors = None
    with opened("vision_tower", path, [CONFIG, PREPROCESSOR], revision=revision) as folder:
        stored = settings_in(folder, CONFIG)
        if stored.get("model_type") not in (ORIGINAL, "internvl_vision"):
            raise ConfigError(
                f"vision_tower.path={path!r} contains a model of type {stored.get('model_type')!r}, which is not "
                "InternViT; use Assistant.from_pretrained (ckpt=) for a whole InternVL, or another vision_tower"
            )
        check_sizes("vision_tower", path, stored)
        config = InternVLVisionModel.config_class(**translated(stored, f"vision_tower.path={path!r}"))
        blocks_to_run(layer, config.num_hidden_layers)
        default = default_image_spec(config)
        image = read_image_spec(folder, f"vision_tower.path={path!r}", default)
        if image.resize == "crop" and image.crop_pct == 1:
            image = replace(image, resize="stretch")  # the file is CLIP's; InternVL's code stretches frames
    if stored["model_type"] == ORIGINAL and not without_weights():
        with opened("vision_tower", path, [], WEIGHTS, revision=revision) as folder:
            tensors = renamed(read_weights(folder))
    model = load_pretrained(
        "vision_tower",
        path,
        InternVLVisionModel,
        config=config,
        revision=revision,
        dtype=dtype,
        **({} if tensors is None else {"state_dict": tensors}),
    )
    return InternViTTower(model, resized(image, resize), layer=layer)


class InternViTTower(nn.Module):
    """Patch features of InternViT: one hidden state without the class token. No norm follows the last block.

    Args:
        model: An ``InternVLVisionModel`` of transformers.
        image: What pixels must look like.
        layer: See ``internvit``.

    Raises:
        ConfigError: ``layer`` is out of range.
    """

    embed: Callable[[Tensor], Tensor] | None = None  # it has no text half to compare with

    def __init__(self, model: Any, image: ImageSpec, *, layer: int = -1) -> None:
        super().__init__()
        self.model = model
        self.image = image
        self.num_blocks = blocks_to_run(layer, model.config.num_hidden_layers)
        side = image.size // square(model.config.patch_size, "the patch embedding of InternViT")
        self.features = FeatureSpec(dim=model.config.hidden_size, num_patches=side * side, grid=(side, side))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the input: that of the patch embedding, which comes first."""
        return self.model.dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, 3, S, S) to features (N, P, Dv). Blocks above the chosen layer do not run."""
        hidden = self.model.embeddings(pixels)  # (N, 1 + P, Dv)
        for block in self.model.encoder.layer[: self.num_blocks]:
            hidden = block(hidden)
        return hidden[:, 1:]

    def save(self, directory: Path) -> None:
        """Write the vision tower in the layout of transformers, with its preprocessor_config.json."""
        self.model.save_pretrained(directory)
        write_image_spec(directory, self.image, "GotOcr2ImageProcessor")


def default_image_spec(config: Any) -> ImageSpec:
    """Return InternVL's preprocessing: frames stretched to a square, and the statistics of ImageNet."""
    size = square(config.image_size, "InternViT")
    return ImageSpec(size=size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def translated(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the settings of an InternViT, in either layout, as those of transformers.

    Args:
        settings: Of the vision tower.
        where: Their source, for messages.

    Raises:
        CheckpointError: A setting is not supported.
        ConfigError: Images are not square.
    """
    original = settings.get("model_type") == ORIGINAL
    settings = {**(_DEFAULTS if original else {}), **settings}
    for key, supported in _SUPPORTED.items():
        if key in settings and settings[key] not in supported:
            raise CheckpointError(
                f"{where}: {key}={settings[key]!r:.80} of the vision tower is not supported; tinyvid reads towers like "
                f"InternViT-300M, which have {key}={supported[0]!r}"
            )
    square(settings.get("image_size", 448), f"{where}: the vision tower")
    if not original:
        return settings
    if missing := [name for name in _SIZES if name not in settings]:
        raise CheckpointError(f"{where}: the settings of the vision tower lack {', '.join(missing)}")
    same = {name: settings[name] for name in (*_SIZES, "hidden_act", "layer_norm_eps", "attention_dropout")}
    return {"model_type": "internvl_vision", **same, "attention_bias": settings["qkv_bias"]}


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of OpenGVLab's InternViT under the names of transformers, with q, k and v apart."""
    found = {}
    for key, value in tensors.items():
        new = key
        for pattern, name in _NAMES:
            new = pattern.sub(name, new)
        if ".attention.qkv." in new and len(value) % 3 == 0:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                found[new.replace(".qkv.", f".{part}_proj.")] = third.contiguous()
        else:
            found[new] = value
    return found
