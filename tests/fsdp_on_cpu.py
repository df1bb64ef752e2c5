"""Run ``recipes/train.py`` with FSDP on CPU processes, which accelerate's choice of a backend prevents."""

import runpy
import sys
from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

init = AcceleratorState.__init__


def with_fsdp(self: AcceleratorState, *arguments: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    init(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin


AcceleratorState.__init__ = with_fsdp  # type: ignore[method-assign]
sys.argv[0] = "recipes/train.py"
runpy.run_path("recipes/train.py", run_name="__main__")
