"""Absurd and mistyped values in every file of a checkpoint are typed errors that name the key, if it is known."""

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.security.layouts import CHECKPOINTS, copied, load
from tests.towers import save_timm
from tinyvid import Assistant
from tinyvid.errors import CheckpointError, ConfigError, DataError

pytestmark = pytest.mark.slow

DEEP: list = []
for _ in range(150):
    DEEP = [DEEP]

# layout, file, keys, value, message
VALUES = [
    ("llm", "config.json", "hidden_act", "${a.b}", "llm .* cannot be loaded: KeyError"),
    ("llm", "config.json", "hidden_size", None, "llm .* cannot be loaded: .*'hidden_size'.*None"),
    ("llm", "config.json", "hidden_size", [64], "llm .* cannot be loaded: .*'hidden_size'"),
    ("llm", "config.json", "layer_types", [None, "x"], "llm .* cannot be loaded: .*layer_types"),
    ("llm", "config.json", "layer_types", DEEP, "nested more than 100 deep"),
    ("llm", "config.json", "rope_parameters", {"rope_type": "linear", "factor": "x"}, "llm .* cannot be loaded"),
    ("llm", "config.json", "model_type", ["qwen2"], "llm .* cannot be loaded"),
    ("llm", "config.json", "num_hidden_layers", 10**9, "num_hidden_layers=1000000000, but at most 1,000 is allowed"),
    ("llm", "config.json", "num_hidden_layers", 10**400, "num_hidden_layers=10+, but at most 1,000 is allowed"),
    ("llm", "config.json", "hidden_size", 10**9, "hidden_size=1000000000, but at most 67,108,864 is allowed"),
    ("llm", "config.json", "intermediate_size", 10**7, "do not have the shapes of its configuration"),
    ("siglip", "config.json", "dtype", "local-dir:/tmp", "vision_tower .* cannot be loaded"),
    ("siglip", "config.json", "patch_size", 0, "vision_tower .* cannot be loaded"),
    ("siglip", "config.json", "attention_dropout", "x", "vision_tower .* cannot be loaded: .*'attention_dropout'"),
    ("siglip", "config.json", "num_hidden_layers", [3], "vision_tower .* cannot be loaded: .*'num_hidden_layers'"),
    ("siglip", "config.json", "image_size", 5600, "does not match the tower's input of 5600 pixels"),
    ("siglip", "preprocessor_config.json", "size", 2, "{'size': 2} does not match the tower.s input"),
    ("siglip", "preprocessor_config.json", "image_mean", 0.5, "mean=0.5 must be three numbers"),
    ("siglip", "preprocessor_config.json", "image_std", [0.5, 0, 0.5], "std=.* must be three numbers from 1e-06"),
    ("siglip", "preprocessor_config.json", "image_std", [0.5, float("nan"), 1], "std=.* must be three numbers"),
    ("siglip", "preprocessor_config.json", "rescale_factor", "x", "rescale_factor='x' is not supported"),
    ("siglip", "preprocessor_config.json", "resample", [3], "vision_tower .* cannot be loaded"),
    ("timm", "config.json", "model_args", {"depth": "x"}, "vision_tower .* cannot be loaded"),
    ("timm", "config.json", "model_args", [1], "vision_tower .* cannot be loaded"),
    ("timm", "config.json", "pretrained_cfg.mean", [0.5, "x"], "mean=.* must be three numbers"),
    ("timm", "config.json", "pretrained_cfg.crop_pct", 1e-9, "crop of 1e-09 of an image must be from 0.1"),
    ("open_clip", "open_clip_config.json", "model_cfg.vision_cfg.layers", 10**9, "layers=1000000000, but at most"),
    ("open_clip", "open_clip_config.json", "model_cfg.vision_cfg.width", "x", "vision_tower .* cannot be loaded"),
    ("open_clip", "open_clip_config.json", "model_cfg.vision_cfg.image_size", [56, 70], "do not have the shapes"),
    ("open_clip", "open_clip_config.json", "model_cfg.embed_dim", None, "vision_tower .* cannot be loaded"),
    ("open_clip", "open_clip_config.json", "preprocess_cfg", [1], "vision_tower .* cannot be loaded"),
    ("native", "tokenizer/tokenizer.json", "model.vocab", {"a": -1}, "tokenizer .* cannot be loaded"),
    ("native", "tokenizer/tokenizer.json", "added_tokens", {"a": 1}, "tokenizer .* cannot be loaded"),
    ("native", "tokenizer/tokenizer.json", "pre_tokenizer", {"type": "x"}, "tokenizer .* cannot be loaded"),
    ("native", "tokenizer/tokenizer_config.json", "eos_token", 5, "tokenizer .* cannot be loaded"),
    ("native", "tokenizer/tokenizer_config.json", "extra_special_tokens", 5, "tokenizer .* cannot be loaded"),
    ("native_lora", "adapter/adapter_config.json", "lora_alpha", "x", "adapter in .* does not match the llm"),
    ("native_lora", "adapter/adapter_config.json", "lora_dropout", [1], "adapter in .* does not match the llm"),
    (
        "native_lora",
        "adapter/adapter_config.json",
        "target_modules",
        ["x"] * 10**5,
        "list of layer names, at most 1,000",
    ),
    ("tinyllava_video", "config.json", "text_config.rope_scaling", {"type": 1}, "cannot be loaded"),
    ("tinyllava_video", "config.json", "text_config.num_hidden_layers", 200, "needs [0-9,]+ parameters, but its"),
    ("tinyllava_video", "config.json", "vision_config.hidden_size", 10**7, "do not have the shapes"),
]


def edit(file, keys, value):
    content = json.loads(file.read_text())
    *parents, last = keys.split(".")
    place = content
    for key in parents:
        place = place[key]
    place[last] = value
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(("layout", "file", "keys", "value", "message"), VALUES)
def test_a_wrong_value_is_a_typed_error(layout, file, keys, value, message, tmp_path):
    folder = copied(layout, tmp_path / "folder")
    edit(folder / file, keys, value)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        load(layout, folder)


def test_a_regular_expression_that_backtracks_is_a_typed_error(tmp_path):
    folder = copied("native", tmp_path / "folder")
    split = {"type": "Split", "pattern": {"Regex": "(([a-z]+)+)+[0-9]$"}, "behavior": "Isolated", "invert": False}
    edit(folder / "tokenizer" / "tokenizer.json", "pre_tokenizer", split)
    edit(folder / "tokenizer" / "tokenizer_config.json", "tokenizer_class", "PreTrainedTokenizerFast")
    assistant = load_whole(folder)
    with pytest.raises(DataError, match="the text cannot be tokenized: PanicException: .*retry-limit"):
        assistant.ask(None, "a" * 60)


def load_whole(folder):
    return Assistant.from_pretrained(folder, device="cpu", dtype="float32")


@pytest.mark.parametrize("layout", CHECKPOINTS)
def test_weights_that_are_not_numbers_are_typed_errors(layout, tmp_path):
    folder = copied(layout, tmp_path / "folder")
    file = next(path for path in sorted(folder.rglob("*")) if path.name in ("model.safetensors", "pytorch_model.bin"))
    binary = file.suffix == ".bin"
    tensors = torch.load(file) if binary else load_file(file)
    name = next(key for key in tensors if key.endswith("weight"))
    save = torch.save if binary else save_file
    save(tensors | {name: torch.full_like(tensors[name], torch.nan)}, file)
    frames = np.zeros((4, 30, 40, 3), np.uint8)
    with pytest.raises(CheckpointError, match="computes NaN: weights are damaged"):
        load_whole(folder).ask(frames, "What?", max_new_tokens=2)
    save(tensors | {name: tensors[name].to(torch.int64)}, file)
    with pytest.raises(CheckpointError, match="weights of the .* are not floating-point numbers"):
        load_whole(folder)


def test_a_tower_with_any_input_size_has_a_bound(tmp_path):
    folder = save_timm(tmp_path / "tower", dynamic_img_size=True)
    edit(folder / "config.json", "pretrained_cfg.input_size", [3, 5600, 5600])
    with pytest.raises(ConfigError, match="images of .5600, 5600. pixels"):
        load("timm", folder)


@pytest.mark.parametrize(
    "sampler", [{"name": "uniform", "num_frames": 10**6}, {"name": "midpoint", "num_frames": 10**6}]
)
def test_a_million_frames_are_refused_before_decoding(sampler, tmp_path):
    folder = copied("native", tmp_path / "folder")
    manifest = yaml.safe_load((folder / "tinyvid.yaml").read_text())
    (folder / "tinyvid.yaml").write_text(yaml.safe_dump(manifest | {"sampler": sampler}))
    frames = np.zeros((4, 30, 40, 3), np.uint8)
    with pytest.raises(DataError, match="the 1,000,000 frames of a video have [0-9,]+ bytes of pixels, and at most"):
        load_whole(folder).ask(frames, "What?")
