"""Base of the timm and open_clip towers: features of one block or stage, and their shape before weights are read."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tinyvid.errors import ConfigError
from tinyvid.models.vision_towers.metadata import blocks_to_run
from tinyvid.types import FeatureSpec, ImageSpec


class IntermediateTower(nn.Module):
    """Features of a model with ``forward_intermediates``: one hidden state, without class token and final norm.

    The hidden states of a vision transformer are the outputs of its blocks. Those of a model that reduces its
    resolution (EfficientNet, MobileNet, ConvNeXt, FastViT, Swin) are the outputs of its stages, the last one with the
    coarsest grid. Grids become patches row by row, from the top left.

    Batch norm always uses its stored statistics, so a frame does not depend on the others, in training as well.

    Args:
        model: A model of the library.
        image: Specification of the pixels.
        features: Shape of the features.
        num_blocks: Number of blocks or stages to run; both come from ``probe``.
    """

    example: str  # a valid path, for messages
    norm: str  # name of the option that applies the final norm
    embed = None

    def __init__(self, model: Any, image: ImageSpec, features: FeatureSpec, num_blocks: int) -> None:
        super().__init__()
        self.model = model
        self.image = image
        self.features = features
        self.num_blocks = num_blocks

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the input: that of the patch embedding, which comes first."""
        return next(self.model.parameters()).dtype

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, 3, S, S) to features (N, P, Dv). What is above the chosen layer does not run."""
        (maps,) = self._run(self.model, pixels, [self.num_blocks - 1])  # (N, Dv, h, w)
        return maps.flatten(2).transpose(1, 2).contiguous()

    def train(self, mode: bool = True) -> "IntermediateTower":
        """Switch to training mode, except for batch norm."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    @classmethod
    def probe(cls, model: Any, side: int, layer: int, path: str) -> tuple[FeatureSpec, int]:
        """Return the shape of the features and the number of blocks or stages, by running the model on the meta device.

        Raises:
            ConfigError: The library returns no grids of features for this model, or ``layer`` is out of range.
        """
        try:
            every = cls._run(model.eval(), torch.empty(1, 3, side, side, device="meta"), None)
            grids = [(dim, (height, width)) for _, dim, height, width in (maps.shape for maps in every)]
        except (AttributeError, AssertionError, TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"vision_tower.path={path!r}: this model ({type(model).__name__}) does not return grids of patch "
                f"features; choose another one, such as {cls.example}"
            ) from error
        unit = "blocks" if len(set(grids)) == 1 else "stages"
        num_blocks = blocks_to_run(layer, len(grids), unit)
        dim, grid = grids[num_blocks - 1]
        return FeatureSpec(dim=dim, num_patches=grid[0] * grid[1], grid=grid), num_blocks

    @classmethod
    def _run(cls, model: Any, pixels: Tensor, indices: list[int] | None) -> list[Tensor]:
        """Return the outputs of these blocks, or of all, as maps (N, Dv, h, w)."""
        options = {"indices": indices, "stop_early": indices is not None, "output_fmt": "NCHW"}
        out = model.forward_intermediates(pixels, **options, intermediates_only=True, **{cls.norm: False})
        return out["image_intermediates"] if isinstance(out, dict) else out
