"""A connector whose tokens fill only some of their places: the rest of the library does not notice."""

import pytest
import torch

from tests.factories import tiny_config
from tinyvid import Assistant, Message, Sample
from tinyvid.types import VideoTokens


class Sparse(torch.nn.Module):
    """Keeps the tokens of an inner connector that lie in ``kept`` places of a clip."""

    def __init__(self, inner, kept):
        super().__init__()
        self.inner, self.kept = inner, kept

    def __getattr__(self, name):
        return super().__getattr__(name) if name in ("inner", "kept", "_modules") else getattr(self.inner, name)

    def forward(self, features, question=None):
        tokens = self.inner(features, question)
        place = torch.tensor([p for p in range(len(tokens)) if self.kept(p)], dtype=torch.long)
        return VideoTokens(tokens[place], place)


@pytest.fixture(scope="module")
def assistant(tmp_path_factory):
    return Assistant.from_config(tiny_config(tmp_path_factory.mktemp("models"), connector="mlp"), device="cpu")


def batch_of(assistant, side="right"):
    frames = torch.randint(0, 255, (6, 56, 56, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()
    turns = [Message("user", "What?"), Message("assistant", "A dog.")]
    samples = [Sample(turns, video=frames), Sample([Message("user", "No video?"), Message("assistant", "No.")])]
    if side == "left":
        samples = [Sample(sample.messages[:1], video=sample.video) for sample in samples]
    return assistant.processor.collate([assistant.processor(sample) for sample in samples], padding_side=side)


@pytest.fixture
def sparse(assistant):
    whole = assistant.model.connector

    def use(kept):
        assistant.model.connector = Sparse(whole, kept)
        return assistant.model

    yield use
    assistant.model.connector = whole


@torch.no_grad()
def test_tokens_in_every_place_change_nothing(assistant, sparse):
    batch = batch_of(assistant)
    expected = assistant.model(batch)
    model = sparse(lambda place: True)
    assert model.fill(batch)[1] is batch
    assert torch.equal(model(batch).logits, expected.logits)


@torch.no_grad()
def test_removed_places_are_as_good_as_masked_ones(assistant, sparse):
    batch = batch_of(assistant)
    model = sparse(lambda place: place % 3 == 1)
    embeddings, small = model.fill(batch)
    assert embeddings.shape[1] == small.input_ids.shape[1] < batch.input_ids.shape[1]
    places = int(batch.video_mask.sum())
    assert int(small.video_mask.sum()) == len(range(1, places, 3))
    # The gap is closed: what is left reads as a shorter sequence.
    plain = model.llm(inputs_embeds=embeddings, attention_mask=small.attention_mask).logits
    wanted = small.labels[:, 1:] != -100
    torch.testing.assert_close(model(batch).logits, plain[:, :-1][wanted], atol=1e-5, rtol=0)


@torch.no_grad()
def test_replies_do_not_depend_on_the_batch(assistant, sparse):
    model = sparse(lambda place: place % 2 == 0)
    batch = batch_of(assistant, "left")
    together = model.generate(batch, max_new_tokens=6)
    frames = torch.randint(0, 255, (6, 56, 56, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()
    example = assistant.processor(Sample([Message("user", "What?")], video=frames))
    alone = model.generate(assistant.processor.collate([example], padding_side="left"), max_new_tokens=6)
    assert together[0].tolist()[: alone.shape[1]] == alone[0].tolist()
