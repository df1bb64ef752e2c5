"""Register the families of LLMs: one loader, with the ``model_type`` and the defaults of each family."""

from functools import partial

from tinyvid.models.llms.loading import load
from tinyvid.registry import LLMS

LLMS.register("auto")(partial(load, None))
LLMS.register("phi2")(partial(load, "phi", path="microsoft/phi-2"))
LLMS.register("qwen2_5")(partial(load, "qwen2", path="Qwen/Qwen2.5-0.5B", max_length=3072))
