"""The contract of reducers, for every registered name."""

import copy
import inspect
from functools import cache

import pytest
import torch

from tests.llamavid import save_tokenizer
from tests.towers import save_siglip
from tinyvid.registry import REDUCERS, VISION_TOWERS
from tinyvid.types import FeatureSpec, Question, VideoTokens

GRID = FeatureSpec(dim=24, num_patches=16, grid=(4, 4))  # of the tiny SigLIP
SETTINGS = {
    "drop": [{}, {"most": 9}, {"positions": "kept"}, {"pool": 2}],
    "guided": [{"frames": 2, "grid": "1x2"}, {"frames": 1, "grid": "3x3"}],
    "merge": [{"segments": 3, "tokens": 4, "overview": 2}, {"segments": 2, "tokens": 7, "overview": 0}],
    "prune": [{"keep": 5}, {"keep": 3, "positions": "closed", "window": 1}, {"keep": 2, "pool": 2, "alpha": 1.0}],
    "sample": [{"tokens": 20}, {"tokens": 7, "positions": "closed", "pool": 2}],
    "slots": [{"slots": 3}, {"slots": 5, "of": "clip"}, {"slots": 3, "times": True}],
    "views": [
        {"frames": [0, 0], "grids": ["1x1", "3x3"]},
        {"frames": [2, 0], "grids": ["3x4", "1x2"]},
        {"frames": [0], "grids": ["2x2"]},
    ],
}
NEUTRAL = {
    "drop": {"threshold": 1.1},
    "guided": {"frames": 100},
    "merge": {"segments": 1, "tokens": 1000, "overview": 0},
    "prune": {"keep": 16},
    "sample": {"tokens": 1000},
    "views": {"frames": [0], "grids": ["4x4"]},
}
SIGLIP: dict[str, str] = {"name": "siglip"}
CASES = [(name, options) for name in REDUCERS.names() for options in SETTINGS.get(name, [{}])]
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)
CAUSAL = [case for case in CASES if REDUCERS.build({"name": case[0], **case[1]}, features=GRID).causal]


@pytest.fixture(scope="module", autouse=True)
def siglip(tmp_path_factory):
    """The configuration of a SigLIP with both halves, for reducers that read the question."""
    SIGLIP["path"] = str(save_tokenizer(save_siglip(tmp_path_factory.mktemp("siglip"), whole=True, vocab_size=80)))


def build(name: str, options: dict[str, object]) -> torch.nn.Module:
    torch.manual_seed(0)
    reducer = REDUCERS.build({"name": name, **options}, features=GRID)
    if reducer.reads_question:
        reducer.attach(tower(), SIGLIP)
    for parameter in reducer.parameters():  # zero at first, some of them
        torch.nn.init.normal_(parameter, std=0.5)
    return reducer


@cache
def tower() -> torch.nn.Module:
    return VISION_TOWERS.build(SIGLIP, dtype=torch.float32).eval()


def clip(num_frames: int, *, dim: int = 24) -> torch.Tensor:
    """Features of a clip whose patches change from time to time."""
    generator = torch.Generator().manual_seed(num_frames)
    features = torch.randn(num_frames, 16, dim, generator=generator)
    still = torch.rand(num_frames, 16, generator=generator) < 0.5
    for t in range(1, num_frames):
        features[t, still[t]] = features[t - 1, still[t]]
    return features


def reduce(reducer: torch.nn.Module, features: torch.Tensor, state=None, *, start: int = 0):
    times = 0.5 * torch.arange(start, start + len(features)) if reducer.reads_times else None
    question = Question("what moves?", torch.zeros(0, dtype=torch.long)) if reducer.reads_question else None
    return reducer(features, state, times=times, question=question)


@every_case
def test_members_are_consistent(name, options):
    reducer = build(name, options)
    assert isinstance(reducer.causal, bool)
    assert isinstance(reducer.reads_question, bool)
    assert isinstance(reducer.reads_times, bool)
    assert reducer.positions in ("kept", "closed")
    assert reducer.weightless == (not list(reducer.parameters()))
    if reducer.causal:
        assert reducer.budget.fixed == 0
        assert reducer.budget.most is None
    parameters = list(inspect.signature(reducer.forward).parameters)
    assert parameters == ["features", "state", "times", "question"]


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tokens_fill_places_of_the_budget_in_order(name, options, dtype):
    reducer = build(name, options).to(dtype)
    for num_frames in (1, 2, 7, 16):
        tokens, _ = reduce(reducer, clip(num_frames).to(dtype))
        count, dim = tokens.x.shape
        assert dim == 24
        assert tokens.x.dtype == dtype
        assert tokens.x.isfinite().all()
        assert tokens.frame.shape == tokens.place.shape == (count,)
        assert tokens.frame.dtype == tokens.place.dtype == torch.int64
        assert 0 < count <= reducer.budget.bound(num_frames)
        assert tokens.place[0] >= 0
        assert tokens.place[-1] < reducer.budget(num_frames)
        assert (tokens.place.diff() > 0).all()
        assert tokens.frame.min() >= 0
        assert tokens.frame.max() < num_frames
        if reducer.budget.fixed == 0:  # text may stand between the frames
            assert torch.equal(tokens.frame, tokens.place // reducer.budget.per_frame)


@pytest.mark.parametrize("name", NEUTRAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_neutral_setting_changes_nothing(name, dtype):
    features = clip(6).to(dtype)
    tokens, _ = reduce(build(name, NEUTRAL[name]), features)
    assert torch.equal(tokens.x, features.flatten(0, 1))
    assert torch.equal(tokens.place, torch.arange(96))
    assert torch.equal(tokens.frame, torch.arange(96) // 16)


def test_every_reducer_without_weights_has_a_neutral_setting():
    assert {name for name in REDUCERS.names() if REDUCERS.get(name).weightless} <= NEUTRAL.keys()


@pytest.mark.parametrize(("name", "options"), CAUSAL, ids=str)
def test_pieces_equal_the_whole_clip(name, options):
    reducer = build(name, options)
    features = clip(13)
    whole, _ = reduce(reducer, features)
    for lengths in ([1] * 13, [4, 4, 5], [2, 11], [12, 1]):
        state, seen, pieces = None, 0, []
        for piece in features.split(lengths):
            tokens, state = reduce(reducer, piece, state, start=seen)
            places = seen * reducer.budget.per_frame
            pieces.append(VideoTokens(tokens.x, tokens.frame + seen, tokens.place + places))
            seen += len(piece)
        assert torch.equal(torch.cat([piece.place for piece in pieces]), whole.place)
        assert torch.equal(torch.cat([piece.frame for piece in pieces]), whole.frame)
        torch.testing.assert_close(torch.cat([piece.x for piece in pieces]), whole.x, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "options"), CAUSAL, ids=str)
def test_later_frames_do_not_change_earlier_tokens(name, options):
    reducer = build(name, options)
    features = clip(9)
    before, _ = reduce(reducer, features[:5])
    changed, _ = reduce(reducer, torch.cat([features[:5], -features[5:]]))
    count = len(before.x)
    assert torch.equal(changed.place[:count], before.place)
    torch.testing.assert_close(changed.x[:count], before.x, atol=1e-6, rtol=0)


@every_case
def test_gradients_reach_every_parameter_and_the_features(name, options):
    reducer = build(name, options)
    features = clip(5).requires_grad_()
    tokens, _ = reduce(reducer, features)
    tokens.x.square().sum().backward()
    assert [n for n, p in reducer.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert features.grad.any()


@every_case
def test_calls_do_not_change_state(name, options):
    """A clip does not depend on the clips before, and only parameters are saved."""
    reducer = build(name, options)
    features = clip(4)
    before, _ = reduce(reducer, features)
    assert torch.equal(features, clip(4))
    with torch.inference_mode():
        reduce(reducer, clip(9))
    after, _ = reduce(copy.deepcopy(reducer), clip(4))
    assert torch.equal(before.x, after.x)
    assert torch.equal(before.place, after.place)
    assert reducer.state_dict().keys() == dict(reducer.named_parameters()).keys()


@every_case
def test_identical_patches_stay_what_they_are(name, options):
    """Every reducer picks or averages, so a clip of equal patches has tokens of that value."""
    patch = torch.randn(24, generator=torch.Generator().manual_seed(1))
    options = {**options, "times": False} if "times" in options else options
    tokens, _ = reduce(build(name, options), patch.expand(6, 16, 24))
    torch.testing.assert_close(tokens.x, patch.expand_as(tokens.x), atol=1e-5, rtol=0)
