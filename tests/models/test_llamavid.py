"""LLaMA-VID's connector: the formula computed by hand, the effect of the question, and token counts."""

import math

import pytest
import torch
from torch.nn import functional as F

from tests.llamavid import DECODERS, SPEC, D, ask, make, padded, random_features
from tinyvid.build import build_connector
from tinyvid.errors import ConfigError, DataError
from tinyvid.models.connectors.llamavid import ContentTokens, ContextAttention
from tinyvid.types import FeatureSpec, Question

POOLS = [{"content": "none"}, {"content": "mean"}, {"content": "drop"}, {"content": "grid", "grid": 3}]
POOL_IDS = ["none", "mean", "drop", "grid:3"]
COUNTS = [16, 1, 0, 9]


def identity_attention(**options):
    """Return a context attention of width 2 with identity layers."""
    attention = ContextAttention(dim=2, row_dim=2, llm_dim=2, **options)
    for layer in (attention.query, attention.key, attention.value, attention.out):
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.eye_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    return attention


PATCHES = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])


# --- the context attention, by hand -----------------------------------------------------------------------------


@pytest.mark.parametrize("values", ["raw", "projected"])
@pytest.mark.parametrize(
    ("rows", "weights", "context"),
    [
        ([[1.0, 1.0]], [0.3302385, 0.6697615], [0.3302385, 1.3395230]),
        ([[1.0, 1.0], [2.0, -1.0]], [0.6372156, 0.3627844], [0.6372156, 0.7255688]),
        ([[0.0, 0.0]], [0.5, 0.5], [0.5, 1.0]),
    ],
    ids=["one row", "mean of rows", "zero row"],
)
def test_context_by_hand(rows, weights, context, values):
    attention = identity_attention(values=values)
    rows = torch.tensor([rows])
    mask = torch.ones(rows.shape[1], dtype=torch.bool)
    torch.testing.assert_close(attention.weights(rows, mask, PATCHES), torch.tensor([weights]), atol=1e-6, rtol=0)
    torch.testing.assert_close(attention(rows, mask, PATCHES), torch.tensor([context]), atol=1e-6, rtol=0)


def test_context_without_scale_and_key_projection_is_the_formula_of_the_paper():
    attention = identity_attention(scale="none", key_proj=False)
    rows, mask = torch.tensor([[[1.0, 1.0]]]), torch.ones(1, dtype=torch.bool)
    expected = F.softmax(torch.tensor([1.0, 2.0]), dim=0)
    torch.testing.assert_close(attention.weights(rows, mask, PATCHES)[0], expected, atol=1e-6, rtol=0)
    assert not any(key.startswith("key") for key in attention.state_dict())


def random_attention():
    torch.manual_seed(0)
    return ContextAttention(dim=24, row_dim=8, llm_dim=D), torch.randn(3, 5, 8), random_features(3)


def test_zero_queries_attend_uniformly():
    attention, rows, patches = random_attention()
    torch.nn.init.zeros_(attention.query.bias)
    mask = torch.ones(5, dtype=torch.bool)
    expected = attention.out(patches.mean(1))
    torch.testing.assert_close(attention(torch.zeros_like(rows), mask, patches), expected, atol=1e-6, rtol=0)


def test_an_empty_question_attends_uniformly():
    attention, rows, patches = random_attention()
    expected = attention.out(patches.mean(1))
    for none, mask in ((rows[:, :0], torch.ones(0)), (rows, torch.zeros(5))):
        torch.testing.assert_close(attention(none, mask.bool(), patches), expected, atol=1e-6, rtol=0)


def test_projecting_commutes_with_the_mean_over_rows():
    """Projecting the mean of the attended patches, as the original does, equals averaging projected rows."""
    attention, rows, patches = random_attention()
    scores = (attention.query(rows) @ attention.key(patches).transpose(1, 2) / math.sqrt(24)).softmax(-1)
    expected = attention.out(scores @ patches).mean(1)
    found = attention(rows, torch.ones(5, dtype=torch.bool), patches)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_rows_that_are_padding_do_not_count():
    attention, rows, patches = random_attention()
    mask = torch.tensor([True, True, True, False, False])
    garbage = rows.clone()
    garbage[:, 3:] = 1e4
    expected = attention(rows[:, :3], mask[:3], patches)
    torch.testing.assert_close(attention(garbage, mask, patches), expected, atol=1e-6, rtol=0)


# --- content tokens ---------------------------------------------------------------------------------------------


def pooled(patches, side, grid, *, legacy=False):
    spec = FeatureSpec(dim=patches.shape[-1], num_patches=side * side, grid=(side, side))
    content = ContentTokens(spec, 4, kind="grid", grid=grid, legacy=legacy)
    out = content.pool(patches)
    assert out.shape[1] == content.num_tokens
    return out


def test_grid_by_hand():
    patches = torch.arange(16.0).view(1, 16, 1)
    for legacy in (False, True):
        assert pooled(patches, 4, 2, legacy=legacy).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


@pytest.mark.parametrize("side", [14, 16, 24, 27])
def test_every_grid_is_exact_and_uses_every_patch(side):
    patches = torch.randn(1, side * side, 2, generator=torch.Generator().manual_seed(side))
    for grid in range(1, side + 1):
        out = pooled(patches.requires_grad_(), side, grid)
        assert out.shape == (1, grid * grid, 2)
        (gradient,) = torch.autograd.grad(out.sum(), patches)
        assert gradient.ne(0).all(), "a patch is left out"
        constant = pooled(torch.full_like(patches, 3.25), side, grid)
        torch.testing.assert_close(constant, torch.full_like(constant, 3.25), atol=1e-6, rtol=0)
        if side % grid == 0:
            torch.testing.assert_close(out.mean(1), patches.mean(1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("side", "grid", "found"),
    [(16, 4, 4), (16, 3, 3), (16, 6, 8), (16, 9, 16), (24, 5, 6), (24, 7, 8), (27, 2, 2), (27, 7, 9), (14, 5, 7)],
)
def test_legacy_grids_have_the_original_sides(side, grid, found):
    patches = torch.randn(1, side * side, 1)
    assert pooled(patches, side, grid, legacy=True).shape[1] == found * found


def test_legacy_grids_skip_patches_like_the_original():
    patches = torch.randn(1, 27 * 27, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(pooled(patches, 27, 2, legacy=True).sum(), patches)
    assert gradient.view(27, 27)[26].eq(0).all()
    assert gradient.view(27, 27)[:26, :26].ne(0).all()


# --- the connector ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pool", "count"), list(zip(POOLS, COUNTS, strict=True)), ids=POOL_IDS)
@pytest.mark.parametrize("num_frames", [1, 2, 17])
def test_the_number_of_tokens_matches_the_budget(num_frames, pool, count):
    connector = make(**pool)
    assert connector.tokens.budget(num_frames) == num_frames * (1 + count)
    assert connector(random_features(num_frames), ask()).shape == (num_frames * (1 + count), D)


@pytest.mark.slow
@pytest.mark.parametrize("pool", POOLS, ids=POOL_IDS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_another_question_changes_only_the_context_token(decoder, pool):
    connector = make(decoder, **pool)
    features = random_features(3)
    one, other = (connector(features, ask(seed)).unflatten(0, (3, -1)) for seed in (1, 2))
    assert not torch.isclose(one[:, 0], other[:, 0], atol=1e-7).all(-1).any()
    assert torch.equal(one[:, 1:], other[:, 1:])


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_context_token_comes_first_and_the_content_is_the_patches(decoder):
    connector = make(decoder, content="none", depth=1)
    features = random_features(3)
    tokens = connector(features, ask()).unflatten(0, (3, -1))  # (3, 17, D)
    assert torch.equal(tokens[:, 1:], connector.content.layers(features))
    weights = connector.attention(features, ask())
    expected = connector.context.out((weights.unsqueeze(1) @ features).squeeze(1))
    torch.testing.assert_close(tokens[:, 0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(weights.sum(1), torch.ones(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("decoder", DECODERS)
def test_frames_do_not_see_each_other(decoder):
    connector = make(decoder, content="grid", grid=2)
    features, order = random_features(7), torch.tensor([3, 0, 6, 2, 5, 1, 4])
    blocks = connector(features, ask()).unflatten(0, (7, -1))
    shuffled = connector(features[order], ask()).unflatten(0, (7, -1))
    torch.testing.assert_close(shuffled, blocks[order], atol=1e-6, rtol=0)
    torch.testing.assert_close(connector(features[2:3], ask()), blocks[2], atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_blocks_of_any_size_give_the_same_numbers_and_gradients(decoder):
    features = random_features(70)
    found, gradients = [], []
    for chunk in (1, 7, 64, 70):
        connector = make(decoder, chunk=chunk)
        tokens = connector(features, ask())
        connector.zero_grad()
        tokens.square().sum().backward()
        found.append(tokens)
        gradients.append(torch.cat([p.grad.flatten() for p in connector.parameters() if p.grad is not None]))
    for tokens, gradient in zip(found[1:], gradients[1:], strict=True):
        torch.testing.assert_close(tokens, found[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(gradient, gradients[0], atol=1e-3, rtol=1e-3)  # sums over 70 frames


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("count", [1, 9])
def test_padding_of_the_question_changes_nothing(decoder, count):
    connector = make(decoder)
    features = random_features(3)
    expected = connector(features, ask(1))
    torch.testing.assert_close(connector(features, padded(ask(1), count)), expected, atol=1e-6, rtol=0)


def test_no_patch_is_lost_without_a_class_token_or_with_an_odd_number():
    spec = FeatureSpec(dim=24, num_patches=27 * 27, grid=(27, 27))
    connector = make(spec=spec)
    features = random_features(2, spec).requires_grad_()
    weights = connector.attention(features, ask())
    assert weights.shape == (2, 729)
    assert weights.gt(0).all()
    (gradient,) = torch.autograd.grad(connector(features, ask()).square().sum(), features)
    assert gradient.abs().sum(-1).gt(0).all()


def test_an_empty_question_gives_uniform_attention():
    connector = make()
    empty = Question("", torch.zeros(0, dtype=torch.long), torch.zeros(0, D))
    weights = connector.attention(random_features(2), empty)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 16))
    assert connector(random_features(2), empty).isfinite().all()


def test_a_frozen_text_decoder_has_no_gradient_and_no_dropout():
    connector = make("qformer")
    connector.text_decoder.requires_grad_(False)
    connector.train()
    assert connector.context.training
    assert not any(module.training for module in connector.text_decoder.modules())
    assert torch.equal(connector(random_features(2), ask()), connector(random_features(2), ask()))
    connector(random_features(2), ask()).sum().backward()
    assert all(p.grad is None for p in connector.text_decoder.parameters())
    assert connector.context.query.weight.grad.any()
    connector.text_decoder.requires_grad_(True)
    connector.train()
    assert not torch.equal(connector(random_features(2), ask()), connector(random_features(2), ask())), "dropout"


def test_a_frozen_text_decoder_keeps_no_graph():
    """Activations of the frozen decoder would otherwise fill the GPU memory."""
    connector = make("qformer")
    connector.text_decoder.requires_grad_(False)
    rows, _ = connector.read(random_features(2), ask())
    assert rows.grad_fn is None


def test_a_text_decoder_in_another_dtype_works():
    """Frozen weights stay in bfloat16 while trained weights are float32."""
    connector = make("bert")
    connector.text_decoder.to(torch.bfloat16)
    tokens = connector(random_features(2), ask())
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens, make("bert")(random_features(2), ask()), atol=0.05, rtol=0.05)


# --- what is refused --------------------------------------------------------------------------------------------

NO_GRID = FeatureSpec(dim=24, num_patches=15, grid=None)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (SPEC, {"content": "avg"}, "connector.content='avg' is not allowed"),
        (SPEC, {"content": "grid", "grid": 5}, "connector.grid=5 is larger than the tower's grid of 4 x 4"),
        (SPEC, {"content": "grid", "grid": 0}, "connector.grid=0 must be at least 1"),
        (SPEC, {"content": "grid:2"}, "connector.content='grid:2' is not allowed"),
        (SPEC, {"content": "grid", "grid": 1, "legacy_grid": True}, "connector.grid of at least 2"),
        (NO_GRID, {"content": "grid"}, "the 15 patches of this tower do not form one; .*vision_tower.select=all"),
        (SPEC, {"scale": "sqrt"}, "Did you mean 'sqrt_dim'"),
        (SPEC, {"chunk": 0}, "connector.chunk=0 must be at least 1"),
    ],
)
def test_wrong_options_are_refused(spec, options, message):
    with pytest.raises(ConfigError, match=message):
        make(spec=spec, **options)


def test_a_text_decoder_is_needed_and_no_other_connector_takes_one():
    with pytest.raises(ConfigError, match="reads the question with a text decoder; .*Available: bert, llm_embed"):
        build_connector({"name": "llamavid"}, features=SPEC, llm_dim=D)
    with pytest.raises(ConfigError, match="connector 'mlp' does not take a text decoder"):
        build_connector({"name": "mlp"}, features=SPEC, llm_dim=D, text_decoder=DECODERS["bert"])
    with pytest.raises(ConfigError, match="unknown text_decoder 'brt'. Did you mean 'bert'"):
        build_connector({"name": "llamavid"}, features=SPEC, llm_dim=D, text_decoder={"name": "brt"})
    with pytest.raises(DataError, match="got no question"):
        make()(random_features(1))
