import pytest
import torch
import torch.nn.functional as F

from tinyvid import ConfigError
from tinyvid.models.reducers.prune import Prune
from tinyvid.types import FeatureSpec

GRID = FeatureSpec(dim=8, num_patches=12, grid=(3, 4))


def clip(num_frames, seed=0):
    return torch.randn(num_frames, 12, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_scores_are_the_distances_to_both_anchors(alpha):
    features = clip(7)
    tokens, _ = Prune(features=GRID, keep=4, alpha=alpha, window=3)(features)
    means = features.mean(1)
    for t in range(7):
        before = means[max(0, t - 3) : t].mean(0) if t else means[0]
        spatial = 1 - F.cosine_similarity(features[t], means[t][None])
        temporal = 1 - F.cosine_similarity(features[t], before[None])
        expected = (alpha * temporal + (1 - alpha) * spatial).argsort(descending=True)[:4].sort().values
        assert tokens.place[4 * t : 4 * t + 4].tolist() == (12 * t + expected).tolist()
        assert torch.equal(tokens.x[4 * t : 4 * t + 4], features[t, expected])


def test_a_patch_that_changes_is_kept():
    still = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)) * 0.1 + 1
    features = still.repeat(5, 1, 1)
    features[3, 7] = -features[3, 7]
    tokens, _ = Prune(features=GRID, keep=1)(features)
    assert tokens.place[3] == 3 * 12 + 7


def test_closed_positions_need_no_empty_places():
    features = clip(3)
    kept, _ = Prune(features=GRID, keep=5)(features)
    reducer = Prune(features=GRID, keep=5, positions="closed")
    closed, _ = reducer(features)
    assert reducer.budget(3) == 15
    assert torch.equal(closed.x, kept.x)
    assert closed.place.tolist() == list(range(15))


def test_patches_are_pooled_first():
    spec = FeatureSpec(dim=8, num_patches=24, grid=(4, 6))
    features = torch.randn(2, 24, 8, generator=torch.Generator().manual_seed(0))
    tokens, _ = Prune(features=spec, keep=6, pool=2)(features)
    maps = features.unflatten(1, (4, 6)).permute(0, 3, 1, 2)
    torch.testing.assert_close(tokens.x, F.avg_pool2d(maps, 2).flatten(2).transpose(1, 2).flatten(0, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 13}, "reducer.keep=13 is more than the 12 patches of a frame; use at most 12"),
        (
            {"keep": 3, "pool": 2},
            "reducer.pool=2 does not divide .* grid of 3 x 4 patches; use reducer.pool=1",
        ),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        Prune(features=GRID, **options)


def test_pooling_needs_a_rectangle():
    with pytest.raises(ConfigError, match="reducer.pool=2 needs a rectangle .*; use reducer.pool=1"):
        Prune(features=FeatureSpec(dim=8, num_patches=11, grid=None), keep=1, pool=2)
