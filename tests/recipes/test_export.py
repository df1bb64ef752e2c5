"""``recipes/export.py``: merged equals unmerged, self-contained and atomic output, and the model card."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from tests.clips import write_clip
from tests.factories import tiny_assistant
from tests.goldens import FAMILIES, TINYLLAVA_VIDEO
from tests.runs import ROOT, load_program, python, settings, write_rows
from tinyvid import Assistant, CheckpointError, ConfigError, DataError, Message, Sample, compose
from tinyvid.command_line import CommandLine
from tinyvid.models.adapters import is_adapted, without
from tinyvid.models.video_llm import PARTS
from tinyvid.training.trainable import PartOptions, PeftOptions, apply

pytestmark = pytest.mark.slow

program = load_program("export")


def adapted(folder, *parts, dtype="float32", quant="none", **peft):
    """A model whose adapters change its replies, saved as in training."""
    assistant = tiny_assistant(folder, dtype=dtype, quant=quant)
    how = {part: PartOptions(train="lora" if part in parts else "frozen") for part in PARTS}
    apply(assistant.model, how, PeftOptions(rank=4, **peft), lr=1e-3)
    for name, parameter in assistant.model.named_parameters():
        if "lora_B" in name:  # peft starts it at zero, where the adapter would change nothing
            torch.nn.init.normal_(parameter, std=0.05)
    assistant.model.eval()
    return assistant


def logits(assistant):
    frames = np.random.default_rng(0).integers(0, 255, (6, 30, 40, 3), dtype=np.uint8)
    example = assistant.processor(Sample([Message("user", "Q?"), Message("assistant", "A.")], video=frames))
    with torch.no_grad():
        return assistant.model(assistant.processor.collate([example])).logits


@pytest.mark.parametrize("peft", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_merged_equals_unmerged_without_the_base_models(tmp_path, peft):
    assistant = adapted(tmp_path / "models", *PARTS, **peft)
    expected = logits(assistant)
    assistant.save_pretrained(tmp_path / "ckpt")
    program.export(str(tmp_path / "ckpt"), tmp_path / "out")
    shutil.rmtree(tmp_path / "models")
    shutil.rmtree(tmp_path / "ckpt")
    again = Assistant.from_pretrained(tmp_path / "out", device="cpu")
    assert not any(is_adapted(again.model.get_submodule(part)) for part in PARTS)
    torch.testing.assert_close(logits(again), expected, atol=1e-5, rtol=1e-5)
    assert isinstance(again.ask(None, "Q?", max_new_tokens=2), str)


def test_peft_alone_loads_the_unmerged_adapter(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assistant = adapted(tmp_path / "models", "llm", "connector")
    assistant.save_pretrained(tmp_path / "ckpt")
    program.export(str(tmp_path / "ckpt"), tmp_path / "out")
    folder = tmp_path / "out" / program.UNMERGED
    assert sorted(entry.name for entry in folder.iterdir()) == ["connector", "llm"]
    base = AutoModelForCausalLM.from_pretrained(assistant.config["llm"]["path"], dtype=torch.float32)
    alone = PeftModel.from_pretrained(base, folder / "llm").eval()
    ids = torch.arange(10)[None]
    torch.testing.assert_close(alone(ids).logits, assistant.model.llm(ids).logits, atol=1e-6, rtol=0)
    plain = without(Assistant.from_pretrained(tmp_path / "ckpt", device="cpu").model.connector)
    connector = PeftModel.from_pretrained(plain, folder / "connector").eval()
    clip = torch.randn(4, 16, 24)
    torch.testing.assert_close(connector(clip), assistant.model.connector(clip), atol=1e-6, rtol=0)


def test_an_adapter_of_a_quantized_base_merges_into_the_full_weights(tmp_path):
    quantized = adapted(tmp_path / "models", "llm", quant="nf4")
    with pytest.raises(CheckpointError, match="the LLM is quantized"):
        program.standing_alone(quantized.loaded, {})
    quantized.save_pretrained(tmp_path / "ckpt")
    unmerged = Assistant.from_pretrained(tmp_path / "ckpt", device="cpu", dtype="float32")
    expected = logits(unmerged)
    program.export(str(tmp_path / "ckpt"), tmp_path / "out")
    torch.testing.assert_close(logits(Assistant.from_pretrained(tmp_path / "out", device="cpu")), expected)


@pytest.mark.parametrize("name", ["group_qwen2", "group_qwen2_lora"])
def test_a_checkpoint_of_tinyllava_video_is_exported(tmp_path, name):
    before = Assistant.from_pretrained(TINYLLAVA_VIDEO / name, device="cpu", dtype="float32")
    program.export(str(TINYLLAVA_VIDEO / name), tmp_path / "out", dtype="float32")
    after = Assistant.from_pretrained(tmp_path / "out", device="cpu", dtype="float32")
    assert torch.equal(logits(after), logits(before))
    assert not (tmp_path / "out" / program.UNMERGED).exists()


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_weights_keep_their_dtype_or_get_the_given_one(tmp_path, dtype):
    adapted(tmp_path / "models", "llm").save_pretrained(tmp_path / "ckpt")
    program.export(str(tmp_path / "ckpt"), tmp_path / "out", dtype=dtype)
    wanted = {torch.bfloat16 if dtype else torch.float32}
    for file in ("llm/model.safetensors", "vision_tower/model.safetensors", "connector.safetensors"):
        assert {tensor.dtype for tensor in load_file(tmp_path / "out" / file).values()} == wanted, file


def test_a_part_keeps_the_dtype_it_is_stored_in(tmp_path):
    adapted(tmp_path / "models", "llm", dtype="bfloat16").save_pretrained(tmp_path / "ckpt")
    loaded = Assistant.from_pretrained(tmp_path / "ckpt", device="cpu", dtype="float32").loaded
    found = program.dtypes_of(str(tmp_path / "ckpt"), loaded)
    assert found == {"llm": torch.float32, "vision_tower": torch.float32, "connector": torch.bfloat16}


def test_existing_output_is_an_error(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(CheckpointError, match="already exists and is not empty"):
        program.export(str(TINYLLAVA_VIDEO / "group_qwen2"), tmp_path / "out")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("out", ["link", "."])
def test_an_empty_folder_can_have_another_name(tmp_path, monkeypatch, out):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real" if out == "." else tmp_path)
    with program.written(Path(out)) as partial:
        (partial / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert [entry.name for entry in (tmp_path / "real").iterdir()] == ["file"]
    assert (tmp_path / "link").is_symlink()


def test_a_full_disk_is_named(tmp_path):
    message = "out=.*/out cannot be written: No space left; free some space"
    with pytest.raises(CheckpointError, match=message), program.written(tmp_path / "out"):
        raise SafetensorError("No space left")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_no_files(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(program, "write_card", fail)
    with pytest.raises(OSError, match="disk full"):
        program.export(str(TINYLLAVA_VIDEO / "group_qwen2"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def serve(out, *arguments):
    ckpt = FAMILIES / "llava_siglip" / "hf"
    line = CommandLine.parse([f"ckpt={ckpt}", f"out={out}", "to=llava", "clips=1", "reply_tokens=2", *arguments])
    program.main(compose(line.overrides, config="export"), line)


def test_a_layout_for_servers_comes_with_a_comparison(tmp_path, capsys):
    clip = write_clip(tmp_path / "clip.mp4", num_frames=20, fps=10)
    serve(tmp_path / "out", f"video={clip}", "question=What moves, and where?", "dtype=bfloat16")
    assert "The sampler is not exported" in capsys.readouterr().out
    stored = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert stored["clips"][0]["clip"] == "clip.mp4"
    assert stored["largest"] == 0  # both compute with the rounded weights
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ("to=llava2", ConfigError, "to='llava2' is unknown. Did you mean 'llava'"),
        ("clips=0", ConfigError, "clips=0 must be"),
        ("tolerance=-1", CheckpointError, "logits differ by 0, more than tolerance=-1; nothing was written"),
    ],
)
def test_a_failed_export_for_servers_leaves_no_files(tmp_path, argument, error, message):
    with pytest.raises(error, match=message):
        serve(tmp_path / "out", argument)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ConfigError, match="dtype='bf16' is unknown"):
        program.export("nowhere", ROOT / "nowhere", dtype="bf16")


def test_the_card_of_a_run_describes_the_model(tmp_path):
    rows = write_rows(tmp_path / "data", 4)
    options = settings(tmp_path / "models", rows, "recipe.max_steps=2", f"eval_path={rows}")
    load_program("train").train(options, tmp_path / "run")
    program.export(str(tmp_path / "run" / "model"), tmp_path / "out")
    _, head, card = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "tinyvid"
    for words in (
        *(f"path: {rows}", "Rows: 4", "licenses of the data and of the base models are not recorded"),
        *("## Recipe", "train: lora", "rank: 4", "max_steps: 2", "quant: none"),
        *("## Metrics", "training loss", "best evaluation loss"),
        *("`adapters_unmerged/llm`", "transformers 5", "torch 2", "`group`", "num_queries"),
    ):
        assert words in card, words


def test_the_card_lists_base_models_of_the_hub(tmp_path):
    groups = {
        "llm": {"name": "qwen2_5", "path": "Qwen/Qwen2.5-3B"},
        "vision_tower": {"name": "siglip", "path": "google/siglip-so400m-patch14-384"},
        "connector": {"name": "group"},
        "sampler": {"name": "uniform"},
        "template": {"name": "qwen2_base"},
    }
    program.write_card(tmp_path, "owner/model", groups, dict.fromkeys(PARTS, torch.bfloat16), [])
    _, head, card = (tmp_path / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["base_model"] == [
        "Qwen/Qwen2.5-3B",
        "google/siglip-so400m-patch14-384",
        "owner/model",
    ]
    assert "Not recorded, because the checkpoint was not in the folder of a training run" in card
    assert "bfloat16" in card


def write_report(folder, ckpt="owner/model", **changes):
    folder.mkdir()
    accuracy = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    official = {"accuracy": 0.5, "mIoU": 0.25, "mAP": None}
    data = {"benchmark": "custom", "blind": None, "n_total": 100, "n_of_benchmark": 2000, "chance": 0.2}
    data |= {"accuracy": {"all": accuracy}, "official": official, "settings": {"ckpt": str(ckpt)}, **changes}
    (folder / "report.json").write_text(json.dumps(data))
    return str(folder)


def test_the_card_has_results_for_the_hub(tmp_path):
    from huggingface_hub import ModelCard

    ckpt = TINYLLAVA_VIDEO / "group_qwen2"
    folder = write_report(tmp_path / "my, run", ckpt)
    line = CommandLine.parse([f"ckpt={ckpt}", f"out={tmp_path / 'out'}", f"evaluations=['{folder}']"])
    program.main(compose(line.overrides, config="export"), line)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.model_name == "out"
    assert [(each.metric_name, each.metric_value) for each in card.data.eval_results] == [
        ("accuracy", 0.5),
        ("mIoU", 0.25),
    ]
    assert {each.dataset_name for each in card.data.eval_results} == {"custom (100 of 2,000 items)"}
    assert "| custom (100 of 2,000 items) | 50.0% | 40.0% to 60.0% | 20.0% |" in card.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ckpt": "owner/other"}, "evaluated 'owner/other', not ckpt='owner/model'"),
        ({"blind": "black"}, r"is a control \(blind=black\)"),
        ({"accuracy": {"all": {"value": None}}}, "has no accuracy"),
    ],
)
def test_other_evaluations_are_refused(changes, message, tmp_path):
    with pytest.raises(DataError, match=message):
        program.reports_of([write_report(tmp_path / "run", **changes)], "owner/model")


def test_the_command_exports_what_eval_reads(tmp_path):
    out = tmp_path / "it's [out], a=b"
    done = python("recipes/export.py", f"ckpt={TINYLLAVA_VIDEO / 'group_qwen2'}", f"out={out}", "dtype=bfloat16")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"Wrote {out}"
    assert Assistant.from_pretrained(out, device="cpu").ask(None, "Q?", max_new_tokens=2) is not None


def test_a_user_error_prints_one_line_and_exits_with_2():
    done = python("recipes/export.py", "ckpt=nowhere", "out=x", "quant=nf4")
    assert done.returncode == 2
    assert "quant" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "ckpt= is missing"),
        (("ckpt=nowhere",), "out= is missing"),
        (("push=a/b", "out=x", "evaluations=runs"), "evaluations= needs ckpt="),
        (("ckpt=nowhere", "out=x"), "there is no directory 'nowhere'"),
        (("ckpt=nowhere", "out=x", "to=llava", "tolerance=x"), "tolerance='x' must be a number"),
        (("ckpt=nowhere", "out=x", "to=llava", "tolerance=.nan"), "tolerance=.* must be a number"),
        (("ckpt=nowhere", "out=x", "to=llava", "clips=true"), "clips=True must be a whole number of at least 1"),
        (("ckpt=nowhere", "out=x", "to=llava", "reply_tokens=0"), "reply_tokens=0 must be a whole number of at lea"),
        (("ckpt=nowhere", "out=x", "to=llava", "enlarge=1"), "enlarge=1 must be true or false"),
    ],
)
def test_missing_arguments_are_reported(arguments, message):
    line = CommandLine.parse(arguments)
    with pytest.raises((ConfigError, CheckpointError), match=message):
        program.main(compose(line.overrides, config="export"), line)


def test_help_shows_examples():
    done = python("recipes/export.py", "--help")
    assert done.returncode == 0, done.stderr
    assert "python recipes/export.py ckpt=runs/mine/model out=my-model" in done.stdout
