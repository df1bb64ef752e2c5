import pytest
import torch

from tinyvid import ConfigError
from tinyvid.models.reducers.slots import Slots
from tinyvid.types import FeatureSpec

GRID = FeatureSpec(dim=8, num_patches=12, grid=(3, 4))
FEATURES = torch.randn(5, 12, 8, generator=torch.Generator().manual_seed(0))
TIMES = torch.tensor([0.0, 0.5, 61.0, 3600.25, 9000.0])


def make(**options):
    torch.manual_seed(0)
    return Slots(features=GRID, **options)


def trained(**options):
    reducer = make(**options)
    torch.nn.init.normal_(reducer.time.weight)
    return reducer


def test_the_time_code_changes_nothing_at_first():
    plain, timed = make(of="clip", slots=4), make(of="clip", slots=4, times=True)
    assert torch.equal(plain(FEATURES)[0].x, timed(FEATURES, times=TIMES)[0].x)


def test_slots_of_a_clip_know_the_order_only_from_the_time_code():
    order = torch.tensor([3, 0, 4, 2, 1])
    plain = make(of="clip", slots=4)
    torch.testing.assert_close(plain(FEATURES[order])[0].x, plain(FEATURES)[0].x)
    timed = trained(of="clip", slots=4, times=True)
    before, after = timed(FEATURES, times=TIMES)[0].x, timed(FEATURES[order], times=TIMES)[0].x
    assert not torch.allclose(before, after, atol=1e-3)
    both = timed(FEATURES[order], times=TIMES[order])[0].x  # frames keep their times
    torch.testing.assert_close(both, before)


def test_times_are_distinguished_after_hours():
    timed = trained(of="frame", slots=1, times=True)
    still = FEATURES[:1].expand(2, -1, -1)
    x = timed(still, times=torch.tensor([7200.0, 7200.5]))[0].x
    assert not torch.allclose(x[0], x[1], atol=1e-3)


def test_slots_of_a_frame_see_only_their_frame():
    reducer = make(slots=3)
    tokens, _ = reducer(FEATURES)
    assert tokens.frame.tolist() == [t for t in range(5) for _ in range(3)]
    torch.testing.assert_close(reducer(FEATURES[2:3])[0].x, tokens.x[6:9])


def test_tokens_are_means_of_patches():
    weights = make(slots=2)
    low, high = FEATURES.amin(1), FEATURES.amax(1)  # (5, 8)
    x = weights(FEATURES)[0].x.unflatten(0, (5, 2))
    assert (x >= low[:, None]).all()
    assert (x <= high[:, None]).all()


def test_the_time_code_learns():
    reducer = make(of="clip", slots=4, times=True)
    reducer(FEATURES, times=TIMES)[0].x.square().sum().backward()
    assert reducer.time.weight.grad.any()


def test_more_slots_than_patches():
    with pytest.raises(ConfigError, match=r"reducer.slots=13 is more than the 12 patches.*reducer.of=clip"):
        make(slots=13)
