"""The LLMs that ``llm=`` can name. Each import below registers one family."""

from tinyvid.models.llms import auto, phi2, qwen2_5

__all__ = ["auto", "phi2", "qwen2_5"]
