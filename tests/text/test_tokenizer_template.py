"""``template=tokenizer``: what is learned from chat templates, what is refused, and templates that do harm."""

import subprocess

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.factories import tiny_overrides
from tinyvid import Assistant, ConfigError, DataError, Message, compose
from tinyvid.registry import TEMPLATES
from tinyvid.text import tokenizer_template
from tinyvid.text.tokenizer_template import ORDINARY

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are a helper.<|im_end|>\n' }}{% endif %}" + CHATML
)
PHI = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set s = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}"
    "{{ '<|header|>system<|/header|>\n\nToday Date: ' + strftime_now('%d %b %Y') + '\n\n' + s + '<|eot|>' }}"
    "{% for m in messages %}{{ '<|header|>' + m.role + '<|/header|>\n\n' + m.content | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% set first = '' %}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}{{ '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{% if loop.first %}{{ first }}{% endif %}{{ m.content | trim + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)
SMOLVLM = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize + ': ' + m.content + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
SMOLLM3 = (
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}{% set messages = messages[1:] %}"
    "{% else %}{% set s = 'You are SmolLM.' %}{% endif %}"
    "{% set think = '' if enable_thinking else '<think>\n\n</think>\n' %}"
    "{{ '<|im_start|>system\nToday: ' + strftime_now('%d %B %Y') + '\n' + s + '\n\n<|im_end|>\n' }}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
    "{{ '<|im_start|>assistant\n' + think + m.content + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' + think }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if loop.last and m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOKENS = {
    "im": ["<|im_start|>", "<|im_end|>"],
    "phi": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|eos|>"],
    "llama": ["<bos>", "<|header|>", "<|/header|>", "<|eot|>"],
    "gemma": ["<bos>", "<turn>", "<end>"],
}
TEMPLATE_OF = {
    "chatml": (CHATML, "im", {"system": "", "user_prefix": "<|im_start|>user\n", "separator": "\n"}),
    "default system": (DEFAULT, "im", {"system": "You are a helper.", "system_turn": "own"}),
    "phi": (PHI, "phi", {"end": "<|end|>", "assistant_prefix": "<|end|><|assistant|>", "separator": ""}),
    "llama": (LLAMA, "llama", {"system_turn": "always", "system": "", "separator": ""}),
    "gemma": (GEMMA, "gemma", {"system_turn": "in_user", "system_suffix": "\n\n", "start": ""}),
    "smolvlm": (SMOLVLM, "gemma", {"start": "<|im_start|>", "reply_prefix": " ", "user_prefix": "User: "}),
    "smollm3": (SMOLLM3, "im", {"system": "You are SmolLM.", "system_turn": "own"}),
    "no system": (NO_SYSTEM, "im", {"system_turn": "none"}),
}  # fmt: skip


def tokenizer_with(template, kind, *, adds_bos=None):
    """Return a tokenizer of bytes with the special tokens of a family and a chat template."""
    bytes_ = {token: number for number, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=bytes_, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    special = TOKENS[kind]
    options = {"bos_token": special[0], "eos_token": special[-1], "additional_special_tokens": special[1:-1]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **options)
    if kind in ("llama", "gemma") if adds_bos is None else adds_bos:
        pair = [(special[0], tokenizer.bos_token_id)]
        backend = tokenizer.backend_tokenizer
        backend.post_processor = processors.TemplateProcessing(single=f"{special[0]} $A", special_tokens=pair)
    tokenizer.chat_template = template
    tokenizer.name_or_path = "TOKENIZER"
    return tokenizer


def settle(template, kind="im", *, adds_bos=None, **options):
    group = TEMPLATES.build({"name": "tokenizer", **options})
    return group.settle(tokenizer_with(template, kind, adds_bos=adds_bos))


@pytest.mark.parametrize("name", TEMPLATE_OF)
def test_strings_and_conversations(name):
    template, kind, expected = TEMPLATE_OF[name]
    adds_bos = name in ("llama", "gemma")
    group = settle(template, kind, adds_bos=adds_bos)
    assert {key: group[key] for key in expected} == expected
    assert set(group["control_tokens"]) <= set(TOKENS[kind])
    turns, tokenizer = TEMPLATES.build(group), tokenizer_with(template, kind)
    for messages in [*ORDINARY[0], *([] if name == "no system" else ORDINARY[1])]:
        talk = [{"role": message.role, "content": message.text} for message in messages]
        prompted = messages[-1].role == "user"
        theirs = tokenizer.apply_chat_template(
            talk, tokenize=False, add_generation_prompt=prompted, enable_thinking=False
        )
        ours = "".join(segment.text for segment in turns(messages, slots=[0] * len(messages)))
        ours = ("<bos>" if adds_bos else "") + ours
        assert _without_date(theirs)[: len(_without_date(ours))] == _without_date(ours)


def _without_date(text):
    return "\n".join(line for line in text.split("\n") if not line.startswith("Today"))


def test_the_date_is_fixed_and_options_are_kept():
    group = settle(LLAMA, "llama", system="Be brief.", video_suffix="", frame="{i}: {video}\n")
    assert "Today Date: 26 Jul 2024" in group["system_prefix"]
    assert (group["system"], group["video_suffix"], group["frame"]) == ("Be brief.", "", "{i}: {video}\n")
    assert group["name"] == "turns"
    assert TEMPLATES.check(group) == {key: value for key, value in group.items() if key != "name"}


def test_a_template_without_system_messages_refuses_them():
    template = TEMPLATES.build(settle(NO_SYSTEM))
    with pytest.raises(DataError, match="no place for a system message"):
        template([Message("system", "Be brief."), Message("user", "a")], slots=[0, 0])


@pytest.mark.parametrize(("template", "kind", "options", "message"), [
    (QWEN3, "im", {}, r"a finished conversation .* differ: .*<think>.* and .*; choose another template"),
    (SMOLLM3.replace("think + m.content", "m.content"), "im", {}, "before a reply and the prompt for one differ"),
    (CHATML.replace("m.content", "m.content | upper"), "im", {}, "does not write each turn once, in order"),
    (CHATML.replace("m.content", "m.content + m.content"), "im", {}, "does not write each turn once, in order"),
    (CHATML.replace("m.content", "loop.index|string + m.content"), "im", {}, "first and second turn differ"),
    (CHATML.replace("m.content", "m.content|replace('\n', ' ')"), "im", {}, "cannot be reproduced"),
    (CHATML.replace("<|im_end|>", "###"), "im", {}, "a finished conversation of 2 messages"),
    (PHI, "im", {}, "no special token behind a reply"),
    (CHATML, "llama", {"adds_bos": True}, "does not begin with '<bos>', which the tokenizer writes"),
    ("{% if %}", "im", {}, "cannot be rendered: TemplateSyntaxError"),
    ("{{ raise_exception('never') }}", "im", {}, "cannot be rendered: TemplateError: never"),
    ("{{ ''.__class__.__mro__ }}", "im", {}, "cannot be rendered: SecurityError"),
    ("{{ open('/etc/passwd').read() }}", "im", {}, "cannot be rendered: UndefinedError"),
    ("{% set x = namespace(s='ab') %}{% for i in range(40) %}{% set x.s = x.s + x.s %}{% endfor %}{{ x.s }}", "im", {},
     "cannot be rendered: it needs more than 512 MiB of memory"),
    (None, "im", {}, "has no chat template; choose another template"),
])  # fmt: skip
def test_what_is_refused(template, kind, options, message):
    with pytest.raises(ConfigError, match=message):
        settle(template, kind, **options)


def test_a_template_that_runs_forever_is_stopped(monkeypatch):
    monkeypatch.setattr(tokenizer_template, "MAX_SECONDS", 3)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(ConfigError, match="was still running after 3 s"):
        settle(loop)


@pytest.mark.slow
def test_a_checkpoint_stores_the_strings_and_renders_nothing(models, tmp_path, monkeypatch):
    overrides = [*tiny_overrides(models), "template=tokenizer"]
    with pytest.raises(ConfigError, match="has no chat template"):
        Assistant.from_config(compose(overrides), device="cpu")
    folder = tmp_path / "tokenizer"
    tokenizer_with(DEFAULT, "im").save_pretrained(folder)
    config = compose([*overrides, f"llm.tokenizer={folder}"])
    assistant = Assistant.from_config(config, device="cpu")
    assert assistant.config["template"]["name"] == "turns"
    assert assistant.config["template"]["system"] == "You are a helper."
    assistant.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(subprocess, "run", None)
    again = Assistant.from_pretrained(tmp_path / "model", device="cpu")
    assert again.config["template"] == assistant.config["template"]
