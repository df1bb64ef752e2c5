"""Base of the timm and open_clip towers: patch tokens of one block, and their shape before weights are read."""

from typing import Any

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.vision_towers.metadata import blocks_to_run
from tinyvid.types import FeatureSpec, ImageSpec


class IntermediateTower(nn.Module):
    """Patch features of a model with ``forward_intermediates``: one hidden state, without class token and final norm.

    Subclasses locate the blocks of a model and save it.

    Args:
        model: A model of the library.
        image: Specification of the pixels.
        features: Shape of the features.
        layer: Index of the hidden state to return; -2 is the output of the second-to-last block.
    """

    example: str  # a valid path, for messages
    norm: str  # name of the option that applies the final norm
    embed = None

    def __init__(self, model: Any, image: ImageSpec, features: FeatureSpec, *, layer: int = -2) -> None:
        super().__init__()
        self.model = model
        self.image = image
        self.features = features
        self.num_blocks = blocks_to_run(layer, len(self.blocks(model)))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the input: that of the patch embedding, which comes first."""
        return next(self.model.parameters()).dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, 3, S, S) to features (N, P, Dv). Blocks above the chosen layer do not run."""
        return self._run(self.model, pixels, self.num_blocks, "NLC")

    @staticmethod
    def blocks(model: Any) -> Any:
        """Return the transformer blocks of a model."""
        raise NotImplementedError

    @classmethod
    def probe(cls, model: Any, side: int, layer: int, path: str) -> FeatureSpec:
        """Return the shape of the features, by running the model on the meta device.

        Raises:
            ConfigError: The model does not return patch tokens, or ``layer`` is out of range.
        """
        pixels = torch.empty(1, 3, side, side, device="meta")
        try:
            num_blocks = len(cls.blocks(model))
            tokens = cls._run(model, pixels, num_blocks, "NLC")  # (1, P, Dv)
            maps = cls._run(model, pixels, num_blocks, "NCHW")  # (1, Dv, h, w)
        except (AttributeError, AssertionError, TypeError) as error:
            raise ConfigError(
                f"vision_tower.path={path!r}: this model ({type(model).__name__}) does not return patch "
                f"tokens; choose a plain vision transformer such as {cls.example}"
            ) from error
        blocks_to_run(layer, num_blocks)
        return FeatureSpec(dim=tokens.shape[2], num_patches=tokens.shape[1], grid=(maps.shape[2], maps.shape[3]))

    @classmethod
    def _run(cls, model: Any, pixels: Tensor, num_blocks: int, layout: str) -> Tensor:
        """Return the output of the first blocks as ``NLC`` (N, P, Dv) or as ``NCHW`` maps (N, Dv, h, w)."""
        options = {"indices": [num_blocks - 1], "stop_early": True, "output_fmt": layout, "intermediates_only": True}
        out = model.forward_intermediates(pixels, **options, **{cls.norm: False})
        return (out["image_intermediates"] if isinstance(out, dict) else out)[0]
