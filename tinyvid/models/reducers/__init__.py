"""Reducers turn the patch features of a clip into fewer vectors, in front of a pointwise connector (``mlp``).

Importing this package registers them:

    drop      without patches that look as in the frame before
"""

from tinyvid.models.reducers.drop import Drop

__all__ = ["Drop"]
