"""The LLMs that ``llm=`` can name. The import below registers them."""

from tinyvid.models.llms import families

__all__ = ["families"]
