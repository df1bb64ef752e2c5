"""Connectors whose tokens fill only some of their places work with the rest of the library."""

from dataclasses import replace

import pytest
import torch

from tests.factories import tiny_assistant
from tinyvid import DataError, Message, Sample
from tinyvid.generation.decode import Decoding, generate
from tinyvid.processing.collate import positions_of
from tinyvid.types import VideoTokens

FRAMES = torch.randint(0, 255, (6, 56, 56, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()


class Sparse(torch.nn.Module):
    """A connector that keeps the tokens of an inner connector in the ``kept`` places of a clip."""

    def __init__(self, inner, kept, tokens):
        super().__init__()
        self.inner, self.kept, self.tokens, self.dtype = inner, kept, tokens, inner.dtype
        self.reducer = None

    def forward(self, features, question=None, *, per_frame=None):
        tokens = self.inner(features, question, per_frame=per_frame)
        place = torch.tensor([p for p in range(len(tokens)) if self.kept(p)], dtype=torch.long)
        per_frame = self.tokens.budget.per_frame
        return VideoTokens(tokens[place], place // per_frame, place)


@pytest.fixture
def assistant(models):
    return tiny_assistant(models, connector="mlp")


def batch_of(assistant, side="right"):
    turns = [Message("user", "What?"), Message("assistant", "A dog.")]
    samples = [Sample(turns, video=FRAMES), Sample([Message("user", "No video?"), Message("assistant", "No.")])]
    if side == "left":
        samples = [Sample(sample.messages[:1], video=sample.video) for sample in samples]
    return assistant.processor.collate([assistant.processor(sample) for sample in samples], padding_side=side)


@pytest.fixture
def sparse(assistant):
    def use(kept, **promise):
        connector = assistant.model.connector
        assistant.model.connector = Sparse(connector, kept, replace(connector.tokens, **promise))
        return assistant.model

    return use


@torch.no_grad()
def test_tokens_in_every_place_change_nothing(assistant, sparse):
    batch = batch_of(assistant)
    expected = assistant.model(batch)
    model = sparse(lambda place: True)
    assert model.fill(batch)[1] is batch
    assert torch.equal(model(batch).logits, expected.logits)


@torch.no_grad()
def test_removing_places_with_kept_positions_equals_masking_them(assistant, sparse):
    batch = batch_of(assistant)
    whole = assistant.model.embed(batch)
    model = sparse(lambda place: place % 3 == 1, kept_positions=True)
    embeddings, small = model.fill(batch)
    assert embeddings.shape[1] == small.input_ids.shape[1] < batch.input_ids.shape[1]
    masked = batch.attention_mask.clone()
    places = torch.arange(int(batch.video_mask.sum()))
    masked[batch.video_mask] = (places % 3 == 1).long()
    logits = model.llm(inputs_embeds=whole, attention_mask=masked, position_ids=positions_of(batch)).logits
    torch.testing.assert_close(model(batch).logits, logits[:, :-1][batch.labels[:, 1:] != -100], atol=1e-5, rtol=0)


@torch.no_grad()
def test_closed_gaps_equal_a_shorter_sequence(assistant, sparse):
    batch = batch_of(assistant)
    model = sparse(lambda place: place % 3 == 1)
    embeddings, small = model.fill(batch)
    logits = model.llm(inputs_embeds=embeddings, attention_mask=small.attention_mask).logits
    torch.testing.assert_close(model(batch).logits, logits[:, :-1][small.labels[:, 1:] != -100], atol=1e-5, rtol=0)


@pytest.mark.parametrize("keep", [False, True])
def test_replies_do_not_depend_on_the_batch(assistant, sparse, keep):
    model, processor = sparse(lambda place: place % 2 == 0, kept_positions=keep), assistant.processor
    together = generate(model, processor, batch_of(assistant, "left"), Decoding(6))
    example = processor(Sample([Message("user", "What?")], video=FRAMES))
    alone = generate(model, processor, processor.collate([example], padding_side="left"), Decoding(6))
    assert together[0].tolist()[: alone.shape[1]] == alone[0].tolist()


def test_lengths_are_checked_against_the_most_tokens_that_fill_places(assistant):
    processor = assistant.processor
    sample = Sample([Message("user", "What?")], video=FRAMES)
    places = processor.plan(sample).num_video
    processor.tokens = replace(processor.tokens, budget=replace(processor.tokens.budget, most=5))
    layout = processor.plan(sample)
    assert int(layout.video_mask.sum()) == places
    assert (layout.num_video, layout.length) == (5, len(layout.input_ids) - places + 5)
    processor.max_length = layout.length
    assert len(processor(sample).input_ids) > processor.max_length
    processor.tokens = replace(processor.tokens, kept_positions=True)  # positions run as far as the places do
    with pytest.raises(DataError, match=f"{places} video"):
        processor.plan(sample)
