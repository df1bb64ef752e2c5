"""Reducers in a model: neutral settings, pieces, batches, checkpoints and the command line."""

from dataclasses import replace

import pytest
import torch

from tests.factories import tiny_assistant, tiny_overrides
from tinyvid import Assistant, ConfigError, Message, Sample, compose
from tinyvid.build import REGISTRIES
from tinyvid.generation.decode import Decoding, generate
from tinyvid.types import FeatureSpec

TURNS = [Message("user", "What?"), Message("assistant", "A dog.")]
FRAMES = torch.randint(0, 255, (6, 56, 56, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()
STILL = FRAMES[:1].repeat(6, 0)


@pytest.fixture
def assistant(models):
    return tiny_assistant(models, connector="mlp")


def reduced(models, *options):
    return tiny_assistant(models, "reducer=drop", *options, connector="mlp")


def batch_of(assistant, *videos, side="right"):
    turns = TURNS[: 1 if side == "left" else 2]
    examples = [assistant.processor(Sample(turns, video=video)) for video in videos]
    return assistant.processor.collate(examples, padding_side=side)


@torch.no_grad()
def test_a_reducer_that_drops_nothing_changes_nothing(models, assistant):
    other = reduced(models, "reducer.threshold=1.1")
    assert torch.equal(assistant.model(batch_of(assistant, FRAMES)).logits, other.model(batch_of(other, FRAMES)).logits)
    assert other.model.kept == (1.0,)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["kept", "closed"])
def test_replies_do_not_depend_on_the_batch(models, positions):
    assistant = reduced(models, f"reducer.positions={positions}")
    batch = batch_of(assistant, FRAMES, STILL, side="left")
    together = generate(assistant.model, assistant.processor, batch, Decoding(max_new_tokens=4))
    assert assistant.model.kept[0] > 0.9
    assert assistant.model.kept[1] == 1 / 4
    for video, ids in zip([FRAMES, STILL], together, strict=True):
        alone = batch_of(assistant, video, side="left")
        assert torch.equal(generate(assistant.model, assistant.processor, alone, Decoding(max_new_tokens=4))[0], ids)


@torch.no_grad()
def test_dropping_equals_masking_when_positions_are_kept(models, assistant):
    other = reduced(models, "reducer.positions=kept")
    batch, same = batch_of(other, STILL), batch_of(assistant, STILL)
    found = other.model(batch)
    per_frame = assistant.processor.tokens.budget.per_frame
    hidden = same.attention_mask.clone()
    hidden[0, same.video_mask[0].nonzero().flatten()[per_frame:]] = 0
    positions = torch.arange(hidden.shape[1])[None]
    expected = assistant.model(replace(same, attention_mask=hidden, positions=positions))
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(1, 3), (2, 2), (1, 1, 1, 1)])
def test_a_clip_in_pieces_equals_the_whole_clip(models, sizes):
    assistant = reduced(models, "reducer.threshold=0.99")
    video = FRAMES.copy()
    video[2:5] = video[1]
    batch = batch_of(assistant, video)
    (whole, filled) = assistant.model.slot_tokens(batch)
    (clip,) = assistant.model.clips(batch)
    assistant.model.pieces = lambda _: iter([clip.split(sizes)])
    pieces, filled_by_pieces = assistant.model.slot_tokens(batch)
    assert torch.equal(whole, pieces)
    assert torch.equal(filled, filled_by_pieces)
    assert not filled.all()


def test_a_static_clip_keeps_one_frame():
    features = torch.randn(1, 9, 8).expand(10, 9, 8)
    tokens, _ = REGISTRIES["reducer"].build({"name": "drop"}, features=FeatureSpec(8, 9, (3, 3)))(features)
    assert tokens.place.tolist() == list(range(9))


def test_only_the_most_changed_patches_are_kept():
    torch.manual_seed(0)
    features = torch.randn(5, 9, 8)
    reducer = REGISTRIES["reducer"].build({"name": "drop", "most": 20}, features=FeatureSpec(8, 9, (3, 3)))
    tokens, _ = reducer(features)
    assert len(tokens.x) == 20
    assert tokens.frame[:9].tolist() == [0] * 9
    everything, _ = REGISTRIES["reducer"].build({"name": "drop"}, features=FeatureSpec(8, 9, (3, 3)))(features)
    assert set(tokens.place.tolist()) < set(everything.place.tolist())
    assert not reducer.causal
    assert reducer.budget.bound(5) == 20


def test_a_reducer_is_put_on_a_checkpoint_changed_and_removed(models, assistant, tmp_path):
    assistant.save_pretrained(tmp_path / "plain")
    dropping = Assistant.from_pretrained(tmp_path / "plain", device="cpu", reducer={"name": "drop", "threshold": 0.5})
    dropping.save_pretrained(tmp_path / "dropping")
    again = Assistant.from_pretrained(tmp_path / "dropping", device="cpu")
    assert again.config["reducer"]["threshold"] == 0.5
    assert again.ask(STILL, "What?", max_new_tokens=4) == dropping.ask(STILL, "What?", max_new_tokens=4)
    assert again.model.kept == (1 / 4,)
    other = Assistant.from_pretrained(tmp_path / "dropping", device="cpu", reducer={"threshold": 1.1})
    plain = Assistant.from_pretrained(tmp_path / "dropping", device="cpu", reducer=None)
    assert "reducer" not in plain.config
    assert plain.model.kept is None
    assert plain.ask(STILL, "What?", max_new_tokens=4) == other.ask(STILL, "What?", max_new_tokens=4)


def test_connectors_that_need_full_frames_refuse_a_reducer(models):
    with pytest.raises(ConfigError, match="connector 'group' needs full frames; remove reducer, or use connector=mlp"):
        tiny_assistant(models, "reducer=drop")
    with pytest.raises(ConfigError, match=r"connector.pool=2 averages patches after the reducer"):
        tiny_assistant(models, "reducer=drop", "connector.pool=2", connector="mlp")


def test_a_limit_lets_a_long_clip_into_the_context(models):
    options = ["sampler.num_frames=200", "llm.max_length=400"]
    long = FRAMES.repeat(40, 0)
    limited = reduced(models, *options, "reducer.most=100")
    assert limited.ask(long, "What?", max_new_tokens=2) is not None
    for refused in (["reducer.most=null"], ["reducer.most=100", "reducer.positions=kept"]):
        with pytest.raises(Exception, match=r"exceed the limit llm.max_length=400"):
            reduced(models, *options, *refused).ask(long, "What?", max_new_tokens=2)


def test_the_command_line_changes_the_reducer_of_a_checkpoint(tmp_path, assistant):
    from tinyvid.command_line import CommandLine

    for given, expected in ((["reducer=drop"], {"name": "drop"}), (["reducer=null"], None)):
        line = CommandLine.parse([f"ckpt={tmp_path}", *given])
        groups = line.checkpoint_groups(compose(line.overrides))
        assert (groups["reducer"] or {}).get("name") == (expected or {}).get("name")
    line = CommandLine.parse([f"ckpt={tmp_path}"])
    assert "reducer" not in line.checkpoint_groups(compose(line.overrides))


def test_tiny_overrides_accept_a_reducer(models):
    assert compose([*tiny_overrides(models, connector="mlp"), "reducer=drop"]).reducer.name == "drop"
