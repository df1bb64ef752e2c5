"""Connectors: the patch features of one clip become video tokens of the LLM's width.

The menu, each registered by the import of its module:

    mlp       every patch a token (T * P / pool^2 of them)
    naive     queries over the whole video (num_queries)
    group     queries over consecutive groups of patches (num_queries)
    llamavid  one token a frame that the question chooses, and a few of what it shows (T * (1 + n))
"""

from tinyvid.models.connectors.llamavid import LlamaVid
from tinyvid.models.connectors.mlp import MLP
from tinyvid.models.connectors.resampler import GroupResampler, NaiveResampler

__all__ = ["MLP", "GroupResampler", "LlamaVid", "NaiveResampler"]
