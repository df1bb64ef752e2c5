"""The strings of a template as a ``chat_template.jinja``, which writes the prompts of the Processor.

A layout of images has one image per frame, and the text next to each is written here: its number is counted, and what
depends on the clip comes from the caller, as in ``{"type": "image", "time": "0:07"}``. A layout of videos has one item
per video, whose frames are written by its processor.
"""

import json
import re
from typing import Any, Literal

from tinyvid.errors import ConfigError
from tinyvid.text.templates import TurnTemplate

_TEXT = (
    "{% macro text(content) %}{% if content is string %}{{ content }}{% else %}{% for item in content %}"
    "{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}{% endmacro %}"
)


def write(template: Any, *, bos: bool, unit: Literal["image", "video"], texts: dict[str, str], suffix: str) -> str:
    """Return the template in Jinja.

    Args:
        template: A ``TurnTemplate``.
        bos: Whether the tokenizer begins a prompt with its beginning-of-sequence token.
        unit: What one placeholder of a clip stands for.
        texts: The placeholders.
        suffix: Text after the frames of a video that its processor does not write.

    Raises:
        ConfigError: The template writes what Jinja does not know.
    """
    shown = _frame(template.frame.style, texts["image"]) if unit == "image" else _quoted(texts["video"])
    suffix = _quoted(suffix)
    number = f"{{% set number = message['content'] | selectattr('type', 'equalto', '{unit}') | list | length %}}"
    system = _system(template)
    first = f"{{% if loop.first %}}{system}{{% endif %}}" if template.system_turn == "in_user" else ""
    user = (
        f"{_quoted(template.user_prefix)}{first}"
        f"{{% if message['content'] is string %}}{_quoted(template.text_prefix)}"
        f"{{{{ message['content'] }}}}{{% else %}}{number}{{% set shown = namespace(count=0) %}}"
        f"{{% if number %}}{_heading(template.frame.heading, unit)}{{% else %}}{_quoted(template.text_prefix)}"
        "{% endif %}{% for item in message['content'] %}"
        f"{{% if item['type'] == '{unit}' %}}{{% set shown.count = shown.count + 1 %}}{shown}"
        + (f"{{% if shown.count == number %}}{suffix}{{% endif %}}" if unit == "image" else suffix)
        + ("" if unit == "image" else f"{{% elif item['type'] == 'image' %}}{_quoted(texts['image'])}{suffix}")
        + "{% elif item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}"
        f"{_quoted(template.user_suffix)}{{% if not loop.last or add_generation_prompt %}}"
        f"{_quoted(template.assistant_prefix)}{{% endif %}}"
    )
    reply = (
        f"{_quoted(template.reply_prefix)}{{{{ text(message['content']) }}}}{_quoted(template.end)}"
        f"{{% if not loop.last %}}{_quoted(template.separator)}{{% endif %}}"
    )
    return (
        f"{_TEXT}{'{{ bos_token }}' if bos else ''}{_quoted(template.start)}"
        "{% if messages[0]['role'] == 'system' %}{% set system = text(messages[0]['content']) %}"
        "{% set turns = messages[1:] %}{% else %}"
        f"{{% set system = {json.dumps(template.system, ensure_ascii=False)} %}}"
        "{% set turns = messages %}{% endif %}"
        f"{'' if first else system}{{% for message in turns %}}{{% if message['role'] == 'user' %}}{user}"
        f"{{% else %}}{reply}{{% endif %}}{{% endfor %}}"
    )


def refuse_unwritable(template: Any, name: str) -> None:
    """Raise ``ConfigError`` if a template, whose name is given, cannot be written in Jinja."""
    if not isinstance(template, TurnTemplate):
        raise ConfigError(
            f"template '{name}' cannot be written as a chat template; only the strings of template 'turns' can, such "
            "as those of template=chatml"
        )
    if not template.read_user_text:
        raise ConfigError("template.read_user_text=false omits the question, which no server does; set it to true")


def begins_with_bos(tokenizer: Any) -> bool:
    """Return whether a tokenizer begins each text with its beginning-of-sequence token."""
    first = tokenizer("a").input_ids[:1]
    return bool(first) and first[0] == tokenizer.bos_token_id


def _system(template: Any) -> str:
    """Return what writes the system message."""
    if template.system_turn == "none":
        return "{% if system %}{{ raise_exception('This template has no place for a system message.') }}{% endif %}"
    written = f"{_quoted(template.system_prefix)}{{{{ system }}}}{_quoted(template.system_suffix)}"
    return written if template.system_turn == "always" else f"{{% if system %}}{written}{{% endif %}}"


def caller_fields(style: str) -> list[str]:
    """Return the fields of ``template.frame`` that depend on the clip, which the caller of a server must give."""
    return [name for name in re.findall(r"\{(\w+)\}", style) if name not in ("video", "i", "subtitle")]


def _frame(style: str, placeholder: str) -> str:
    """Return what writes a frame: the placeholder alone, if the caller does not give all fields next to it."""
    parts = []
    for part in re.split(r"(\{\w+\})", style):
        name = part[1:-1] if part.startswith("{") else ""
        plain = {"i": "{{ shown.count }}", "video": _quoted(placeholder), "subtitle": "{{ item['subtitle'] }}"}
        parts.append(plain.get(name, f"{{{{ item['{name}'] }}}}") if name else _quoted(part))
    fields = caller_fields(style)
    if not fields:
        return "".join(parts)
    given = " and ".join(f"item['{name}'] is defined" for name in fields)
    return f"{{% if {given} %}}{''.join(parts)}{{% else %}}{_quoted(placeholder)}{{% endif %}}"


def _heading(heading: str, unit: str) -> str:
    """Return what writes ``template.heading``; the processor of a layout of videos writes its own."""
    if unit == "video" or not heading:
        return ""
    for name in ("count_words", "duration"):
        if f"{{{name}}}" in heading:
            raise ConfigError(
                f"template.heading={heading!r} contains {{{name}}}, which no chat template knows; use "
                "template.heading='', or to=smolvlm if the model has the template of SmolVLM"
            )
    return "{{ number }}".join(map(_quoted, heading.split("{count}")))


def _quoted(text: str) -> str:
    """Return an expression of Jinja that writes a text as it is."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
