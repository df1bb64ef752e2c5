"""The checkpoint with connector=mlp in examples/: it matches its report, answers, and needs no training for `drop`."""

import json
from pathlib import Path

import pytest
import yaml

from recipes.shapes.measure import measure
from recipes.shapes.release import digest
from recipes.shapes.sizes import SIZES
from tinyvid import Assistant
from tinyvid.worlds.shapes import SetOptions

MODEL = Path(__file__).parents[1] / "examples" / "patches"
SIZE = SIZES["patches"]
CLIPS = SetOptions(split="iid", seed=40, questions=4, families=list(SIZE.families), formats=list(SIZE.formats))


def test_it_matches_its_report_and_is_small():
    report = json.loads((MODEL / "report.json").read_text())
    assert digest(MODEL) == report["sha256"]
    assert report["command"].startswith("python -m recipes.shapes --size patches ")
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) < 5e6
    manifest = yaml.safe_load((MODEL / "tinyvid.yaml").read_text())
    assert (manifest["connector"]["name"], manifest["connector"]["pool"]) == ("mlp", 1)


@pytest.mark.slow
@pytest.mark.parametrize("reducer", [None, {"name": "drop", "threshold": 0.95}])
def test_it_answers_with_and_without_most_of_its_tokens(reducer):
    assistant = Assistant.from_pretrained(MODEL, reducer=reducer, device="cpu", dtype="float32")
    right = measure(assistant, CLIPS, clips=6)["overall"]["accuracy"]
    blind = measure(assistant, CLIPS, clips=6, blind=True)["overall"]["accuracy"]
    assert right >= 0.7
    assert blind <= 0.65
