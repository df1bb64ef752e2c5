"""Render a chat template in a separate process, because Jinja in a downloaded file can run forever or fill the memory.

``python -P template_reader.py`` reads a request in JSON from standard input and writes the rendered conversations, or
the reason why one cannot be rendered. It does not import tinyvid, so it starts in a fraction of a second.
"""

import json
import os
import sys
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_MEMORY = 512 << 20  # bytes of address space
MAX_TEXT = 1 << 20  # characters of a rendered conversation
TODAY = datetime(2024, 7, 26)  # the date that Llama 3 writes if it has no clock


class GenerationBlock(Extension):
    """``{% generation %}`` of transformers, which marks replies: only its content is written."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Any) -> list[nodes.Node]:
        """Return the content of the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def main(request: dict[str, Any]) -> list[dict[str, str]]:
    """Render each conversation of a request as transformers does, with a fixed date."""
    _limit_memory()
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = TODAY.strftime
    template = environment.from_string(request["template"])
    return [_render(template, {**request["variables"], **conversation}) for conversation in request["conversations"]]


def _render(template: Any, variables: dict[str, Any]) -> dict[str, str]:
    try:
        text = template.render(tools=None, documents=None, **variables)
    except MemoryError:
        return {"error": f"it needs more than {MAX_MEMORY >> 20} MiB of memory"}
    except Exception as error:  # a template can raise anything
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    return {"text": text} if len(text) <= MAX_TEXT else {"error": f"it writes more than {MAX_TEXT:,} characters"}


def _to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit: Any = MAX_MEMORY if hard == resource.RLIM_INFINITY else min(MAX_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


if __name__ == "__main__":
    try:
        answer: Any = main(json.load(sys.stdin))
    except Exception as error:
        answer = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)
