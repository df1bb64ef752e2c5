"""Two processes on the CPU: the same result as one with twice the accumulation, and no deadlocks."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.factories import tiny_overrides
from tests.runs import PLAIN, ROOT, load_program, python, python_in_ranks, settings, turns, write_rows
from tinyvid import Assistant, ConfigError
from tinyvid.training.log import read_metrics
from tinyvid.training.runs import check_complete
from tinyvid.training.sharding import check_launch

STEPS = ["recipe.batch_size=1", "recipe.epochs=2", "recipe.max_steps=null", "recipe.save_every=100"]


TORCHRUN = ("torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0")
TRAIN = "recipes/train.py"


def accelerate(config):
    file = f"recipes/accelerate/{config}.yaml"
    return "accelerate.commands.launch", f"--config_file={file}", "--num_processes=2", "--main_process_port=0"


def launch(models, rows, run_dir, *overrides, launcher=None, program=TRAIN, **env):
    """Train in two processes; without a launcher, they are forks, which need not import torch again."""
    parts = [*tiny_overrides(models), *PLAIN, *STEPS, f"data.path={rows}", f"run_dir={run_dir}", *overrides]
    env |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    if launcher is not None:
        done = [python("-m", *launcher, program, *parts, **env)]
    else:
        done = python_in_ranks(program, *parts, **env)
    assert not any(process.returncode for process in done), "\n".join(process.stderr[-3000:] for process in done)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(TORCHRUN, id="torchrun"),
        pytest.param(accelerate("ddp"), id="accelerate", marks=pytest.mark.long),  # the sharded runs use it, too
    ],
)
def test_two_processes_equal_one_with_doubled_accumulation(models, tmp_path, launcher):
    rows = write_rows(tmp_path / "data", count=7)  # uneven: one process has one row more
    launch(models, rows, tmp_path / "two", "recipe.accumulate=1", f"eval_path={rows}", launcher=launcher)
    configuration = settings(models, rows, *STEPS, "recipe.accumulate=2", f"eval_path={rows}")
    load_program("train").train(configuration, tmp_path / "one")
    assert_same_weights(tmp_path / "one" / "checkpoint-8", tmp_path / "two" / "checkpoint-8")
    one, two = ([r["eval_loss"] for r in read_metrics(tmp_path / n) if "eval_loss" in r] for n in ("one", "two"))
    assert one == pytest.approx(two, abs=1e-4), "every row is evaluated once"


def shard(models, rows, run_dir, *overrides, launcher=None):
    """Train in two processes with FSDP2, and return the last checkpoint."""
    steps = ["recipe.accumulate=1", "recipe.save_every=4", "recipe.keep=9", f"eval_path={rows}"]
    options = yaml.safe_load((ROOT / "recipes/accelerate/fsdp2.yaml").read_text())["fsdp_config"]
    env = {"ACCELERATE_USE_FSDP": "true"} | {key.upper(): str(value) for key, value in options.items()}
    launch(models, rows, run_dir, *steps, *overrides, launcher=launcher, program="tests/fsdp_on_cpu.py", **env)
    last = run_dir / "checkpoint-8"
    assert len(list((last / "optimizer_0").glob("*.distcp"))) == 2, "each process wrote its share"
    return last


@pytest.mark.slow
@pytest.mark.parametrize(("how", "launcher"), [("lora", accelerate("fsdp2")), ("full", None)], ids=["lora", "full"])
def test_sharded_training_equals_unsharded_training(models, tmp_path, how, launcher):
    rows = write_rows(tmp_path / "data", count=7)
    last = shard(models, rows, tmp_path / "shards", f"recipe.llm.train={how}", launcher=launcher)
    configuration = settings(models, rows, *STEPS, "recipe.accumulate=2", f"recipe.llm.train={how}")
    load_program("train").train(configuration, tmp_path / "one")
    assert_same_weights(tmp_path / "one" / "checkpoint-8", last)
    results = [Assistant.from_pretrained(tmp_path / name / "model", device="cpu") for name in ("one", "shards")]
    assert len({assistant.ask(rows.parent / "clip_0.mp4", "What?", max_new_tokens=8) for assistant in results}) == 1


@pytest.mark.slow
def test_shards_resume(models, tmp_path):
    rows = write_rows(tmp_path / "data", count=7)
    last = shard(models, rows, tmp_path / "shards", "peft.dropout=0.1")
    shutil.rmtree(tmp_path / "shards" / "model")
    last.rename(tmp_path / "before")
    last = shard(models, rows, tmp_path / "shards", "peft.dropout=0.1", "resume=true")
    before, after = (load_file(path / "trained.safetensors") for path in (tmp_path / "before", last))
    assert all(torch.equal(before[key], after[key]) for key in before)


FSDP2 = {"fsdp_version": 2, "cpu_ram_efficient_loading": False}


@pytest.mark.parametrize(
    ("plugin", "options", "message"),
    [
        ("deepspeed", {"zero_stage": 3}, "ZeRO-3 is not supported, because no process has unsharded weights"),
        ("fsdp", FSDP2 | {"fsdp_version": 1}, "fsdp_version=1 is not supported; set fsdp_version: 2"),
        ("fsdp", FSDP2 | {"cpu_ram_efficient_loading": True}, "set fsdp_cpu_ram_efficient_loading: False"),
        ("fsdp", FSDP2, "a quantized LLM cannot be sharded; use quant=none with FSDP"),
    ],
)
def test_unsupported_sharding_is_refused(plugin, options, message):
    state = SimpleNamespace(**{f"{plugin}_plugin": SimpleNamespace(**options)})
    model = SimpleNamespace(llm=SimpleNamespace(is_quantized=True))
    with pytest.raises(ConfigError, match=message):
        check_launch(SimpleNamespace(state=state), model, "adamw")


def assert_same_weights(first, second):
    one, two = (load_file(checkpoint / "trained.safetensors") for checkpoint in (first, second))
    assert one.keys() == two.keys()
    for key in one:
        # Adam divides by the gradient's size, which magnifies float32 rounding where gradients are tiny.
        torch.testing.assert_close(one[key], two[key], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_row_that_one_process_skips_does_not_block_the_others(models, tmp_path):
    rows = write_rows(tmp_path / "data", count=6)
    (rows.parent / "bad.mp4").write_bytes(b"no video at all, only text that is long enough to look at")
    bad = {"video": "bad.mp4", "conversations": turns("Q?", "A.")}
    rows.write_text(json.dumps(bad) + "\n" + rows.read_text())
    launch(models, rows, tmp_path / "run", "recipe.accumulate=1", "data.on_error=skip", "data.max_skip=0.5")
    skipped = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert {json.loads(line)["row"].rpartition(":")[2] for line in skipped} == {"1"}


@pytest.mark.slow
def test_several_processes_need_an_explicit_folder(models, tmp_path):
    rows = write_rows(tmp_path / "data", count=2)
    done = python("recipes/train.py", *tiny_overrides(models), f"data.path={rows}", WORLD_SIZE="2")
    assert done.returncode == 2
    assert "set run_dir=" in done.stderr


@pytest.mark.slow
def test_processes_agree_on_the_step_after_which_they_stop(models, tmp_path):
    """Send SIGTERM to one of two processes: both finish the same step and write one checkpoint."""
    rows, run = write_rows(tmp_path / "data", count=7), tmp_path / "run"
    program = tmp_path / "program.py"
    program.write_text(
        "import os, runpy, signal, sys\n"
        "from tinyvid.training.log import RunLog\n"
        "class Stop(RunLog):\n"
        "    def on_log(self, args, state, *rest, **kwargs):\n"
        "        super().on_log(args, state, *rest, **kwargs)\n"
        "        if state.global_step == 3 and os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGTERM)\n"
        "import tinyvid.training.trainer as trainer\n"
        "trainer.RunLog = Stop\n"
        f"sys.argv[0] = {str(ROOT / TRAIN)!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    parts = [*tiny_overrides(models), *PLAIN, *STEPS, "recipe.accumulate=1", "recipe.keep=9", f"data.path={rows}"]
    env = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    done = python_in_ranks(program, *parts, f"run_dir={run}", **env)
    assert [process.returncode for process in done] == [143, 143], done[0].stderr[-3000:]
    (checkpoint,) = run.glob("checkpoint-*")
    assert checkpoint.name in ("checkpoint-3", "checkpoint-4")
    check_complete(checkpoint, processes=2)
