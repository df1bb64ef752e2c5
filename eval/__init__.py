"""The benchmarks; importing this package registers them. ``eval/README.md`` lists their folders and metrics.

An installed tinyvid contains this package as ``tinyvid.eval``, so its modules use relative imports.
"""

from . import (
    activitynet_captions,
    animal_kingdom,
    charades_sta,
    custom,
    footage,
    longvideobench,
    mlvu,
    mmvu,
    mvbench,
    qvhighlights,
    shapes,
    ucf_crime,
    videobench,
    videomme,
    videoqa,
    youcook2,
)

__all__ = [
    "activitynet_captions",
    "animal_kingdom",
    "charades_sta",
    "custom",
    "footage",
    "longvideobench",
    "mlvu",
    "mmvu",
    "mvbench",
    "qvhighlights",
    "shapes",
    "ucf_crime",
    "videobench",
    "videomme",
    "videoqa",
    "youcook2",
]
