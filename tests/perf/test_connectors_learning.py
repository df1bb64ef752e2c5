"""The comparison of connectors: all have the same budget, and the table shows the results of their runs."""

import json

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.runs import python
from tinyvid import compose
from tinyvid.build import build_connector, build_motion, check
from tinyvid.config import CONF_DIR
from tinyvid.training import read_recipe
from tinyvid.types import FeatureSpec

pytestmark = pytest.mark.slow

NAMES = sorted(path.stem for path in (CONF_DIR / "experiment" / "connectors").glob("*.yaml") if path.stem != "budget")
TOWER = FeatureSpec(dim=96, num_patches=64, grid=(8, 8))  # of the default model


@pytest.mark.parametrize("name", NAMES)
def test_every_connector_makes_sixteen_tokens_under_the_same_recipe(name):
    config = compose([f"experiment=connectors/{name}"], config="train")
    groups = check(config)
    decoder, motion = groups.get("text_decoder"), build_motion(groups.get("motion"), TOWER)
    features = TOWER if motion is None else motion.features
    connector = build_connector(groups["connector"], features=features, llm_dim=192, text_decoder=decoder)
    frames = config.sampler.num_frames
    assert connector.tokens.budget(frames) == 16
    first = compose([f"experiment=connectors/{NAMES[0]}"], config="train")
    assert [config[key] for key in ("recipe", "data", "benchmark", "llm", "vision_tower")] == [
        first[key] for key in ("recipe", "data", "benchmark", "llm", "vision_tower")
    ]
    options, parts = read_recipe(dict(config.recipe))
    assert options.max_steps
    assert parts["vision_tower"].train == "frozen"


def test_all_connectors_are_compared():
    built = {compose([f"experiment=connectors/{name}"], config="train").connector.name for name in NAMES}
    assert {"mlp", "naive", "group", "llamavid"} <= built


def write_run(folder, name, seed, shares, *, motion=None, **options):
    """Write the files of a run of recipes/train.py that the comparison reads."""
    (folder / "model").mkdir(parents=True)
    settings = {"connector": {"name": name, **options}, "motion": motion, "recipe": {"seed": seed}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "metrics.jsonl").write_text('{"step": 5, "loss": 1}\n{"step": 20, "train_steps_per_second": 4.0}\n')
    save_file({"a": torch.zeros(1000, 500), "b": torch.zeros(7)}, folder / "model" / "connector.safetensors")
    for step, share in shares.items():
        report = {"groups": {"family": {"motion": {"value": share}}}, "official": {"Overall": 100 * share}}
        (folder / "benchmarks" / f"shapes-{step}").mkdir(parents=True)
        (folder / "benchmarks" / f"shapes-{step}" / "report.json").write_text(json.dumps(report))


def compared(*arguments, status=0):
    done = python("perf/connectors_learning.py", *arguments)
    assert done.returncode == status, done.stderr
    return done


def test_the_table_shows_the_mean_over_seeds_of_the_last_evaluation(tmp_path):
    write_run(tmp_path / "runs" / "a", "mlp", 0, {100: 0.9, 20: 0.2})
    write_run(tmp_path / "runs" / "b", "mlp", 1, {100: 0.7, 20: 0.1})
    write_run(tmp_path / "runs" / "c", "group", 0, {100: 0.95}, mixer_layers=2)
    lines = compared(tmp_path / "runs", "--out", tmp_path / "images" / "curves.png").stdout.splitlines()
    assert lines[0] == "| connector | motion | all | parameters | s / step |"
    assert lines[2] == "| group + mixer | 95.0 | 95.0 | 0.50 M | 0.25 |"
    assert lines[3] == "| mlp | 80.0 (70 - 90) | 80.0 (70 - 90) | 0.50 M | 0.25 |"
    report = json.loads(lines[-1])
    assert report["mlp"]["seeds"] == [0, 1]
    assert report["mlp"]["steps"] == 100
    assert (tmp_path / "images" / "curves.png").stat().st_size > 5000


@pytest.mark.long
def test_motion_reports_its_cost_and_its_gain_by_connector(tmp_path):
    runs = (("mlp", None, 0.2), ("mlp", "correlation", 0.9), ("group", None, 0.5))
    for number, (name, motion, share) in enumerate(runs):
        write_run(tmp_path / str(number), name, 0, {400: share}, motion=motion and {"name": motion})
    done = python("perf/motion.py", "--quick", "--frames=2", f"--runs={tmp_path}")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["motion_gain"] == {"mlp": 70.0}
    assert min(report["cost_over_tower"], *report["cost_by_options"].values()) > 0
    assert (
        "contains no connector with and without motion" in python("perf/motion.py", f"--runs={tmp_path / '0'}").stderr
    )


def test_a_folder_without_runs_is_an_error(tmp_path):
    assert "contains no finished run" in compared(tmp_path, status=2).stderr
