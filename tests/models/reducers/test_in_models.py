"""The laws of reducers in a model, for every registered name."""

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from tests.factories import build_once, tiny_overrides
from tests.llamavid import save_tokenizer
from tests.towers import save_siglip
from tinyvid import Assistant, ConfigError, DataError, Message, Sample
from tinyvid.generation.decode import Decoding, generate
from tinyvid.models.video_llm import PARTS
from tinyvid.processing.collate import positions_of
from tinyvid.registry import REDUCERS
from tinyvid.training.trainable import PartOptions, PeftOptions, apply

SETTINGS = {
    "drop": {"threshold": 0.99, "positions": "kept"},
    "guided": {"frames": 1, "grid": "1x2"},
    "merge": {"segments": 2, "tokens": 5, "overview": 2},
    "prune": {"keep": 5},
    "sample": {"tokens": 20},
    "slots": {"slots": 3, "times": True},
    "views": {"frames": (0, 0), "grids": ("1x1", "2x2")},
}
NEUTRAL = {
    "drop": {"threshold": 1.1},
    "guided": {"frames": 4, "grid": "1x1"},
    "merge": {"segments": 1, "tokens": 64, "overview": 0},
    "prune": {"keep": 16},
    "sample": {"tokens": 1000},
    "views": {"frames": (0,), "grids": ("4x4",)},
}
NAMES = REDUCERS.names()
TURNS = [Message("user", "what moves?"), Message("assistant", "A dog.")]
RNG = np.random.default_rng(0)
CLIP = RNG.integers(0, 255, (6, 56, 56, 3), dtype=np.uint8)
OTHER = CLIP[:1].repeat(6, 0)
OTHER[3:, :28] = RNG.integers(0, 255, (3, 28, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Return a tiny model with a reducer. Its tower has a text half, for reducers that read the question."""
    folder = tmp_path_factory.mktemp("models")
    save_tokenizer(save_siglip(folder / "tower", whole=True, vocab_size=80))
    overrides = tiny_overrides(folder, connector="mlp")
    build_once(*overrides).save_pretrained(folder / "plain")

    @cache
    def build(name, settings):
        if name and not REDUCERS.get(name).weightless:
            return build_once(*overrides, f"reducer={name}", *(f"reducer.{key}={value}" for key, value in settings))
        reducer = {"name": name, **{key: list(v) if isinstance(v, tuple) else v for key, v in settings}}
        return Assistant.from_pretrained(folder / "plain", device="cpu", reducer=reducer if name else None)

    return lambda name=None, settings=(): build(name, tuple(dict(settings).items()))


@pytest.fixture(params=NAMES)
def assistant(request, make):
    """A tiny model with each of the reducers. Tests must not change it."""
    assistant = make(request.param, SETTINGS.get(request.param, {}))
    if request.param == "slots":  # its time code is zero at first
        torch.nn.init.normal_(assistant.model.connector.reducer.time.weight)
    return assistant


def batch_of(assistant, *videos, side="right"):
    turns = TURNS[: 1 if side == "left" else 2]
    examples = [assistant.processor(Sample(turns, video=video)) for video in videos]
    return assistant.processor.collate(examples, padding_side=side)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in NAMES if name in NEUTRAL])
def test_the_neutral_setting_changes_nothing(make, name):
    plain, neutral = make(), make(name, NEUTRAL[name])
    expected = plain.model(batch_of(plain, CLIP, OTHER)).logits
    assert torch.equal(neutral.model(batch_of(neutral, CLIP, OTHER)).logits, expected)


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(assistant):
    together = assistant.model(batch_of(assistant, CLIP, None, OTHER)).logits
    alone = [assistant.model(batch_of(assistant, video)).logits for video in (CLIP, None, OTHER)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_kept_share_counts_patches(assistant):
    _, batch = assistant.model.fill(batch_of(assistant, CLIP, None, OTHER))
    counts = (batch.video_mask.sum(-1) / (4 * 16)).tolist()
    assert assistant.model.kept == (counts[0], None, counts[2])
    assert 0 < counts[2] < 1


def test_a_clip_that_does_not_fit_with_kept_positions_may_fit_with_closed_ones(make, monkeypatch):
    sample = Sample(TURNS, video=CLIP)
    closed = make("sample", {"tokens": 20, "positions": "closed"}).processor
    kept = make("sample", SETTINGS["sample"]).processor
    for processor in (closed, kept):
        monkeypatch.setattr(processor, "max_length", closed.plan(sample).length)
    closed(sample)
    with pytest.raises(DataError, match=r"64 video .* shorten the text, set reducer.positions=closed, lower"):
        kept(sample)


@torch.no_grad()
def test_replies_do_not_depend_on_the_batch(assistant):
    decoding = Decoding(max_new_tokens=4)
    together = generate(assistant.model, assistant.processor, batch_of(assistant, CLIP, OTHER, side="left"), decoding)
    for video, ids in zip((CLIP, OTHER), together, strict=True):
        alone = generate(assistant.model, assistant.processor, batch_of(assistant, video, side="left"), decoding)
        assert ids.tolist()[: alone.shape[1]] == alone[0].tolist()


@torch.no_grad()
def test_packed_questions_equal_separate_ones(assistant):
    processor = assistant.processor
    samples = [Sample([Message("user", text), TURNS[1]], video=OTHER, id=text) for text in ("what moves?", "who")]
    if processor.tokens.reads_question:
        with pytest.raises(ConfigError, match=r"set recipe.pack=1"):
            processor.pack(samples)
        return
    packed = assistant.model(processor.collate([processor.pack(samples)])).logits
    separate = [assistant.model(processor.collate([processor(sample)])).logits for sample in samples]
    torch.testing.assert_close(packed, torch.cat(separate), atol=1e-5, rtol=0)


@torch.no_grad()
def test_removing_places_with_kept_positions_equals_masking_them(make, assistant):
    if not assistant.processor.tokens.kept_positions:
        pytest.skip("makes new tokens")
    plain = make()
    batch = batch_of(plain, OTHER)
    _, filled = assistant.model.slot_tokens(batch_of(assistant, OTHER))
    assert 0 < filled.sum() < len(filled)
    masked = batch.attention_mask.clone()
    masked[batch.video_mask] = filled.long()
    expected = plain.model(replace(batch, attention_mask=masked, positions=positions_of(batch)))
    found = assistant.model(batch_of(assistant, OTHER))
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_long_clips_come_in_pieces_if_the_reducer_is_causal(assistant, monkeypatch):
    monkeypatch.setattr(assistant.processor.sampler, "num_frames", 20)
    whole, filled = assistant.model.slot_tokens(batch_of(assistant, OTHER))
    monkeypatch.setattr(assistant.processor, "lazy_bytes", 0)
    monkeypatch.setattr("tinyvid.video.open_video.PIECE_BYTES", 1)
    batch = batch_of(assistant, OTHER)
    lazy = batch.videos[0].lazy
    assert (lazy is not None) == assistant.model.connector.reducer.causal
    assert lazy is None or [len(piece) for piece in lazy] == [16, 4]
    found, filled_by_pieces = assistant.model.slot_tokens(batch)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
    assert torch.equal(filled_by_pieces, filled)


@torch.no_grad()
@pytest.mark.parametrize("name", ["guided", "slots", "views"])
def test_a_checkpoint_has_the_same_reducer(make, name, tmp_path):
    assistant = make(name, SETTINGS[name])
    assistant.save_pretrained(tmp_path / "a")
    again = Assistant.from_pretrained(tmp_path / "a", device="cpu")
    assert again.config["reducer"] == assistant.config["reducer"]
    expected = assistant.model(batch_of(assistant, OTHER)).logits
    assert torch.equal(again.model(batch_of(again, OTHER)).logits, expected)


@torch.no_grad()
def test_lora_of_a_learned_reducer_is_saved_with_its_connector(make, tmp_path):
    assistant = deepcopy(make("slots", SETTINGS["slots"]))
    parts = {part: PartOptions() for part in PARTS} | {"connector": PartOptions(train="lora")}
    apply(assistant.model, parts, PeftOptions(rank=2), lr=1e-3)
    adapters = {name: p for name, p in assistant.model.connector.named_parameters() if "lora_B" in name}
    assert any("reducer.score" in name for name in adapters)
    for parameter in adapters.values():
        torch.nn.init.normal_(parameter, std=0.05)
    assistant.model.eval()
    assistant.save_pretrained(tmp_path / "a")
    again = Assistant.from_pretrained(tmp_path / "a", device="cpu")
    expected = assistant.model(batch_of(assistant, CLIP)).logits
    torch.testing.assert_close(again.model(batch_of(again, CLIP)).logits, expected, atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="reducer 'slots' has weights that are trained with the model"):
        Assistant.from_pretrained(tmp_path / "a", device="cpu", reducer=None)


def test_a_learned_reducer_trains_with_its_connector(make):
    assistant = deepcopy(make("slots", SETTINGS["slots"]))
    assistant.model.requires_grad_(False)
    assistant.model.connector.requires_grad_(True)
    assistant.model.train()
    assistant.model(batch_of(assistant, CLIP)).loss.backward()
    assert [n for n, p in assistant.model.connector.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_time_code_of_a_new_model_is_zero(make):
    assert not make("slots", {"of": "clip", "times": True}).model.connector.reducer.time.weight.any()
