"""``recipes/train.py -m``: one run per combination, in folders named after the differences."""

import pytest
from omegaconf import OmegaConf

from tests.factories import tiny_overrides
from tests.runs import PLAIN, load_program, python, write_rows

job_folder = load_program("train").job_folder


@pytest.mark.slow
def test_a_sweep_trains_each_combination_and_resumes(tmp_path):
    rows = write_rows(tmp_path / "my data", count=4)
    fixed = [o for o in tiny_overrides(tmp_path / "models") if not o.startswith(("connector=", "connector.num_groups"))]
    swept = ["connector=group,naive", "peft.rank=2"]
    plain = [override for override in PLAIN if not override.startswith("peft.rank")]
    arguments = [*fixed, *plain, "recipe.max_steps=1", f"data.path={rows}", f"run_dir={tmp_path / 'sweep'}", *swept]

    def sweep(*more):
        done = python("recipes/train.py", "-m", *arguments, *more)
        assert done.returncode == 0, done.stderr[-3000:]

    sweep()
    jobs = {path.parent.name: path for path in (tmp_path / "sweep").glob("*/model")}
    assert jobs.keys() == {"connector-group", "connector-naive"}
    config = OmegaConf.load(jobs["connector-naive"].parent / "config.yaml")
    assert (config.connector.name, config.peft.rank) == ("naive", 2)

    # Simulate that the first job was killed after its last step, and that the second did not start.
    killed, missing = (tmp_path / "sweep" / name for name in ("connector-group", "connector-naive"))
    missing.rename(tmp_path / "elsewhere")
    (killed / "model").rename(tmp_path / "lost")
    weights = (tmp_path / "lost" / "connector.safetensors").read_bytes()
    sweep("resume=true")
    assert (missing / "model").is_dir()
    assert (killed / "model" / "connector.safetensors").read_bytes() == weights


def test_a_folder_name_lists_differences_without_special_characters():
    given = ["llm=phi2", "recipe.lr=1e-4,1e-3", "data.path='/my data/a.jsonl','/my data/b.jsonl'", "+a=1"]
    job = ["llm=phi2", "recipe.lr=0.001", "data.path='/my data/b.jsonl'", "+a=1"]
    assert job_folder(job, given) == "recipe.lr-0.001_data.path-my-data-b.jsonl"
    assert job_folder(["llm=phi2", "peft.rank=8"], ["llm=phi2"]) == "peft.rank-8"  # swept by a configuration
    assert job_folder(["llm=phi2"], ["llm=phi2"]) == "only"


def test_a_long_folder_name_is_truncated_and_unique():
    given = ["data.path=a,b"]
    first, second = (job_folder([f"data.path={'x' * 300}{end}"], given) for end in "ab")
    assert len(first) < 160
    assert first != second
