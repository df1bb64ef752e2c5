import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from tests.goldens import FULL_CHECKPOINTS, TINYLLAVA_VIDEO
from tests.towers import (
    TOWERS,
    save_clip,
    save_internvit,
    save_open_clip,
    save_siglip,
    save_timm,
    write_preprocessor,
)
from tinyvid.config import CONF_DIR
from tinyvid.errors import CheckpointError, ConfigError
from tinyvid.models.vision_towers.metadata import blocks_to_run
from tinyvid.models.vision_towers.siglip import SiglipTower, default_image_spec
from tinyvid.registry import VISION_TOWERS
from tinyvid.types import FeatureSpec, ImageSpec

NAMES = [name for name in VISION_TOWERS.names() if VISION_TOWERS.provider(name) is None]
TRANSFORMERS = ("siglip", "clip", "internvit")  # towers in its layout
HALF = (0.5, 0.5, 0.5)
COMMIT = "a" * 40
# A recipe creates the weights of the tiny preset; they are not downloaded.
PRESETS = sorted(p for p in (CONF_DIR / "vision_tower").glob("*.yaml") if p.stem != "siglip_tiny_64")


def build(name: str, path: object, dtype: torch.dtype = torch.float32, **options: object):
    return VISION_TOWERS.build({"name": name, "path": str(path), **options}, dtype=dtype)


def random_pixels(size: int, count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def record_blocks(tower: nn.Module) -> list[torch.Tensor]:
    """Return a list to which forward passes append the outputs of their blocks, in order."""
    model = tower.model
    owner = getattr(model, "trunk", getattr(model, "transformer", getattr(model, "vision_model", model)))
    blocks = next(getattr(owner, n) for n in ("blocks", "resblocks", "encoder") if hasattr(owner, n))
    outputs: list[torch.Tensor] = []
    for block in getattr(blocks, "layers", getattr(blocks, "layer", blocks)):
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    return outputs


# --- the contract, for every name -------------------------------------------------------------------------------


@pytest.fixture(params=NAMES)
def saved(request, tmp_path):
    """Return a registered name and the folder of a tiny tower."""
    return request.param, TOWERS[request.param](tmp_path / "tower")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_and_specs(saved, dtype):
    tower = build(*saved, dtype=dtype)
    size, spec = tower.image.size, tower.features
    assert size == 56
    assert spec.grid is not None
    assert spec.grid[0] * spec.grid[1] == spec.num_patches == 16
    assert all(0 < value < 1 for value in tower.image.mean + tower.image.std)
    features = tower(random_pixels(size).to(dtype))
    assert features.shape == (3, spec.num_patches, spec.dim)
    assert features.dtype == dtype
    assert features.isfinite().all()
    assert {p.dtype for p in tower.parameters()} == {dtype}
    assert not tower.model.training


def test_batch_equals_single(saved):
    tower = build(*saved)
    pixels = random_pixels(tower.image.size)
    singles = torch.cat([tower(frame[None]) for frame in pixels])
    torch.testing.assert_close(tower(pixels), singles, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load_is_bit_equal(saved, dtype, tmp_path):
    tower = build(*saved, dtype=dtype, layer=-1, resize="pad")
    tower.save(tmp_path / "again")
    again = build(saved[0], tmp_path / "again", dtype=dtype, layer=-1, resize="pad")
    pixels = random_pixels(tower.image.size).to(dtype)
    assert torch.equal(again(pixels), tower(pixels))
    assert (again.image, again.features) == (tower.image, tower.features)
    assert list((tmp_path / "again").glob("*.safetensors"))
    assert not list((tmp_path / "again").glob("*.bin"))


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "blocks"), [(-1, 3), (-2, 2), (-3, 1), (3, 3), (1, 1)])
def test_layer_counts_as_transformers_does_and_nothing_above_it_runs(saved, layer, blocks):
    tower = build(*saved, layer=layer)
    outputs = record_blocks(tower)
    features = tower(random_pixels(tower.image.size))
    assert len(outputs) == blocks
    assert torch.equal(features, outputs[-1][:, -tower.features.num_patches :])  # a class token would come first


@pytest.mark.slow
@pytest.mark.parametrize("layer", [-4, 0, 4, 99])
def test_layer_out_of_range(saved, layer):
    with pytest.raises(
        ConfigError, match=rf"vision_tower.layer={layer} is out of range: .* 3 blocks.* -3 .. -1 .* 1 .. 3"
    ):
        build(*saved, layer=layer)


@pytest.mark.slow
def test_gradients_reach_the_pixels(saved):
    tower = build(*saved)
    pixels = random_pixels(tower.image.size).requires_grad_()
    tower(pixels).square().sum().backward()
    assert pixels.grad.any()


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_resize_can_be_chosen(saved, resize):
    image = build(*saved, resize=resize).image
    native = build(*saved).image
    assert image.resize == resize
    assert image.crop_pct == (native.crop_pct if native.resize == resize else 1.0)


def test_missing_and_extra_weights_are_listed(saved):
    name, folder = saved
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    visual = "visual." if name == "open_clip" else ""
    victim = next(key for key in sorted(tensors) if key.startswith(visual) and "norm" in key.replace("ln", "norm"))
    changed = {key: value for key, value in tensors.items() if key != victim} | {f"{visual}novel": torch.zeros(1)}
    save_file(changed, file, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=rf"missing keys .*{victim.removeprefix(visual)}.*unexpected keys .*novel"
    ):
        build(name, folder)


def test_weights_of_another_shape(saved):
    name, folder = saved
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    visual = "visual." if name == "open_clip" else ""
    victim = next(key for key in sorted(tensors) if key.startswith(visual) and key.endswith("weight"))
    save_file(tensors | {victim: torch.zeros(5)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"shape|size"):
        build(name, folder)


def test_a_damaged_file(saved):
    name, folder = saved
    next(folder.glob("*.safetensors")).write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match=r"vision_tower|cannot be read"):
        build(name, folder)


class Evil:
    """An object whose pickle runs code."""

    def __reduce__(self):
        return (Path.touch, (Path("pwned"),))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file"), [
    ("siglip", "pytorch_model.bin"), ("clip", "pytorch_model.bin"), ("internvit", "pytorch_model.bin"),
    ("timm", "pytorch_model.bin"), ("open_clip", "open_clip_pytorch_model.bin")
])  # fmt: skip
def test_pickled_code_is_refused(name, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = TOWERS[name](tmp_path / "tower")
    next(folder.glob("*.safetensors")).unlink()
    torch.save({"weight": Evil()}, folder / file)
    with pytest.raises(CheckpointError):
        build(name, folder)
    (folder / file).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        build(name, folder)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "path"), [
    ("siglip", "nobody/nothing"), ("siglip", "./no/such/folder"),
    ("timm", "./no/such/folder"), ("timm", "hf-hub:nobody/nothing"), ("timm", "vit_tiny_patch16_224.augreg_in21k"),
    ("open_clip", "./no/such/folder"), ("open_clip", "hf-hub:nobody/nothing"), ("open_clip", "ViT-B-16-SigLIP:webli"),
])  # fmt: skip
def test_unreachable_path(name, path):
    with pytest.raises(CheckpointError, match=r"(no|not a local) directory"):
        build(name, path)


@pytest.mark.parametrize(("name", "package"), [("timm", "timm"), ("open_clip", "open_clip_torch")])
def test_absent_package(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        build(name, "anything")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Callable[[Path], str]:
    """Put a folder into an empty cache of the hub, to load it offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def add(folder: Path) -> str:
        repo = tmp_path / "cache" / "models--someone--tower"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text(COMMIT)
        shutil.copytree(folder, repo / "snapshots" / COMMIT)
        return "someone/tower"

    return add


@pytest.mark.slow
@pytest.mark.parametrize("revision", [None, COMMIT], ids=["newest", "commit"])
def test_hub_ids_load_from_its_cache(saved, hub, revision):
    name, folder = saved
    path = hub(folder) if name in TRANSFORMERS else f"hf-hub:{hub(folder)}"
    tower, local = build(name, path, revision=revision), build(name, folder)
    pixels = random_pixels(56)
    assert torch.equal(tower(pixels), local(pixels))
    assert (tower.image, tower.features) == (local.image, local.features)


# --- siglip -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FULL_CHECKPOINTS)
def test_siglip_equals_the_original_program(name):
    from transformers import SiglipVisionConfig, SiglipVisionModel

    folder = TINYLLAVA_VIDEO / name
    config = SiglipVisionConfig(**json.loads((folder / "config.json").read_text())["vision_config"])
    prefix = "vision_tower._vision_tower."
    weights = {k.removeprefix(prefix): v for k, v in load_file(folder / "model.safetensors").items() if prefix in k}
    model = SiglipVisionModel.from_pretrained(None, config=config, state_dict=weights)
    tower = SiglipTower(model, default_image_spec(config), layer=-2, select="patch")
    expected = load_file(folder / "expected.safetensors")
    features = tower(expected["pixel_values"])
    torch.testing.assert_close(features, expected["vision_features"], atol=1e-4, rtol=0)
    assert tower.features == FeatureSpec(dim=config.hidden_size, num_patches=features.shape[1], grid=None)


@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_siglip_equals_hidden_states_of_transformers(layer, tmp_path):
    tower = build("siglip", save_siglip(tmp_path), layer=layer)
    pixels = random_pixels(56)
    hidden_states = tower.model(pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(tower(pixels), hidden_states[layer], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("select", ["all", "patch"])
def test_siglip_final_norm_equals_the_last_hidden_state_of_transformers(select, tmp_path):
    tower = build("siglip", save_siglip(tmp_path), layer=-1, select=select, final_norm=True)
    pixels = random_pixels(56)
    expected = tower.model(pixels).last_hidden_state[:, 1 if select == "patch" else 0 :]
    assert torch.equal(tower(pixels), expected)
    tower.save(tmp_path / "again")
    again = build("siglip", tmp_path / "again", layer=-1, select=select, final_norm=True)
    assert torch.equal(again(pixels), expected)
    without = build("siglip", tmp_path, layer=-1, select=select)
    assert not torch.allclose(without(pixels), expected, atol=0.1)


def test_siglip_final_norm_needs_the_last_block(tmp_path):
    with pytest.raises(ConfigError, match=r"final_norm=true needs the output of the last block, but .*layer=-2; set"):
        build("siglip", save_siglip(tmp_path), final_norm=True)
    assert build("siglip", tmp_path, final_norm=True, layer=3).num_blocks == 3


def test_siglip_select_patch_drops_the_first_row(tmp_path):
    folder = save_siglip(tmp_path)
    every, but_first = build("siglip", folder), build("siglip", folder, select="patch")
    pixels = random_pixels(56)
    assert torch.equal(but_first(pixels), every(pixels)[:, 1:])
    assert but_first.features == FeatureSpec(dim=24, num_patches=15, grid=None)


@pytest.mark.parametrize(("name", "save"), [("siglip", save_siglip), ("clip", save_clip)])
def test_a_tower_of_a_whole_model(name, save, tmp_path, caplog):
    whole = build(name, save(tmp_path / "whole", whole=True))
    assert "text_model" not in caplog.text
    whole.save(tmp_path / "half")
    half = build(name, tmp_path / "half")
    assert torch.equal(whole(random_pixels(56)), half(random_pixels(56)))
    assert json.loads((tmp_path / "half" / "config.json").read_text())["model_type"] == f"{name}_vision_model"


def test_siglip_image_spec_from_its_preprocessor(tmp_path):
    save_siglip(tmp_path)
    write_preprocessor(
        tmp_path,
        size={"shortest_edge": 64},
        crop_size={"height": 56, "width": 56},
        image_mean=[0.1, 0.2, 0.3],
        image_std=[0.4, 0.5, 0.6],
        resample=2,
    )
    tower = build("siglip", tmp_path)
    assert tower.image == ImageSpec(56, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", "crop", 0.875)
    tower.save(tmp_path / "again")
    assert build("siglip", tmp_path / "again").image == tower.image


def test_siglip_image_spec_with_two_resizes(tmp_path):
    save_siglip(tmp_path)
    write_preprocessor(tmp_path, size={"longest_edge": 64}, max_image_size={"longest_edge": 56}, resample=1)
    tower = build("siglip", tmp_path)
    assert tower.image == ImageSpec(56, HALF, HALF, "lanczos", "stretch", longest_edge=64)
    tower.save(tmp_path / "again")
    assert build("siglip", tmp_path / "again").image == tower.image
    assert build("siglip", tmp_path, resize="stretch").image == ImageSpec(56, HALF, HALF, "lanczos")
    assert build("siglip", tmp_path, resize="crop").image == ImageSpec(56, HALF, HALF, "lanczos", "crop")


def test_siglip_without_preprocessor_uses_its_own_training(tmp_path, caplog):
    tower = build("siglip", save_siglip(tmp_path, preprocessor=False))
    assert tower.image == ImageSpec(56, HALF, HALF, "bicubic", "stretch")
    assert "has no preprocessor_config.json" in caplog.text


@pytest.mark.parametrize(("settings", "message"), [
    ({"size": {"height": 224, "width": 224}}, "does not match the tower's input of 56 pixels"),
    ({"size": {"height": 56, "width": 28}}, "does not match the tower's input of 56 pixels"),
    ({"size": {"shortest_edge": 64}}, "does not match the tower's input of 56 pixels"),
    ({"size": {"longest_edge": 64}}, "does not match the tower's input of 56 pixels"),
    ({"size": {"longest_edge": 64}, "max_image_size": 56}, r"preprocessor_config.json of .*; correct its sizes"),
    ({"size": [56, 56]}, r"preprocessor_config.json of .*; correct its sizes"),
    ({"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 28}}, "'width': 28}} does not match"),
    ({"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 28}}, "does not match the tower's input"),
    ({"size": {"longest_edge": 9999}, "max_image_size": {"longest_edge": 56}}, "images of 9999 pixels are not"),
    ({"do_normalize": False}, "do_normalize=false is not supported"),
    ({"rescale_factor": 1.0}, "rescale_factor=1.0 is not supported"),
    ({"rescale_factor": "x"}, "rescale_factor='x' is not supported"),
    ({"resample": 0}, r"resample=0 is not supported; use 1 \(lanczos\), 2"),
])  # fmt: skip
def test_siglip_preprocessor_that_is_not_supported(settings, message, tmp_path):
    save_siglip(tmp_path)
    write_preprocessor(tmp_path, **settings)
    with pytest.raises(CheckpointError, match=message):
        build("siglip", tmp_path)


def test_siglip_refuses_another_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": {}}))
    with pytest.raises(ConfigError, match=r"of type 'clip', which is not SigLIP.*open_clip"):
        build("siglip", tmp_path)


# --- clip -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_clip_equals_hidden_states_of_transformers(layer, tmp_path):
    tower = build("clip", save_clip(tmp_path), layer=layer)
    pixels = random_pixels(56)
    hidden_states = tower.model(pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(tower(pixels), hidden_states[layer][:, 1:], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("settings", "image"), [
    ({}, ImageSpec(56, HALF, (0.3, 0.3, 0.3), "bicubic", "crop")),
    ({"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}},
     ImageSpec(56, HALF, (0.3, 0.3, 0.3), "bicubic", "crop", 0.875)),
    ({"size": {"height": 56, "width": 56}}, ImageSpec(56, HALF, (0.3, 0.3, 0.3), "bicubic", "stretch")),
])  # fmt: skip
def test_clip_image_spec_from_its_preprocessor(settings, image, tmp_path):
    folder = save_clip(tmp_path)
    write_preprocessor(folder, **json.loads((folder / "preprocessor_config.json").read_text()) | settings)
    tower = build("clip", folder)
    assert tower.image == image
    tower.save(tmp_path / "again")
    assert build("clip", tmp_path / "again").image == image


def test_clip_without_preprocessor_uses_its_own_training(tmp_path):
    (save_clip(tmp_path) / "preprocessor_config.json").unlink()
    image = build("clip", tmp_path).image
    assert (image.size, image.resize, image.crop_pct) == (56, "crop", 1.0)
    assert image.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)
    assert image.std == pytest.approx((0.2686, 0.2613, 0.2758), abs=1e-4)


def test_clip_refuses_images_that_are_not_square(tmp_path):
    write_preprocessor(save_clip(tmp_path), size={"shortest_edge": 56}, do_center_crop=False)
    with pytest.raises(CheckpointError, match=r"{'shortest_edge': 56}} does not match the tower's input of 56"):
        build("clip", tmp_path)


def test_clip_refuses_another_model(tmp_path):
    with pytest.raises(ConfigError, match=r"of type 'siglip_vision_model', which is not CLIP.*open_clip"):
        build("clip", save_siglip(tmp_path))


# --- internvit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_internvit_equals_hidden_states_of_transformers(layer, tmp_path):
    tower = build("internvit", save_internvit(tmp_path), layer=layer)
    pixels = random_pixels(56)
    hidden_states = tower.model(pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(tower(pixels), hidden_states[layer][:, 1:], atol=1e-6, rtol=1e-5)


def test_internvit_in_the_layout_of_opengvlab(tmp_path):
    towers = [build("internvit", save_internvit(tmp_path / str(o), original=o)) for o in (False, True)]
    assert torch.equal(*[tower(random_pixels(56)) for tower in towers])
    assert towers[0].image == towers[1].image == ImageSpec(56, (0.4,) * 3, (0.3,) * 3, "bicubic", "stretch")


def test_internvit_stretches_frames_although_its_file_is_that_of_clip(tmp_path):
    folder = save_internvit(tmp_path, original=True)
    write_preprocessor(folder, size=56, crop_size=56, do_center_crop=True, image_mean=HALF, image_std=HALF)
    assert build("internvit", folder).image == ImageSpec(56, HALF, HALF, "bicubic", "stretch")
    assert build("internvit", folder, resize="crop").image.resize == "crop"
    (folder / "preprocessor_config.json").unlink()
    assert build("internvit", folder).image.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(("settings", "message"), [
    ({"model_type": "internvl_chat"}, r"of type 'internvl_chat', which is not InternViT; use Assistant"),
    ({"qk_normalization": True}, "qk_normalization=True of the vision tower is not supported"),
    ({"norm_type": None}, "norm_type=None of the vision tower is not supported; .* norm_type='layer_norm'"),
    ({"qkv_bias": False}, r"unexpected keys \[.*q_proj.bias.*\]"),
    ({"image_size": [56, 28]}, r"takes images of \[56, 28\] pixels"),
    ({"hidden_size": 10**9}, "hidden_size=1000000000, but at most"),
    ({"patch_size": 0}, "vision_tower .* cannot be loaded"),
])  # fmt: skip
def test_internvit_that_is_not_supported(settings, message, tmp_path):
    file = save_internvit(tmp_path, original=True) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises((CheckpointError, ConfigError), match=message):
        build("internvit", tmp_path)


def test_internvit_with_defaults_of_the_large_tower(tmp_path):
    file = save_internvit(tmp_path, original=True) / "config.json"
    settings = json.loads(file.read_text())
    for key, message in (("norm_type", "norm_type='rms_norm' of"), ("hidden_size", "vision tower lack hidden_size")):
        file.write_text(json.dumps({name: value for name, value in settings.items() if name != key}))
        with pytest.raises(CheckpointError, match=message):
            build("internvit", tmp_path)


# --- timm -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_timm_equals_siglip_with_the_same_weights(tmp_path):
    """The same SigLIP weights give the same features through transformers and through timm."""
    import timm
    from timm.models import save_for_hf

    siglip = build("siglip", save_siglip(tmp_path / "siglip"))
    options = {"img_size": 56, "patch_size": 14, "embed_dim": 24, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0}
    options |= {"act_layer": "gelu_tanh", "num_classes": 0}
    model = timm.create_model("vit_base_patch16_siglip_224", **options)
    source = siglip.model.state_dict()
    weights = {
        "patch_embed.proj.weight": source["embeddings.patch_embedding.weight"],
        "patch_embed.proj.bias": source["embeddings.patch_embedding.bias"],
        "pos_embed": source["embeddings.position_embedding.weight"][None],
    }
    names = {"layer_norm1": "norm1", "layer_norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for i in range(3):
        old, new = f"encoder.layers.{i}.", f"blocks.{i}."
        for kind in ("weight", "bias"):
            weights |= {f"{new}{b}.{kind}": source[f"{old}{a}.{kind}"] for a, b in names.items()}
            qkv = [source[f"{old}self_attn.{x}_proj.{kind}"] for x in "qkv"]
            weights[f"{new}attn.qkv.{kind}"] = torch.cat(qkv)
            weights[f"{new}attn.proj.{kind}"] = source[f"{old}self_attn.out_proj.{kind}"]
    left = model.load_state_dict(weights, strict=False)
    assert left.unexpected_keys == []
    assert {key.split(".")[0] for key in left.missing_keys} <= {"norm", "attn_pool"}
    save_for_hf(model, str(tmp_path / "timm"), model_args=options, safe_serialization=True)
    for layer in (1, -2, -1):
        ours, theirs = (build(n, tmp_path / n, layer=layer)(random_pixels(56)) for n in ("siglip", "timm"))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [
    "vit_base_patch16_siglip_224", "vit_small_patch14_reg4_dinov2", "deit_tiny_distilled_patch16_224",
    "vit_base_patch16_clip_224", "eva02_tiny_patch14_224", "vit_small_patch16_dinov3",
])  # fmt: skip
def test_timm_families(architecture, tmp_path):
    own_size = {"img_size": None, "patch_size": None} if "dinov3" in architecture else {}  # takes any size, states 256
    folder = save_timm(tmp_path / "a", architecture, embed_dim=48, **own_size)
    tower = build("timm", folder)
    size, side = (256, 16) if "dinov3" in architecture else (56, 4)
    features = tower(random_pixels(size))
    assert tower.features == FeatureSpec(dim=48, num_patches=side**2, grid=(side, side))
    assert features.shape == (3, side**2, 48)
    tower.save(tmp_path / "b")
    assert torch.equal(build("timm", tmp_path / "b")(random_pixels(size)), features)


def test_timm_image_spec_equals_timms(tmp_path):
    import timm

    folder = save_timm(tmp_path)
    data = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{folder}"))
    expected = ImageSpec(56, tuple(data["mean"]), tuple(data["std"]), data["interpolation"], "crop", data["crop_pct"])
    assert build("timm", folder).image == expected
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"crop_mode": "squash", "interpolation": "bilinear", "mean": [0.1, 0.2, 0.3]}
    (folder / "config.json").write_text(json.dumps(config))
    image = build("timm", f"local-dir:{folder}").image
    assert (image.resize, image.interpolation, image.mean) == ("stretch", "bilinear", (0.1, 0.2, 0.3))


def test_timm_drops_the_classifier(tmp_path):
    tower = build("timm", save_timm(tmp_path))
    assert not any(name.startswith("head") for name, _ in tower.model.named_parameters())


@pytest.mark.parametrize(("path", "message"), [
    ("vit_base_patch16_siglip_225", "Did you mean .*vit_base_patch16_siglip_224"),
    ("vit_base_patch16_siglip_224.webly", "no such weights. Tags of 'vit_base_patch16_siglip_224': .*webli"),
    ("test_vit5", "no architecture|no such weights"),
])  # fmt: skip
def test_timm_unknown_names(path, message):
    with pytest.raises(ConfigError, match=message):
        build("timm", path)


@pytest.mark.parametrize(("name", "path"), [
    ("timm", "vit_base_patch16_siglip_224.webli"), ("open_clip", "ViT-B-16-SigLIP:webli")
])  # fmt: skip
def test_revision_is_for_hub_ids(name, path):
    with pytest.raises(ConfigError, match=r"vision_tower.revision='main' applies to hub ids only"):
        build(name, path, revision="main")


def test_timm_refuses_the_layout_of_transformers(tmp_path):
    with pytest.raises(CheckpointError, match="architecture"):
        build("timm", save_siglip(tmp_path))


# --- open_clip --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vision", [
    {}, {"pool_type": "avg", "no_ln_pre": True}, {"attentional_pool": True, "attn_pooler_heads": 2},
])  # fmt: skip
def test_open_clip_vision_transformers(vision, tmp_path):
    import open_clip

    folder = save_open_clip(tmp_path, **vision)
    tower = build("open_clip", folder, layer=-1)
    whole = open_clip.create_model(f"local-dir:{folder}").visual
    pixels = random_pixels(56)
    expected = whole.transformer(whole._embeds(pixels))[:, 1:]  # the class token comes first
    torch.testing.assert_close(tower(pixels), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_open_clip_towers_of_timm(tmp_path):
    """The image tower is a timm model, as in open_clip's SigLIP."""
    folder = save_open_clip(
        tmp_path / "a", image_size=160, timm_model_name="test_vit", timm_pool="", timm_proj="linear"
    )
    tower = build("open_clip", folder)
    outputs = record_blocks(tower)
    pixels = random_pixels(160)
    features = tower(pixels)
    assert tower.features == FeatureSpec(dim=64, num_patches=100, grid=(10, 10))
    assert torch.equal(features, outputs[-1][:, -100:])
    tower.save(tmp_path / "b")
    assert torch.equal(build("open_clip", tmp_path / "b")(pixels), features)


@pytest.mark.parametrize("text", [True, False], ids=["whole", "image tower only"])
def test_open_clip_keeps_only_the_image_tower(text, tmp_path):
    tower = build("open_clip", save_open_clip(tmp_path / "a", text=text))
    tower.save(tmp_path / "b")
    stored = load_file(tmp_path / "b" / "open_clip_model.safetensors")
    assert all(key.startswith("visual.") for key in stored)
    assert len(stored) == len(tower.state_dict())


def test_open_clip_by_architecture_and_tag(tmp_path, monkeypatch):
    import open_clip

    folder = save_open_clip(tmp_path)
    settings = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"] | {"custom_text": True}
    (tmp_path / "Tiny-CLIP.json").write_text(json.dumps(settings))
    open_clip.add_model_config(tmp_path / "Tiny-CLIP.json")
    recipe = {"file": str(folder / "open_clip_model.safetensors"), "mean": HALF, "std": HALF, "resize_mode": "squash"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-CLIP", {"random": recipe})
    tower, local = build("open_clip", "Tiny-CLIP:random"), build("open_clip", folder)
    assert torch.equal(tower(random_pixels(56)), local(random_pixels(56)))
    assert tower.image == ImageSpec(56, HALF, HALF, "bicubic", "stretch")
    tower.save(tmp_path / "again")
    assert build("open_clip", tmp_path / "again").image == tower.image
    with pytest.raises(ConfigError, match="no weights with the tag ''. Write Tiny-CLIP:<tag>; available tags: random"):
        build("open_clip", "Tiny-CLIP")


@pytest.mark.parametrize(("path", "message"), [
    ("ViT-B-16-SiGLIP:webli", "no architecture 'ViT-B-16-SiGLIP'. Did you mean 'ViT-B-16-SigLIP'"),
    ("ViT-B-16-SigLIP:laion", "no weights with the tag 'laion'. Write ViT-B-16-SigLIP:<tag>; available tags: webli"),
    ("ViT-B-16-SigLIP", "Write ViT-B-16-SigLIP:<tag>"),
    ("ViT-B-32:openai", "trained with QuickGELU.* choose the architecture ViT-B-32-quickgelu"),
])  # fmt: skip
def test_open_clip_names_that_cannot_be_used(path, message):
    with pytest.raises(ConfigError, match=message):
        build("open_clip", path)


def test_open_clip_refuses_a_damaged_configuration(tmp_path):
    folder = save_open_clip(tmp_path)
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a configuration of open_clip"):
        build("open_clip", folder)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {"embed_dim": 8, "vision_cfg": {"wide": 1}}})
    )
    with pytest.raises(CheckpointError, match="cannot be loaded: .*wide"):
        build("open_clip", folder)
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no open_clip_config.json"):
        build("open_clip", folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_with_too_many_layers_is_refused_immediately(name, tmp_path):
    folder = TOWERS[name](tmp_path / "tower")
    file = folder / ("open_clip_config.json" if name == "open_clip" else "config.json")
    settings = json.loads(file.read_text())
    if name in TRANSFORMERS:
        settings["num_hidden_layers"] = 10**9
    elif name == "timm":
        settings["model_args"] = {"depth": 10**9}
    else:
        settings["model_cfg"]["vision_cfg"]["layers"] = 10**9
    file.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"=1000000000, but at most 1,000 is allowed"):
        build(name, folder)


# --- options and presets ----------------------------------------------------------------------------------------


def test_blocks_to_run():
    assert [blocks_to_run(layer, 27) for layer in (-2, -1, -27, 1, 27)] == [26, 27, 1, 1, 27]


@pytest.mark.parametrize(("config", "message"), [
    ({"name": "siglips", "path": "x"}, "Did you mean 'siglip'"),
    ({"name": "siglip"}, "needs vision_tower.path"),
    ({"name": "siglip", "path": "x", "layers": 2}, "Did you mean 'layer'"),
    ({"name": "siglip", "path": "x", "select": "cls"}, "select='cls' is not allowed"),
    ({"name": "timm", "path": "x", "layer": "last"}, "layer='last'"),
    ({"name": "open_clip", "path": "x", "resize": "squash"}, "resize='squash' is not allowed"),
    ({"name": "timm", "path": "x", "dtype": "float32"}, "has no option 'dtype'"),
])  # fmt: skip
def test_wrong_options_are_refused_by_the_registry(config, message):
    with pytest.raises(ConfigError, match=message):
        VISION_TOWERS.check(config)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_name_weights_that_exist(preset):
    from tinyvid.models.vision_towers.open_clip import _architecture_and_tag
    from tinyvid.models.vision_towers.timm import _place

    config = yaml.safe_load(preset.read_text())
    checked = VISION_TOWERS.check(config)
    defaults = VISION_TOWERS.check({"name": config["name"], "path": config["path"]})
    assert {**checked, "name": config["name"]} == config == {**defaults, "name": config["name"]}
    if config["name"] == "timm":
        assert _place(config["path"], None) is None
    elif config["name"] == "open_clip":
        assert ":".join(_architecture_and_tag(config["path"], None)) == config["path"]
