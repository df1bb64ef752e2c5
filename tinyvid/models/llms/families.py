"""The LLMs that ``llm=`` can name: one loader, and per family the ``model_type`` that it takes and its defaults."""

import inspect
from typing import Any

from tinyvid.models.llms.loading import load
from tinyvid.protocols import LanguageModel
from tinyvid.registry import LLMS


def family(name: str, model_type: str | None, **defaults: Any) -> None:
    """Register ``load`` for a family of LLMs.

    Args:
        name: What the family is chosen by.
        model_type: The ``model_type`` that a configuration of transformers must state; ``None`` for any.
        **defaults: Options that have another default than in ``load``, or one where it has none.
    """

    def build(**options: Any) -> LanguageModel:
        return load(model_type, **options)

    signature = inspect.signature(load)
    parameters = [p.replace(default=defaults.get(p.name, p.default)) for p in signature.parameters.values()][1:]
    build.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined] # the options of llm=
    build.__annotations__ = load.__annotations__
    build.__qualname__, build.__doc__ = name, load.__doc__
    LLMS.register(name)(build)


family("auto", None)
family("phi2", "phi", path="microsoft/phi-2")
family("qwen2_5", "qwen2", path="Qwen/Qwen2.5-0.5B", max_length=3072)
