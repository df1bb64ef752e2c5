"""The temporal mixer: off by default; when on, every group affects the tokens of all groups."""

import math

import pytest
import torch

from tinyvid.errors import ConfigError
from tinyvid.models.connectors.resampler import TemporalMixer, time_code
from tinyvid.registry import CONNECTORS
from tinyvid.types import FeatureSpec

D = 32
SPEC = FeatureSpec(dim=24, num_patches=9, grid=(3, 3))
SMALL = {"name": "group", "num_queries": 8, "num_groups": 4, "depth": 1, "heads": 2, "head_dim": 8}


def build(**options: object):
    torch.manual_seed(0)
    return CONNECTORS.build({**SMALL, "mixer_layers": 2, **options}, features=SPEC, llm_dim=D)


def features(num_frames: int, dtype=torch.float32):
    return torch.randn(num_frames, 9, 24, generator=torch.Generator().manual_seed(num_frames)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_frames", [1, 2, 7, 16])
def test_shape_is_the_budget(num_frames, dtype):
    connector = build().to(dtype)
    tokens = connector(features(num_frames, dtype))
    assert tokens.shape == (connector.tokens.budget(num_frames), D)
    assert tokens.dtype == dtype
    assert tokens.isfinite().all()


def test_gradients_reach_every_parameter():
    connector = build()
    connector(features(5)).square().sum().backward()
    assert [n for n, p in connector.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_off_is_the_published_connector():
    with_mixer, without = build(), build(mixer_layers=0)
    assert without.mixer is None
    names = {name for name in with_mixer.state_dict() if not name.startswith("mixer.")}
    assert names == without.state_dict().keys()
    without.load_state_dict({name: with_mixer.state_dict()[name] for name in names})
    out = without(features(4))
    torch.testing.assert_close(with_mixer(features(4)), with_mixer.mixer(out.view(4, 2, D)).view(8, D))


def test_a_change_in_one_group_affects_all_groups():
    seen, changed = features(4), features(4)
    changed[2] += 1
    for layers, groups in ((0, [False, False, True, False]), (1, [True] * 4)):
        connector = build(mixer_layers=layers)
        differ = (connector(seen) != connector(changed)).any(dim=1)
        assert differ.view(4, 2).all(dim=1).tolist() == groups


def test_order_matters():
    mixer = TemporalMixer(D, layers=1, heads=2, head_dim=8)
    tokens = torch.randn(4, 2, D)
    torch.testing.assert_close(mixer(tokens.flip(1)), mixer(tokens).flip(1))  # within a group it does not
    assert not torch.allclose(mixer(tokens.flip(0)), mixer(tokens).flip(0), atol=1e-3)


def test_clips_in_a_batch_do_not_mix():
    mixer = TemporalMixer(D, layers=2, heads=2, head_dim=8)
    clips = torch.randn(3, 4, 2, D)
    torch.testing.assert_close(mixer(clips), torch.stack([mixer(clip) for clip in clips]))


def test_time_code():
    code = time_code(4)
    assert code.shape == (4, 16)
    assert code[0, 0].item() == pytest.approx(math.sin(math.pi / 8))
    assert code[3, 8].item() == pytest.approx(math.cos(math.pi * 7 / 8))
    assert len({tuple(row) for row in time_code(64).tolist()}) == 64


def test_width_options():
    connector = build(heads=3, head_dim=4)
    attention = connector.layers[0][0]
    assert attention.to_q.weight.shape == (12, D)
    assert attention.to_kv.weight.shape == (24, D)
    assert connector.mixer.layers[0][0].to_qkv.weight.shape == (36, D)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"mixer_layers": -1}, "mixer_layers=-1 must be at least 0"), ({"heads": 0}, "heads=0 must be at least 1")],
)
def test_wrong_options(option, message):
    with pytest.raises(ConfigError, match=message):
        CONNECTORS.check({**SMALL, **option})
