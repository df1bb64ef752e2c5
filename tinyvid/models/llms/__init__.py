"""LLMs that ``llm=`` can choose. The import below registers them."""

from tinyvid.models.llms import families

__all__ = ["families"]
