"""Generation: equal to transformers, and the same whole or streamed, alone or in a batch."""

import math

import numpy as np
import pytest
import torch

from tests.factories import tiny_assistant, tiny_config
from tinyvid import Assistant, ConfigError, Message, Sample
from tinyvid.generation.decode import Decoding, generate, log_probs, replies, sample_tokens, stream, trimmed

SAMPLED = Decoding(12, temperature=1.5, seed=3)


def video(count=6):
    return np.random.default_rng(count).integers(0, 255, (count, 30, 40, 3), dtype=np.uint8)


def asking(text, shown=None, **options):
    return Sample([Message("user", text)], video=shown, **options)


SAMPLES = (asking("What moves?", video()), asking("Hello, who is it?", id="b"), asking("Longer?", video(9)))


def prompts(assistant, *samples):
    return assistant.processor.collate([assistant.processor(one) for one in samples], padding_side="left")


def drawn(assistant, *samples, decoding=SAMPLED, **options):
    return generate(assistant.model, assistant.processor, prompts(assistant, *samples), decoding, **options)


# --- tokens -------------------------------------------------------------------------------------------------------


def test_greedy_equals_generate_of_transformers(assistant):
    batch = prompts(assistant, *SAMPLES)
    with torch.inference_mode():
        expected = assistant.model.llm.generate(
            inputs_embeds=assistant.model.embed(batch), attention_mask=batch.attention_mask,
            max_new_tokens=12, do_sample=False, pad_token_id=assistant.processor.pad_id,
            eos_token_id=assistant.processor.tokenizer.eos_token_id,
        )  # fmt: skip
    assert torch.equal(drawn(assistant, *SAMPLES, decoding=Decoding(12)), expected)


@pytest.mark.slow
def test_a_seed_gives_one_reply_in_any_batch(assistant):
    together = drawn(assistant, *SAMPLES)
    assert torch.equal(together, drawn(assistant, *SAMPLES))
    for row, one in zip(together, SAMPLES, strict=True):
        alone = drawn(assistant, one)[0]
        assert torch.equal(alone, row[: len(alone)])
    other = drawn(assistant, *SAMPLES, decoding=Decoding(12, temperature=1.5, seed=4))
    assert not torch.equal(together, other)


def test_samples_of_a_batch_have_independent_draws(assistant):
    one, two = drawn(assistant, asking("What?", id="one"), asking("What?", id="two"))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("options", [{"temperature": 1e-30}, {"temperature": 2.0, "top_p": 1e-9}])
def test_the_limits_of_sampling_are_greedy(assistant, options):
    assert torch.equal(drawn(assistant, *SAMPLES, decoding=Decoding(12, **options)),
                       drawn(assistant, *SAMPLES, decoding=Decoding(12)))  # fmt: skip


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.7)])
def test_tokens_are_sampled_by_their_probability(temperature, top_p):
    """Compare with the probabilities after transformers' own warpers."""
    from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

    logits = torch.tensor([[2.0, -1.0, 0.5, -torch.inf, 1.0]])
    warped = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits))
    count = 40_000
    draws = (torch.arange(count) + 0.5) / count  # evenly spaced, so that frequencies are exact to 1 / count
    tokens = sample_tokens(logits.expand(count, -1), draws, temperature=temperature, top_p=top_p)
    shares = tokens.bincount(minlength=5) / count
    torch.testing.assert_close(shares, warped.softmax(-1)[0], atol=2 / count, rtol=0)


def test_the_largest_draw_is_a_possible_token():
    logits = torch.full((1, 5), -torch.inf)
    logits[0, 2:4] = 1.0
    tokens = sample_tokens(logits.expand(2, -1), torch.tensor([0.0, 1 - 2**-24]), temperature=1.0, top_p=1.0)
    assert tokens.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"max_new_tokens": n}, f"max_new_tokens={n!r} must be a whole number of at least 1")
          for n in (0, -1, 1.5, "8", None, True)),
        *(({"temperature": t}, f"temperature={t!r} must be a number of at least 0")
          for t in (-0.1, math.inf, math.nan, "1", None, True)),
        *(({"top_p": p}, f"top_p={p!r} must be a number above 0 and at most 1") for p in (0, 1.1, math.nan, "1", True)),
        *(({"seed": s}, f"seed={s!r} must be a whole number of at least 0") for s in (-1, 0.5, None, True)),
    ],
)  # fmt: skip
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        Decoding(**options)


def test_a_model_without_weights_cannot_reply(models):
    bare = Assistant.from_config(tiny_config(models), device="meta")
    with pytest.raises(ConfigError, match="device='meta' builds a model without weights"):
        bare.ask(None, "Q")


# --- the end of a reply -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("decoding", [Decoding(24), Decoding(24, temperature=1.5)])
@pytest.mark.parametrize("template", ["qwen2_base", "plain", "chatml"])
def test_streamed_pieces_join_to_the_reply(models, template, decoding):
    assistant = tiny_assistant(models, f"template={template}")
    batch = prompts(assistant, SAMPLES[0])
    pieces = stream(assistant.model, assistant.processor, batch, decoding)
    assert ["".join(pieces)] == replies(assistant.model, assistant.processor, batch, decoding)


def test_generation_stops_at_a_stop_string(assistant, monkeypatch):
    whole = drawn(assistant, SAMPLES[0], decoding=Decoding(12))[0]
    text = assistant.processor.tokenizer.decode(whole[4:6])
    monkeypatch.setattr(assistant.processor.template, "stop", (text,))
    stopped = drawn(assistant, SAMPLES[0], decoding=Decoding(12))[0]
    assert len(stopped) < len(whole)
    assert torch.equal(stopped, whole[: len(stopped)])
    assert text in assistant.processor.tokenizer.decode(stopped)


def written(assistant, monkeypatch, text):
    """Make the LLM write a text for any prompt."""
    tokens = assistant.processor.tokenizer(text, add_special_tokens=False).input_ids

    def generate(*, streamer=None, **options):
        if streamer is not None:
            for token in tokens:
                streamer.put(torch.tensor([token]))
            streamer.end()
        return torch.tensor([tokens])

    monkeypatch.setattr(assistant.model.llm, "generate", generate)


def test_a_stream_ends_at_a_special_token_like_the_reply(assistant, monkeypatch):
    written(assistant, monkeypatch, "one two<|im_start|>three<|endoftext|>")
    assert assistant.answer([asking("Q")]) == ["one two"]
    assert "".join(assistant.stream(asking("Q"))) == "one two"


def test_a_closed_stream_stops(assistant):
    pieces = assistant.stream(SAMPLES[0], max_new_tokens=200)
    next(pieces)
    pieces.close()


def test_a_failure_while_streaming_is_raised(assistant, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(assistant.model.llm, "generate", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(assistant.stream(SAMPLES[0], max_new_tokens=8))


@pytest.mark.parametrize(
    ("text", "pieces", "ends"),
    [
        ("a cat", ["a", " cat", "\n"], ()),
        ("x", ["  x", "  "], ()),
        ("one #two", ["one #", "two ", "##", "# three"], ("###",)),
    ],
)
def test_whitespace_and_end_markers_are_stripped(text, pieces, ends):
    assert "".join(trimmed(iter(pieces), ends)) == text


def test_the_sampling_defaults_of_the_base_model_are_ignored(assistant):
    assert assistant.model.llm.generation_config.repetition_penalty in (None, 1.0)


# --- log-probabilities --------------------------------------------------------------------------------------------


def test_log_probs_are_those_of_the_full_logits(assistant):
    texts = [("What?", "a cat"), ("Hello, who is it?", "nobody at all"), ("And?", "yes")]
    samples = [Sample([Message("user", q), Message("assistant", a)], video=video()) for q, a in texts]
    batch = assistant.processor.collate([assistant.processor(one) for one in samples])
    with torch.inference_mode():
        rows = log_probs(assistant.model, batch)
        full = assistant.model.llm(
            inputs_embeds=assistant.model.embed(batch), attention_mask=batch.attention_mask
        ).logits.log_softmax(-1)  # (B, L, vocabulary)
    assert len(rows) == len(samples)
    for row, whole, labels in zip(rows, full, batch.labels, strict=True):
        torch.testing.assert_close(row, whole[:-1][labels[1:] != -100], atol=1e-5, rtol=0)
        tokens = labels[labels != -100]
        total = row.gather(1, tokens[:, None]).sum()
        torch.testing.assert_close(total, whole[:-1].gather(1, labels[1:, None].clamp(min=0))[labels[1:] != -100].sum())


def test_log_probs_have_gradients(assistant):
    sample = Sample([Message("user", "Q"), Message("assistant", "yes")], video=video())
    (rows,) = log_probs(assistant.model, assistant.processor.collate([assistant.processor(sample)]))
    rows.sum().backward()
    assert all(p.grad is not None for p in assistant.model.connector.parameters())
