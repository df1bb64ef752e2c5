"""Reducers turn the patch features of a clip into fewer vectors, in front of a pointwise connector (``mlp``).

Importing this package registers them:

    drop      without patches that look as in the frame before
    guided    the frames nearest to the question in full, the others pooled
    merge     means of similar patches, segment by segment
    prune     the patches of each frame that stand out from it and from the frames before
    sample    evenly spaced patches
    slots     means with learned weights, of each frame or of the clip
    views     several views of the clip: few frames in detail, many frames pooled
"""

from tinyvid.models.reducers.drop import Drop
from tinyvid.models.reducers.guided import Guided
from tinyvid.models.reducers.merge import Merge
from tinyvid.models.reducers.prune import Prune
from tinyvid.models.reducers.sample import StridedSample
from tinyvid.models.reducers.slots import Slots
from tinyvid.models.reducers.views import Views

__all__ = ["Drop", "Guided", "Merge", "Prune", "Slots", "StridedSample", "Views"]
