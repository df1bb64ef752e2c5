import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from tests.goldens import FULL_CHECKPOINTS, TINYLLAVA_VIDEO
from tinyvid.build import build_connector, takes
from tinyvid.errors import ConfigError
from tinyvid.models.connectors.blocks import Sinusoids, refine, sinusoid_table
from tinyvid.models.connectors.resampler import GroupResampler
from tinyvid.registry import CONNECTORS
from tinyvid.types import FeatureSpec, Question, TokenBudget

D = 32
GRID = FeatureSpec(dim=24, num_patches=9, grid=(3, 3))
NO_GRID = FeatureSpec(dim=24, num_patches=7, grid=None)
SMALL = {
    "group": {"num_queries": 8, "num_groups": 4, "depth": 2},
    "naive": {"num_queries": 6, "depth": 2},
    "pixel_shuffle": {"factor": 3},
}
NAMES = CONNECTORS.names()
QUESTION = Question("What moves?", torch.arange(3), torch.randn(3, D, generator=torch.Generator().manual_seed(0)))


def build(name: str, features: FeatureSpec = GRID, **options: object):
    torch.manual_seed(0)
    decoder = {"name": "llm_embed", "dim": 16, "num_heads": 2} if takes(name, "text_decoder") else None
    group = {"name": name, **SMALL.get(name, {}), **options}
    return build_connector(group, features=features, llm_dim=D, text_decoder=decoder)


def random_features(num_frames: int, spec: FeatureSpec = GRID) -> torch.Tensor:
    return torch.randn(num_frames, spec.num_patches, spec.dim, generator=torch.Generator().manual_seed(num_frames))


# --- the contract, for every name -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", [GRID, NO_GRID], ids=["grid", "no grid"])
@pytest.mark.parametrize("num_frames", [1, 2, 7, 16])
@pytest.mark.parametrize("name", NAMES)
def test_shape_is_the_budget(name, num_frames, spec, dtype):
    if name == "pixel_shuffle" and spec is NO_GRID:
        pytest.skip("needs a grid")
    connector = build(name, spec).to(dtype)
    question = QUESTION if connector.tokens.reads_question else None
    tokens = connector(random_features(num_frames, spec).to(dtype), question)
    assert tokens.shape == (connector.tokens.budget(num_frames), D)
    assert tokens.dtype == dtype
    assert tokens.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name):
    connector = build(name)
    features = random_features(5).requires_grad_()
    connector(features, QUESTION).square().sum().backward()
    assert [n for n, p in connector.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert features.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_blind_connectors_ignore_the_question(name):
    connector = build(name)
    if connector.tokens.reads_question:
        pytest.skip("reads the question")
    features = random_features(3)
    assert torch.equal(connector(features), connector(features, QUESTION))


@pytest.mark.parametrize("name", NAMES)
def test_calls_do_not_change_state(name):
    """Calls with other lengths or in inference mode change nothing, and only parameters are saved."""
    connector = build(name)
    before = connector(random_features(2), QUESTION)
    with torch.inference_mode():
        connector(random_features(9), QUESTION)
    after = connector(random_features(2), QUESTION)
    assert torch.equal(before, after)
    after.sum().backward()
    assert connector.state_dict().keys() == dict(connector.named_parameters()).keys()
    assert torch.equal(copy.deepcopy(connector)(random_features(2), QUESTION), before)


# --- resamplers -------------------------------------------------------------------------------------------------


def load_golden(name: str):
    folder = TINYLLAVA_VIDEO / name
    config, expected = json.loads((folder / "config.json").read_text()), load_file(folder / "expected.safetensors")
    options = {"num_queries": config["num_queries"], "depth": config["num_resampler_layers"]}
    if config["connector_type"] == "groupresampler":
        options = {"name": "group", "num_groups": config["group"], **options}
    else:
        options = {"name": "naive", **options}
    spec = FeatureSpec(dim=config["vision_hidden_size"], num_patches=expected["vision_features"].shape[1], grid=None)
    connector = CONNECTORS.build(options, features=spec, llm_dim=config["hidden_size"])
    prefix = "connector._connector."
    weights = load_file(folder / "model.safetensors")
    connector.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return connector, expected


@pytest.mark.parametrize("name", FULL_CHECKPOINTS)
def test_equals_the_original_program(name):
    connector, expected = load_golden(name)
    tokens = connector(expected["vision_features"])
    torch.testing.assert_close(tokens, expected["connector_output"][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5, 16])
def test_group_equals_a_loop_over_its_groups(num_frames):
    connector = build("group", NO_GRID)
    media = connector.linear(random_features(num_frames, NO_GRID).flatten(0, 1))
    groups = media.tensor_split(4)  # the first groups are longer
    tokens = torch.cat([refine(connector.layers, connector.latents[None], group[None])[0] for group in groups])
    expected = connector.norm(tokens) + sinusoid_table(8, D).float()
    torch.testing.assert_close(connector(random_features(num_frames, NO_GRID)), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("num_frames", "lengths"),
    [
        (1, [46] * 8 + [45] * 8),
        (3, [137] * 8 + [136] * 8),
        (16, [728] * 16),
        (17, [774] * 8 + [773] * 8),
        (30, [1365] * 16),
    ],
)
def test_group_divides_like_the_original(num_frames, lengths):
    connector = GroupResampler(features=FeatureSpec(4, 728, None), llm_dim=2, num_queries=16, depth=1)
    rows = torch.arange(num_frames * 728).repeat(2, 1).T  # (N, D)
    parts = [group for part in connector._cut(rows) for group in part]
    assert [len(part) for part in parts] == lengths
    assert torch.equal(torch.cat(parts), rows)


def test_group_keeps_frames_apart():
    """With as many groups as frames, a frame changes only its own tokens."""
    connector = build("group")
    features = random_features(4)
    changed = features.clone()
    changed[2] += 1
    same = (connector(features) == connector(changed)).all(dim=1)
    assert same.tolist() == [True] * 4 + [False] * 2 + [True] * 2


def test_group_with_fewer_patches_than_groups():
    connector = build("group", FeatureSpec(24, 1, (1, 1)))
    assert connector(torch.randn(2, 1, 24)).isfinite().all()


@pytest.mark.parametrize(
    ("num_queries", "num_groups", "nearest"), [(100, 16, "96 or 112"), (3, 4, "4"), (513, 512, "512 or 1024")]
)
def test_group_names_the_nearest_valid_number(num_queries, num_groups, nearest):
    with pytest.raises(
        ConfigError, match=f"num_queries={num_queries} is not divisible by .*{num_groups}; use num_queries={nearest}$"
    ):
        build("group", num_queries=num_queries, num_groups=num_groups)


@pytest.mark.parametrize(
    ("name", "dim", "parameters"),
    [("group", 2048, 115_714_048), ("naive", 2048, 116_697_088), ("group", 896, 25_852_288)],
)
def test_published_sizes(name, dim, parameters):
    with torch.device("meta"):
        connector = CONNECTORS.build({"name": name}, features=FeatureSpec(1152, 728, None), llm_dim=dim)
    assert sum(p.numel() for p in connector.parameters()) == parameters
    assert connector.tokens.budget(16) == connector.tokens.budget(64) == 512


def test_initialization():
    torch.manual_seed(0)
    connector = CONNECTORS.build({"name": "naive", "depth": 1}, features=FeatureSpec(64, 4, None), llm_dim=128)
    assert connector.latents.std().item() == pytest.approx(1.0, abs=0.02)
    assert connector.linear.weight.std().item() == pytest.approx(0.02, abs=0.001)
    assert not connector.linear.bias.any()


# --- positions --------------------------------------------------------------------------------------------------


def test_sinusoids_of_the_original():
    table = sinusoid_table(512, 2048).double()
    values = {
        (0, 0): 0.0, (0, 1): 1.0, (1, 0): 0.84130859375, (1, 1): 0.54052734375, (1, 2): 0.83642578125,
        (1, 3): 0.5478515625, (100, 1000): 0.8974609375, (100, 1001): 0.441162109375, (511, 0): 0.8818359375,
        (511, 1): -0.4716796875, (511, 2046): 0.051544189453125, (511, 2047): 0.99853515625,
    }  # fmt: skip
    assert {at: table[at].item() for at in values} == values
    assert table.float().sum().item() == pytest.approx(281129.78, abs=0.5)


def test_sinusoids_keep_their_rounding_through_casts():
    positions = Sinusoids(16)
    positions(10, like=torch.zeros(1, dtype=torch.bfloat16))
    grown, shrunk = positions(40, like=torch.zeros(1)), positions(3, like=torch.zeros(1))
    assert torch.equal(grown, sinusoid_table(40, 16).float())
    assert torch.equal(shrunk, grown[:3])


# --- mlp --------------------------------------------------------------------------------------------------------


def test_mlp_pools_squares_of_the_grid():
    spec = FeatureSpec(dim=2, num_patches=24, grid=(4, 6))
    connector = build("mlp", spec, pool=2)
    maps = torch.arange(24.0).view(1, 4, 6, 1).expand(2, 4, 6, 2)
    expected = torch.stack([maps[:, r : r + 2, c : c + 2].mean((1, 2)) for r in (0, 2) for c in (0, 2, 4)], dim=1)
    torch.testing.assert_close(connector(maps.flatten(1, 2)), connector.layers(expected.flatten(0, 1)))
    assert connector.tokens.budget(2) == 12


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_mlp_depth(depth):
    connector = build("mlp", depth=depth)
    kinds = [type(layer).__name__ for layer in connector.layers]
    assert kinds == (["Linear", "GELU"] * depth)[:-1]


def test_mlp_pool_that_does_not_fit_the_grid():
    with pytest.raises(ConfigError, match=r"pool=2 does not divide .* 27 x 27 patches; use one of 1, 3, 9, 27"):
        build("mlp", FeatureSpec(8, 729, (27, 27)), pool=2)


def test_mlp_pool_without_a_grid():
    with pytest.raises(ConfigError, match=r"pool=2 needs a rectangle .* 728 patches .*select=all"):
        build("mlp", FeatureSpec(8, 728, None), pool=2)


@pytest.mark.parametrize(("grid", "factor", "side"), [((3, 3), 2, (2, 2)), ((4, 6), 3, (2, 2)), ((9, 9), 2, (5, 5))])
def test_mlp_resizes_the_grid_after_the_layers(grid, factor, side):
    """Pixel centers of the smaller grid are read from the larger one between its two nearest rows and columns."""
    spec = FeatureSpec(dim=24, num_patches=grid[0] * grid[1], grid=grid)
    connector = build("mlp", spec, pool_after=factor)
    features = random_features(2, spec)
    maps = connector.layers(features).unflatten(1, grid)  # (T, h, w, D)
    for axis, size in ((1, side[0]), (2, side[1])):
        full = maps.shape[axis]
        at = (torch.arange(size) + 0.5) * full / size - 0.5
        low = at.clamp(0).floor().long()
        share = (at.clamp(0) - low).view([-1 if d == axis else 1 for d in range(4)])
        high = (low + 1).clamp(max=full - 1)
        maps = maps.index_select(axis, low) * (1 - share) + maps.index_select(axis, high) * share
    torch.testing.assert_close(connector(features), maps.flatten(0, 2), atol=1e-6, rtol=1e-5)
    assert connector.tokens.budget(2) == 2 * side[0] * side[1]


def test_mlp_closes_a_clip_with_one_token():
    connector = build("mlp", newline=True)
    plain = build("mlp")
    plain.load_state_dict({key: value for key, value in connector.state_dict().items() if key != "newline"})
    tokens = connector(random_features(2))
    assert torch.equal(tokens[:-1], plain(random_features(2)))
    assert torch.equal(tokens[-1], connector.newline)
    assert connector.tokens.budget == TokenBudget(fixed=1, per_frame=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": 3, "pool_after": 2}, "pool=3 and connector.pool_after=2 pool the same patches"),
        ({"pool_after": 4}, "pool_after=4 exceeds both sides .* 3 x 3 patches; use at most 3"),
        (
            {"features": NO_GRID, "pool_after": 2},
            "pool_after=2 needs a rectangle .* 7 patches .*pool_after=1",
        ),
    ],
)
def test_mlp_pool_after_that_does_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        build("mlp", **options)


# --- pixel_shuffle ----------------------------------------------------------------------------------------------


def test_pixel_shuffle_concatenates_squares_with_the_channels_fastest():
    spec = FeatureSpec(dim=2, num_patches=24, grid=(4, 6))
    connector = build("pixel_shuffle", spec, factor=2, depth=1, norm=False, bias=False)
    maps = torch.arange(96.0).view(2, 4, 6, 2)
    squares = [maps[:, r : r + 2, c : c + 2].flatten(1) for r in (0, 2) for c in (0, 2, 4)]
    torch.testing.assert_close(connector(maps.flatten(1, 2)), connector.layers(torch.stack(squares, 1)).flatten(0, 1))
    assert connector.tokens.budget(2) == 12
    assert {name: tuple(value.shape) for name, value in connector.named_parameters()} == {"layers.0.weight": (D, 8)}


def test_pixel_shuffle_normalizes_a_square_as_a_whole():
    connector = build("pixel_shuffle")
    features = random_features(2)
    assert connector.norm.eps == 1e-5
    torch.testing.assert_close(connector(3 * features + 1), connector(features), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (FeatureSpec(8, 729, (27, 27)), r"connector.factor=2 does not divide .* 27 x 27 patches; use one of 1, 3, 9"),
        (FeatureSpec(8, 728, None), r"needs a grid of patches, but the 728 patches .*vision_tower.select=all"),
    ],
)
def test_pixel_shuffle_needs_squares(spec, message):
    with pytest.raises(ConfigError, match=message):
        build("pixel_shuffle", spec, factor=2)


@pytest.mark.parametrize("reducer", [{"name": "drop", "threshold": 1.1}, {"name": "sample", "tokens": 3}])
def test_pixel_shuffle_reduces_squares(reducer):
    """A reducer that keeps everything changes nothing, and one that picks squares picks their tokens."""
    spec = FeatureSpec(dim=2, num_patches=24, grid=(4, 6))
    group = {"name": "pixel_shuffle"}
    plain = build_connector(group, features=spec, llm_dim=D)
    reducing = build_connector(group, features=spec, llm_dim=D, reducer=reducer)
    reducing.load_state_dict(plain.state_dict())
    features = random_features(2, spec)
    kept, _ = reducing.reducer(features)
    assert len(kept.x) == (12 if reducer["name"] == "drop" else 3)
    torch.testing.assert_close(reducing(kept.x.unsqueeze(1)), plain(features)[kept.place])
    assert reducing.tokens.budget(2) == plain.tokens.budget(2)


def test_pixel_shuffle_refuses_reducers_that_need_patches():
    with pytest.raises(ConfigError, match=r"this reducer compares the patches with the question; use another one"):
        build_connector(
            {"name": "pixel_shuffle", "factor": 3}, features=GRID, llm_dim=D, reducer={"name": "guided", "grid": "1x1"}
        )


# --- options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "grup"}, "Did you mean 'group'"),
        ({"name": "group", "num_querys": 8}, "Did you mean 'num_queries'"),
        ({"name": "group", "num_queries": "many"}, "connector.num_queries='many'"),
        ({"name": "naive", "depth": 0}, "must be at least 1"),
        ({"name": "mlp", "pool": -1}, "must be at least 1"),
        ({"name": "mlp", "features": 3}, "has no option 'features'"),
    ],
)
def test_wrong_options_are_refused_by_the_registry(config, message):
    with pytest.raises(ConfigError, match=message):
        CONNECTORS.check(config)


def test_defaults():
    assert CONNECTORS.check({"name": "group"}) == {
        "num_queries": 512,
        "num_groups": 16,
        "depth": 3,
        "heads": 8,
        "head_dim": 64,
        "mixer_layers": 0,
    }
    assert CONNECTORS.check({"name": "mlp"}) == {"depth": 2, "pool": 1, "pool_after": 1, "newline": False}
    shuffle = {"factor": 2, "depth": 2, "norm": True, "bias": True}
    assert CONNECTORS.check({"name": "pixel_shuffle"}) == shuffle
