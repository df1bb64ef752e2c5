"""The model: a batch equals single samples, left padding equals right padding, and the head sees only labels."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.factories import tiny_assistant
from tinyvid import DataError, Message, Sample
from tinyvid.registry import CONNECTORS
from tinyvid.types import IGNORE_INDEX, TokenBudget, TokenSpec

TOLERANCE = 2e-5  # padding changes the order of float32 sums in attention


def sample(question, reply=None, count=6, video=True):
    frames = np.random.default_rng(count).integers(0, 255, (count, 30, 40, 3), dtype=np.uint8)
    messages = [Message("user", question)] + ([Message("assistant", reply)] if reply else [])
    return Sample(messages, video=frames if video else None)


def mixed(assistant):
    """Return examples of a video, a text-only row and a longer video."""
    rows = [
        sample("What moves?", "A dog, to the left."),
        sample("Hello there, who is it?", "Me.", video=False),
        sample("A longer question about it?", "Yes.", count=9),
    ]
    return [assistant.processor(row) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2", "phi", "gemma"])
@pytest.mark.parametrize("connector", CONNECTORS.names())
def test_batch_equals_single(models, connector, family):
    assistant = tiny_assistant(models, connector=connector, family=family)
    examples = mixed(assistant)
    together = assistant.model(assistant.processor.collate(examples))
    alone = [assistant.model(assistant.processor.collate([example])) for example in examples]
    assert torch.equal(together.labels, torch.cat([out.labels for out in alone]))
    torch.testing.assert_close(together.logits, torch.cat([out.logits for out in alone]), atol=TOLERANCE, rtol=0)
    weighted = sum(out.loss * len(out.labels) for out in alone) / len(together.labels)
    torch.testing.assert_close(together.loss, weighted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", ["qwen2", "phi"])
def test_left_padding_equals_right_padding(models, family):
    assistant = tiny_assistant(models, family=family)
    left, right = (
        assistant.model(assistant.processor.collate(mixed(assistant), padding_side=side)) for side in ("left", "right")
    )
    torch.testing.assert_close(left.logits, right.logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", ["qwen2", "phi", "gemma"])
def test_logits_and_loss_equal_the_full_sequence(models, family):
    assistant = tiny_assistant(models, family=family)
    batch = assistant.processor.collate(mixed(assistant))
    out = assistant.model(batch)
    full = assistant.model.llm(inputs_embeds=assistant.model.embed(batch), attention_mask=batch.attention_mask).logits[
        :, :-1
    ]
    labels = batch.labels[:, 1:]
    torch.testing.assert_close(out.logits, full[labels != IGNORE_INDEX], atol=TOLERANCE, rtol=0)
    loss = F.cross_entropy(full.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(out.loss, loss, atol=TOLERANCE, rtol=0)


def test_the_head_sees_label_positions_only(assistant):
    seen = []
    head = assistant.model.llm.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    out = assistant.model(assistant.processor.collate(mixed(assistant)))
    hook.remove()
    assert seen == [(1, len(out.labels), 512)]
    assert not head._forward_pre_hooks


def test_a_prompt_has_no_loss(assistant):
    out = assistant.model(assistant.processor.collate([assistant.processor(sample("Q?"))]))
    assert out.loss is None
    assert out.num_targets == len(out.logits) == 0


def test_chunks_hold_whole_clips_or_parts_of_one(assistant, monkeypatch):
    seen, tower = [], assistant.model.vision_tower
    monkeypatch.setattr(
        tower, "forward", lambda pixels: (seen.append(len(pixels)), type(tower).forward(tower, pixels))[1]
    )
    side = assistant.processor.image.size
    clips = [torch.rand(count, 3, side, side) for count in (2, 3, 2, 7)]
    assistant.model.tower_chunk = 4
    together = assistant.model._run_tower(clips)
    assert seen == [2, 3, 2, 4, 3]
    assert [len(features) for features in together] == [2, 3, 2, 7]
    assistant.model.tower_chunk = 32
    for clip, features in zip(clips, together, strict=True):
        torch.testing.assert_close(assistant.model.encode(clip), features, atol=1e-5, rtol=0)
    seen.clear()
    assistant.model._run_tower(clips)
    assert seen == [14]


def test_tower_chunk_changes_nothing(assistant):
    pixels = assistant.processor.collate(mixed(assistant)).videos[0].pixels
    whole = assistant.model.encode(pixels)
    assistant.model.tower_chunk = 3
    torch.testing.assert_close(assistant.model.encode(pixels), whole, atol=1e-5, rtol=0)
    assistant.model.tower_chunk = 32


def test_a_frozen_tower_keeps_no_graph_and_stays_in_eval_mode(assistant):
    model = assistant.model
    model.vision_tower.requires_grad_(False)
    model.train()
    assert model.connector.training
    assert not model.vision_tower.training
    size = model.vision_tower.image.size
    assert not model.encode(torch.zeros(1, 3, size, size)).requires_grad
    model.vision_tower.requires_grad_(True)
    assert model.encode(torch.zeros(1, 3, size, size)).requires_grad


def test_gradients_reach_connector_through_a_frozen_llm(assistant):
    assistant.model.llm.requires_grad_(False)
    assistant.model.vision_tower.requires_grad_(False)
    assistant.model(assistant.processor.collate(mixed(assistant))).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in assistant.model.connector.parameters())


def test_a_connector_that_breaks_its_budget_is_an_error(assistant):
    assistant.processor.tokens = TokenSpec(TokenBudget(fixed=15))
    batch = assistant.processor.collate([assistant.processor(sample("Q?"))])
    with pytest.raises(DataError, match="returned 16 video tokens for 15 places"):
        assistant.model(batch)


def test_generation_of_a_batch_equals_generation_alone(assistant):
    rows = [sample("What moves?"), sample("Hello there, who is it?", video=False), sample("Longer one?", count=9)]
    together = assistant.answer(rows, max_new_tokens=12)
    assert together == [assistant.answer([row], max_new_tokens=12)[0] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_quantized_llm_learns_and_answers(models, quant):
    assistant = tiny_assistant(models, quant=quant)
    assert assistant.model.llm.is_quantized
    assistant.model.llm.requires_grad_(False)
    assistant.model(assistant.processor.collate(mixed(assistant))).loss.backward()
    assert all(p.grad is not None for p in assistant.model.connector.parameters())
    assert isinstance(assistant.answer([sample("Q?")], max_new_tokens=4)[0], str)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_checkpointing_saves_activations_of_a_frozen_llm(models, frozen):
    """A connector is trained through a frozen LLM, which needs as many activations as a trained one."""
    assistant = tiny_assistant(models, connector="mlp")
    model = assistant.model
    model.llm.requires_grad_(not frozen)
    batch = assistant.processor.collate(mixed(assistant))

    def step():
        kept = 0

        def count(tensor):
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        model.zero_grad()
        model.train()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(batch).loss
        loss.backward()
        return kept, [p.grad for p in model.connector.parameters()]

    kept, gradients = step()
    model.llm.activation_checkpointing_enable()
    less, again = step()
    assert less < kept / 2
    torch.testing.assert_close(again, gradients)
    modules = [m for m in model.llm.modules() if isinstance(m, torch.nn.Dropout)]
    assert not any(m.training for m in modules if frozen)
