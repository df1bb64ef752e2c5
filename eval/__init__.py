"""The benchmarks: importing this package registers them. ``eval/README.md`` lists their folders and numbers.

An installed tinyvid carries this package as ``tinyvid.eval``, so its modules import each other relatively.
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
