"""``device="meta"``: the same shapes and Processor without reading weights, for every part and layout."""

import pytest
import torch

from tests.factories import tiny_overrides
from tests.goldens import TINYLLAVA_VIDEO
from tests.towers import TOWERS
from tinyvid import Assistant, CheckpointError, ConfigError, compose
from tinyvid.registry import VISION_TOWERS

LAYOUTS = sorted(path.name for path in TINYLLAVA_VIDEO.iterdir() if path.is_dir())
OPTION_OF = {
    "siglip": "siglip_base_224",
    "clip": "clip_vit_b16_224",
    "internvit": "internvit_300m_448",
    "timm": "timm_siglip_base_224",
    "open_clip": "open_clip_vit_b32_224",
}


def assert_alike(shapes: Assistant, whole: Assistant) -> None:
    state = shapes.model.state_dict()
    assert all(tensor.is_meta for tensor in state.values())
    assert {key: (value.shape, value.dtype) for key, value in state.items()} == {
        key: (value.shape, value.dtype) for key, value in whole.model.state_dict().items()
    }
    for name in ("image", "tokens", "max_length", "pad_id"):
        assert getattr(shapes.processor, name) == getattr(whole.processor, name), name


@pytest.mark.slow
@pytest.mark.parametrize("connector", ["group", "naive", "mlp"])
@pytest.mark.parametrize("tower", TOWERS)
def test_a_composed_model(tmp_path, tower, connector):
    TOWERS[tower](tmp_path / "tower_of_test")
    overrides = [item for item in tiny_overrides(tmp_path, connector=connector) if not item.startswith("vision_tower")]
    overrides += [f"vision_tower={OPTION_OF[tower]}", f"vision_tower.path={tmp_path}/tower_of_test"]
    config = compose(overrides)
    assert_alike(Assistant.from_config(config, device="meta"), Assistant.from_config(config, device="cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_of_tinyllava_video(layout):
    folder = TINYLLAVA_VIDEO / layout
    assert_alike(Assistant.from_pretrained(folder, device="meta"), Assistant.from_pretrained(folder, device="cpu"))


def test_a_checkpoint_of_tinyvid(tmp_path):
    whole = Assistant.from_pretrained(TINYLLAVA_VIDEO / "group_qwen2", device="cpu")
    whole.save_pretrained(tmp_path / "saved")
    assert_alike(Assistant.from_pretrained(tmp_path / "saved", device="meta"), whole)


def test_wrong_shapes_are_still_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    Assistant.from_pretrained(TINYLLAVA_VIDEO / "group_qwen2", device="cpu").save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "connector.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "latents": tensors["latents"][:, :1].contiguous()}, file)
    with pytest.raises(CheckpointError, match="do not have the shapes of its configuration: .*latents"):
        Assistant.from_pretrained(tmp_path / "saved", device="meta")


@pytest.mark.slow
@pytest.mark.parametrize("option", ["timm_siglip_base_224", "open_clip_siglip_base_224", "open_clip_vit_b32_224"])
def test_a_tower_of_real_size_needs_no_hub(option):
    with torch.device("meta"):
        tower = VISION_TOWERS.build(compose([f"vision_tower={option}"]).vision_tower, dtype=torch.bfloat16)
    assert tower.features.dim == 768
    assert tower.image.size == 224
    assert all(parameter.is_meta for parameter in tower.parameters())


def test_it_cannot_answer():
    assistant = Assistant.from_pretrained(TINYLLAVA_VIDEO / "group_qwen2", device="meta")
    with pytest.raises(ConfigError, match="builds a model without weights, which cannot reply"):
        assistant.ask(None, "What?")
