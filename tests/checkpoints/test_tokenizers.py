"""The tokenizer of a checkpoint is checked as strictly as its weights: files, digests and number of tokens."""

import json
import shutil

import pytest
import yaml

from tests.goldens import DATA, FAMILIES, TINYLLAVA_VIDEO
from tinyvid import Assistant, CheckpointError

FOLDERS = [TINYLLAVA_VIDEO / "group_phi", TINYLLAVA_VIDEO / "group_qwen2", DATA / "native_checkpoints" / "group"]


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request, tmp_path):
    return shutil.copytree(request.param, tmp_path / "folder")


@pytest.fixture
def saved(assistant, tmp_path):
    assistant.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def vocabularies(folder):
    return [file for file in folder.rglob("*") if file.name in ("tokenizer.json", "vocab.json", "merges.txt")]


def refuses(folder, match):
    with pytest.raises(CheckpointError, match=match):
        Assistant.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(("name", "lost"), [("smolvlm", "<end_of_utterance>"), ("internvl_qwen2", "<|im_start|>")])
def test_a_control_token_that_the_vocabulary_lacks_is_an_error(name, lost, tmp_path):
    """transformers would give it an id of its own, whose embedding was trained for something else or not at all."""
    folder = shutil.copytree(FAMILIES / name / "hf", tmp_path / "folder")
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != lost]
    file.write_text(json.dumps(content))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": lost}))
    refuses(folder, r"vocabulary of the tokenizer in .* lacks <\S+>, which tokenizer_config.json names")


@pytest.mark.parametrize("number", [0, -1])
def test_a_vocabulary_that_is_missing_is_an_error(folder, number):
    vocabularies(folder)[number].unlink()
    refuses(folder, r"tokenizer in .* has no vocabulary; expected one of tokenizer.json, vocab.json with merges.txt")


def shrink(file):
    content = json.loads(file.read_text())
    model = content.get("model", content)
    if "vocab" in model:
        model["merges"] = []
    vocabulary = model.get("vocab", model)
    for token in [token for token, number in vocabulary.items() if number >= 100]:
        del vocabulary[token]
    file.write_text(json.dumps(content))


def test_a_vocabulary_that_is_too_small_for_the_llm_is_an_error(folder):
    for file in vocabularies(folder):
        if file.name == "merges.txt":
            file.write_text("#version: 0.2\n")
        else:
            shrink(file)
    refuses(folder, r"has \d+ tokens with ids up to \d+, but the LLM has 512 embeddings; restore the tokenizer")


def test_a_token_without_an_embedding_is_an_error(folder):
    for file in vocabularies(folder):
        if file.suffix == ".json":
            content = json.loads(file.read_text())
            content.get("model", {}).get("vocab", content)["novel"] = 512
            file.write_text(json.dumps(content))
    refuses(folder, r"tokens with ids up to 512, but the LLM has 512 embeddings; restore the tokenizer")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_changed_after_saving_is_an_error(saved, name):
    file = saved / "tokenizer" / name
    file.write_text(json.dumps(json.loads(file.read_text()), indent=3))
    refuses(saved, rf"tinyvid.yaml: \[tokenizer/{name}\] changed after the checkpoint was written; restore the files")


def test_files_that_were_removed_or_added_are_an_error(saved):
    (saved / "tokenizer" / "tokenizer_config.json").rename(saved / "tokenizer" / "vocab.txt")
    refuses(saved, r"\[tokenizer/tokenizer_config.json, tokenizer/vocab.txt\] changed")


def test_a_manifest_without_digests_still_loads(saved):
    manifest = yaml.safe_load((saved / "tinyvid.yaml").read_text())
    assert sorted(manifest.pop("digests")) == ["tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]
    (saved / "tinyvid.yaml").write_text(yaml.safe_dump(manifest))
    Assistant.from_pretrained(saved, device="cpu")


def test_the_tokenizer_of_questions_is_checked_too(saved):
    (saved / "question_tokenizer").mkdir()
    (saved / "question_tokenizer" / "vocab.txt").write_text("a\nb\n")
    refuses(saved, r"\[question_tokenizer/vocab.txt\] changed")
