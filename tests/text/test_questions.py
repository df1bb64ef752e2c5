"""Questions for connectors: choices, length, and the vocabulary of the tokenizer."""

import logging

import pytest

from tests.llamavid import save_tokenizer
from tinyvid.errors import ConfigError
from tinyvid.models.llms.loading import load_tokenizer
from tinyvid.text.questions import QuestionReader, without_choices


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(str(save_tokenizer(tmp_path_factory.mktemp("bert"))))


def reader(tokenizer, **options):
    return QuestionReader(tokenizer, **{"max_length": 24, "special_tokens": True} | options)


def test_special_tokens_frame_a_question(tokenizer):
    read = reader(tokenizer)
    assert tokenizer.convert_ids_to_tokens(read("What moves?")) == ["[CLS]", "what", "moves", "?", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(read("")) == ["[CLS]", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(reader(tokenizer, special_tokens=False)("who")) == ["who"]
    assert list(read("What moves?")) == tokenizer("What moves?").input_ids


def test_the_beginning_of_a_long_question_is_cut_off_with_one_warning(tokenizer, caplog):
    read = reader(tokenizer, max_length=5)
    with caplog.at_level(logging.WARNING):
        assert tokenizer.convert_ids_to_tokens(read("a b c who moves ?")) == ["[CLS]", "who", "moves", "?", "[SEP]"]
        read("a b c d e f g")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "exceeds the 5 tokens that the text decoder reads. The text decoder does not read its first 3" in caplog.text


def test_a_question_that_fits_logs_nothing(tokenizer, caplog):
    reader(tokenizer, max_length=5)("who moves ?")
    assert not caplog.records


MVBENCH = "Who barks?\nOptions:\n(A) a dog\n(B) a cat\n(C) no one\nOnly give the best option."


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        (MVBENCH, "Who barks?\nOptions:\nOnly give the best option."),
        ("Who?\nA. a dog\nB. a cat", "Who?"),
        ("Who?\n A) a\n B) b\n C) c\n", "Who?"),
        ("Who?\nA: x\nB: y\nAnswer with a letter.", "Who?\nAnswer with a letter."),
        ("A. is a name. Who?", "A. is a name. Who?"),
        ("Who?\nA. only one", "Who?\nA. only one"),
        ("Who?\nB. b\nA. a", "Who?\nB. b\nA. a"),
        ("", ""),
    ],
)
def test_choices_can_be_removed(text, stem):
    assert without_choices(text) == stem


def test_an_option_removes_choices(tokenizer):
    text = "who moves?\nA. dog\nB. cat"
    with_choices, without = (reader(tokenizer, choices=choices)(text) for choices in (True, False))
    assert without == reader(tokenizer)("who moves?")
    assert len(with_choices) > len(without)


def test_a_tokenizer_of_another_model_is_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"has 63 tokens, but the text decoder has text_decoder.vocab_size=62"):
        reader(tokenizer, vocab_size=62)
    reader(tokenizer, vocab_size=63)
    with pytest.raises(ConfigError, match="max_length=2 leaves no room for a question"):
        reader(tokenizer, max_length=2)
