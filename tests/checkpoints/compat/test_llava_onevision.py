"""LLaVA-OneVision in both layouts: recorded outputs, the blocks of the tower, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints.compat.recorded import assert_converts, assert_equals_oracle, load, recorded_example
from tests.goldens import FAMILIES
from tinyvid import Assistant, CheckpointError, ConfigError
from tinyvid.checkpoints.compat import llava, llava_onevision
from tinyvid.models.vision_towers import clip
from tinyvid.types import ImageSpec, TokenBudget

NAME = "llava_onevision"
ORACLE_SYSTEM = {"original": {"template": {"system": ""}}, "hf": {}}  # both were recorded without a system message
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module", autouse=True)
def tiny_siglip():
    """The recorded tower has 4 heads and a third block that the original program deletes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(llava_onevision.SIGLIP, "tiny", (4, 3))
        yield


def copied(layout, folder, settings):
    """Copy a layout with changed settings. The recorded name of the tower does not state its real sizes."""
    shutil.copytree(FAMILIES / NAME / layout, folder)
    config = json.loads((folder / "config.json").read_text())
    if layout == "original":
        config["mm_vision_tower"] = "google/siglip-tiny-patch4-28"
    for key, value in settings.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def parts_of(folder):
    """Return the groups that a reader takes from the original layout."""
    return llava_onevision._original(folder, json.loads((folder / "config.json").read_text()))[0]


@pytest.fixture
def edited(tmp_path):
    return lambda layout="original", **settings: copied(layout, tmp_path / layout, settings)


@pytest.fixture(scope="module", params=["hf", "original"])
def case(request, tmp_path_factory):
    folder = copied(request.param, tmp_path_factory.mktemp(NAME) / "model", {})
    return request.param, load(folder, NAME, **ORACLE_SYSTEM[request.param])


def test_equals_the_recorded_outputs(case):
    assert_equals_oracle(case[1], NAME)


def test_parts_and_options(case):
    _, assistant = case
    assert assistant.model.connector.tokens.budget == TokenBudget(fixed=1, per_frame=16)
    assert assistant.config["vision_tower"]["layer"] == -1
    assert assistant.config["vision_tower"]["final_norm"] is False


@pytest.mark.slow
def test_a_converted_checkpoint_is_bit_equal_and_answers(case, tmp_path):
    layout, assistant = case
    if layout == "hf":
        pytest.skip("the parts are those of the original layout")
    again = assert_converts(assistant, recorded_example(assistant, NAME), tmp_path / "converted")
    frames = torch.zeros(5, 28, 28, 3, dtype=torch.uint8).numpy()
    assert again.ask(frames, "What?", max_new_tokens=2) == assistant.ask(frames, "What?", max_new_tokens=2)


@pytest.mark.parametrize(("layout", "system"), [("hf", ""), ("original", "You are a helpful assistant.")])
def test_each_layout_has_its_own_prompt_and_32_frames(edited, caplog, layout, system):
    assistant = Assistant.from_pretrained(edited(layout), device="meta")
    assert assistant.config["template"]["system"] == system
    assert assistant.config["sampler"]["num_frames"] == 32
    assert "does not store a sampler" in caplog.text
    assert "not as tiles (anyres)" in caplog.text


@pytest.mark.parametrize(("depth", "layer"), [(3, -1), (2, -2)])
def test_blocks_of_the_original_are_counted(depth, layer, monkeypatch, tmp_path):
    """The file has two blocks: all but the last of three, or all of two, of which the last one is not used."""
    monkeypatch.setitem(llava_onevision.SIGLIP, "tiny", (4, depth))
    folder = copied("original", tmp_path / "model", {"mm_vision_select_layer": -2})
    assert parts_of(folder)["vision_tower"]["layer"] == layer


@pytest.mark.parametrize(("settings", "pool_after", "newline"), [
    ({"mm_spatial_pool_stride": None, "mm_spatial_pool_mode": None, "mm_newline_position": None}, 2, True),
    ({"mm_spatial_pool_stride": 3}, 3, True),
    ({"mm_newline_position": "no_token"}, 2, False),
    ({"mm_patch_merge_type": "flat"}, 2, False),
])  # fmt: skip
def test_pooling_of_the_original(edited, settings, pool_after, newline):
    connector = parts_of(edited(**settings))["connector"]
    assert (connector["pool_after"], connector["newline"]) == (pool_after, newline)


@pytest.mark.parametrize(("settings", "mean"), [
    ({"image_mean": HALF, "image_std": HALF}, HALF), ({}, clip.MEAN)  # the default of its class
])  # fmt: skip
def test_image_settings_for_videos(tmp_path, settings, mean):
    settings = {"video_processor_type": "LlavaOnevisionVideoProcessor", "size": {"height": 28, "width": 28}} | settings
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(settings))
    image = llava._image_spec(tmp_path, ("video", "image"), ImageSpec(28, (0.1,) * 3, (0.1,) * 3))
    assert (image.size, image.mean, image.resize) == (28, mean, "stretch")


@pytest.mark.parametrize(("layout", "settings", "message"), [
    ("hf", {"vision_feature_layer": [-1, -2]}, "vision_feature_layer=.* several layers side by side"),
    ("hf", {"vision_feature_select_strategy": "default"}, "needs a SigLIP tower with all patches"),
    ("hf", {"vision_config": {"model_type": "clip_vision_model"}}, "strategy='full' is not supported for a clip tower"),
    ("hf", {"multimodal_projector_bias": False}, "multimodal_projector_bias=False is not supported"),
    ("original", {"architectures": ["LlavaLlamaForCausalLM"]}, "'LlavaLlamaForCausalLM'. is not supported"),
    ("original", {"architectures": 3}, "architectures=3 is not supported"),
    ("original", {"mm_spatial_pool_mode": "average"}, "mm_spatial_pool_mode='average' is not supported"),
    ("original", {"mm_spatial_pool_mode": "max"}, "mm_spatial_pool_mode='max' .* only 'bilinear' is read"),
    ("original", {"mm_newline_position": "grid"}, "mm_newline_position='grid' .* only 'one_token' or 'no_token' is"),
    ("original", {"mm_newline_position": "frame"}, "mm_newline_position='frame' is not supported"),
    ("original", {"mm_spatial_pool_stride": 0}, "mm_spatial_pool_stride=0 must be an integer from 1"),
    ("original", {"mm_projector_type": "linear"}, "mm_projector_type='linear' is not supported"),
    ("original", {"mm_resampler_type": "qformer"}, "mm_resampler_type='qformer' is not supported"),
    ("original", {"add_faster_video": True}, "add_faster_video=True is not supported"),
    ("original", {"mm_vision_tower": "openai/clip-vit-large-patch14-336"}, "mm_vision_tower='openai/.* only SigLIP"),
    ("original", {"mm_vision_tower": "google/siglip-so400m-patch14-384"}, "contains 2 blocks of .*, which has 27"),
    ("original", {"mm_vision_tower": "google/siglip-tiny-patch4-32"}, "do not have the shapes of its configuration"),
])  # fmt: skip
def test_refused_settings(edited, layout, settings, message):
    with pytest.raises(CheckpointError, match=message):
        Assistant.from_pretrained(edited(layout, **settings), device="cpu")


@pytest.mark.parametrize(("removed", "message"), [
    ("model.vision_tower.", "contains no weights of its vision tower 'google/siglip-tiny-patch4-28'"),
    ("model.image_newline", "missing keys .*newline"),
    ("model.mm_projector.2.", "missing keys .*layers.2.bias"),
])  # fmt: skip
def test_missing_weights(edited, removed, message):
    file = edited() / "model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if not key.startswith(removed)}, file)
    with pytest.raises(CheckpointError, match=message):
        Assistant.from_pretrained(file.parent, device="meta")


def test_weights_of_another_method_are_named(edited):
    file = edited() / "model.safetensors"
    save_file(load_file(file) | {"model.faster_token": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"do not belong to any part: \[model.faster_token\]"):
        Assistant.from_pretrained(file.parent, device="meta")


def test_a_reducer_is_refused(edited):
    with pytest.raises(ConfigError, match="connector.pool_after=2 pools patches after the reducer"):
        Assistant.from_pretrained(edited("hf"), device="meta", reducer={"name": "drop"})
