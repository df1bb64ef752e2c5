"""Exports for llama.cpp: keys and tensors as its converters write them, and an LLM that computes the same."""

import json
import shutil
import sys

import pytest
import torch

from tests.factories import tiny_assistant
from tests.goldens import FAMILIES
from tests.runs import load_program
from tinyvid import Assistant, ConfigError, compose
from tinyvid.checkpoints.serving import gguf, gguf_llm, gguf_vision
from tinyvid.command_line import CommandLine
from tinyvid.models.llms.gguf import DIGITS, FOUND, PLAIN, splitting_rule

pytest.importorskip("gguf")
program = load_program("export")
PROJECTORS = {"llava_siglip": "mlp", "smolvlm": "idefics3", "internvl_qwen2": "internvl"}
FLOAT32 = dict.fromkeys(("llm", "vision_tower", "connector"), torch.float32)


def folder_of(name, tmp_path):
    """Return a tiny model; that of SmolVLM with a token for two newlines, as the published ones have."""
    folder = FAMILIES / name / "hf"
    if name != "smolvlm":
        return folder
    shutil.copytree(folder, tmp_path / name)
    file = tmp_path / name / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    model = tokenizer["model"]
    last = max(model["vocab"], key=model["vocab"].get)
    model["merges"] = [pair for pair in model["merges"] if last not in ("".join(pair), *pair)]
    model["vocab"]["ĊĊ"] = model["vocab"].pop(last)
    file.write_text(json.dumps(tokenizer))
    return tmp_path / name


def read(path, **options):
    return Assistant.from_pretrained(path, device="cpu", dtype="float32", **options)


def contents(file):
    """Return the keys and the tensors of a file."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    keys = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    return keys, {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTORS)
def test_the_llm_is_read_again_and_the_keys_describe_the_model(name, tmp_path):
    folder = folder_of(name, tmp_path)
    samples = program.samples_of(None, 1, "What moves?")
    notes = program.serve(str(folder), tmp_path / "out", "gguf", samples, tolerance=0.0, reply_tokens=4)
    assert any("<__media__>" in note for note in notes)
    (found,) = json.loads((tmp_path / "out" / "parity.json").read_text())["clips"]
    assert (found["logits"], found["prompt"]) == (0, True)
    assert found["reply"] == found["exported"]
    assistant = read(folder)
    tower, config = assistant.model.vision_tower, assistant.model.llm.config
    keys, tensors = contents(tmp_path / "out" / "mmproj.gguf")
    assert keys["general.architecture"] == "clip"
    assert keys["general.type"] == "mmproj"
    assert keys["clip.projector_type"] == PROJECTORS[name]
    assert keys["clip.vision.block_count"] == tower.num_blocks
    assert keys["clip.vision.projection_dim"] == config.hidden_size
    assert keys["clip.vision.image_size"] == assistant.processor.image.size
    assert keys.get("clip.vision.feature_layer") == ([tower.num_blocks] if name == "llava_siglip" else None)
    patch = keys["clip.vision.patch_size"]
    assert tensors["v.patch_embd.weight"].shape == (32, 3, patch, patch)
    assert f"v.blk.{tower.num_blocks - 1}.ffn_up.weight" in tensors
    assert f"v.blk.{tower.num_blocks}.ffn_up.weight" not in tensors
    expected = gguf_vision.tensors(assistant.loaded, gguf_vision.projector_of(assistant.config["connector"]))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], value) for key, value in expected.items())
    keys, _ = contents(tmp_path / "out" / "model.gguf")
    tokenizer = assistant.processor.tokenizer
    assert keys["general.architecture"] == config.model_type
    assert keys["tokenizer.ggml.pre"] == ("smollm" if name == "smolvlm" else "qwen2")
    assert keys["tokenizer.ggml.eos_token_id"] == tokenizer.convert_tokens_to_ids(assistant.processor.template.end)
    assert keys["tokenizer.ggml.add_bos_token"] is False  # the template of SmolVLM writes it
    assert len(keys["tokenizer.ggml.tokens"]) == len(keys["tokenizer.ggml.token_type"]) == config.vocab_size
    tokenizer.chat_template = keys["tokenizer.chat_template"]
    text = tokenizer.apply_chat_template([{"role": "user", "content": "<__media__>?"}], tokenize=False)
    assert "<__media__>?" in text


def test_the_class_token_of_internvit_comes_last():
    loaded = read(FAMILIES / "internvl_qwen2" / "hf").loaded
    found = gguf_vision.tensors(loaded, gguf_vision.INTERNVL)
    rows = loaded.model.vision_tower.model.embeddings.position_embeddings[0]
    assert torch.equal(found["v.position_embd.weight"], torch.cat([rows[1:], rows[:1]]))
    assert found["v.class_embd"].ndim == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_matrices_have_the_dtype_and_vectors_have_float32(dtype, tmp_path):
    from gguf import GGUFReader

    loaded = read(FAMILIES / "llava_siglip" / "hf").loaded
    gguf.write(loaded, tmp_path, dtypes=dict.fromkeys(FLOAT32, dtype))
    name = gguf_llm.TYPES[dtype][0]
    for file in ("model.gguf", "mmproj.gguf"):
        for tensor in GGUFReader(tmp_path / file).tensors:
            kept = tensor.name == "v.position_embd.weight" or len(tensor.shape) == 1
            assert tensor.tensor_type.name == ("F32" if kept else name), tensor.name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("connector=group", "llama.cpp does not compute connector 'group'; it needs connector=mlp"),
        ("connector.pool=2", "connector.pool=2 has no place in this layout; it needs connector.pool=1"),
        ("reducer=drop", "reducer 'drop' has no place in this layout"),
        ("vision_tower.select=patch", "it needs vision_tower.select='all'"),
        ("llm.rope_scaling=linear llm.rope_factor=2", "scales its positions by 'linear'"),
    ],
)
def test_what_llama_cpp_does_not_compute(models, override, message, tmp_path):
    connector, overrides = ("group", []) if "group" in override else ("mlp", override.split())
    assistant = tiny_assistant(models, "template=chatml", *overrides, connector=connector)
    with pytest.raises(ConfigError) as error:
        gguf.write(assistant.loaded, tmp_path, dtypes=FLOAT32)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("llava_clip", {}, "vision_tower 'clip' has no place in this layout; it needs vision_tower=siglip"),
        ("smolvlm", {}, "a token for two newlines before each frame"),
        ("internvl_qwen2", {"template": {"frame": "{i}: {video}\n"}}, "llama.cpp writes '<img>{video}</img>'"),
    ],
)
def test_models_that_llama_cpp_would_show_otherwise(name, options, message, tmp_path):
    with pytest.raises(ConfigError) as error:
        gguf.write(read(FAMILIES / name / "hf", **options).loaded, tmp_path, dtypes=FLOAT32)
    assert message in str(error.value)


def test_blocks_that_llama_cpp_would_confuse(models):
    settings = tiny_assistant(models, connector="mlp").model.vision_tower.model.config
    for option, value, message in (
        ("hidden_act", "relu", "does not compute 'relu'"),
        ("intermediate_size", settings.hidden_size, "with both swapped"),
    ):
        changed = type(settings)(**{**settings.to_dict(), option: value})
        with pytest.raises(ConfigError, match=message):
            gguf_vision.refuse_other_blocks(changed, gguf_vision.MLP)


def test_the_package_is_needed(models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"to=gguf needs the package gguf: pip install 'tinyvid\[gguf\]'"):
        gguf.write(tiny_assistant(models, connector="mlp").loaded, tmp_path, dtypes=FLOAT32)


def test_gguf_files_are_not_sent_to_the_hub():
    line = CommandLine.parse(["ckpt=x", "out=y", "to=gguf", "push=a/b"])
    with pytest.raises(ConfigError, match="push= sends checkpoints, which GGUF files are not"):
        program.main(compose(line.overrides, config="export"), line)


def test_rules_of_tokenizers(models):
    from tokenizers import Regex, pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    tokenizer = tiny_assistant(models, connector="mlp").processor.tokenizer
    backend = tokenizer.backend_tokenizer
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    known = {DIGITS[0]: pre_tokenizers.Sequence([pre_tokenizers.Digits(True), words]), PLAIN[0]: words}
    for rule in FOUND:
        split = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[rule]), "isolated")
        known[rule] = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    original = backend.pre_tokenizer
    try:
        for rule, splitter in known.items():
            backend.pre_tokenizer = splitter
            assert splitting_rule(tokenizer) == rule
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        with pytest.raises(ConfigError, match="is not one of those that can be named in a GGUF file"):
            splitting_rule(tokenizer)
    finally:
        backend.pre_tokenizer = original
