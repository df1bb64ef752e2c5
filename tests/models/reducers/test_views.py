import pytest
import torch
import torch.nn.functional as F

from tinyvid import ConfigError
from tinyvid.models.reducers.views import Views
from tinyvid.types import FeatureSpec

GRID = FeatureSpec(dim=4, num_patches=24, grid=(4, 6))
CLIP_336 = FeatureSpec(dim=4, num_patches=576, grid=(24, 24))
NO_GRID = FeatureSpec(dim=4, num_patches=23, grid=None)


def clip(num_frames, spec=GRID):
    return torch.randn(num_frames, spec.num_patches, spec.dim, generator=torch.Generator().manual_seed(num_frames))


@pytest.mark.parametrize(
    ("frames", "grids", "expected"),
    [
        ([10, 50], ["12x24", "4x4"], 3680),  # SlowFast-LLaVA
        ([10, 0], ["12x24", "4x4"], 3680),
        ([3, 5, 50], ["21x11", "21x11", "4x4"], 2648),  # Free Video-LLM
        ([0, 0], ["1x1", "3x3"], 500),  # VideoLLM-online
        ([6, 0], ["8x12", "4x4"], 1376),
    ],
)
def test_published_mixes_have_their_counts(frames, grids, expected):
    views = Views(features=CLIP_336, frames=frames, grids=grids)
    tokens, _ = views(clip(50, CLIP_336))
    assert len(tokens.x) == views.budget(50) == expected


def test_rows_and_columns_are_not_confused():
    features = torch.arange(4.0)[:, None].expand(4, 6).reshape(1, 24, 1).expand(1, 24, 4)  # the number of the row
    tokens, _ = Views(features=GRID, frames=[0], grids=["4x2"])(features)
    assert tokens.x[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_one_view_of_all_frames_is_average_pooling():
    features = clip(3)
    tokens, _ = Views(features=GRID, frames=[0], grids=["2x3"])(features)
    maps = features.unflatten(1, (4, 6)).permute(0, 3, 1, 2)
    torch.testing.assert_close(tokens.x, F.avg_pool2d(maps, 2).flatten(2).transpose(1, 2).flatten(0, 1))


def test_views_of_all_frames_are_interleaved_by_frame():
    features = clip(3)
    views = Views(features=GRID, frames=[0, 0], grids=["1x1", "2x2"])
    tokens, _ = views(features)
    assert views.causal
    assert tokens.frame.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    torch.testing.assert_close(tokens.x[::5], features.mean(1))


def test_other_views_follow_each_other():
    features = clip(9)
    views = Views(features=GRID, frames=[3, 0], grids=["4x6", "1x1"])
    tokens, _ = views(features)
    assert not views.causal
    assert tokens.frame.tolist() == [0] * 24 + [4] * 24 + [8] * 24 + list(range(9))
    assert torch.equal(tokens.x[:72], features[[0, 4, 8]].flatten(0, 1))


@pytest.mark.parametrize("num_frames", [1, 2])
def test_a_short_clip_shows_all_frames_once(num_frames):
    tokens, _ = Views(features=GRID, frames=[3], grids=["1x1"])(clip(num_frames))
    assert tokens.frame.tolist() == list(range(num_frames))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": [], "grids": []}, r"frames=\[\] and reducer.grids=\[\] must list.*use for example"),
        ({"frames": [1, 2], "grids": ["1x1"]}, "must list the frames"),
        ({"frames": [-1], "grids": ["1x1"]}, "must list the frames"),
        ({"frames": [1], "grids": ["5x6"]}, "5x6 does not fit the tower's grid of 4x6 patches; use at most 4x6"),
        ({"frames": [1], "grids": ["0x6"]}, "'0x6' is not a grid; write rows and columns, such as 4x4"),
        ({"frames": [1], "grids": ["4"]}, "'4' is not a grid"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        Views(features=GRID, **options)


def test_patches_without_a_rectangle():
    with pytest.raises(ConfigError, match=r"the 23 patches of this tower do not form one; use vision_tower.select=all"):
        Views(features=NO_GRID)
