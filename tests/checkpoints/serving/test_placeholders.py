"""The placeholder is a known token, a new one in an unused row, a reserved one, or a new row on request."""

import pytest
from transformers import AutoTokenizer

from tests.goldens import FAMILIES
from tinyvid import ConfigError
from tinyvid.checkpoints.serving.placeholders import RESERVED, place


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FAMILIES / "llava_siglip" / "hf")  # knows <image>


def placed(tokenizer, text, rows, **options):
    return place(tokenizer, {"image": text}, rows=rows, **{"used": frozenset(), "enlarge": False} | options)


def test_a_known_token_or_an_unused_row(tokenizer):
    known, used = tokenizer.convert_tokens_to_ids("<image>"), len(tokenizer)
    assert placed(tokenizer, "<image>", used).ids == {"image": known}
    found = placed(tokenizer, "<clip>", used + 1)
    assert found.ids == {"image": used}
    assert found.rows == used + 1
    assert found.tokenizer("a<clip>b", add_special_tokens=False).input_ids.count(used) == 1
    assert len(tokenizer) == used


def test_without_an_unused_row(tokenizer):
    used = len(tokenizer)
    with pytest.raises(ConfigError, match=r"none for the token '<clip>'.*enlarge=true adds rows"):
        placed(tokenizer, "<clip>", used)
    found = placed(tokenizer, "<clip>", used, enlarge=True)
    assert found.ids == {"image": used}
    assert found.rows == used + 1
    assert "enlarged to" in found.notes[0]


def test_reserved_tokens_that_prompts_do_not_contain(tokenizer):
    known = AutoTokenizer.from_pretrained(FAMILIES / "llava_siglip" / "hf")
    known.add_tokens(["<|reserved_special_token_0|>", "<|reserved_special_token_1|>"], special_tokens=True)
    found = placed(known, "<clip>", len(known), used=frozenset({"<|reserved_special_token_0|>"}))
    assert found.texts == {"image": "<|reserved_special_token_1|>"}
    assert found.ids == {"image": len(known) - 1}
    assert "reserved token" in found.notes[0]


@pytest.mark.parametrize(
    "text", ["<|reserved_special_token_17|>", "<unused0>", "<reponame>", "<|reserved_7|>", "<|extra_3|>"]
)
def test_names_of_reserved_tokens(text):
    assert RESERVED.fullmatch(text)
    assert not RESERVED.fullmatch(f"{text}x")
