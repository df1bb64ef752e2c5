"""Vision towers turn frames into patch features.

Importing this package registers them. The library of a tower is imported when the tower is built:

    siglip     SigLIP through transformers
    clip       CLIP through transformers
    internvit  InternViT, the tower of InternVL, through transformers
    timm       any vision transformer of timm
    open_clip  CLIP, SigLIP and other vision transformers of open_clip
"""

from tinyvid.models.vision_towers.clip import ClipTower
from tinyvid.models.vision_towers.internvit import InternViTTower
from tinyvid.models.vision_towers.open_clip import OpenClipTower
from tinyvid.models.vision_towers.siglip import SiglipTower
from tinyvid.models.vision_towers.timm import TimmTower

__all__ = ["ClipTower", "InternViTTower", "OpenClipTower", "SiglipTower", "TimmTower"]
