"""SigLIP through transformers."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tinyvid.errors import CheckpointError, ConfigError
from tinyvid.files import read_json
from tinyvid.models.folders import CONFIG, opened, settings_in
from tinyvid.models.vision_towers.metadata import Resize, blocks_to_run, image_spec, resized
from tinyvid.models.weights import check_sizes, load_pretrained
from tinyvid.registry import VISION_TOWERS
from tinyvid.types import FeatureSpec, ImageSpec

logger = logging.getLogger(__name__)

PREPROCESSOR = "preprocessor_config.json"
_FILTERS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


@VISION_TOWERS.register("siglip")
def siglip(
    *,
    path: str,
    revision: str | None = None,
    layer: int = -2,
    select: Literal["all", "patch"] = "all",
    resize: Resize = "auto",
    dtype: torch.dtype,
) -> "SiglipTower":
    """Load a SigLIP tower from a directory or the hub.

    Args:
        path: Directory in the layout of transformers, or hub id; a whole SigLIP model or its vision tower.
        revision: Commit, branch or tag on the hub.
        layer: Index of the hidden state to return; -2 is the output of the second-to-last block.
        select: ``all`` patches, or all but the first (``patch``), as in the training of TinyLLaVA-Video.
        resize: How frames become square; ``auto`` follows the model's preprocessor_config.json.
        dtype: Dtype of the weights.

    Raises:
        ConfigError: ``path`` is not a SigLIP model, or ``layer`` is out of range.
        CheckpointError: The path cannot be read, or its weights do not match.
    """
    from transformers import SiglipVisionConfig, SiglipVisionModel  # heavy: only when a tower is loaded

    with opened("vision_tower", path, [CONFIG, PREPROCESSOR], revision=revision) as folder:
        stored = settings_in(folder, CONFIG)
        if stored.get("model_type") not in ("siglip", "siglip_vision_model"):
            raise ConfigError(
                f"vision_tower.path={path!r} contains a model of type {stored.get('model_type')!r}, which is not "
                "SigLIP; use vision_tower=timm or vision_tower=open_clip for other vision transformers"
            )
        check_sizes("vision_tower", path, stored)
        config = SiglipVisionConfig(**stored.get("vision_config", stored))
        blocks_to_run(layer, config.num_hidden_layers)
        image = resized(_read_image_spec(folder, path, config), resize)
    # Skip the text tower of a whole SigLIP model without a warning that lists its tensors.
    unread = {"_keys_to_ignore_on_load_unexpected": [r"^text_model\.", r"^logit_(scale|bias)$"]}
    vision_half = type(SiglipVisionModel.__name__, (SiglipVisionModel,), unread)
    model = load_pretrained("vision_tower", path, vision_half, config=config, revision=revision, dtype=dtype)
    return SiglipTower(model, image, layer=layer, select=select)


class SiglipTower(nn.Module):
    """Patch features of SigLIP: one hidden state, without the final norm.

    Args:
        model: A ``SiglipVisionModel`` of transformers.
        image: What pixels must look like.
        layer: See ``siglip``.
        select: See ``siglip``.

    Raises:
        ConfigError: ``layer`` is out of range.
    """

    def __init__(
        self, model: Any, image: ImageSpec, *, layer: int = -2, select: Literal["all", "patch"] = "all"
    ) -> None:
        super().__init__()
        self.model = model
        self.image = image
        self.num_blocks = blocks_to_run(layer, model.config.num_hidden_layers)
        self.skip = 1 if select == "patch" else 0
        side = model.config.image_size // model.config.patch_size
        self.features = FeatureSpec(
            dim=model.config.hidden_size,
            num_patches=side * side - self.skip,
            grid=None if self.skip else (side, side),
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the input: that of the patch embedding, which comes first."""
        return self.model.dtype

    @property
    def embed(self) -> Callable[[Tensor], Tensor] | None:
        """Map features (T, P, Dv) to the embeddings (T, Dv) of frames, which SigLIP compares with those of texts.

        The blocks above the chosen layer run on the features, and the pooling head after them. ``None`` if a patch is
        missing, or if the model has no pooling head.
        """
        return None if self.skip or not self._vision.config.vision_use_head else self._embed

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, 3, S, S) to features (N, P, Dv). Blocks above the chosen layer do not run."""
        hidden = self._vision.embeddings(pixels)  # (N, P, Dv)
        for block in self._vision.encoder.layers[: self.num_blocks]:
            hidden = block(hidden, attention_mask=None)
        return hidden[:, self.skip :]

    def _embed(self, features: Tensor) -> Tensor:
        hidden = features.to(self.dtype)
        for block in self._vision.encoder.layers[self.num_blocks :]:
            hidden = block(hidden, attention_mask=None)
        return self._vision.head(self._vision.post_layernorm(hidden))  # (T, Dv)

    @property
    def _vision(self) -> Any:
        return getattr(self.model, "vision_model", self.model)  # early releases of transformers 5 nest the model

    def save(self, directory: Path) -> None:
        """Write the vision tower in the layout of transformers, with its preprocessor_config.json."""
        self.model.save_pretrained(directory)
        (directory / PREPROCESSOR).write_text(json.dumps(_to_processor(self.image), indent=2), encoding="utf-8")


def default_image_spec(config: Any) -> ImageSpec:
    """Return the preprocessing of SigLIP's training: frames stretched to a square, values in [-1, 1]."""
    return ImageSpec(size=config.image_size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _read_image_spec(folder: Path, path: str, config: Any) -> ImageSpec:
    if not (folder / PREPROCESSOR).is_file():
        logger.warning("%s has no %s; using the preprocessing of SigLIP's training", path, PREPROCESSOR)
        return default_image_spec(config)
    return _from_processor(read_json(folder / PREPROCESSOR), config, f"{PREPROCESSOR} of vision_tower.path={path!r}")


def _from_processor(processor: Mapping[str, Any], config: Any, where: str) -> ImageSpec:
    """Translate the settings of an image processor of transformers; missing ones default to SigLIP's."""
    default = default_image_spec(config)
    size = processor.get("size") or {}
    side, resize, crop_pct = config.image_size, default.resize, 1.0
    if "shortest_edge" in size:
        crop = processor.get("crop_size") or {}
        side, resize = crop.get("height"), "crop"
        crop_pct = (side or 0) / size["shortest_edge"]
    elif size:
        side = size.get("height") if size.get("height") == size.get("width") else None
    if side != config.image_size:
        raise CheckpointError(
            f"{where}: size {size} does not match the tower's input of {config.image_size} pixels; correct the file"
        )
    steps = [step for step in ("do_resize", "do_rescale", "do_normalize") if not processor.get(step, True)]
    if steps or not abs(processor.get("rescale_factor", 1 / 255) * 255 - 1) <= 1e-4:
        raise CheckpointError(
            f"{where}: the setting of {steps or 'rescale_factor'} is not supported; frames are always rescaled "
            "to [0, 1], resized and normalized"
        )
    if processor.get("resample", 3) not in _FILTERS:
        raise CheckpointError(f"{where}: resample={processor['resample']} is neither 2 (bilinear) nor 3 (bicubic)")
    settings = {
        "mean": processor.get("image_mean", default.mean),
        "std": processor.get("image_std", default.std),
        "interpolation": _FILTERS[processor.get("resample", 3)],
    }
    return image_spec(settings, side, where, resize=resize, crop_pct=crop_pct)


def _to_processor(image: ImageSpec) -> dict[str, Any]:
    square = {"height": image.size, "width": image.size}
    cut = {"size": {"shortest_edge": round(image.size / image.crop_pct)}, "do_center_crop": True, "crop_size": square}
    return {
        "image_processor_type": "SiglipImageProcessor",
        **(cut if image.resize == "crop" else {"size": square}),
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "resample": next(number for number, name in _FILTERS.items() if name == image.interpolation),
        "rescale_factor": 1 / 255,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
    }
