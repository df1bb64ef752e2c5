"""Adapters: round trips, merging, loading with peft alone, and untrusted configurations."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.factories import tiny_assistant
from tests.goldens import TINYLLAVA_VIDEO
from tinyvid import Assistant, CheckpointError, ConfigError, Message, Sample
from tinyvid.models.adapters import base_state, is_adapted, merged
from tinyvid.models.video_llm import PARTS
from tinyvid.training.trainable import PartOptions, PeftOptions, apply, parameter_groups, table


def options(**how):
    return {name: PartOptions(train=how.get(name, "frozen")) for name in PARTS}


def adapted(assistant, *parts, **peft):
    torch.manual_seed(1)
    apply(assistant.model, options(**dict.fromkeys(parts, "lora")), PeftOptions(rank=4, **peft), lr=1e-3)
    for name, parameter in assistant.model.named_parameters():
        if "lora_B" in name:  # peft starts it at zero, where the adapter would change nothing
            torch.nn.init.normal_(parameter, std=0.05)
    assistant.model.eval()
    return assistant


def batch_of(assistant):
    frames = np.random.default_rng(0).integers(0, 255, (6, 30, 40, 3), dtype=np.uint8)
    example = assistant.processor(Sample([Message("user", "Q?"), Message("assistant", "A.")], video=frames))
    return assistant.processor.collate([example])


@pytest.mark.slow
@pytest.mark.parametrize("peft", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_round_trip_is_bit_equal_for_every_part(models, tmp_path, peft):
    assistant = adapted(tiny_assistant(models), *PARTS, **peft)
    plain = tiny_assistant(models).model(batch_of(assistant)).logits
    assistant.save_pretrained(tmp_path / "a")
    again = Assistant.from_pretrained(tmp_path / "a", device="cpu")
    batch = batch_of(assistant)
    assert torch.equal(again.model(batch).logits, assistant.model(batch).logits)
    assert not torch.equal(plain, assistant.model(batch).logits)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2", "phi"])
def test_merged_equals_unmerged(models, family):
    assistant = adapted(tiny_assistant(models, family=family), *PARTS)
    batch = batch_of(assistant)
    unmerged = assistant.model(batch).logits
    for part in PARTS:
        setattr(assistant.model, part, merged(assistant.model.get_submodule(part)))
        assert not is_adapted(assistant.model.get_submodule(part))
    torch.testing.assert_close(assistant.model(batch).logits, unmerged, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "peft"),
    [("gpt2", {}), ("mpt", {}), ("mamba", {"targets": ["in_proj", "x_proj"]}), ("gemma2", {})],
)
def test_other_llms_can_be_adapted_loaded_and_merged(models, tmp_path, family, peft, recwarn):
    attention = "sdpa" if family == "gpt2" else "eager"
    assistant = adapted(tiny_assistant(models, f"llm.attention={attention}", family=family), "llm", **peft)
    assistant.save_pretrained(tmp_path / "a")
    again = Assistant.from_pretrained(tmp_path / "a", device="cpu")
    batch = batch_of(assistant)
    logits = assistant.model(batch).logits
    assert torch.equal(again.model(batch).logits, logits)
    again.model.llm = merged(again.model.llm)
    torch.testing.assert_close(again.model(batch).logits, logits, atol=1e-5, rtol=0)
    assert not [warning for warning in recwarn if "fan_in_fan_out" in str(warning.message)]


@pytest.mark.parametrize("family", ["mpt", "mamba", "gemma2"])
def test_attention_that_an_llm_lacks_is_refused_with_one_that_it_has(models, family):
    with pytest.raises(ConfigError, match=f"llm.attention=sdpa is not available for .* '{family}'; set .*=eager"):
        tiny_assistant(models, family=family)


def test_layers_that_cannot_be_adapted_are_named(models):
    assistant = tiny_assistant(models, "llm.attention=eager", family="mamba")
    with pytest.raises(ConfigError, match=r"'out_proj' is incompatible .*peft.targets=\[dt_proj,in_proj,"):
        adapted(assistant, "llm")


def test_peft_alone_loads_the_adapter_of_the_llm(models, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assistant = adapted(tiny_assistant(models), "llm")
    assistant.save_pretrained(tmp_path / "a")
    base = AutoModelForCausalLM.from_pretrained(assistant.config["llm"]["path"], dtype=torch.float32)
    alone = PeftModel.from_pretrained(base, tmp_path / "a" / "adapter").eval()
    ids = torch.arange(10)[None]
    torch.testing.assert_close(alone(ids).logits, assistant.model.llm(ids).logits, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_a_stored_base_is_written_without_its_adapter(tmp_path):
    assistant = Assistant.from_pretrained(TINYLLAVA_VIDEO / "group_qwen2", device="cpu")
    before = {
        part: {k: v.clone() for k, v in assistant.model.get_submodule(part).state_dict().items()} for part in PARTS
    }
    adapted(assistant, *PARTS)
    for part in PARTS:
        state = base_state(assistant.model.get_submodule(part))
        assert state.keys() == before[part].keys()
        assert all(torch.equal(state[key], before[part][key]) for key in state)
    assistant.save_pretrained(tmp_path / "a")
    batch = batch_of(assistant)
    again = Assistant.from_pretrained(tmp_path / "a", device="cpu")
    assert torch.equal(again.model(batch).logits, assistant.model(batch).logits)


def test_an_adapter_loads_into_a_quantized_llm(models, tmp_path):
    adapted(tiny_assistant(models), "llm").save_pretrained(tmp_path / "a")
    again = Assistant.from_pretrained(tmp_path / "a", device="cpu", quant="nf4")
    assert is_adapted(again.model.llm)
    assert again.model(batch_of(again)).loss.isfinite()
    with pytest.raises(CheckpointError, match="cannot be merged into quantized weights"):
        merged(again.model.llm)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron.* is not supported"),
        ({"peft_type": "IA3"}, "only plain LoRA"),
        ({"target_modules": "(a+)+$"}, "target_modules must be a list of layer names"),
        ({"target_modules": []}, "target_modules must be a list of layer names, but it is empty"),
        ({"exclude_modules": "(a+)+$"}, "exclude_modules must be a list of layer names"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern.* is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save.* is not supported"),
        ({"target_modules": ["no_such_layer"]}, "does not match the llm"),
    ],
)
def test_an_unsupported_adapter_is_refused(models, tmp_path, changes, message):
    adapted(tiny_assistant(models), "llm").save_pretrained(tmp_path / "a")
    file = tmp_path / "a" / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        Assistant.from_pretrained(tmp_path / "a", device="cpu")


def test_adapter_weights_must_fit(models, tmp_path):
    adapted(tiny_assistant(models), "llm").save_pretrained(tmp_path / "a")
    file = tmp_path / "a" / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    gone = sorted(tensors)[0]
    save_file({key: value for key, value in tensors.items() if key != gone}, file)
    with pytest.raises(CheckpointError, match="missing keys"):
        Assistant.from_pretrained(tmp_path / "a", device="cpu")


def test_trained_weights_are_float32_and_frozen_weights_keep_their_dtype(models):
    assistant = tiny_assistant(models, dtype="bfloat16")
    reports = apply(assistant.model, options(llm="lora", connector="full"), PeftOptions(rank=4), lr=1e-3)
    for parameter in assistant.model.parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16)
    by_part = {report.part: report for report in reports}
    assert by_part["vision_tower"].trainable == 0
    assert by_part["connector"].trainable == by_part["connector"].parameters
    assert 0 < by_part["llm"].trainable < by_part["llm"].parameters / 4
    text = table(reports)
    assert all(word in text for word in ("llm", "lora", "connector", "full", "frozen", "bfloat16", "0.001", "total"))


@pytest.mark.slow
def test_quantized_parameters_are_counted_unpacked(models):
    plain = tiny_assistant(models)
    number = sum(p.numel() for p in plain.model.llm.parameters())
    quantized = tiny_assistant(models, quant="nf4")
    reports = apply(quantized.model, options(llm="lora"), PeftOptions(rank=4), lr=1e-3)
    assert reports[0].how == "qlora"
    assert reports[0].parameters - reports[0].trainable == number


def test_training_from_a_layer_on(models):
    for part, last in (("llm", 1), ("vision_tower", 2)):
        assistant = tiny_assistant(models)
        how = options() | {part: PartOptions(train="full", from_layer=last)}
        apply(assistant.model, how, PeftOptions(), lr=1e-3)
        trained = [name for name, p in assistant.model.named_parameters() if p.requires_grad]
        assert trained
        assert all(f"layers.{last}." in name for name in trained)
        with pytest.raises(ConfigError, match=rf"recipe.{part}.from_layer=9 is out of range: .* layers 0 .. {last}"):
            apply(assistant.model, options() | {part: PartOptions(train="full", from_layer=9)}, PeftOptions(), lr=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("freeze", "trains"), [(["mixer"], ("layers", "linear")), (["layers", "linear"], ("mixer",))])
def test_a_module_that_stays_frozen_gets_no_adapter(models, tmp_path, freeze, trains):
    def fresh():
        return tiny_assistant(models, "connector.mixer_layers=1")

    assistant = fresh()
    how = options() | {"connector": PartOptions(train="lora", freeze=freeze)}
    apply(assistant.model, how, PeftOptions(rank=4), lr=1e-3)
    trained = [name for name, p in assistant.model.named_parameters() if p.requires_grad]
    assert trained
    adapters = {name: p for name, p in assistant.model.named_parameters() if "lora_" in name}
    assert [*adapters] == trained
    assert {name.split(".")[3] for name in adapters} == {*trains}
    for parameter in adapters.values():
        torch.nn.init.normal_(parameter, std=0.05)
    assistant.save_pretrained(tmp_path / "a")
    again = Assistant.from_pretrained(tmp_path / "a", device="cpu")
    logits = assistant.model.eval()(batch_of(assistant)).logits
    assert torch.equal(again.model(batch_of(again)).logits, logits)
    assert not torch.equal(fresh().model(batch_of(again)).logits, logits)
    apply(again.model, how, PeftOptions(rank=4), lr=1e-3)
    assert [name for name, p in again.model.named_parameters() if p.requires_grad] == trained, "it can go on training"


def test_parameter_groups_have_their_own_rate_and_no_decay_of_vectors(assistant):
    how = options(llm="lora") | {"connector": PartOptions(train="full", lr=5e-4)}
    apply(assistant.model, how, PeftOptions(rank=4), lr=1e-4)
    groups = {g["name"]: g for g in parameter_groups(assistant.model, how, lr=1e-4, weight_decay=0.1)}
    assert groups["connector/0.1"]["lr"] == 5e-4
    assert groups["llm/0.1"]["lr"] == 1e-4
    assert all(p.ndim < 2 for p in groups["connector/0"]["params"])
    grouped = sum(len(g["params"]) for g in groups.values())
    assert grouped == sum(p.requires_grad for p in assistant.model.parameters())


@pytest.mark.parametrize(
    ("quant", "how", "peft", "message"),
    [
        ("none", {}, {}, "every part is frozen, so there is nothing to train"),
        ("nf4", {"llm": "full"}, {}, "recipe.llm.train=full, but its weights are quantized"),
        ("none", {"llm": "lora"}, {"targets": ["q_prj"]}, r"peft.targets=\['q_prj'\] match no linear layer of the llm"),
    ],
)
def test_what_cannot_train_is_refused(models, quant, how, peft, message):
    assistant = tiny_assistant(models, quant=quant)
    with pytest.raises(ConfigError, match=message):
        apply(assistant.model, options(**how), PeftOptions(**peft), lr=1e-3)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"train": "lora", "freeze": ["layer"]}, "recipe.connector.freeze='layer' is not a module .* 'layers'"),
        ({"train": "lora", "freeze": ["layers", "linear"]}, "leaves no linear layer of the connector to train"),
        ({"train": "lora", "from_layer": 1}, "recipe.connector.from_layer=1 needs recipe.connector.train=full"),
    ],
)
def test_adapters_that_cannot_be_added_are_refused(assistant, how, message):
    with pytest.raises(ConfigError, match=message):
        apply(assistant.model, options() | {"connector": PartOptions(**how)}, PeftOptions(rank=4), lr=1e-3)


def test_a_part_with_an_adapter_cannot_be_fully_trained(models):
    assistant = adapted(tiny_assistant(models), "llm")
    with pytest.raises(ConfigError, match="has a LoRA adapter; merge it first"):
        apply(assistant.model, options(llm="full"), PeftOptions(), lr=1e-3)


@pytest.mark.parametrize(
    ("options_given", "message"),
    [
        ({"rank": 8}, "peft.rank=8, but the llm has an adapter with peft.rank=4; set these values, or merge"),
        ({"alpha": 8.0, "dropout": 0.2}, "peft.alpha=8.0 peft.dropout=0.2, .* peft.alpha=32.0 peft.dropout=0.05; set"),
        ({"use_rslora": True}, "peft.use_rslora=true, but .* peft.use_rslora=false"),
        ({"use_dora": True}, "peft.use_dora=true, but .* peft.use_dora=false"),
        ({"targets": ["v_proj"]}, r"peft.targets=\[v_proj\], but .* peft.targets=\[k_proj,q_proj\]"),
    ],
)
def test_options_that_differ_from_those_of_an_adapter_are_refused(models, options_given, message):
    assistant = adapted(tiny_assistant(models), "llm", targets=["q_proj", "k_proj"])
    with pytest.raises(ConfigError, match=message):
        apply(assistant.model, options(llm="lora"), PeftOptions(**{"rank": 4} | options_given), lr=1e-3)
    for same in ({}, {"targets": ["k_proj", "q_proj"]}):
        apply(assistant.model, options(llm="lora"), PeftOptions(rank=4, **same), lr=1e-3)
