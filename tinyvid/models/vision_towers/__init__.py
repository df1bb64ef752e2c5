"""Vision towers: frames become patch features.

The menu, each registered by the import of its module. The library that a tower needs is imported when it is built:

    siglip     SigLIP through transformers
    timm       any vision transformer of timm
    open_clip  CLIP, SigLIP and other vision transformers of open_clip
"""

from tinyvid.models.vision_towers.open_clip import OpenClipTower
from tinyvid.models.vision_towers.siglip import SiglipTower
from tinyvid.models.vision_towers.timm import TimmTower

__all__ = ["OpenClipTower", "SiglipTower", "TimmTower"]
