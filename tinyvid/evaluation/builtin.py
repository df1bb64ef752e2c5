"""Register the built-in benchmarks, which are in ``eval/``, a package next to tinyvid."""

import importlib
import importlib.util
import sys
from pathlib import Path

_INSTALLED = Path(__file__).parents[1] / "eval"
_CHECKOUT = Path(__file__).parents[2] / "eval"

if _INSTALLED.is_dir():
    importlib.import_module("tinyvid.eval")
elif "eval" not in sys.modules and _CHECKOUT.is_dir():
    # Import by file: if a program runs in another directory, the project root is not on the path.
    _spec = importlib.util.spec_from_file_location(
        "eval", _CHECKOUT / "__init__.py", submodule_search_locations=[str(_CHECKOUT)]
    )
    assert _spec is not None  # the file is there
    assert _spec.loader is not None
    sys.modules["eval"] = _module = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_module)
