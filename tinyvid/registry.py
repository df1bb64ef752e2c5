"""One registry per kind of part: it maps names to code and checks options against constructor signatures.

A configuration group such as ``connector: {name: group, num_queries: 512}`` names an entry and its options. The
signature of the entry is the schema: unknown, missing, mistyped and out-of-range options raise an error before
anything is built. Installed packages add entries through the entry-point group ``tinyvid.<kind>``. They are imported
only when one of their names is chosen.
"""

import importlib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import cached_property, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinyvid.errors import ConfigError, PluginError, suggest


@dataclass(frozen=True, slots=True)
class AtLeast:
    """Lower bound of a numeric option, for type annotations."""

    minimum: float


@dataclass(frozen=True, slots=True)
class AtMost:
    """Upper bound of a numeric option, for type annotations; limits what an untrusted configuration can build."""

    maximum: float


PositiveInt = Annotated[int, AtLeast(1), AtMost(1e6)]
PositiveFloat = Annotated[float, AtLeast(1e-9)]
NumLayers = Annotated[int, AtLeast(1), AtMost(100)]


class Registry:
    """The entries of one kind, by name.

    Args:
        kind: Name of the configuration group, and of the entry-point group ``tinyvid.<kind>``.
        home: Module that registers the built-in entries; imported at the first lookup.
        runtime: Constructor parameters that the program supplies; a configuration must not set them.
        wrapper: ``module:function``. Every entry also has the options of this function, which takes what the entry
            builds, and returns what ``build`` returns.

    Example:
        >>> from tinyvid.registry import SAMPLERS
        >>> SAMPLERS.build({"name": "uniform", "num_frames": 4}).num_frames
        4
    """

    def __init__(self, kind: str, *, home: str | None = None, runtime: tuple[str, ...] = (), wrapper: str = "") -> None:
        self.kind = kind
        self.home = home
        self.runtime = runtime
        self.wrapper = wrapper
        self._entries: dict[str, Callable[..., Any]] = {}
        self._deferred: dict[str, str] = {}

    def register(self, name: str) -> Callable[[Any], Any]:
        """Decorate a class, a function or a ``functools.partial`` of one to make it available under ``name``.

        Raises:
            ConfigError: The name is already taken.
        """

        def add(entry: Callable[..., Any]) -> Callable[..., Any]:
            if name in self._entries:
                raise ConfigError(
                    f"{self.kind} '{name}' is already registered by {_origin(self._entries[name])}; "
                    f"give {_origin(entry)} another name"
                )
            self._entries[name] = entry
            return entry

        return add

    def defer(self, name: str, module: str) -> None:
        """Make ``name`` available without importing ``module``, which registers it, until the name is chosen."""
        self._deferred[name] = module

    def names(self) -> list[str]:
        """Return all available names, sorted: built-in ones and those of installed plugins."""
        self._load_home()
        return sorted({*self._entries, *self._deferred, *self._plugins})

    def get(self, name: str) -> Callable[..., Any]:
        """Return the entry called ``name``; import the plugin that provides it if necessary.

        Raises:
            ConfigError: The name is unknown.
            PluginError: A plugin registers a taken name, or cannot be imported.
        """
        self._load_home()
        if isinstance(name, str) and name in self._deferred:
            importlib.import_module(self._deferred[name])
        plugin = self._plugins.get(name) if isinstance(name, str) else None
        if plugin is None:
            if not isinstance(name, str) or name not in self._entries:
                raise ConfigError(f"unknown {self.kind} {name!r}. {suggest(str(name), self.names())}")
            return self._entries[name]
        if name in self._entries:
            raise PluginError(
                f"{self.kind} '{name}' of the package '{_package(plugin)}' is already registered by "
                f"{_origin(self._entries[name])}; rename it in the plugin"
            )
        try:
            return typing.cast(Callable[..., Any], plugin.load())
        except Exception as error:
            raise PluginError(
                f"{self.kind} '{name}' of the package '{_package(plugin)}' cannot be imported "
                f"from '{plugin.value}': {error}"
            ) from error

    def provider(self, name: str) -> str | None:
        """Return the plugin package that provides ``name``, with its version; ``None`` for a built-in name."""
        plugin = self._plugins.get(name)
        return None if plugin is None else f"{_package(plugin)} {plugin.dist.version if plugin.dist else ''}".strip()

    def check(self, config: Mapping[str, Any] | None, *, key: str | None = None) -> dict[str, Any]:
        """Return the options of ``config``, converted to their declared types and with defaults filled in.

        Args:
            config: ``name`` and options.
            key: Key of the configuration, for messages; the kind by default.

        Raises:
            ConfigError: ``name`` is missing or unknown, or an option is unknown, missing, mistyped or out of range.
        """
        key = key or self.kind
        if config is None or not isinstance(config, Mapping) or "name" not in config:
            raise ConfigError(f"{key} must be a mapping with a 'name', got {config!r}. {suggest('', self.names())}")
        if isinstance(config, DictConfig):  # reading a missing value from it raises
            try:
                config = typing.cast(Mapping[str, Any], OmegaConf.to_container(config, resolve=True))
            except OmegaConfBaseException as error:
                raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from error
        name = config["name"]
        given = {str(k): v for k, v in config.items() if k != "name"}
        where = f"{key} '{name}'"
        return check_options(self.get(name), given, key=key, where=where, runtime=self.runtime, wrapper=self._wrap)

    def build(self, config: Mapping[str, Any], *, key: str | None = None, **runtime: Any) -> Any:
        """Check ``config`` and call its entry with the options and the runtime arguments. Errors as in ``check``."""
        options = self.check(config, key=key)
        outer = {option: options.pop(option) for option in self.outer_options()}
        built = self.get(config["name"])(**options, **runtime)
        return built if self._wrap is None else self._wrap(built, **outer)

    def outer_options(self) -> dict[str, inspect.Parameter]:
        """Return the options that every entry has because of the wrapper."""
        return {} if self._wrap is None else _keyword_only(self._wrap)

    @cached_property
    def _wrap(self) -> Callable[..., Any] | None:
        module, _, name = self.wrapper.partition(":")
        return getattr(importlib.import_module(module), name) if module else None

    def _load_home(self) -> None:
        if self.home is not None:
            importlib.import_module(self.home)

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        """The installed plugins by name. Cached, because the lookup scans all installed packages."""
        return {point.name: point for point in entry_points(group=f"tinyvid.{self.kind}")}


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}


def check_options(
    entry: Callable[..., Any],
    given: Mapping[str, Any],
    *,
    key: str,
    where: str | None = None,
    runtime: tuple[str, ...] = (),
    wrapper: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Return ``given``, converted to the types in the signature of ``entry`` and with defaults filled in.

    Args:
        entry: A class, a dataclass or a function with typed parameters.
        given: Values by parameter name.
        key: Configuration key of the options, for messages.
        where: What the options belong to, for messages; ``key`` by default.
        runtime: Parameters that must not be given.
        wrapper: A function whose keyword-only parameters are options too.

    Raises:
        ConfigError: A value is unknown, missing, mistyped or out of range.
    """
    where = where or key
    if not isinstance(given, Mapping):
        raise ConfigError(f"{key}={given!r} must be a mapping of options")
    parameters = {k: p for k, p in inspect.signature(entry).parameters.items() if k not in runtime}
    parameters |= {} if wrapper is None else _keyword_only(wrapper)
    for option in given:
        if option not in parameters:
            raise ConfigError(f"{where} has no option '{option}'. {suggest(option, parameters)}")
    absent = {option: "???" for option, p in parameters.items() if p.default is p.empty}
    missing = [option for option, value in (absent | dict(given)).items() if value == "???"]
    if missing:
        raise ConfigError(f"{where} needs {', '.join(f'{key}.{option}' for option in missing)}")
    function = entry.__init__ if inspect.isclass(entry) else _function(entry)
    hints = typing.get_type_hints(function, include_extras=True)
    if wrapper is not None:
        hints |= {k: p.annotation for k, p in _keyword_only(wrapper).items()}
    return _typed(dict(given), hints, parameters, where=where, key=key)


def _typed(
    given: dict[str, Any],
    hints: dict[str, Any],
    parameters: Mapping[str, inspect.Parameter],
    *,
    where: str,
    key: str,
) -> dict[str, Any]:
    """Convert and check ``given`` with OmegaConf, using the type hints of a signature."""
    fields = [(name, _plain(hints.get(name, Any)), _field(parameter)) for name, parameter in parameters.items()]
    fields.sort(key=lambda entry: parameters[entry[0]].default is not inspect.Parameter.empty)  # as dataclasses need
    schema = OmegaConf.structured(make_dataclass("Options", fields))
    for option, value in given.items():
        if isinstance(value, bool) and _plain(hints.get(option, Any)) in (int, float):
            raise ConfigError(f"{where}: {key}.{option}={value} must be a number")
        try:
            schema[option] = _literal(value)
            OmegaConf.to_container(schema, resolve=True)  # finds a text with ${...} for a number
        except OmegaConfBaseException as error:
            expected = _expected(_plain(hints.get(option, Any)))
            raise ConfigError(f"{where}: {key}.{option}={value!r} must be {expected}") from error
    typed = typing.cast(dict[str, Any], OmegaConf.to_container(schema, resolve=True))
    for option, value in typed.items():
        given_as = f"{where}: {key}.{option}={value!r}"
        if any(isinstance(x, float) and math.isnan(x) for x in (value if isinstance(value, list) else [value])):
            raise ConfigError(f"{given_as} must be a number")
        _check_value(value, hints.get(option, Any), where=given_as)
    return typed


def _literal(value: Any) -> Any:
    """Escape ``${...}`` in ``value`` so that OmegaConf reads it as text.

    The user's own interpolations are resolved already. Those in an untrusted file must not read the environment.
    """
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # backslashes before an interpolation must be doubled
    if isinstance(value, list | tuple):
        return [_literal(item) for item in value]
    return value


def _field(parameter: inspect.Parameter) -> Any:
    default = parameter.default
    if default is inspect.Parameter.empty:
        return field()
    if isinstance(default, list | tuple):
        return field(default_factory=lambda: list(default))
    return field(default=default)


def _plain(hint: Any) -> Any:
    """Return the part of ``hint`` that OmegaConf can check: without ``Literal``, bounds and tuples."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return _plain(typing.get_args(hint)[0])
    if origin is Literal:
        return type(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        members = tuple(_plain(member) for member in typing.get_args(hint))
        return typing.Union[members]  # noqa: UP007 - built from a tuple at run time
    if origin in (list, tuple, typing.get_origin(typing.Sequence[int])):
        return list[_plain(typing.get_args(hint)[0])]  # type: ignore[misc]
    return hint


def _expected(hint: Any) -> str:
    """Name a type that OmegaConf can check, for messages."""
    inner = " or ".join(map(_expected, typing.get_args(hint))) or _NAMES.get(hint, str(hint))
    return f"a list, each of them {inner}" if typing.get_origin(hint) is list else inner


def _check_value(value: Any, hint: Any, *, where: str) -> None:
    """Check what OmegaConf does not check: ``Literal`` values and bounds."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise ConfigError(f"{where} is not allowed. {suggest(str(value), map(str, allowed))}")
    elif origin is Annotated:
        inner, *bounds = typing.get_args(hint)
        for bound in bounds:
            if isinstance(bound, AtLeast) and value is not None and value < bound.minimum:
                raise ConfigError(f"{where} must be at least {bound.minimum:g}")
            if isinstance(bound, AtMost) and value is not None and value > bound.maximum:
                raise ConfigError(f"{where} must be at most {bound.maximum:,.0f}")
        _check_value(value, inner, where=where)
    elif origin in (typing.Union, types.UnionType) and value is not None:
        for member in typing.get_args(hint):
            if typing.get_origin(member) in (Annotated, Literal):
                _check_value(value, member, where=where)


def _keyword_only(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _function(entry: Any) -> Any:
    return entry.func if isinstance(entry, partial) else entry


def _origin(entry: Any) -> str:
    return f"{_function(entry).__module__}.{_function(entry).__qualname__}"


def _package(plugin: EntryPoint) -> str:
    return plugin.dist.name if plugin.dist else plugin.value


LLMS = Registry("llm", home="tinyvid.models.llms", runtime=("dtype", "quant", "device"))
VISION_TOWERS = Registry("vision_tower", home="tinyvid.models.vision_towers", runtime=("dtype",))
CONNECTORS = Registry(
    "connector", home="tinyvid.models.connectors", runtime=("features", "llm_dim", "text_decoder", "reducer")
)
MOTIONS = Registry("motion", home="tinyvid.models.motion", runtime=("features",))
REDUCERS = Registry("reducer", home="tinyvid.models.reducers", runtime=("features",))
TEXT_DECODERS = Registry("text_decoder", home="tinyvid.models.text_decoders", runtime=("features", "llm_dim"))
SAMPLERS = Registry("sampler", home="tinyvid.video.samplers")
TEMPLATES = Registry("template", home="tinyvid.text.templates")
VIDEO_READERS = Registry("video_reader", home="tinyvid.video.readers", wrapper="tinyvid.video.isolation:isolated")
DATASETS = Registry("data", home="tinyvid.data.datasets")
BENCHMARKS = Registry(
    "benchmark", home="tinyvid.evaluation.builtin", wrapper="tinyvid.evaluation.running.blind:blinded"
)
JUDGES = Registry("judge", home="tinyvid.evaluation.judging.judges")
