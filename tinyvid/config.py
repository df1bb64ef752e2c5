"""Compose one configuration from a list of Hydra overrides.

``conf/`` contains one group per kind of part. The command line overrides an experiment, and an experiment overrides a
model preset, by the order of the defaults list. Packages add options to the groups through the entry-point group
``tinyvid.conf``. They are searched last, so they cannot replace a built-in option.

YAML files use two resolvers: ``${assets:PATH}`` is a file that comes with tinyvid, and ``${choices:PROGRAM}`` lists the
groups that a program accepts, for its help.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from hydra import compose as hydra_compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from tinyvid.errors import ConfigError, suggest

_INSTALLED = Path(__file__).parent / "conf"
PARTS = ("llm", "vision_tower", "connector", "text_decoder", "motion")  # groups that a checkpoint fixes
CHANGEABLE = ("sampler", "template", "video_reader", "reducer")  # groups that may differ from a checkpoint's
REASONS = {"motion": ", whose connector was trained with or without these channels"}  # why a group is fixed, if unclear
GLOBAL = ("world",)  # groups whose options are keys of the program
LIMIT = "llm.max_length"  # the only option of these groups that a checkpoint does not fix: it changes no result
CONF_DIR = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "conf"


class PluginConf(SearchPathPlugin):
    """Adds the ``conf`` packages of installed plugins to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append every package listed in the entry-point group ``tinyvid.conf``."""
        for point in entry_points(group="tinyvid.conf"):
            search_path.append(provider=point.name, path=f"pkg://{point.value}")


Plugins.instance().register(PluginConf)


def compose(overrides: Sequence[str] = (), *, config: str = "eval") -> DictConfig:
    """Compose a configuration from ``conf/<config>.yaml`` and Hydra overrides.

    Without overrides, ``eval`` is the default model, ``model=tinyvid_shapes``, whose ``ckpt`` has trained weights.
    If the overrides choose a part but no preset, it is a new model.

    Args:
        overrides: As on the command line: ``connector=group``, ``connector.num_queries=256``.
        config: The primary configuration: ``eval`` or ``train``.

    Returns:
        The configuration; unknown keys raise an error.

    Raises:
        ConfigError: An override has an unknown group, option or key, or is not valid in Hydra's grammar.

    Example:
        >>> compose(["connector=group", "connector.num_queries=256"]).connector.num_queries
        256
    """
    try:
        with _hydra():
            composed = hydra_compose(config_name=config, overrides=completed(overrides, config=config))
    except Exception as error:  # of Hydra, OmegaConf, their parsers and YAML
        raise ConfigError(_explain(error, overrides, config)) from error
    refuse_unknown(composed, overrides, config)
    return composed


def refuse_unknown(composed: DictConfig, overrides: Sequence[str], config: str) -> None:
    """Raise ``ConfigError`` if overrides such as ``+key=`` added a key that the program would ignore."""
    unknown = [str(key) for key in composed if key not in _keys(config)]
    if unknown:
        raise ConfigError(_unknown_key(unknown[0], overrides, config))


def chosen(overrides: Sequence[str], group: str) -> list[str]:
    """Return the keys of ``overrides`` that choose ``group`` or set one of its options."""
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    return [key for key in keys if key == group or key.startswith(f"{group}.")]


def completed(overrides: Sequence[str], *, config: str) -> list[str]:
    """Return the overrides for Hydra: choosing a part without a preset means a new model, not the default one."""
    own_parts = any(set(chosen(overrides, part)) - {LIMIT} for part in PARTS)
    preset = chosen(overrides, "model") or chosen(overrides, "experiment")
    return [*overrides, *(["~model"] if config == "eval" and own_parts and not preset else [])]


def choices(config: str) -> str:
    """Return the groups that a program accepts and their options, one group per line. Hydra must be initialized."""
    loader, groups = GlobalHydra.instance().config_loader(), _groups(config)
    return "\n".join(f"{group}: {', '.join(_options(loader, group, groups))}" for group in sorted(groups))


def _groups(config: str) -> set[str]:
    """Return the groups of a primary configuration, including those that its defaults and connectors add."""
    groups: set[str] = set()
    for name in _defaults(config):
        if (CONF_DIR / name).is_dir():
            groups.add(name)
        elif (CONF_DIR / f"{name}.yaml").is_file():
            groups |= _groups(name)
    return groups | ({"text_decoder"} if "connector" in groups else set())


@cache
def _keys(config: str) -> set[str]:
    """Return the keys of a program: its groups, and the keys of its file and of the files that it includes."""
    files = [CONF_DIR / f"{name}.yaml" for name in (config, *_defaults(config))]
    files += [file for group in _groups(config).intersection(GLOBAL) for file in (CONF_DIR / group).glob("*.yaml")]
    return _groups(config).union(*(map(str, OmegaConf.load(file)) for file in files if file.is_file()))


def _defaults(config: str) -> list[str]:
    """Return the entries of a defaults list in ``conf/``: groups, groups to override, and other files."""
    file = CONF_DIR / f"{config}.yaml"  # files of plugins are not read here
    entries = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else {}
    assert isinstance(entries, dict)
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries.get("defaults", [])]


def _options(loader: ConfigLoader, group: str, groups: set[str]) -> list[str]:
    """Return the options of a group and its folders, without the experiments of other programs."""
    found = sorted(loader.get_group_options(group))
    for folder in sorted(loader.get_group_options(group, ObjectType.GROUP)):
        found += [f"{folder}/{option}" for option in sorted(loader.get_group_options(f"{group}/{folder}"))]
    return [option for option in found if group != "experiment" or _overridden(f"experiment/{option}") <= groups]


def _overridden(experiment: str) -> set[str]:
    """Return the groups that an experiment, or one that it is based on, overrides."""
    names = [name.partition("@")[0] for name in _defaults(experiment)]
    own = {name.removeprefix("override /") for name in names if name.startswith("override /")}
    others = [_overridden(f"experiment/{name}") for name in names if not name.startswith(("override ", "_self_"))]
    return own.union(*others)


OmegaConf.register_new_resolver("assets", lambda path: str(Path(__file__).parent / "assets" / path))
OmegaConf.register_new_resolver("choices", choices)


def _explain(error: Exception, overrides: Sequence[str], config: str) -> str:
    """Return a message for a failed composition, with the key, the allowed values and the closest name."""
    text = str(error.__cause__ or error)
    unknown_option = re.search(r"Could not find '([^']+)/([^'/]*)'", str(error))
    if unknown_option:
        group, option = unknown_option.groups()
        return f"{group}={option}: unknown option. {suggest(option, _group_options(group))}"
    unknown_key = re.search(r"Could not override '([^']+)'", str(error))
    if unknown_key:
        return _unknown_key(unknown_key[1].split("@")[0], overrides, config)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"the overrides {list(overrides)} cannot be composed: {' '.join(lines[:3])}"


def _unknown_key(key: str, overrides: Sequence[str], config: str) -> str:
    parent, _, name = key.rpartition(".")
    given = [item.partition("=")[0].lstrip("+~") for item in overrides]
    if key.partition(".")[0] == "text_decoder":
        return f"'{key}' applies only to connectors that read the question; add connector=llamavid"
    presets = [item for item in overrides if item.startswith(("experiment=", "model="))]
    if presets and not any(other == key or other.startswith(f"{key}.") for other in given):
        return f"{' '.join(presets)} sets '{key}', which this program does not have; choose another"
    # Composing only the group choices cannot fail on an unknown key; it gives the known ones.
    named = zip(given, overrides, strict=True)
    choices = [item for given_key, item in named if "." not in given_key and given_key != key]
    known = compose(choices, config=config)
    node = OmegaConf.select(known, parent) if parent else known
    if not parent and key in _groups(config):
        return f"{key}= takes one name, such as {key}={_group_options(key)[0]}; set options by {key}.KEY=VALUE"
    if node is None and parent in _groups(config):
        return f"{key}= needs {parent}=NAME, one of {', '.join(sorted(_group_options(parent)))}"
    if not isinstance(node, DictConfig):
        return f"unknown key '{key}': '{parent}' has no keys. {suggest(parent, map(str, known))}"
    groups = set() if parent else _groups(config)  # some have no option chosen, such as benchmark
    return f"unknown key '{key}'. {suggest(name, groups.union(map(str, node)))}"


def _group_options(group: str) -> list[str]:
    with _hydra() as hydra:
        return list(hydra.config_loader.get_group_options(group))


@contextmanager
def _hydra() -> Iterator[Hydra]:
    """Initialize Hydra with ``conf/``, then restore the state of a program that runs under ``hydra.main``."""
    singleton = GlobalHydra.instance()
    outer = singleton.hydra
    singleton.clear()
    try:
        with initialize_config_dir(config_dir=str(CONF_DIR), version_base="1.3"):
            assert singleton.hydra is not None  # set by initialize_config_dir
            yield singleton.hydra
    finally:
        singleton.clear()
        if outer is not None:
            singleton.initialize(outer)
