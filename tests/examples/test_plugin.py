"""Plugins: the example is installed for real, chosen by name, saved and missed."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tests.factories import tiny_overrides
from tinyvid import PluginError
from tinyvid.registry import Registry

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Install the example plugin into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    source = tmp_path_factory.mktemp("source") / "plugin"
    subprocess.run(["cp", "-r", str(ROOT / "examples" / "plugin"), str(source)], check=True)
    subprocess.run([*command, "--target", str(target), str(source)], check=True, timeout=300)
    return target


def run(site, *arguments):
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_an_installed_plugin_composes_and_shows_in_help(site):
    done = run(site, "eval.py", "connector=qpool", "connector.num_queries=8", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "name: qpool\n  num_queries: 8" in done.stdout
    assert "qpool" in run(site, "eval.py", "--help").stdout


@pytest.mark.slow
def test_a_model_with_a_plugin_builds_saves_loads_and_names_the_plugin(site, tmp_path):
    overrides = [o for o in tiny_overrides(tmp_path) if not o.startswith("connector")]
    code = (
        "import sys\nfrom tinyvid import Assistant, compose\n"
        f"a = Assistant.from_config(compose({overrides} + ['connector=qpool']), device='cpu')\n"
        f"print(a.ask('examples/clip.mp4', 'Q?', max_new_tokens=2))\na.save_pretrained(r'{tmp_path / 'saved'}')\n"
        f"Assistant.from_pretrained(r'{tmp_path / 'saved'}', device='cpu')\n"
    )
    done = run(site, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "connector: tinyvid-qpool 0.1.0" in (tmp_path / "saved" / "tinyvid.yaml").read_text()
    from tinyvid import Assistant

    with pytest.raises(PluginError, match="part of the package 'tinyvid-qpool 0.1.0'"):
        Assistant.from_pretrained(tmp_path / "saved", device="cpu")


@pytest.fixture
def registry(monkeypatch):
    registry = Registry("gadget")
    registry.register("own")(dict)
    points = [
        EntryPoint("own", "collections:OrderedDict", "tinyvid.gadget"),
        EntryPoint("good", "collections:OrderedDict", "tinyvid.gadget"),
        EntryPoint("bad", "no_such_module:Thing", "tinyvid.gadget"),
    ]
    monkeypatch.setattr("tinyvid.registry.entry_points", lambda group: points)
    return registry


def test_a_plugin_is_listed_without_being_imported(registry):
    assert registry.names() == ["bad", "good", "own"]
    assert registry.get("good").__name__ == "OrderedDict"


def test_a_plugin_that_takes_a_built_in_name_is_refused(registry):
    with pytest.raises(PluginError, match="gadget 'own' of the package .* is already registered by builtins.dict"):
        registry.get("own")


def test_a_plugin_that_cannot_be_imported_is_named(registry):
    with pytest.raises(PluginError, match="gadget 'bad' of the package .* cannot be imported .*no_such_module"):
        registry.get("bad")
