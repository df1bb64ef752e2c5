"""Several adapters on one model: each computes as the model that was loaded with it alone."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.factories import save_llm, tiny_assistant
from tests.goldens import FAMILIES
from tests.runs import ROOT, load_script, python
from tinyvid import Assistant, CheckpointError, ConfigError, Message, Sample, compose
from tinyvid.command_line import CommandLine
from tinyvid.errors import printable
from tinyvid.models.video_llm import PARTS
from tinyvid.training.trainable import PartOptions, PeftOptions, apply

FRAMES = np.random.default_rng(0).integers(0, 255, (6, 30, 40, 3), dtype=np.uint8)


def logits(assistant):
    example = assistant.processor(Sample([Message("user", "Q?"), Message("assistant", "A.")], video=FRAMES))
    with torch.no_grad():
        return assistant.model(assistant.processor.collate([example])).logits


@pytest.fixture(scope="module")
def skills(models, tmp_path_factory):
    """Checkpoints of the same tiny model: two with an adapter of the LLM, one with an adapter of the connector too."""
    folder = tmp_path_factory.mktemp("skills")
    for number, (name, parts) in enumerate({"a": ["llm"], "b": ["llm"], "both": ["llm", "connector"]}.items()):
        assistant = tiny_assistant(models)
        torch.manual_seed(number)
        how = {part: PartOptions(train="lora" if part in parts else "frozen") for part in PARTS}
        apply(assistant.model, how, PeftOptions(rank=2 + number, use_dora=name == "b"), lr=1e-3)
        for key, parameter in assistant.model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.05)
        assistant.model.eval()
        assistant.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_each_adapter_computes_as_if_it_were_alone(models, skills, tmp_path, quant):
    how = {"device": "cpu", "quant": quant}
    alone = {name: logits(Assistant.from_pretrained(skills / name, **how)) for name in ("a", "b")}
    assistant = tiny_assistant(models, quant=quant)
    before = logits(assistant)
    assistant.adapters.add("spins", skills / "a")
    assistant.adapters.add("bounces", skills / "b" / "adapter")
    assert assistant.adapters.names == ["spins", "bounces"]
    for name, expected in (("spins", alone["a"]), ("bounces", alone["b"]), (None, before), ("spins", alone["a"])):
        with assistant.adapters.using(name):
            assert torch.equal(logits(assistant), expected), name
        assert torch.equal(logits(assistant), before)
    assert not any(torch.equal(before, other) for other in alone.values())
    assistant.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "adapter").exists()
    assert torch.equal(logits(Assistant.from_pretrained(tmp_path / "saved", **how)), before)


def test_a_model_with_an_adapter_of_its_own_keeps_it(models, skills, tmp_path):
    assistant = Assistant.from_pretrained(skills / "a", device="cpu")
    own, without = logits(assistant), logits(tiny_assistant(models))
    assistant.adapters.add("b", skills / "b")
    with pytest.raises(ZeroDivisionError), assistant.adapters.using("b"):
        raise ZeroDivisionError
    assert torch.equal(logits(assistant), own)
    with assistant.adapters.using(None):
        assert torch.equal(logits(assistant), without)
    assistant.save_pretrained(tmp_path / "saved")
    assert sorted(file.name for file in (tmp_path / "saved" / "adapter").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert torch.equal(logits(Assistant.from_pretrained(tmp_path / "saved", device="cpu")), own)


def test_a_model_of_another_project_must_be_converted_first(skills):
    assistant = Assistant.from_pretrained(FAMILIES / "llava_siglip" / "hf", device="cpu")
    with pytest.raises(CheckpointError, match=r"another project's layout, .*; write it with save_pretrained"):
        assistant.adapters.add("x", skills / "a")
    with pytest.raises(CheckpointError, match=r"has no adapter; expected tinyvid.yaml .* or adapter_config.json"):
        assistant.adapters.add("x", FAMILIES / "llava_siglip" / "hf")


def test_adapters_that_do_not_fit_are_refused(models, skills, tmp_path):
    assistant = tiny_assistant(models)
    before = logits(assistant)
    with pytest.raises(CheckpointError, match="adapters of llm, connector; only an adapter of the LLM alone"):
        assistant.adapters.add("x", skills / "both")
    other = shutil.copytree(skills / "a", tmp_path / "other")
    manifest = (other / "tinyvid.yaml").read_text()
    (other / "tinyvid.yaml").write_text(manifest.replace("llm_qwen2", "llm_other"))
    with pytest.raises(CheckpointError, match="made for another llm than .*llm_qwen2"):
        assistant.adapters.add("x", other)
    trained = shutil.copytree(skills / "a", tmp_path / "trained")
    weights = {key: value + 1 for key, value in load_file(trained / "connector.safetensors").items()}
    save_file(weights, trained / "connector.safetensors")
    with pytest.raises(CheckpointError, match="has another connector than this model"):
        assistant.adapters.add("x", trained)
    wider = tiny_assistant(save_llm(tmp_path / "llm_phi", "phi").parent, family="phi")
    with pytest.raises(CheckpointError, match="does not match the llm"):
        wider.adapters.add("x", skills / "a" / "adapter")
    assert wider.adapters.names == []
    assert not any("lora" in key for key in wider.model.state_dict())
    assert torch.equal(logits(assistant), before)


@pytest.mark.parametrize("name", ["", "a.b", "default", "lora", None])
def test_names_that_are_not_allowed(models, skills, name):
    with pytest.raises(ConfigError, match="of an adapter is not allowed"):
        tiny_assistant(models).adapters.add(name, skills / "a")


def test_names_are_unique_and_known(models, skills):
    assistant = tiny_assistant(models)
    assistant.adapters.add("bounces", skills / "a")
    with pytest.raises(ConfigError, match="there already is an adapter 'bounces'"):
        assistant.adapters.add("bounces", skills / "b")
    with (
        pytest.raises(ConfigError, match="no adapter 'bounce'. Did you mean 'bounces'"),
        assistant.adapters.using("bounce"),
    ):
        pass


def ask(*arguments):
    return python(ROOT / "eval.py", "question=What moves?", "device=cpu", "max_new_tokens=4", *arguments)


@pytest.mark.slow
def test_the_program_compares_adapters_or_uses_one(models, skills, tmp_path):
    tiny_assistant(models).save_pretrained(tmp_path / "base")
    given = (f"ckpt={tmp_path / 'base'}", f"adapters.spins={skills / 'a'}", f"adapters.hops={skills / 'b'}")
    assistant = Assistant.from_pretrained(tmp_path / "base", device="cpu")
    replies = {}
    for name, folder in (("spins", skills / "a"), ("hops", skills / "b")):
        assistant.adapters.add(name, folder)
        with assistant.adapters.using(name):
            sample = Sample([Message("user", "What moves?")])
            replies[name] = printable(assistant.answer([sample], max_new_tokens=4)[0])
    done = ask(*given)
    assert done.stdout == "".join(f"{name}: {reply}\n" for name, reply in replies.items()), done.stderr
    assert ask(*given, "adapter=hops", f"out={tmp_path / 'out.jsonl'}").returncode == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["reply"] == replies["hops"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adapters.a=x", "adapter=b"], "adapter='b' is not one of adapters.NAME="),
        (["adapters.a=null"], "adapters.a=None must be a directory or a hub id"),
        (["adapters.a=x", "ckpt=null"], "adapters.NAME= needs ckpt="),
        (["adapters.a=x", "adapters.b=y", "out=o.jsonl"], "answer single questions only; choose one: adapter=a or b"),
        (["adapters.a=x", "adapters.b=y", "chat=true"], "choose one: adapter=a or b"),
        (["adapters.a=x", "convert_to=y", "ckpt=z"], "is not written by convert_to="),
    ],
)
def test_the_program_refuses_other_adapters(arguments, message):
    program = load_script()
    line = CommandLine.parse(["question=Q", "device=cpu", *arguments])
    with pytest.raises(ConfigError, match=re.escape(message)):
        program.run(compose(line.overrides, config="eval"), line)


def test_paths_of_adapters_are_literal():
    line = CommandLine.parse(["adapters.my-skill=~/a b, [c]=${d}", "adapter=1"])
    config = compose(line.overrides, config="eval")
    assert config.adapters["my-skill"] == str(Path.home() / "a b, [c]=${d}")
    assert config.adapter == "1"
