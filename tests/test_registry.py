"""Registries: wrong names, options and types raise an error before anything is built, with the closest name."""

from functools import partial
from typing import Literal

import pytest
from omegaconf import OmegaConf

from tinyvid import ConfigError
from tinyvid.registry import SAMPLERS, PositiveFloat, PositiveInt, Registry, check_options


@pytest.fixture
def registry():
    registry = Registry("gadget", runtime=("dim",))

    @registry.register("group")
    class Group:
        def __init__(
            self,
            *,
            num_queries: PositiveInt = 4,
            mode: Literal["fast", "slow"] = "fast",
            rate: PositiveFloat | None = None,
            names: list[str] = (),
            shares: list[float] = (),
            dim: int = 8,
        ):
            self.num_queries, self.mode, self.rate, self.names, self.dim = num_queries, mode, rate, names, dim

    @registry.register("path")
    def path(*, path: str, flag: bool = False) -> tuple[str, bool]:
        return path, flag

    return registry


def test_builds_with_options_in_their_types_and_runtime_arguments(registry):
    built = registry.build({"name": "group", "num_queries": "16", "rate": 2}, dim=32)
    assert (built.num_queries, built.mode, built.rate, built.names, built.dim) == (16, "fast", 2.0, [], 32)


def test_check_fills_in_defaults(registry):
    options = {"num_queries": 4, "mode": "slow", "rate": None, "names": [], "shares": []}
    assert registry.check({"name": "group", "mode": "slow"}) == options


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "grup"}, r"unknown gadget 'grup'. Did you mean 'group'\? Available: group, path"),
        ({"name": None}, "unknown gadget None"),
        ({"name": ["group"]}, r"unknown gadget \['group'\]"),
        ({}, "must be a mapping with a 'name'"),
        (None, "must be a mapping with a 'name'"),
        ({"name": "group", "num_querys": 1}, r"has no option 'num_querys'. Did you mean 'num_queries'\?"),
        ({"name": "group", "dim": 1}, "has no option 'dim'"),
        ({"name": "path"}, "gadget 'path' needs gadget.path"),
        ({"name": "path", "path": "???"}, "gadget 'path' needs gadget.path"),
        ({"name": "group", "num_queries": "???"}, "gadget 'group' needs gadget.num_queries"),
        (OmegaConf.create({"name": "path", "path": "${nowhere}"}), "gadget: Interpolation key 'nowhere' not found"),
        ({"name": "group", "num_queries": "abc"}, r"gadget.num_queries='abc' must be a whole number"),
        ({"name": "group", "num_queries": 2.5}, "gadget.num_queries=2.5 must be a whole number"),
        ({"name": "group", "num_queries": True}, "num_queries=True must be a number"),
        ({"name": "group", "num_queries": None}, "gadget.num_queries=None must be a whole number"),
        ({"name": "group", "num_queries": 0}, "num_queries=0 must be at least 1"),
        ({"name": "group", "num_queries": 10**9}, "num_queries=1000000000 must be at most 1,000,000"),
        ({"name": "group", "rate": -1.0}, "rate=-1.0 must be at least"),
        ({"name": "group", "rate": float("nan")}, "gadget.rate=nan must be a number"),
        ({"name": "group", "shares": [0.5, "nan"]}, r"gadget.shares=\[0.5, nan\] must be a number"),
        ({"name": "group", "mode": "fasst"}, r"mode='fasst' is not allowed. Did you mean 'fast'\?"),
        ({"name": "group", "names": "x"}, "gadget.names='x' must be a list, each of them a text"),
        ({"name": "path", "path": "p", "flag": "perhaps"}, "gadget.flag='perhaps'"),
    ],
)
def test_a_wrong_configuration_is_refused(registry, config, message):
    with pytest.raises(ConfigError, match=message):
        registry.check(config)


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a ${b} c", r"x \${y}", r"a\\${b}", "${", "tail\\"])
def test_text_is_not_interpolated(registry, text):
    assert registry.check({"name": "path", "path": text})["path"] == text
    assert registry.check({"name": "group", "names": [text]})["names"] == [text]


def test_a_taken_name_is_refused(registry):
    with pytest.raises(ConfigError, match=r"'path' is already registered by .*path; give .*other another name"):

        @registry.register("path")
        def other():
            pass


def test_a_partial_changes_defaults(registry):
    registry.register("both")(partial(registry.get("path"), flag=True))
    assert registry.check({"name": "both", "path": "p"}) == {"path": "p", "flag": True}
    with pytest.raises(ConfigError, match=r"'both' is already registered by .*\.path; "):
        registry.register("both")(partial)


def test_names_are_sorted(registry):
    assert registry.names() == ["group", "path"]


@pytest.mark.parametrize("options", [3, "", None, ["uniform"]])
def test_options_are_a_mapping(options):
    with pytest.raises(ConfigError, match="cache=.* must be a mapping of options"):
        check_options(dict, options, key="cache")


def test_text_with_an_interpolation_is_no_number():
    with pytest.raises(ConfigError, match="sampler.num_frames.* must be a whole number"):
        SAMPLERS.build({"name": "uniform", "num_frames": "${x}"})
