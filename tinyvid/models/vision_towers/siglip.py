"""SigLIP through transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.folders import CONFIG, opened, settings_in
from tinyvid.models.vision_towers.metadata import Resize, blocks_to_run, resized
from tinyvid.models.vision_towers.preprocessor import PREPROCESSOR, read_image_spec, write_image_spec
from tinyvid.models.weights import check_sizes, load_pretrained
from tinyvid.registry import VISION_TOWERS
from tinyvid.types import FeatureSpec, ImageSpec


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
                "SigLIP; use vision_tower=clip, timm or open_clip for other vision transformers"
            )
        check_sizes("vision_tower", path, stored)
        config = SiglipVisionConfig(**stored.get("vision_config", stored))
        _blocks(layer, config.num_hidden_layers, final_norm)
        image = resized(read_image_spec(folder, f"vision_tower.path={path!r}", default_image_spec(config)), resize)
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
        write_image_spec(directory, self.image, "SiglipImageProcessor")


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
