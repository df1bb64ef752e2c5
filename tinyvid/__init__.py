"""tinyvid: compose, fine-tune, evaluate and run your own small video-language model.

Everything that users and plugin authors need can be imported from here; submodules are internal and may move. Names
are loaded on first use, so ``import tinyvid`` alone is cheap. ``__init__.pyi`` lists them, for type checkers and here.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_HOMES = {name.name: node.module for node in _STUB.body if isinstance(node, ast.ImportFrom) for name in node.names}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tinyvid' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return __all__
