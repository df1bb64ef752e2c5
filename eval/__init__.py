"""The benchmarks; importing this package registers them. ``eval/README.md`` lists their folders and metrics.

An installed tinyvid contains this package as ``tinyvid.eval``, so its modules use relative imports.
"""

from . import (
    animal_kingdom,
    custom,
    longvideobench,
    mlvu,
    mmvu,
    mvbench,
    shapes,
    ucf_crime,
    videobench,
    videomme,
    videoqa,
)

__all__ = [
    "animal_kingdom",
    "custom",
    "longvideobench",
    "mlvu",
    "mmvu",
    "mvbench",
    "shapes",
    "ucf_crime",
    "videobench",
    "videomme",
    "videoqa",
]
