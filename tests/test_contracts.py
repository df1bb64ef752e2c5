"""Every registered part has the members and signatures of its contract, and no unused members."""

import ast
import importlib.util
import inspect
import re
import sys
import textwrap
import types
import typing
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from torch import nn

import tinyvid
from tinyvid import Benchmark, Judge, ReadsTimes, WritesFiles, protocols, registry

ROOT = Path(tinyvid.__file__).parents[1]
QPOOL = ROOT / "examples" / "plugin" / "tinyvid_qpool" / "qpool.py"
CONTRACTS = {
    registry.LLMS: [protocols.LLMBuilder],
    registry.VISION_TOWERS: [protocols.VisionTower],
    registry.CONNECTORS: [protocols.Connector],
    registry.MOTIONS: [protocols.Motion],
    registry.REDUCERS: [protocols.Reducer],
    registry.TEXT_DECODERS: [protocols.TextDecoder],
    registry.SAMPLERS: [protocols.FrameSampler, protocols.LookingSampler],
    registry.TEMPLATES: [protocols.ChatTemplate, protocols.TokenizerStrings],
    registry.VIDEO_READERS: [protocols.VideoReader],
    registry.DATASETS: [protocols.Dataset],
    registry.BENCHMARKS: [Benchmark],
    registry.JUDGES: [Judge],
}
OPTIONAL = [ReadsTimes, WritesFiles, protocols.UsesTower]  # optional contracts of benchmarks and reducers


def entries():
    """Return all pairs of a kind and a registered name."""
    return [pytest.param(kind, name, id=f"{kind.kind}-{name}") for kind in CONTRACTS for name in kind.names()]


def hints_of(entry):
    return typing.get_type_hints(entry.func if isinstance(entry, partial) else entry)


def classes_of(entry):
    """Return the classes that an entry of a registry builds."""
    if inspect.isclass(entry):
        return [entry]
    built = hints_of(entry)["return"]
    return list(typing.get_args(built)) or [built]


def contract_of(part, contracts):
    """Return the contract of a class; for a sampler, the one with its value of ``looks``."""
    if len(contracts) == 1:
        return contracts[0]
    if protocols.ChatTemplate in contracts:
        return contracts[hasattr(part, "settle")]
    return next(c for c in contracts if typing.get_type_hints(c)["looks"] == Literal[part.looks])


def violations(part, contract):
    """Return messages about how a class differs from its contract."""
    return [
        f"{part.__name__}.{name}: {fault}"
        for name, member in members_of(contract).items()
        for fault in (
            compared(method_of(part, name), member) if inspect.isfunction(member) else stated(part, name, member)
        )
    ]


def members_of(contract):
    """Return the members of a Protocol: methods as functions, attributes and properties as their type."""
    hints = typing.get_type_hints(contract)
    added = ("__init__", "__subclasshook__")  # added by Protocol
    own = {k: v for k, v in vars(contract).items() if inspect.isfunction(v) and k not in added}
    properties = {
        k: typing.get_type_hints(v.fget)["return"] for k, v in vars(contract).items() if isinstance(v, property)
    }
    return {**hints, **properties, **own}


def method_of(part, name):
    is_module = inspect.isclass(part) and issubclass(part, nn.Module)
    return getattr(part, "forward" if is_module and name == "__call__" else name, None)


def stated(part, name, hint):
    """Yield messages about an attribute that is missing or has the wrong type, as far as the class shows."""
    if not re.search(rf"\bself\.{name}(: [^=\n]+)?(, self\.\w+)* = |, self\.{name}\b", source_of(part)):
        if not hasattr(part, name):
            yield "is missing"
        elif isinstance(value := getattr(part, name), property):
            if (found := typing.get_type_hints(value.fget)["return"]) != hint:
                yield f"is a {found}, and the contract says {hint}"
        elif not fits(value, hint):
            yield f"is {value!r}, and the contract says {hint}"


def fits(value, hint):
    """Return whether a value has a type, for types that are easy to check."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return types.NoneType in inside
    if origin is Literal:
        return value in inside
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, member) for member in inside if member is not types.NoneType)
    return isinstance(value, origin or hint)


def compared(method, promised):
    """Yield messages about how the signature of a method differs from the contract."""
    if method is None:
        yield "is missing"
        return
    own, other = inspect.signature(method).parameters, inspect.signature(promised).parameters
    own_hints, other_hints = hints_of(method), hints_of(promised)
    for name, parameter in other.items():
        if name not in own:
            yield f"lacks the parameter '{name}'"
            continue
        if own[name].kind != parameter.kind:
            yield f"'{name}' is {own[name].kind.description}, and the contract says {parameter.kind.description}"
        if parameter.default not in (parameter.empty, own[name].default):
            yield f"'{name}' is {own[name].default!r} by default, and the contract says {parameter.default!r}"
        if own_hints.get(name) != other_hints.get(name) and not narrows(own_hints.get(name), other_hints.get(name)):
            yield f"'{name}' is a {own_hints.get(name)}, and the contract says {other_hints.get(name)}"
    more = [name for name, p in own.items() if name not in other and p.default is p.empty]
    if more and "self" in other:
        yield f"needs {more}, which no caller gives"
    result = other_hints.get("return")
    if own_hints.get("return") not in (
        result,
        *(typing.get_args(result) if isinstance(result, types.UnionType) else ()),
    ):
        yield f"returns {own_hints.get('return')}, and the contract says {other_hints.get('return')}"


def narrows(hint, promised):
    """Return whether a type restricts the type in the contract to fewer values, which the registry checks."""
    while typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    is_choice = typing.get_origin(hint) is Literal
    return hint == promised or (is_choice and all(isinstance(value, promised) for value in typing.get_args(hint)))


def is_set_on_self(node):
    is_set = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    return is_set and ast.unparse(node.value) == "self"


def source_of(part):
    return "\n".join(inspect.getsource(c) for c in part.__mro__ if c not in (nn.Module, object))


@pytest.mark.parametrize(("kind", "name"), entries())
def test_a_registered_part_fulfills_its_contract(kind, name):
    entry = kind.get(name)
    if kind is registry.LLMS:
        promised = inspect.signature(protocols.LLMBuilder.__call__).parameters
        assert list(inspect.signature(entry).parameters) == [name for name in promised if name != "self"]
        assert [f for f in compared(entry, protocols.LLMBuilder.__call__) if "'self'" not in f] == []
        return
    for part in classes_of(entry):
        assert violations(part, contract_of(part, CONTRACTS[kind])) == []
        for contract in OPTIONAL:
            if isinstance(part, type) and all(hasattr(part, member) for member in members_of(contract)):
                assert violations(part, contract) == []


def test_the_plugin_of_the_examples_fulfills_the_contract_of_a_connector():
    spec = importlib.util.spec_from_file_location("tinyvid_qpool.qpool", QPOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[spec.name] = module
    try:
        assert violations(module.QueryPool, protocols.Connector) == []
    finally:
        del sys.modules[spec.name]


@pytest.mark.parametrize(("kind", "name"), entries())
def test_every_attribute_of_a_part_is_used(kind, name):
    text = "\n".join(path.read_text() for folder in ("tinyvid", "eval") for path in (ROOT / folder).rglob("*.py"))
    for part in classes_of(kind.get(name)):
        tree = ast.parse(textwrap.dedent(inspect.getsource(part)))
        kept = {node.attr for node in ast.walk(tree) if is_set_on_self(node) and not node.attr.startswith("_")}
        unread = [attribute for attribute in kept if not re.search(rf"\.{attribute}\b(?!(, self\.\w+)* =[^=])", text)]
        assert unread == []


def test_differences_are_detected():
    class Bad:
        looks: Literal[False] = False
        overflow: Any = "shrink"

        def __call__(self, meta: protocols.VideoMeta, count: int) -> tuple[int, ...]:
            return ()

    assert violations(Bad, protocols.FrameSampler) == [
        "Bad.overflow: is 'shrink', and the contract says typing.Literal['refuse', 'fewer_frames', 'fewer_tokens']",
        "Bad.__call__: needs ['count'], which no caller gives",
        "Bad.__call__: returns tuple[int, ...], and the contract says list[int]",
    ]
