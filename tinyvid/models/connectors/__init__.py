"""Connectors turn the patch features of one clip into video tokens of the LLM's width.

Importing this package registers them (number of video tokens in parentheses):

    mlp            one token per patch (T * P / pool^2)
    pixel_shuffle  one token per square of patches, which are concatenated (T * P / factor^2)
    naive          queries over the whole video (num_queries)
    group          queries over consecutive groups of patches (num_queries)
    llamavid       a context token per frame, which depends on the question, and content tokens (T * (1 + n))
"""

from tinyvid.models.connectors.llamavid import LlamaVid
from tinyvid.models.connectors.mlp import MLP
from tinyvid.models.connectors.pixel_shuffle import PixelShuffle
from tinyvid.models.connectors.resampler import GroupResampler, NaiveResampler

__all__ = ["MLP", "GroupResampler", "LlamaVid", "NaiveResampler", "PixelShuffle"]
