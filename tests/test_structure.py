"""What the project promises about itself: light imports, packages that are shipped, public names, documented shapes."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tinyvid

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "tinyvid").rglob("*.py"))


def test_import_is_light():
    code = (
        "import sys, tinyvid\n"
        "heavy = {'timm', 'open_clip', 'decord', 'bitsandbytes', 'peft', 'av', 'torchcodec'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_public_names():
    assert tinyvid.__all__ == sorted(tinyvid.__all__)
    assert all(hasattr(tinyvid, name) for name in tinyvid.__all__)
    assert len(tinyvid.__all__) <= 20


def test_every_package_is_shipped():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = {".".join(m.parent.relative_to(ROOT).parts) for m in MODULES if m.name == "__init__.py"}
    assert set(project["tool"]["setuptools"]["packages"]) == found | {"tinyvid.conf", "tinyvid.eval"}
    assert project["project"]["version"] == tinyvid.__version__


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_read_in_one_sitting(path):
    source = path.read_text()
    assert source.count("\n") <= 350
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno <= 70, node.name


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_forward_states_its_shapes(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == "forward":
            assert "(" in (ast.get_docstring(node) or ""), f"{path}: forward states no shape"
