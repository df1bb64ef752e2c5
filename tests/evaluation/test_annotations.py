"""Helpers of benchmark classes, and their option files."""

import inspect

import pytest
import yaml

from tinyvid import BENCHMARKS, JUDGES, DataError, letter_of, lettered, require
from tinyvid.config import CONF_DIR


def test_helpers_of_benchmarks(tmp_path):
    assert lettered(["a", "", "b", "N/A", "n/a"]) == {"A": "a", "C": "b"}
    assert letter_of({"A": "x", "B": "y"}, "y", where="row 3") == "B"
    with pytest.raises(DataError, match="row 3: the answer 'z' matches 0 of the options"):
        letter_of({"A": "x", "B": "y"}, "z", where="row 3")
    (tmp_path / "there.json").touch()
    assert require(tmp_path, ["there.json"], source="a site") == tmp_path
    with pytest.raises(
        DataError, match=r"lacks 2 of 3 files: a.json, b \(it contains there.json\); get them from a site"
    ):
        require(tmp_path, ["there.json", "a.json", "b"], source="a site")


@pytest.mark.parametrize("registry", [BENCHMARKS, JUDGES], ids=lambda registry: registry.kind)
def test_option_files_list_every_option_with_its_default(registry):
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF_DIR / registry.kind).glob("*.yaml")}
    assert {content["name"] for content in files.values()} == set(registry.names())
    for name, content in files.items():
        parameters = {**inspect.signature(registry.get(content["name"])).parameters, **registry.outer_options()}
        assert (next(iter(content)), sorted(content)) == ("name", sorted(["name", *parameters])), name
        defaults = {key: "???" if p.default is p.empty else p.default for key, p in parameters.items()}
        if name == content["name"]:
            assert {key: tuple(v) if isinstance(v, list) else v for key, v in content.items() if key != "name"} == {
                key: tuple(v) if isinstance(v, list) else v for key, v in defaults.items()
            }, name
