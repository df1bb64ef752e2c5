"""The laws of motion in a model, for every registered name and several connectors."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import yaml

from tests.factories import tiny_assistant, tiny_overrides
from tests.llamavid import save_tokenizer
from tests.models.reducers.test_in_models import TURNS, batch_of
from tests.towers import save_siglip
from tinyvid import Assistant, CheckpointError, ConfigError, Message, Sample, compose
from tinyvid.command_line import CommandLine
from tinyvid.models import adapters
from tinyvid.models.video_llm import PARTS
from tinyvid.registry import CONNECTORS, MOTIONS
from tinyvid.training.trainable import PartOptions, PeftOptions, apply

SETTINGS = {"correlation": ["motion.radius=1", "motion.gaps=[1,3]"]}
RNG = np.random.default_rng(0)
CLIP = RNG.integers(0, 255, (6, 56, 56, 3), dtype=np.uint8)
OTHER = np.stack([np.roll(CLIP[0], 14 * t, 1) for t in range(6)])
CASES = [(name, connector) for name in MOTIONS.names() for connector in CONNECTORS.names()]


def moving(models, name="correlation", *overrides, connector="mlp"):
    chosen = [f"motion={name}", *SETTINGS.get(name, []), *overrides]
    return tiny_assistant(models, *chosen, connector=connector)


@pytest.fixture(params=CASES, ids="-".join)
def assistant(request, models):
    name, connector = request.param
    return moving(models, name, connector=connector)


def seen(assistant, batch):
    """Return what the connector sees of each video."""
    return [torch.cat([*pieces]) for pieces in assistant.model.pieces(batch)]


@torch.no_grad()
def test_without_motion_a_model_is_the_same(models):
    plain, off = tiny_assistant(models, connector="mlp"), tiny_assistant(models, "~motion", connector="mlp")
    assert off.config == plain.config
    assert "motion" not in plain.config
    batch = batch_of(plain, CLIP, OTHER)
    assert torch.equal(off.model(batch).logits, plain.model(batch).logits)
    features = plain.model.clips(batch)
    assert all(torch.equal(*pair) for pair in zip(seen(plain, batch), features, strict=True))


@torch.no_grad()
def test_every_connector_sees_the_channels(assistant):
    expected = assistant.model(batch_of(assistant, CLIP)).logits
    shape = assistant.model.motion.features
    assert {tuple(x.shape) for x in seen(assistant, batch_of(assistant, CLIP, OTHER))} == {(4, 16, shape.dim)}
    still = deepcopy(assistant)
    still.model.motion.register_forward_hook(lambda *call: (call[2][0] * (torch.arange(shape.dim) < 32), call[2][1]))
    assert not torch.equal(still.model(batch_of(still, CLIP)).logits, expected)


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(assistant):
    together = assistant.model(batch_of(assistant, CLIP, None, OTHER)).logits
    alone = [assistant.model(batch_of(assistant, video)).logits for video in (CLIP, None, OTHER)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", MOTIONS.names())
def test_packed_questions_equal_separate_ones(models, name):
    assistant = moving(models, name)
    samples = [Sample([Message("user", text), TURNS[1]], video=OTHER, id=text) for text in ("what moves?", "who")]
    packed = assistant.model(assistant.processor.collate([assistant.processor.pack(samples)])).logits
    separate = [assistant.model(assistant.processor.collate([assistant.processor(s)])).logits for s in samples]
    torch.testing.assert_close(packed, torch.cat(separate), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("options", [[], ["reducer=drop"], ["motion.similarity=2"]], ids=str)
def test_long_clips_come_in_pieces_if_all_parts_are_causal(models, monkeypatch, options):
    assistant = moving(models, "correlation", "sampler.num_frames=20", *options)
    whole, _ = assistant.model.slot_tokens(batch_of(assistant, OTHER))
    monkeypatch.setattr(assistant.processor, "lazy_bytes", 0)
    monkeypatch.setattr("tinyvid.video.open_video.PIECE_BYTES", 1)
    batch = batch_of(assistant, OTHER)
    lazy = batch.videos[0].lazy
    assert (lazy is not None) == assistant.model.motion.causal
    assert lazy is None or [len(piece) for piece in lazy] == [16, 4]
    found, _ = assistant.model.slot_tokens(batch)
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_feature_cache_keeps_the_features_of_the_tower(models):
    plain, assistant = tiny_assistant(models, connector="mlp"), moving(models)
    for model in (plain.model, assistant.model):
        model.requires_grad_(False)
    batch = batch_of(assistant, CLIP)
    filled = assistant.model.fill_features(batch)
    expected = plain.model.fill_features(batch_of(plain, CLIP)).videos[0].features
    assert torch.equal(filled.videos[0].features, expected)
    assert torch.equal(assistant.model(filled).logits, assistant.model(batch).logits)


def test_attention_maps_show_what_the_connector_weighs(models):
    assistant = moving(models, connector="llamavid")
    (found,) = assistant.attention_map(OTHER, "what moves?")
    np.testing.assert_allclose(found.weights.sum((1, 2)), 1, atol=1e-5)
    assistant.model.motion.register_forward_hook(lambda *call: (call[2][0].flip(-1), call[2][1]))
    (other,) = assistant.attention_map(OTHER, "what moves?")
    assert not np.allclose(found.weights, other.weights, atol=1e-6)


def test_gradients_reach_a_trained_tower_through_the_channels_alone(models):
    model = moving(models).model
    model.requires_grad_(False)
    model.vision_tower.requires_grad_(True)
    model.connector.layers[0].weight[:, :32] = 0  # no other way
    model.train()
    model(batch_of(moving(models), OTHER)).loss.backward()
    grads = [p.grad for p in model.vision_tower.parameters() if p.grad is not None and p.grad.any()]
    assert len(grads) > 3
    assert all(grad.isfinite().all() for grad in grads)


@torch.no_grad()
@pytest.mark.parametrize("name", MOTIONS.names())
def test_a_checkpoint_has_the_same_motion(models, name, tmp_path):
    assistant = moving(models, name, connector="group")
    assistant.save_pretrained(tmp_path / "a")
    again = Assistant.from_pretrained(tmp_path / "a", device="cpu")
    assert again.config["motion"] == assistant.config["motion"]
    expected = assistant.model(batch_of(assistant, OTHER)).logits
    assert torch.equal(again.model(batch_of(again, OTHER)).logits, expected)
    assert Assistant.from_pretrained(tmp_path / "a", device="meta").model.motion.features.dim > 32


@pytest.mark.slow
@torch.no_grad()
def test_adapters_are_saved_and_merged_beside_motion(models, tmp_path):
    assistant = moving(models)
    apply(assistant.model, {part: PartOptions(train="lora") for part in PARTS}, PeftOptions(rank=2), lr=1e-3)
    for name, parameter in assistant.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    assistant.model.eval()
    assistant.save_pretrained(tmp_path / "a")
    again = Assistant.from_pretrained(tmp_path / "a", device="cpu")
    expected = assistant.model(batch_of(assistant, CLIP)).logits
    torch.testing.assert_close(again.model(batch_of(again, CLIP)).logits, expected, atol=1e-5, rtol=0)
    for part in PARTS:
        setattr(again.model, part, adapters.merged(again.model.get_submodule(part)))
    torch.testing.assert_close(again.model(batch_of(again, CLIP)).logits, expected, atol=1e-4, rtol=0)


def test_motion_is_fixed_by_a_checkpoint(models, tmp_path):
    tiny_assistant(models, connector="mlp").save_pretrained(tmp_path / "plain")
    moving(models).save_pretrained(tmp_path / "moving")
    reason = "whose connector was trained with or without these channels; only sampler"
    for folder, group in (("plain", {"name": "correlation"}), ("moving", None), ("moving", {"radius": 2})):
        with pytest.raises(ConfigError, match=f"motion is fixed by the checkpoint, {reason}"):
            Assistant.from_pretrained(tmp_path / folder, device="cpu", motion=group)
    for argument in ("motion=correlation", "motion=null", "motion.radius=1"):
        line = CommandLine.parse(["ckpt=DIR", argument])
        with pytest.raises(ConfigError, match=rf"is fixed by ckpt='DIR', {reason}"):
            line.refuse_parts()
    manifest = yaml.safe_load((tmp_path / "plain" / "tinyvid.yaml").read_text())
    manifest["motion"] = {"name": "correlation", "radius": 1}  # edited by hand
    (tmp_path / "plain" / "tinyvid.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(CheckpointError, match="shape"):
        Assistant.from_pretrained(tmp_path / "plain", device="cpu")


def test_a_tower_without_a_grid_is_refused_when_the_model_is_built(models):
    with pytest.raises(ConfigError, match=r"needs a rectangle of patches.*or motion=null"):
        moving(models, "correlation", "vision_tower.select=patch")


@pytest.mark.slow
def test_the_guided_reducer_compares_the_features_of_the_tower(tmp_path):
    save_tokenizer(save_siglip(tmp_path / "tower", whole=True, vocab_size=80))
    overrides = [*tiny_overrides(tmp_path, connector="mlp"), "reducer=guided", "reducer.frames=1", "reducer.grid=1x1"]
    plain = Assistant.from_config(compose(overrides), device="cpu")
    seeing = Assistant.from_config(compose([*overrides, "motion=correlation", "motion.radius=1"]), device="cpu")
    batch = batch_of(plain, CLIP)
    question = plain.model.question(batch.slots[0])
    frames = [a.model.connector.reducer(*seen(a, batch), question=question)[0].frame for a in (plain, seeing)]
    assert torch.equal(*frames)
