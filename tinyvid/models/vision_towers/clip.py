"""CLIP through transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.folders import CONFIG, opened, settings_in
from tinyvid.models.vision_towers.metadata import Resize, blocks_to_run, resized
from tinyvid.models.vision_towers.preprocessor import PREPROCESSOR, read_image_spec, write_image_spec
from tinyvid.models.weights import check_sizes, load_pretrained
from tinyvid.registry import VISION_TOWERS
from tinyvid.types import FeatureSpec, ImageSpec

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@VISION_TOWERS.register("clip")
def clip(
    *, path: str, revision: str | None = None, layer: int = -2, resize: Resize = "auto", dtype: torch.dtype
) -> "ClipTower":
    """Load a CLIP tower from a directory or the hub.

    Args:
        path: Directory in the layout of transformers, or hub id; a whole CLIP model or its vision tower.
        revision: Commit, branch or tag on the hub.
        layer: Index of the hidden state to return; -2 is the output of the second-to-last block.
        resize: How frames become square; ``auto`` follows the model's preprocessor_config.json, which crops the sides.
        dtype: Dtype of the weights.

    Raises:
        ConfigError: ``path`` is not a CLIP model, or ``layer`` is out of range.
        CheckpointError: The path cannot be read, or its weights do not match.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel  # heavy: only when a tower is loaded

    with opened("vision_tower", path, [CONFIG, PREPROCESSOR], revision=revision) as folder:
        stored = settings_in(folder, CONFIG)
        if stored.get("model_type") not in ("clip", "clip_vision_model"):
            raise ConfigError(
                f"vision_tower.path={path!r} contains a model of type {stored.get('model_type')!r}, which is not CLIP; "
                "use vision_tower=siglip, timm or open_clip for other vision transformers"
            )
        check_sizes("vision_tower", path, stored)
        config = CLIPVisionConfig(**stored.get("vision_config", stored))
        blocks_to_run(layer, config.num_hidden_layers)
        image = resized(read_image_spec(folder, f"vision_tower.path={path!r}", default_image_spec(config)), resize)
    # Skip the text tower and the projections of a whole CLIP model without a warning that lists their tensors.
    unread = [r"^text_model\.", r"^(text|visual)_projection\.", r"^logit_scale$"]
    half = {"base_model_prefix": "vision_model", "_keys_to_ignore_on_load_unexpected": unread}
    vision_half = type(CLIPVisionModel.__name__, (CLIPVisionModel,), half)
    model = load_pretrained("vision_tower", path, vision_half, config=config, revision=revision, dtype=dtype)
    return ClipTower(model, image, layer=layer)


class ClipTower(nn.Module):
    """Patch features of CLIP: one hidden state, without the class token and without the final norm.

    Args:
        model: A ``CLIPVisionModel`` of transformers.
        image: What pixels must look like.
        layer: See ``clip``.

    Raises:
        ConfigError: ``layer`` is out of range.
    """

    embed: Callable[[Tensor], Tensor] | None = None  # CLIP compares its class token with texts, not its patches

    def __init__(self, model: Any, image: ImageSpec, *, layer: int = -2) -> None:
        super().__init__()
        self.model = model
        self.image = image
        self.num_blocks = blocks_to_run(layer, model.config.num_hidden_layers)
        side = model.config.image_size // model.config.patch_size
        self.features = FeatureSpec(dim=model.config.hidden_size, num_patches=side * side, grid=(side, side))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the input: that of the patch embedding, which comes first."""
        return self.model.dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, 3, S, S) to features (N, P, Dv). Blocks above the chosen layer do not run."""
        vision = getattr(self.model, "vision_model", self.model)  # early releases of transformers 5 nest the model
        hidden = vision.pre_layrnorm(vision.embeddings(pixels))  # (N, 1 + P, Dv), the class token first
        for block in vision.encoder.layers[: self.num_blocks]:
            hidden = block(hidden, attention_mask=None)
        return hidden[:, 1:]

    def save(self, directory: Path) -> None:
        """Write the vision tower in the layout of transformers, with its preprocessor_config.json."""
        self.model.save_pretrained(directory)
        write_image_spec(directory, self.image, "CLIPImageProcessor")


def default_image_spec(config: Any) -> ImageSpec:
    """Return the preprocessing of CLIP's training: the short side is resized, and the center is cropped."""
    return ImageSpec(size=config.image_size, mean=MEAN, std=STD, resize="crop")
