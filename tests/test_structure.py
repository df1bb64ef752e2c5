"""The structure of the project: fast imports, packaging, public names, documented shapes."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tinyvid

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "tinyvid").rglob("*.py"))


def run(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_import_is_fast():
    modules = run("import sys, tinyvid; print(*sys.modules)")
    assert not {"torch", "transformers", "hydra"}.intersection(modules)
    assert [name for name in modules if name.startswith("tinyvid")] == ["tinyvid"]


@pytest.mark.slow
def test_an_assistant_loads_only_what_it_needs():
    modules = run("import sys; from tinyvid import Assistant, compose; print(*sys.modules)")
    assert not {"timm", "open_clip", "decord", "bitsandbytes", "peft", "av", "torchcodec"}.intersection(modules)
    assert not {"tinyvid.worlds", "tinyvid.evaluation", "tinyvid.training"}.intersection(modules)


def test_public_names():
    names = [name for name in tinyvid.__all__ if name != "__version__"]
    assert len(names) == len(set(names)) <= 85
    assert all(getattr(tinyvid, name) is not None for name in names)
    assert dir(tinyvid) == sorted(tinyvid.__all__)
    with pytest.raises(AttributeError, match="'tinyvid' has no attribute 'Assistent'"):
        tinyvid.Assistent  # noqa: B018


def test_type_checkers_see_the_public_names():
    tree = ast.parse((ROOT / "tinyvid" / "__init__.pyi").read_text())
    imports = [name for node in tree.body if isinstance(node, ast.ImportFrom) for name in node.names]
    assert all(name.asname == name.name for name in imports)  # otherwise type checkers treat it as private


@pytest.mark.slow
def test_class_names_are_unique():
    names: dict[str, list[str]] = {}
    for path in (path for folder in ("tinyvid", "eval", "recipes", "perf") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                names.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not {name: places for name, places in names.items() if len(places) > 1}


def test_every_package_is_shipped():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = {".".join(m.parent.relative_to(ROOT).parts) for m in MODULES if m.name == "__init__.py"}
    assert set(project["tool"]["setuptools"]["packages"]) == found | {"tinyvid.conf", "tinyvid.eval"}
    assert project["project"]["version"] == tinyvid.__version__


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_short(path):
    source = path.read_text()
    assert source.count("\n") <= 350
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno <= 70, node.name


@pytest.mark.slow
@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_forward_states_its_shapes(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == "forward":
            assert "(" in (ast.get_docstring(node) or ""), f"{path}: forward states no shape"
