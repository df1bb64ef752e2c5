"""Measure what motion channels cost beside the vision tower, and what they gain in the comparison of connectors.

    python perf/motion.py --runs runs/connectors

The tower has the geometry of SigLIP-base (224 pixels, 196 patches of 768 values, 12 layers) with random weights, and
encodes a clip of random pixels, in float32 on one core. The channels of `motion=correlation` are computed from its
features. The times are those of the processor, so they do not contain other programs; tower and motion are timed in
turn, and the fastest round counts. Ratios compare times of one run, so they hold on other machines.

`--runs` is the folder of a sweep over `experiment=connectors/...`, see perf/connectors_learning.py. The gain of a
connector is its accuracy in motion questions with motion channels minus that without, after the same steps.

Prints a Markdown table of times and, with `--runs`, one of accuracies. The last line is one JSON object:
`cost_over_tower` (time of the default options by time of the tower; target: at most 0.1), `cost_by_options` (the same
for other options), `motion_gain` (points, by connector; null without `--runs`), and `frames` per clip.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

SIGLIP_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
QUICK = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
DEFAULT = "default"
MOTION = " + motion"  # in the names of runs
SETTINGS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "gaps=[1]": {"gaps": [1]},
    "radius=4": {"radius": 4},
    "similarity=8": {"similarity": 8},
}


def costs(sizes: dict[str, int], *, frames: int, repeats: int) -> tuple[float, dict[str, float]]:
    """Return the seconds per frame of the tower, and those of motion by setting."""
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from tinyvid.models.vision_towers.siglip import SiglipTower, default_image_spec
    from tinyvid.registry import MOTIONS

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = SiglipVisionConfig(**sizes, image_size=224, patch_size=16)
    tower = SiglipTower(SiglipVisionModel(config), default_image_spec(config)).eval()
    motions = {
        name: MOTIONS.build({"name": "correlation", **options}, features=tower.features)
        for name, options in SETTINGS.items()
    }
    pixels = torch.randn(frames, 3, 224, 224)
    best = dict.fromkeys(("tower", *motions), float("inf"))
    with torch.inference_mode():
        for _ in range(repeats + 1):  # the first round warms up
            began = time.process_time()
            features = tower(pixels)
            best["tower"] = min(best["tower"], time.process_time() - began)
            for name, motion in motions.items():
                began = time.process_time()
                motion(features)
                best[name] = min(best[name], time.process_time() - began)
    per_frame = {name: seconds / frames for name, seconds in best.items()}
    return per_frame.pop("tower"), per_frame


def accuracies(folder: Path) -> dict[str, dict[str, float]]:
    """Return the accuracy in motion questions by connector, without and with motion channels: means over seeds."""
    sys.path.append(str(Path(__file__).parent))
    from connectors_learning import read_run

    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for weights in sorted(folder.glob("*/model/connector.safetensors")):
        name, run = read_run(weights.parents[1])
        connector = name.removesuffix(MOTION)
        found[connector]["without" if name == connector else "with"].append(run["curve"][-1][1]["motion"])
    both = {name: kinds for name, kinds in found.items() if len(kinds) == 2}
    return {name: {kind: mean(values) for kind, values in kinds.items()} for name, kinds in both.items()}


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small tower, to check that the script runs")
    parser.add_argument("--runs", type=Path, help="folder of a sweep over connectors, with and without motion")
    parser.add_argument("--frames", type=int, default=8, help="frames per clip (default: 8)")
    arguments = parser.parse_args()
    found = accuracies(arguments.runs) if arguments.runs else None
    if found == {}:
        parser.error(f"{arguments.runs} contains no connector with and without motion; pass the folder of a sweep")
    sizes, repeats = (QUICK, 1) if arguments.quick else (SIGLIP_BASE, 3)
    tower, by_setting = costs(sizes, frames=arguments.frames, repeats=repeats)
    print("| part | ms per frame | of the tower |\n|---|---|---|")
    print(f"| vision tower | {1000 * tower:.2f} | 1 |")
    for name, seconds in by_setting.items():
        print(f"| motion=correlation, {name} | {1000 * seconds:.2f} | {seconds / tower:.4f} |")
    if found is not None:
        print("\n| connector | without motion | with motion |\n|---|---|---|")
        for name, values in found.items():
            print(f"| {name} | {values['without']:.1f} | {values['with']:.1f} |")
    ratios = {name: round(seconds / tower, 4) for name, seconds in by_setting.items()}
    gain = None
    if found is not None:
        gain = {name: round(values["with"] - values["without"], 1) for name, values in found.items()}
    report = {"cost_over_tower": ratios.pop(DEFAULT), "cost_by_options": ratios, "motion_gain": gain}
    print(json.dumps({**report, "frames": arguments.frames}))


if __name__ == "__main__":
    main()
