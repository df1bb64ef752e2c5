"""The contract of motions, for every registered name."""

import copy

import pytest
import torch

from tinyvid.registry import MOTIONS
from tinyvid.types import FeatureSpec

GRID = FeatureSpec(dim=24, num_patches=20, grid=(4, 5))
SETTINGS = {
    "correlation": [{}, {"radius": 1, "gaps": [2]}, {"radius": 4, "gaps": [1, 2, 7]}, {"similarity": 3}],
}
CASES = [(name, options) for name in MOTIONS.names() for options in SETTINGS.get(name, [{}])]
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)


def build(name, options):
    return MOTIONS.build({"name": name, **options}, features=GRID)


def clip(num_frames, *, dim=24):
    """Features of a clip in which many patches move by a column from frame to frame, and others change."""
    generator = torch.Generator().manual_seed(num_frames)
    features = torch.randn(num_frames, 4, 5, dim, generator=generator)
    for t in range(1, num_frames):
        features[t, :2] = features[t - 1, :2].roll(1, 1)
    return features.flatten(1, 2)


CAUSAL = [case for case in CASES if build(*case).causal]


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_channels_follow_the_unchanged_features(name, options, dtype):
    motion = build(name, options)
    assert (motion.features.num_patches, motion.features.grid) == (20, (4, 5))
    assert motion.features.dim > 24
    for num_frames in (1, 2, 9, 40):
        features = clip(num_frames).to(dtype)
        seen, _ = motion(features)
        assert seen.dtype == dtype
        assert seen.shape == (num_frames, 20, motion.features.dim)
        assert torch.equal(seen[..., :24], features)
        assert seen.isfinite().all()


@every_case
def test_it_has_no_weights(name, options):
    motion = build(name, options)
    assert not list(motion.parameters())
    assert not motion.state_dict()


@pytest.mark.parametrize(("name", "options"), CAUSAL, ids=str)
def test_pieces_equal_the_whole_clip(name, options):
    motion = build(name, options)
    features = clip(50)
    whole, _ = motion(features)
    for lengths in ([1] * 50, [33, 17], [3, 40, 7], [49, 1]):
        state, pieces = None, []
        for piece in features.split(lengths):
            seen, state = motion(piece, state)
            pieces.append(seen)
        torch.testing.assert_close(torch.cat(pieces), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "options"), CAUSAL, ids=str)
def test_later_frames_do_not_change_earlier_ones(name, options):
    motion = build(name, options)
    features = clip(9)
    before, _ = motion(features[:5])
    changed, _ = motion(torch.cat([features[:5], -features[5:]]))
    torch.testing.assert_close(changed[:5], before, atol=1e-4, rtol=0)


@every_case
def test_every_frame_of_a_static_clip_is_the_same(name, options):
    seen, _ = build(name, options)(clip(1).expand(8, -1, -1))
    torch.testing.assert_close(seen, seen[:1].expand_as(seen), atol=1e-4, rtol=0)


@every_case
def test_gradients_reach_the_features_through_the_channels(name, options):
    features = clip(5).requires_grad_()
    seen, _ = build(name, options)(features)
    (seen[..., 24:] * torch.randn(seen[..., 24:].shape)).sum().backward()
    assert features.grad.isfinite().all()
    assert all(frame.any() for frame in features.grad)


@every_case
def test_calls_do_not_change_state(name, options):
    """A clip does not depend on the clips before."""
    motion = build(name, options)
    features = clip(4)
    before, _ = motion(features)
    assert torch.equal(features, clip(4))
    motion(clip(9))
    after, _ = copy.deepcopy(motion)(clip(4))
    assert torch.equal(before, after)


@every_case
def test_autocast_does_not_change_the_channels(name, options):
    motion = build(name, options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen, _ = motion(clip(4))
    assert torch.equal(seen, motion(clip(4))[0])


@every_case
def test_degenerate_clips_have_finite_channels_and_gradients(name, options):
    for features in (torch.zeros(3, 20, 24), torch.ones(3, 20, 24), clip(1)[:, :1].expand(3, 20, 24).clone()):
        seen, _ = build(name, options)(features.requires_grad_())
        seen.sum().backward()
        assert seen.isfinite().all()
        assert features.grad.isfinite().all()
