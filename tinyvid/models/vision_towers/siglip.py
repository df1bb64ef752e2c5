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
# Pillow's numbers
_FILTERS: dict[int, Literal["lanczos", "bilinear", "bicubic"]] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}


@VISION_TOWERS.register("siglip")
def siglip(
    *,
    path: str,
    revision: str | None = None,
    layer: int = -2,
    select: Literal["all", "patch"] = "all",
    final_norm: bool = False,
    resize: Resize = "auto",
    dtype: torch.dtype,
) -> "SiglipTower":
    """Load a SigLIP tower from a directory or the hub.

    Args:
        path: Directory in the layout of transformers, or hub id; a whole SigLIP model or its vision tower.
        revision: Commit, branch or tag on the hub.
        layer: Index of the hidden state to return; -2 is the output of the second-to-last block.
        select: ``all`` patches, or all but the first (``patch``), as in the training of TinyLLaVA-Video.
        final_norm: Whether to apply the norm behind the last block, as SmolVLM does; only with ``layer=-1``.
        resize: How frames become square; ``auto`` follows the model's preprocessor_config.json.
        dtype: Dtype of the weights.

    Raises:
        ConfigError: ``path`` is not a SigLIP model, ``layer`` is out of range, or ``final_norm`` is set for a block
            before the last.
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
        _blocks(layer, config.num_hidden_layers, final_norm)
        image = resized(_read_image_spec(folder, path, config), resize)
    # Skip the text tower of a whole SigLIP model without a warning that lists its tensors.
    unread = {"_keys_to_ignore_on_load_unexpected": [r"^text_model\.", r"^logit_(scale|bias)$"]}
    vision_half = type(SiglipVisionModel.__name__, (SiglipVisionModel,), unread)
    model = load_pretrained("vision_tower", path, vision_half, config=config, revision=revision, dtype=dtype)
    return SiglipTower(model, image, layer=layer, select=select, final_norm=final_norm)


class SiglipTower(nn.Module):
    """Patch features of SigLIP: one hidden state, or the output of the final norm.

    Args:
        model: A ``SiglipVisionModel`` of transformers.
        image: What pixels must look like.
        layer: See ``siglip``.
        select: See ``siglip``.
        final_norm: See ``siglip``.

    Raises:
        ConfigError: ``layer`` is out of range, or ``final_norm`` is set for a block before the last.
    """

    def __init__(
        self,
        model: Any,
        image: ImageSpec,
        *,
        layer: int = -2,
        select: Literal["all", "patch"] = "all",
        final_norm: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.image = image
        self.num_blocks = _blocks(layer, model.config.num_hidden_layers, final_norm)
        self.final_norm = final_norm
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
        if self.final_norm:
            hidden = self._vision.post_layernorm(hidden)
        return hidden[:, self.skip :]

    def _embed(self, features: Tensor) -> Tensor:
        hidden = features.to(self.dtype)
        for block in self._vision.encoder.layers[self.num_blocks :]:
            hidden = block(hidden, attention_mask=None)
        if not self.final_norm:  # otherwise the features are normalized already
            hidden = self._vision.post_layernorm(hidden)
        return self._vision.head(hidden)  # (T, Dv)

    @property
    def _vision(self) -> Any:
        return getattr(self.model, "vision_model", self.model)  # early releases of transformers 5 nest the model

    def save(self, directory: Path) -> None:
        """Write the vision tower in the layout of transformers, with its preprocessor_config.json."""
        self.model.save_pretrained(directory)
        (directory / PREPROCESSOR).write_text(json.dumps(_to_processor(self.image), indent=2), encoding="utf-8")


def _blocks(layer: int, num_blocks: int, final_norm: bool) -> int:
    """Return the number of blocks to run, and check that the final norm stands behind the last one."""
    blocks = blocks_to_run(layer, num_blocks)
    if final_norm and blocks != num_blocks:
        raise ConfigError(
            f"vision_tower.final_norm=true needs the output of the last block, but vision_tower.layer={layer}; set "
            "vision_tower.layer=-1"
        )
    return blocks


def default_image_spec(config: Any) -> ImageSpec:
    """Return the preprocessing of SigLIP's training: frames stretched to a square, values in [-1, 1]."""
    return ImageSpec(size=config.image_size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _read_image_spec(folder: Path, path: str, config: Any) -> ImageSpec:
    if not (folder / PREPROCESSOR).is_file():
        logger.warning("%s has no %s; using the preprocessing of SigLIP's training", path, PREPROCESSOR)
        return default_image_spec(config)
    return from_processor(read_json(folder / PREPROCESSOR), config, f"{PREPROCESSOR} of vision_tower.path={path!r}")


def from_processor(processor: Mapping[str, Any], config: Any, where: str) -> ImageSpec:
    """Translate the settings of an image processor of transformers; missing ones default to SigLIP's.

    Args:
        processor: Content of a preprocessor_config.json.
        config: Configuration of the tower, with ``image_size``.
        where: Source of the settings, for messages.

    Raises:
        CheckpointError: A setting is not supported, or does not match the tower.
    """
    default = default_image_spec(config)
    size = processor.get("size") or {}
    side, resize, crop_pct, longest_edge = config.image_size, default.resize, 1.0, None
    if "shortest_edge" in size:
        crop = processor.get("crop_size") or {}
        side, resize = crop.get("height"), "crop"
        crop_pct = (side or 0) / size["shortest_edge"]
    elif "longest_edge" in size:
        longest_edge = size["longest_edge"]
        side = (processor.get("max_image_size") or {}).get("longest_edge")
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
        known = ", ".join(f"{number} ({name})" for number, name in _FILTERS.items())
        raise CheckpointError(f"{where}: resample={processor['resample']!r:.40} is not supported; use {known}")
    settings = {
        "mean": processor.get("image_mean", default.mean),
        "std": processor.get("image_std", default.std),
        "interpolation": _FILTERS[processor.get("resample", 3)],
    }
    return image_spec(settings, side, where, resize=resize, crop_pct=crop_pct, longest_edge=longest_edge)


def _to_processor(image: ImageSpec) -> dict[str, Any]:
    square = {"height": image.size, "width": image.size}
    sizes: dict[str, Any] = {"image_processor_type": "SiglipImageProcessor", "size": square}
    if image.resize == "crop":
        shortest = {"shortest_edge": round(image.size / image.crop_pct)}
        sizes |= {"size": shortest, "do_center_crop": True, "crop_size": square}
    if image.longest_edge is not None:  # Idefics3's processor has the two resizes, and tiles unless told otherwise
        sizes |= {
            "image_processor_type": "Idefics3ImageProcessor",
            "size": {"longest_edge": image.longest_edge},
            "max_image_size": {"longest_edge": image.size},
            "do_image_splitting": False,
        }
    return {
        **sizes,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "resample": next(number for number, name in _FILTERS.items() if name == image.interpolation),
        "rescale_factor": 1 / 255,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
    }
