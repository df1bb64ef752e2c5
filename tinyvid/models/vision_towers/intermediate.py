"""What the towers of timm and open_clip share: patch tokens of one block, and their shape before a weight is read."""

from typing import Any

import torch
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.vision_towers.metadata import blocks_to_run
from tinyvid.types import FeatureSpec, ImageSpec


class IntermediateTower(nn.Module):
    """Patch features of a model with ``forward_intermediates``: one hidden state, without class token and final norm.

    A subclass says where the blocks of its library's models are, and how a model is saved.

    Args:
        model: A model of the library.
        image: What pixels must look like.
        features: What comes out.
        layer: Which hidden state the features are; -2 is the output of the last but one block.
    """

    example: str  # a path that the library knows, for messages
    norm: str  # the option that would apply the final norm

    def __init__(self, model: Any, image: ImageSpec, features: FeatureSpec, *, layer: int = -2) -> None:
        super().__init__()
        self.model = model
        self.image = image
        self.features = features
        self.num_blocks = blocks_to_run(layer, len(self.blocks(model)))

    @property
    def dtype(self) -> torch.dtype:
        """What pixels must be cast to: the dtype of the patch embedding, which stands first."""
        return next(self.model.parameters()).dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, 3, S, S) to features (N, P, Dv). Blocks above the chosen layer are not run."""
        return self._run(self.model, pixels, self.num_blocks, "NLC")

    @staticmethod
    def blocks(model: Any) -> Any:
        """Return the transformer blocks of a model."""
        raise NotImplementedError

    @classmethod
    def probe(cls, model: Any, side: int, layer: int, path: str) -> FeatureSpec:
        """Return the shape of the features, found by running a model without weights on the meta device.

        Raises:
            ConfigError: The model has no patch tokens, or ``layer`` is out of range.
        """
        pixels = torch.empty(1, 3, side, side, device="meta")
        try:
            num_blocks = len(cls.blocks(model))
            tokens = cls._run(model, pixels, num_blocks, "NLC")  # (1, P, Dv)
            maps = cls._run(model, pixels, num_blocks, "NCHW")  # (1, Dv, h, w)
        except (AttributeError, AssertionError, TypeError) as error:
            raise ConfigError(
                f"vision_tower.path={path!r}: this model ({type(model).__name__}) returns no patch tokens; "
                f"choose a plain vision transformer, such as {cls.example}"
            ) from error
        blocks_to_run(layer, num_blocks)
        return FeatureSpec(dim=tokens.shape[2], num_patches=tokens.shape[1], grid=(maps.shape[2], maps.shape[3]))

    @classmethod
    def _run(cls, model: Any, pixels: Tensor, num_blocks: int, layout: str) -> Tensor:
        """Return what leaves the first blocks: patches as ``NLC`` (N, P, Dv), or as maps ``NCHW`` (N, Dv, h, w)."""
        options = {"indices": [num_blocks - 1], "stop_early": True, "output_fmt": layout, "intermediates_only": True}
        out = model.forward_intermediates(pixels, **options, **{cls.norm: False})
        return (out["image_intermediates"] if isinstance(out, dict) else out)[0]
