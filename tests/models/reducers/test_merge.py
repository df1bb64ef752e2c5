import pytest
import torch

from tinyvid import ConfigError
from tinyvid.models.reducers.merge import Merge, merge
from tinyvid.types import FeatureSpec

VIT = FeatureSpec(dim=8, num_patches=256, grid=(16, 16))


def clip(num_frames, spec=VIT, seed=0):
    return torch.randn(num_frames, spec.num_patches, spec.dim, generator=torch.Generator().manual_seed(seed))


def test_a_hundred_frames_become_305_tokens():
    reducer = Merge(features=VIT)
    tokens, _ = reducer(clip(100))
    assert len(tokens.x) == reducer.budget(100) == 305
    assert (tokens.frame.diff() >= 0).all()


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 7])
def test_clips_with_few_frames_fill_the_budget(num_frames):
    spec = FeatureSpec(dim=8, num_patches=16, grid=(4, 4))
    tokens, _ = Merge(features=spec, segments=4, tokens=3, overview=2)(clip(num_frames, spec))
    assert len(tokens.x) == 14
    assert len(set(tokens.frame[2:].tolist())) >= min(num_frames, 4)  # every segment has tokens


def test_a_clip_with_fewer_patches_than_tokens_is_unchanged():
    tokens, _ = Merge(features=VIT, segments=3, tokens=500, overview=1)(clip(2))
    assert torch.equal(tokens.x[1:], clip(2).flatten(0, 1))


@pytest.mark.parametrize("count", [1, 3, 30, 2559, 2560, 3000])
def test_mass_is_conserved(count):
    x = torch.randn(2560, 16, generator=torch.Generator().manual_seed(0))
    merged, sizes, first = merge(x, count)
    assert len(merged) == min(count, 2560)
    assert sizes.sum() == 2560
    torch.testing.assert_close((merged * sizes[:, None]).sum(0), x.sum(0), atol=1e-3, rtol=0)
    assert (first.diff() > 0).all()
    assert first[0] == 0


def test_duplicates_merge_first():
    patches = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    merged, sizes, first = merge(patches.repeat_interleave(8, 0), 5)
    torch.testing.assert_close(merged, patches)
    assert sizes.tolist() == [8] * 5
    assert first.tolist() == [0, 8, 16, 24, 32]


def test_rounds_halve_as_in_longvlm():
    """[1280, 640, 320, 160, 80, 40, 10] tokens are merged of 2,560 to leave 30."""
    left, merged = 2560, []
    while left > 30:
        merged.append(min(left // 2, left - 30))
        left -= merged[-1]
    assert merged == [1280, 640, 320, 160, 80, 40, 10]


def test_segments_do_not_mix():
    features = clip(20)
    tokens, _ = Merge(features=VIT, segments=4, tokens=6, overview=0)(features)
    changed, _ = Merge(features=VIT, segments=4, tokens=6, overview=0)(torch.cat([features[:15], clip(5, seed=1)]))
    assert torch.equal(changed.x[:18], tokens.x[:18])
    assert not torch.equal(changed.x[18:], tokens.x[18:])
    assert (tokens.frame // 5).tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6


def test_one_overview_token_is_the_mean_of_the_clip():
    features = clip(9)
    tokens, _ = Merge(features=VIT, overview=1)(features)
    torch.testing.assert_close(tokens.x[0], features.mean((0, 1)))


def test_similar_rows_are_found_in_blocks(monkeypatch):
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    whole = merge(x, 40)
    monkeypatch.setattr("tinyvid.models.reducers.merge.ROWS", 7)
    for blocks, expected in zip(merge(x, 40), whole, strict=True):
        torch.testing.assert_close(blocks, expected)


def test_more_overview_tokens_than_patches():
    with pytest.raises(ConfigError, match=r"reducer.overview=257 is more than the 256 patches.*at most 256"):
        Merge(features=VIT, overview=257)
