"""Scaled positions: explicit, recorded with the checkpoint, and refused if two records differ."""

import json

import pytest
import torch
import yaml

from tests.factories import tiny_overrides
from tinyvid import Assistant, ConfigError, compose


def build(models, *overrides):
    return Assistant.from_config(compose([*tiny_overrides(models, connector="mlp"), *overrides]), device="cpu")


def frequencies(assistant):
    return assistant.model.llm.model.rotary_emb.inv_freq


def state(models, **scaling):
    """Write the scaling into the configuration of the tiny LLM, as users do by hand."""
    path = models / "llm_qwen2" / "config.json"
    config = json.loads(path.read_text())
    config["rope_parameters"] = {"rope_theta": 10000.0, "rope_type": "default", **scaling}
    path.write_text(json.dumps(config))


@pytest.mark.slow
def test_a_long_limit_alone_scales_nothing_and_is_refused(models):
    with pytest.raises(
        ConfigError, match=r"llm.max_length=3000 exceeds the 1024 positions.*llm.rope_factor=3, which re"
    ):
        build(models, "llm.max_length=3000")
    with pytest.raises(ConfigError, match=r"exceeds the 1024 positions of this LLM times llm.rope_factor=2; lower it"):
        build(models, "llm.max_length=3000", "llm.rope_scaling=linear", "llm.rope_factor=2")


@pytest.mark.slow
def test_linear_scaling_divides_positions(models):
    plain, scaled = build(models), build(models, "llm.max_length=4096", "llm.rope_scaling=linear", "llm.rope_factor=4")
    torch.testing.assert_close(frequencies(scaled), frequencies(plain) / 4)
    yarn = build(models, "llm.max_length=4096", "llm.rope_scaling=yarn", "llm.rope_factor=4")
    torch.testing.assert_close(frequencies(yarn)[0], frequencies(plain)[0])
    torch.testing.assert_close(frequencies(yarn)[-1], frequencies(plain)[-1] / 4)


@pytest.mark.slow
def test_scaling_and_factor_go_together(models):
    for options in (["llm.rope_factor=4"], ["llm.rope_scaling=linear"]):
        with pytest.raises(ConfigError, match="contradict each other"):
            build(models, *options)
    with pytest.raises(ConfigError, match="'lineer' is not allowed. Did you mean 'linear'"):
        build(models, "llm.rope_scaling=lineer")


@pytest.mark.slow
def test_a_checkpoint_records_the_scaling_and_fixes_it(models, tmp_path):
    assistant = build(models, "llm.max_length=2048", "llm.rope_scaling=linear", "llm.rope_factor=4")
    assistant.save_pretrained(tmp_path / "saved")
    manifest = yaml.safe_load((tmp_path / "saved" / "tinyvid.yaml").read_text())
    assert (manifest["llm"]["rope_scaling"], manifest["llm"]["rope_factor"]) == ("linear", 4.0)
    again = Assistant.from_pretrained(tmp_path / "saved", device="cpu", llm={"max_length": 4000})
    assert torch.equal(frequencies(again), frequencies(assistant))
    assert again.processor.max_length == 4000
    with pytest.raises(ConfigError, match="llm.rope_factor is fixed by the checkpoint; only llm.max_length"):
        Assistant.from_pretrained(tmp_path / "saved", device="cpu", llm={"rope_factor": 8.0})
    with pytest.raises(ConfigError, match="exceeds the 1024 positions of this LLM times llm.rope_factor=4"):
        Assistant.from_pretrained(tmp_path / "saved", device="cpu", llm={"max_length": 5000})


@pytest.mark.slow
def test_stored_weights_agree_with_the_record(models, tmp_path):
    assistant = build(models, "llm.rope_scaling=yarn", "llm.rope_factor=2")
    object.__setattr__(assistant.loaded, "stored", frozenset({"llm"}))
    assistant.save_pretrained(tmp_path / "saved")
    again = Assistant.from_pretrained(tmp_path / "saved", device="cpu")
    assert torch.equal(frequencies(again), frequencies(assistant))
    path = tmp_path / "saved" / "tinyvid.yaml"
    path.write_text(path.read_text().replace("rope_factor: 2.0", "rope_factor: 4.0"))
    with pytest.raises(
        ConfigError, match=r"scales positions by yarn x 2, which differs from llm.rope_scaling=yarn .*=4"
    ):
        Assistant.from_pretrained(tmp_path / "saved", device="cpu")


@pytest.mark.slow
def test_scaling_in_the_configuration_of_an_llm_must_be_repeated(tmp_path):
    build(tmp_path)
    state(tmp_path, rope_type="linear", factor=16.0)
    with pytest.raises(ConfigError, match=r"scales positions by linear x 16, which differs from llm.rope_scaling=none"):
        build(tmp_path)
    assert build(tmp_path, "llm.rope_scaling=linear", "llm.rope_factor=16", "llm.max_length=16384")
    state(
        tmp_path,
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=1024,
    )
    assert build(tmp_path)
    with pytest.raises(
        ConfigError, match="this LLM already scales its positions by 'llama3'; use llm.rope_scaling=none"
    ):
        build(tmp_path, "llm.rope_scaling=yarn", "llm.rope_factor=2")
