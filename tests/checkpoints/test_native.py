"""The native layout: round trips, atomic writes, and errors about damaged or foreign directories."""

import contextlib
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.factories import tiny_assistant, tiny_overrides
from tinyvid import Assistant, CheckpointError, ConfigError, Message, PluginError, Sample, compose
from tinyvid.registry import CONNECTORS


@pytest.fixture
def saved(models, tmp_path):
    tiny_assistant(models).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def batch_of(assistant):
    frames = np.random.default_rng(0).integers(0, 255, (6, 30, 40, 3), dtype=np.uint8)
    example = assistant.processor(Sample([Message("user", "Q?"), Message("assistant", "A.")], video=frames))
    return assistant.processor.collate([example])


def edit(path, changes=None, **named):
    manifest = yaml.safe_load((path / "tinyvid.yaml").read_text())
    for key, value in ((changes or {}) | named).items():
        if value is None:
            manifest.pop(key)
        else:
            manifest[key] = value
    (path / "tinyvid.yaml").write_text(yaml.safe_dump(manifest))


@pytest.mark.slow
@pytest.mark.parametrize("connector", CONNECTORS.names())
def test_round_trip_is_bit_equal(models, tmp_path, connector):
    assistant = tiny_assistant(models, connector=connector)
    assistant.save_pretrained(tmp_path / "a")
    again = Assistant.from_pretrained(tmp_path / "a", device="cpu")
    batch = batch_of(assistant)
    assert torch.equal(batch.input_ids, batch_of(again).input_ids)
    assert torch.equal(again.model(batch).logits, assistant.model(batch).logits)


def test_frozen_parts_are_stored_as_references(saved):
    assert sorted(entry.name for entry in saved.iterdir()) == [
        "README.md",
        "connector.safetensors",
        "tinyvid.yaml",
        "tokenizer",
    ]
    assert yaml.safe_load((saved / "tinyvid.yaml").read_text())["stored"] == []


@pytest.mark.slow
def test_dtype_and_quantization_are_chosen_when_loading(saved):
    assert Assistant.from_pretrained(saved, device="cpu", dtype="bfloat16").model.llm.dtype == torch.bfloat16
    quantized = Assistant.from_pretrained(saved, device="cpu", quant="nf4")
    assert quantized.model.llm.is_quantized


def test_sampler_and_template_can_change_when_loading(saved):
    whole = Assistant.from_pretrained(saved, device="cpu", sampler={"name": "fps", "fps": 2.0})
    assert whole.config["sampler"]["name"] == "fps"
    part = Assistant.from_pretrained(saved, device="cpu", sampler={"num_frames": 7})
    assert (part.config["sampler"]["name"], part.processor.sampler.num_frames) == ("uniform", 7)
    with pytest.raises(ConfigError, match=r"sampler 'uniform' has no option 'num_frame'. Did you mean 'num_frames'"):
        Assistant.from_pretrained(saved, device="cpu", sampler={"num_frame": 7})


def test_an_existing_directory_is_never_overwritten(assistant, saved):
    with pytest.raises(CheckpointError, match="already exists and is not empty"):
        assistant.save_pretrained(saved)


def test_an_interrupted_save_leaves_nothing(assistant, tmp_path, monkeypatch):

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("tinyvid.checkpoints.native.save_file", full)
    with pytest.raises(CheckpointError, match="a cannot be written: no space left on device"):
        assistant.save_pretrained(tmp_path / "out" / "a")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unwritable_path_is_an_error(assistant, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "below", tmp_path / ("x" * 400), "nul\0"):
        with pytest.raises(CheckpointError, match="cannot be written"):
            assistant.save_pretrained(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assistant.save_pretrained("~/mine")
    assert (tmp_path / "mine" / "tinyvid.yaml").is_file()


def test_a_stored_quantized_llm_is_refused(tmp_path):
    from tests.goldens import TINYLLAVA_VIDEO

    assistant = Assistant.from_pretrained(TINYLLAVA_VIDEO / "group_qwen2", device="cpu", quant="nf4")
    with pytest.raises(CheckpointError, match="load it with quant=none"):
        assistant.save_pretrained(tmp_path / "a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2, but tinyvid .* reads format 1"),
        ({"format": None}, "has no 'format' number"),
        ({"sampler": None}, r"missing keys \['sampler'\]"),
        ({"surprise": 1}, r"unknown keys \['surprise'\]"),
        ({"stored": ["llm", "../x"]}, "'stored' must list some of"),
        ({"stored": ["llm"]}, "lists the llm as stored, but .* is missing"),
        ({"connector": "group"}, "'connector' must be a mapping with a 'name'"),
        ({"connector": {"name": ["group"]}}, "'connector' must be a mapping with a 'name'"),
        ({"format": True}, "has no 'format' number"),
        ({"stored": [["llm"]]}, "'stored' must list some of"),
        ({"adapters": [{"llm": 1}]}, "'adapters' must list some of"),
        ({"plugins": "x"}, "'plugins' must map kinds to packages"),
        ({5: 1, "x": 2}, r"unknown keys \['5', 'x'\]"),
    ],
)
def test_a_damaged_manifest(saved, changes, message):
    edit(saved, changes)
    with pytest.raises(CheckpointError, match=message):
        Assistant.from_pretrained(saved, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["format: !!python/object/apply:os.getcwd []\n", "format: 1\nx: 2024-99-99\n", "[" * 20_000, "format: \0"]
)
def test_a_manifest_that_is_not_plain_data_is_refused(saved, text):
    (saved / "tinyvid.yaml").write_text(text)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Assistant.from_pretrained(saved, device="cpu")


def test_a_missing_plugin_is_reported(saved):
    edit(saved, connector={"name": "qpool", "num_queries": 4}, plugins={"connector": "some-plugin 0.2"})
    with pytest.raises(PluginError, match="connector 'qpool' is not installed; .* of the package 'some-plugin 0.2'"):
        Assistant.from_pretrained(saved, device="cpu")


def test_an_unknown_part_without_a_plugin_is_a_config_error(saved):
    edit(saved, connector={"name": "grup"})
    with pytest.raises(ConfigError, match="Did you mean 'group'"):
        Assistant.from_pretrained(saved, device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("norm.bias"), r"missing keys \[norm.bias\]"),
        (lambda w: w.update(extra=torch.ones(1)), r"unexpected keys \[extra\]"),
        (lambda w: w.update({"norm.bias": torch.ones(5)}), r"norm.bias: \(5,\) in the file, \(64,\) in the model"),
    ],
)
def test_connector_weights_must_fit(saved, change, message):
    weights = load_file(saved / "connector.safetensors")
    change(weights)
    save_file(weights, saved / "connector.safetensors")
    with pytest.raises(CheckpointError, match=message):
        Assistant.from_pretrained(saved, device="cpu")


@pytest.mark.parametrize("num_queries", [10**5, 10**6])
def test_sizes_are_compared_before_they_take_memory(saved, monkeypatch, num_queries):
    options = yaml.safe_load((saved / "tinyvid.yaml").read_text())["connector"]
    edit(saved, connector=options | {"num_queries": num_queries})
    build, devices = CONNECTORS.build, []

    def watched(*args, **kwargs):
        devices.append(torch.get_default_device().type)
        return build(*args, **kwargs)

    monkeypatch.setattr(CONNECTORS, "build", watched)
    with pytest.raises(CheckpointError, match=rf"latents: .* in the file, \({num_queries // 4}, 64\) in the model"):
        Assistant.from_pretrained(saved, device="cpu")
    assert devices == ["meta"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"connector": {"name": "mlp", "depth": 10**9}}, "depth=1000000000 must be at most 100"),
        ({"sampler": {"name": "uniform", "num_frames": 10**12}}, "num_frames=1000000000000 must be at most 1,000,000"),
    ],
)
def test_a_manifest_with_huge_numbers_is_refused(saved, changes, message):
    edit(saved, changes)
    with pytest.raises(ConfigError, match=message):
        Assistant.from_pretrained(saved, device="cpu")


def test_a_connector_larger_than_memory_is_an_error(models):
    config = compose([*tiny_overrides(models), f"connector.num_queries={10**14}"])
    with pytest.raises(ConfigError, match="num_queries=100000000000000 must be at most 1,000,000"):
        Assistant.from_config(config, device="cpu")


def test_text_in_a_manifest_is_not_interpolated(models, saved):
    template = yaml.safe_load((saved / "tinyvid.yaml").read_text())["template"]
    edit(saved, template=template | {"system": "${oc.env:HOME} costs ${x}"})
    assistant = Assistant.from_pretrained(saved, device="cpu")
    assert assistant.processor.template.system == "${oc.env:HOME} costs ${x}"


def test_a_truncated_weight_file(saved):
    file = saved / "connector.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="connector.safetensors cannot be read"):
        Assistant.from_pretrained(saved, device="cpu")


def test_paths_that_are_not_checkpoints(tmp_path, saved):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match="it contains nothing; expected tinyvid.yaml"):
        Assistant.from_pretrained(empty)
    with pytest.raises(CheckpointError, match="contains .*tokenizer"):
        Assistant.from_pretrained(saved / "tokenizer")
    with pytest.raises(CheckpointError, match="is a file; a checkpoint is a directory"):
        Assistant.from_pretrained(saved / "tinyvid.yaml")
    with pytest.raises(CheckpointError, match="no directory '/no/such/place'"):
        Assistant.from_pretrained("/no/such/place")
    with pytest.raises(CheckpointError, match="no directory 'nobody/nothing', and downloading it failed"):
        Assistant.from_pretrained("nobody/nothing")


EVIL = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass Thing: pass\n"


def test_code_next_to_a_tokenizer_does_not_run(saved):
    edit(saved, digests=None)  # otherwise, the change alone is refused
    folder = saved / "tokenizer"
    (folder / "evil.py").write_text(EVIL)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Thing", None]}, "tokenizer_class": "Thing"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with contextlib.suppress(CheckpointError):  # refused, or read as the plain tokenizer that it also is
        Assistant.from_pretrained(saved, device="cpu")
    assert not (folder / "ran").exists()


@pytest.mark.slow
def test_code_next_to_an_llm_does_not_run(models, tmp_path):
    llm = tmp_path / "llm"
    shutil.copytree(models / "llm_qwen2", llm)
    (llm / "evil.py").write_text(EVIL)
    config = json.loads((llm / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Thing", "AutoModelForCausalLM": "evil.Thing"}}
    (llm / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="llm"):
        Assistant.from_config(compose([*tiny_overrides(models), f"llm.path={llm}", "llm=auto"]), device="cpu")
    assert not (llm / "ran").exists()


def test_a_base_model_of_another_family(models):
    overrides = [*tiny_overrides(models), "llm=phi2"]
    with pytest.raises(ConfigError, match="contains a model of type 'qwen2', but this llm needs 'phi'; use llm=auto"):
        Assistant.from_config(compose(overrides), device="cpu")


def test_a_base_model_that_cannot_be_downloaded(models):
    overrides = [*tiny_overrides(models), "llm.path=nobody/nothing"]
    with pytest.raises(CheckpointError, match="'nobody/nothing' cannot be loaded; it is not a local directory"):
        Assistant.from_config(compose(overrides), device="cpu")


@pytest.mark.slow
def test_a_context_longer_than_the_model(models):
    overrides = [*tiny_overrides(models), "llm.max_length=5000"]
    with pytest.raises(ConfigError, match="llm.max_length=5000 exceeds the 1024 positions"):
        Assistant.from_config(compose(overrides), device="cpu")
