"""Motion adds channels to the patch features of a clip: how each patch moved between frames. They have no weights.

Importing this package registers them:

    correlation    where each patch was in earlier frames, and how similar frames are
"""

from tinyvid.models.motion.correlation import Correlation

__all__ = ["Correlation"]
