"""Training: it learns, accumulation changes nothing, killed runs resume exactly, and faults are reported."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.goldens import TINYLLAVA_VIDEO
from tests.questions import write_questions, write_two_clips
from tests.runs import load_program, settings, turns, write_rows
from tinyvid import Assistant, CheckpointError, ConfigError, DataError, EvaluationOptions, VideoError
from tinyvid.training import EpochOrder
from tinyvid.training.data import EMPTY
from tinyvid.training.log import read_metrics

pytestmark = pytest.mark.slow

program = load_program("train")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"))


def losses(run_dir):
    return [record["loss"] for record in read_metrics(run_dir) if "loss" in record]


def trained(run_dir, step):
    return load_file(run_dir / f"checkpoint-{step}" / "trained.safetensors")


# --- it learns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "share"),
    [
        (["recipe.llm.train=frozen"], 0.8),  # the connector alone can only steer a random LLM
        (["recipe.llm.train=lora"], 0.3),
        (["recipe.llm.train=lora", "quant=nf4"], 0.3),
        (["recipe.llm.train=full", "recipe.vision_tower.train=full"], 0.1),
    ],
    ids=["frozen", "lora", "qlora", "full"],
)
def test_overfits_one_batch(models, tmp_path, how, share):
    few = write_rows(tmp_path / "data", count=1)
    steps = ["recipe.max_steps=40", "recipe.epochs=40", "recipe.lr=0.01", "recipe.batch_size=1", "recipe.save_every=40"]
    program.train(settings(models, few, *steps, *how), tmp_path / "run")
    seen = losses(tmp_path / "run")
    assert len(seen) == 40
    assert seen[-1] < share * seen[0]


def test_mixed_precision_and_checkpointed_activations_learn(models, tmp_path):
    few = write_rows(tmp_path / "data", count=1)
    steps = ["recipe.max_steps=20", "recipe.epochs=20", "recipe.lr=0.01", "recipe.batch_size=1", "recipe.save_every=20"]
    options = ["dtype=bfloat16", "recipe.gradient_checkpointing=true", "recipe.optimizer=adamw_8bit"]
    program.train(settings(models, few, *steps, *options, f"eval_path={few}"), tmp_path / "run")
    seen = losses(tmp_path / "run")
    assert seen[-1] < 0.7 * seen[0]
    assert all(value.dtype == torch.float32 for value in trained(tmp_path / "run", 20).values())


def test_the_result_loads_and_answers_as_it_was_trained(models, rows, tmp_path):
    result = program.train(settings(models, rows), tmp_path / "run")
    assistant = Assistant.from_pretrained(result, device="cpu", dtype="float32")
    weights = dict(assistant.model.named_parameters())
    for key, value in trained(tmp_path / "run", 4).items():
        assert torch.equal(weights[key], value), key
    assert isinstance(assistant.ask(str(rows.parent / "clip_0.mp4"), "What is it?", max_new_tokens=4), str)


def test_a_run_writes_its_metrics(models, rows, tmp_path):
    program.train(settings(models, rows, f"eval_path={rows}"), tmp_path / "run")
    run = tmp_path / "run"
    assert {"config.yaml", "metrics.jsonl", "metrics.csv", "loss.png", "model"} <= {p.name for p in run.iterdir()}
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    header, *lines = (run / "metrics.csv").read_text().splitlines()
    assert header.startswith("step,epoch,loss")
    assert len(lines) == 5  # four steps and one evaluation
    evaluation = next(record for record in read_metrics(run) if "eval_loss" in record)
    assert 0 <= evaluation["eval_accuracy"] <= 1


def test_the_best_checkpoint_is_kept(models, rows, tmp_path):
    steps = ["recipe.max_steps=6", "recipe.epochs=2", "recipe.eval_every=1", "recipe.save_every=1", "recipe.keep=1"]
    program.train(settings(models, rows, f"eval_path={rows}", *steps, "recipe.lr=3"), tmp_path / "run")
    records = [r for r in read_metrics(tmp_path / "run") if "eval_loss" in r]
    best = min(records, key=lambda record: record["eval_loss"])["step"]
    left = {p.name for p in (tmp_path / "run").glob("checkpoint-*")}
    assert {f"checkpoint-{best}", "checkpoint-6"} == left


@pytest.mark.parametrize("with_rows", [True, False])
def test_a_benchmark_is_asked_at_every_evaluation(models, rows, tmp_path, with_rows):
    questions = write_questions(tmp_path / "questions")
    asked = ["benchmark=custom", f"benchmark.root={questions}", "limit=4", "recipe.eval_every=2", "recipe.save_every=2"]
    held_out = [f"eval_path={rows}"] if with_rows else []
    program.train(settings(models, rows, *asked, *held_out), tmp_path / "run")
    records = [r for r in read_metrics(tmp_path / "run") if "eval_custom_accuracy" in r]
    assert [("eval_loss" in r, r["step"]) for r in records] == [(with_rows, 2), (with_rows, 4)]
    assert len(list((tmp_path / "run" / "benchmarks").glob("custom-*/report.json"))) == 2


def test_a_look_report_ends_a_run(models, rows, tmp_path, monkeypatch):
    short = EvaluationOptions(max_new_tokens=1, workers=0)
    monkeypatch.setattr(program, "asking", lambda settings: short)
    questions = write_two_clips(tmp_path / "questions")
    look = ["benchmark=custom", f"benchmark.root={questions}", "report=look", "sampler.num_frames=2"]
    ckpt = f"ckpt={TINYLLAVA_VIDEO / 'group_qwen2'}"
    result = program.train(settings(models, rows, ckpt, *look, "recipe.max_steps=1"), tmp_path / "run")
    data = json.loads((tmp_path / "run" / "look" / "look.json").read_text())
    assert (data["ckpt"], len(data["controls"])) == (str(result), 5)
    steps = {json.loads(p.read_text())["settings"].get("step") for p in (tmp_path / "run/look").glob("*/report.json")}
    assert steps == {0, None}, "the model before the first step was asked, too"
    assert data["rows"][0]["before"]["n"] == 2
    for wrong, message in ((["report=lok"], "Did you mean 'look'"), (["report=look"], "report=look needs benchmark=")):
        with pytest.raises(ConfigError, match=message):
            program.train(settings(models, rows, *wrong), tmp_path / "wrong")


# --- cutting steps differently changes nothing --------------------------------------------------------------------


def test_accumulating_eight_batches_of_one_equals_one_batch_of_eight(models, rows, tmp_path):
    common = ["recipe.epochs=2", "recipe.max_steps=null", "recipe.save_every=1", "recipe.keep=9"]
    for batch, accumulate in ((1, 8), (8, 1)):
        cut = [f"recipe.batch_size={batch}", f"recipe.accumulate={accumulate}"]
        program.train(settings(models, rows, *common, *cut), tmp_path / f"run{batch}")
    one, eight = trained(tmp_path / "run1", 2), trained(tmp_path / "run8", 2)
    for key in one:
        # Adam divides by the gradient's size, which magnifies float32 rounding where gradients are tiny.
        torch.testing.assert_close(one[key], eight[key], atol=1e-4, rtol=0)
    for a, b in zip(losses(tmp_path / "run1"), losses(tmp_path / "run8"), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


@pytest.mark.parametrize("cached", ["frames", "features"])
def test_a_cache_does_not_change_results_and_is_reused(models, rows, tmp_path, monkeypatch, cached):
    steps = ["recipe.batch_size=1", "recipe.epochs=2", "recipe.max_steps=null", "recipe.save_every=100"]
    program.train(settings(models, rows, *steps), tmp_path / "plain")
    cache = f"cache.{cached}={tmp_path / 'cache'}"
    program.train(settings(models, rows, *steps, cache), tmp_path / "cold")

    def never(*args, **kwargs):
        raise AssertionError("decoded again")

    monkeypatch.setattr("tinyvid.video.open_video.Clip.read", never)
    program.train(settings(models, rows, *steps, cache), tmp_path / "warm")
    plain, cold, warm = (trained(tmp_path / name, 16) for name in ("plain", "cold", "warm"))
    assert all(torch.equal(plain[key], cold[key]) and torch.equal(cold[key], warm[key]) for key in plain)


def test_a_feature_cache_of_a_trained_tower_is_refused(models, rows, tmp_path):
    with pytest.raises(ConfigError, match="cache.features"):
        program.train(
            settings(models, rows, "recipe.vision_tower.train=full", f"cache.features={tmp_path / 'c'}"),
            tmp_path / "run",
        )


# --- a kill costs nothing -----------------------------------------------------------------------------------------


def killed(configuration, run_dir, ready):
    """Train in a child process, and kill it as soon as ``ready`` returns true."""
    child = multiprocessing.get_context("fork").Process(target=program.train, args=(configuration, run_dir))
    child.start()
    while child.is_alive() and not ready():
        time.sleep(0.001)
    if child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    return child.exitcode


def test_a_resumed_run_ends_with_the_same_weights(models, rows, tmp_path):
    steps = [
        "recipe.epochs=6",
        "recipe.max_steps=10",
        "recipe.accumulate=2",
        "recipe.batch_size=1",
        "recipe.save_every=2",
    ]
    keep = ["recipe.keep=9", "peft.dropout=0.1", f"eval_path={rows}"]  # dropout, so that the random state counts
    configuration = settings(models, rows, *steps, *keep)
    program.train(configuration, tmp_path / "whole")

    run, chance = tmp_path / "killed", random.Random(0)
    again = configuration | {"resume": True}
    moments = [
        lambda: (run / "checkpoint-2").exists() and time.sleep(chance.uniform(0, 0.3)) is None,
        lambda: any(run.glob(".partial-*")),  # while a checkpoint is being written
        lambda: any(run.glob(".partial-*/trained.safetensors")),
    ]
    kills = sum(
        killed(configuration if n == 0 else again, run, ready) == -signal.SIGKILL for n, ready in enumerate(moments)
    )
    assert kills  # on a busy machine, the moment at which a checkpoint is being written may be missed
    if not (run / "model").exists():
        program.train(again, run)
    expected, resumed = trained(tmp_path / "whole", 10), trained(run, 10)
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)
    assert not list(run.glob(".partial-*"))


def test_a_run_keeps_the_template_and_frames_of_its_checkpoint(models, rows, tmp_path):
    first = program.train(settings(models, rows, "recipe.llm.train=frozen", "template=chatml"), tmp_path / "first")
    kept = {"sampler": {"num_frames": 2}, "template": None, "video_reader": None}  # as they come from the command line
    second = program.train(settings(models, rows, f"ckpt={first}") | kept, tmp_path / "second")
    config = Assistant.from_pretrained(second, device="cpu").config
    assert config["template"]["end"] == "<|im_end|>"
    assert (config["sampler"]["name"], config["sampler"]["num_frames"]) == ("uniform", 2)


def test_a_folder_with_a_run_is_refused(models, rows, tmp_path):
    program.train(settings(models, rows), tmp_path / "run")
    with pytest.raises(ConfigError, match="contains a finished model; to train it further"):
        program.train(settings(models, rows), tmp_path / "run")
    (tmp_path / "run" / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="already contains a run; continue it with resume=true"):
        program.train(settings(models, rows), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"settings differ .*recipe.lr: 0.001 -> 0.5"):
        program.train(settings(models, rows, "resume=true", "recipe.lr=0.5"), tmp_path / "run")
    with pytest.raises(ConfigError, match="contains no run"):
        program.train(settings(models, rows, "resume=true"), tmp_path / "other")


# --- where training starts ----------------------------------------------------------------------------------------


def test_trains_from_a_checkpoint_that_stays_a_reference(models, rows, tmp_path):
    whole = tmp_path / "converted"
    Assistant.from_pretrained(TINYLLAVA_VIDEO / "group_qwen2", device="cpu").save_pretrained(whole)
    result = program.train(settings(models, rows, f"ckpt={whole}", "quant=nf4"), tmp_path / "run")
    assert not (result / "llm").exists()
    assert Assistant.from_pretrained(result, device="cpu").config["llm"]["path"] == str(whole / "llm")
    second = program.train(settings(models, rows, f"ckpt={result}", "recipe.lr=1e-4"), tmp_path / "run2")
    assert (second / "adapter").is_dir()


def test_a_checkpoint_in_another_layout_is_stored_or_refused(models, rows, tmp_path):
    ckpt = f"ckpt={TINYLLAVA_VIDEO / 'group_qwen2'}"
    result = program.train(settings(models, rows, ckpt), tmp_path / "run")
    assert (result / "llm").is_dir()
    assert Assistant.from_pretrained(result, device="cpu").ask(None, "Q", max_new_tokens=2) is not None
    with pytest.raises(CheckpointError, match="convert_to=DIR"):
        program.train(settings(models, rows, ckpt, "quant=nf4"), tmp_path / "run2")


def test_stages_differ_only_in_yaml(models, rows, tmp_path):
    """Align a connector on captions, then fine-tune the result with LoRA."""
    align = ["recipe.llm.train=frozen", "template=plain"]
    first = program.train(settings(models, rows, *align), tmp_path / "align")
    before = load_file(first / "connector.safetensors")
    second = program.train(settings(models, rows, f"ckpt={first}"), tmp_path / "finetune")
    assistant = Assistant.from_pretrained(second, device="cpu")
    assert assistant.processor.template.assistant_prefix == "ASSISTANT:"
    assert not torch.equal(before["latents"], assistant.model.connector.latents)


# --- faults -------------------------------------------------------------------------------------------------------


def append(rows, target, *extra):
    target.parent.mkdir(parents=True, exist_ok=True)
    for medium in (*rows.parent.glob("*.mp4"), *rows.parent.glob("*.png")):
        (target.parent / medium.name).write_bytes(medium.read_bytes())
    lines = [row if isinstance(row, str) else json.dumps(row) for row in extra]
    target.write_text(rows.read_text() + "".join(f"{line}\n" for line in lines))
    return target


@pytest.fixture
def broken(rows, tmp_path):
    """Return eight good rows, and a ninth whose video cannot be decoded."""
    path = append(rows, tmp_path / "data" / "rows.jsonl", {"video": "bad.mp4", "conversations": turns("Q?", "A.")})
    (path.parent / "bad.mp4").write_bytes(b"no video at all, only text that is long enough to look at")
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_an_undecodable_medium_stops_the_run(models, broken, tmp_path, workers):
    with pytest.raises(VideoError, match=r"rows.jsonl:9: .*bad.mp4") as caught:
        program.train(settings(models, broken, f"recipe.workers={workers}", "recipe.epochs=3"), tmp_path / "run")
    assert "Traceback" not in str(caught.value)


def test_a_row_that_evaluation_skips_is_recorded_too(models, rows, broken, tmp_path):
    skip = ["data.on_error=skip", "data.max_skip=0.2", f"data.media_root={broken.parent}", f"eval_path={broken}"]
    program.train(settings(models, rows, *skip), tmp_path / "run")
    (record,) = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert str(broken) in record


@pytest.mark.parametrize("workers", [0, 1])
def test_a_skipped_row_is_counted_and_recorded(models, broken, tmp_path, workers):
    skip = ["data.on_error=skip", "data.max_skip=0.2", f"recipe.workers={workers}", "recipe.max_steps=null"]
    result = program.train(settings(models, broken, *skip), tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert [record["row"].rpartition(":")[2] for record in records] == ["9"]
    assert "bad.mp4" in records[0]["reason"]
    assert result.is_dir()


def test_too_many_skipped_rows_stop_the_run(models, broken, tmp_path):
    with pytest.raises(
        DataError, match=r"1 of 9 rows cannot be used, which is more than data.max_skip=0.05 allows.*bad.mp4"
    ):
        program.train(
            settings(models, broken, "data.on_error=skip", "data.max_skip=0.05", "recipe.max_steps=null"),
            tmp_path / "run",
        )


def test_a_run_without_a_usable_row_fails(models, broken, tmp_path):
    broken.write_text(broken.read_text().splitlines()[-1] + "\n")
    skip = ["data.on_error=skip", "data.max_skip=1", "recipe.max_steps=null"]
    with pytest.raises(DataError, match=r"none of the 1 training rows can be used; .*skipped.jsonl lists .*bad.mp4"):
        program.train(settings(models, broken, *skip), tmp_path / "run")


UNUSABLE = [
    ({"conversations": turns("Only a question?")}, "rows.jsonl:9: .*no reply to learn"),
    ({"conversations": turns("Q?", "")}, "rows.jsonl:9: a reply is empty"),
    ({"conversations": turns("word " * 3000, "A.")}, "rows.jsonl:9: .*exceed the limit llm.max_length=1,024"),
    ({"video": "nowhere.mp4", "conversations": turns("Q?", "A.")}, "rows.jsonl:9: .*nowhere.mp4"),
    ("not json", "rows.jsonl:9: the row is not JSON"),
]


@pytest.mark.parametrize(("row", "message"), UNUSABLE, ids=range(len(UNUSABLE)))
def test_a_bad_held_out_row_stops_the_run_before_its_first_step(models, rows, tmp_path, monkeypatch, row, message):
    monkeypatch.setattr(program.VideoTrainer, "train", lambda *_, **__: pytest.fail("training started"))
    path = append(rows, tmp_path / "data" / "rows.jsonl", row)
    with pytest.raises((DataError, VideoError), match=message):
        program.train(settings(models, rows, f"data.media_root={path.parent}", f"eval_path={path}"), tmp_path / "run")


@pytest.mark.parametrize(("row", "message"), UNUSABLE, ids=range(len(UNUSABLE)))
def test_a_row_that_cannot_be_learned_is_reported(models, rows, tmp_path, row, message):
    path = append(rows, tmp_path / "data" / "rows.jsonl", row)
    with pytest.raises((DataError, VideoError), match=message):
        program.train(settings(models, path, "recipe.max_steps=null"), tmp_path / "run")


def test_a_loss_that_is_not_finite_reports_the_samples(models, rows, tmp_path, monkeypatch):
    load = program.load

    def poisoned(configuration):
        loaded = load(configuration)
        torch.nn.init.constant_(loaded.model.connector.latents, float("nan"))
        return loaded

    monkeypatch.setattr(program, "load", poisoned)
    with pytest.raises(DataError, match=r"the loss is nan at step 1, on the samples \['row"):
        program.train(settings(models, rows), tmp_path / "run")


def test_no_rows(models, tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n")
    with pytest.raises(DataError, match="has no rows"):
        program.train(settings(models, tmp_path / "rows.jsonl"), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {"lr": -1}}, "recipe.lr=-1.* must be at least"),
        ({"recipe": {"schedule": "cosin"}}, r"schedule='cosin' is not allowed. Did you mean 'cosine'"),
        ({"recipe": {"batchsize": 1}}, r"recipe has no option 'batchsize'. Did you mean 'batch_size'"),
        ({"recipe": {"llm": {"train": "lra"}}}, r"recipe.llm.train='lra' is not allowed"),
        ({"peft": {"rank": 0}}, "peft.rank=0 must be at least 1"),
        ({"data": {"on_error": "ignore"}}, "data.on_error='ignore' is not allowed"),
        ({"cache": {"max_gib": 0}}, "cache.max_gib"),
        ({"device": "cuda:1"}, "set device=cuda and CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_loaded(models, rows, tmp_path, change, message):
    configuration = settings(models, rows)
    configuration["llm"]["path"] = "nobody/nothing"
    for key, values in change.items():
        configuration[key] = configuration[key] | values if isinstance(values, dict) else values
    with pytest.raises(ConfigError, match=message):
        program.train(configuration, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- order --------------------------------------------------------------------------------------------------------


def order(**kwargs):
    return EpochOrder(**{"num_rows": 10, "batch_size": 4, "multiple": 4, "seed": 0, "size": None} | kwargs)


def test_the_order_depends_on_seed_and_epoch_alone():
    first, second = order(), order()
    assert list(first) == list(second)
    second.set_epoch(1)
    assert list(first) != list(second)
    assert list(order(seed=1)) != list(first)


def test_every_row_comes_once_and_the_rest_is_empty():
    for size in (None, lambda index: index % 3):
        places = list(order(size=size))
        assert sorted(places[:10]) == list(range(10))
        assert places[10:] == [EMPTY, EMPTY]
        assert len(order(size=size)) == 12


def test_similar_lengths_come_together():
    sizes = [random.Random(i).randrange(1000) for i in range(400)]

    def spread(places):
        groups = [[sizes[i] for i in places[n : n + 4]] for n in range(0, 400, 4)]
        return sum(max(group) - min(group) for group in groups)

    grouped = list(order(num_rows=400, size=sizes.__getitem__))
    assert spread(grouped) < 0.2 * spread(list(order(num_rows=400)))


def test_settings_contain_no_path_of_this_test(models, rows):
    assert Path(settings(models, rows)["data"]["path"]) == rows


def test_tensorboard_gets_the_losses(models, rows, tmp_path):
    program.train(settings(models, rows, "recipe.report_to=[tensorboard]"), tmp_path / "run")
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))
