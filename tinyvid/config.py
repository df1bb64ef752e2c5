"""From a list of Hydra overrides to one composed configuration.

``conf/`` holds one group per kind of part. The order of the defaults list makes the command line beat an experiment,
and an experiment beat a model preset. Packages add options to the groups through the entry-point group
``tinyvid.conf``; they are searched last, so that they cannot replace a built-in option.

YAML files use two resolvers: ``${assets:PATH}`` is a file that comes with tinyvid, and ``${choices:PROGRAM}`` the
groups that a program takes, for its help.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

from hydra import compose as hydra_compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinyvid.errors import ConfigError, suggest

_INSTALLED = Path(__file__).parent / "conf"
PARTS = ("llm", "vision_tower", "connector", "text_decoder")  # groups whose weights a checkpoint fixes
LIMIT = "llm.max_length"  # the only option of such a group that a checkpoint leaves open: it changes no number
CONF_DIR = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / "conf"


class PluginConf(SearchPathPlugin):
    """Adds the ``conf`` packages of installed plugins to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append every package named in the entry-point group ``tinyvid.conf``."""
        for point in entry_points(group="tinyvid.conf"):
            search_path.append(provider=point.name, path=f"pkg://{point.value}")


Plugins.instance().register(PluginConf)


def compose(overrides: Sequence[str] = (), *, config: str = "eval") -> DictConfig:
    """Compose a configuration from ``conf/<config>.yaml`` and Hydra overrides.

    Without overrides ``eval`` is the default model, ``model=tinyvid_shapes``, whose ``ckpt`` has trained weights.
    Where the overrides choose a part and no preset it is a new model.

    Args:
        overrides: As on the command line: ``connector=group``, ``connector.num_queries=256``.
        config: The primary configuration: ``eval`` or ``train``.

    Returns:
        The configuration, closed against unknown keys.

    Raises:
        ConfigError: An override names an unknown group, option or key, or breaks Hydra's grammar.

    Example:
        >>> compose(["connector=group", "connector.num_queries=256"]).connector.num_queries
        256
    """
    try:
        with _hydra():
            return hydra_compose(config_name=config, overrides=completed(overrides, config=config))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(error, overrides, config)) from error


def chosen(overrides: Sequence[str], group: str) -> list[str]:
    """Return the keys of ``overrides`` that choose ``group`` or set one of its options."""
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    return [key for key in keys if key == group or key.startswith(f"{group}.")]


def completed(overrides: Sequence[str], *, config: str) -> list[str]:
    """Return the overrides that Hydra composes: choosing a part stands for a new model, not for the default one."""
    own_parts = any(set(chosen(overrides, part)) - {LIMIT} for part in PARTS)
    preset = chosen(overrides, "model") or chosen(overrides, "experiment")
    return [*overrides, *(["~model"] if config == "eval" and own_parts and not preset else [])]


def choices(config: str) -> str:
    """Return the groups that a program takes and their options, one group per line.

    Args:
        config: Its primary configuration. Hydra is initialized.
    """
    loader, groups = GlobalHydra.instance().config_loader(), _groups(config)
    return "\n".join(f"{group}: {', '.join(_options(loader, group, groups))}" for group in sorted(groups))


def _groups(config: str) -> set[str]:
    """Return the groups of a primary configuration, and those that their options bring along."""
    groups: set[str] = set()
    for name in _defaults(config):
        if (CONF_DIR / name).is_dir():
            groups.add(name)
        elif (CONF_DIR / f"{name}.yaml").is_file():
            groups |= _groups(name)
    return groups | ({"text_decoder"} if "connector" in groups else set())


def _defaults(config: str) -> list[str]:
    """Return what the defaults list of a file in ``conf/`` names: groups, groups to override, and other files."""
    file = CONF_DIR / f"{config}.yaml"  # a plugin's is not read here
    entries = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else {}
    assert isinstance(entries, dict)
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries.get("defaults", [])]


def _options(loader: ConfigLoader, group: str, groups: set[str]) -> list[str]:
    """Return the options of a group, those of its folders included, but for experiments of other programs."""
    found = sorted(loader.get_group_options(group))
    for folder in sorted(loader.get_group_options(group, ObjectType.GROUP)):
        found += [f"{folder}/{option}" for option in sorted(loader.get_group_options(f"{group}/{folder}"))]
    return [option for option in found if group != "experiment" or _overridden(f"experiment/{option}") <= groups]


def _overridden(experiment: str) -> set[str]:
    """Return the groups that an experiment, or the one that it starts from, chooses an option of."""
    names = [name.partition("@")[0] for name in _defaults(experiment)]
    own = {name.removeprefix("override /") for name in names if name.startswith("override /")}
    others = [_overridden(f"experiment/{name}") for name in names if not name.startswith(("override ", "_self_"))]
    return own.union(*others)


OmegaConf.register_new_resolver("assets", lambda path: str(Path(__file__).parent / "assets" / path))
OmegaConf.register_new_resolver("choices", choices)


def _explain(error: Exception, overrides: Sequence[str], config: str) -> str:
    """Return a message for a failed composition that names the key, what is allowed and the nearest name."""
    text = str(error.__cause__ or error)
    unknown_option = re.search(r"Could not find '([^']+)/([^'/]+)'", str(error))
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
        return f"'{key}' is for connectors that read the question; it needs connector=llamavid"
    if key not in given:
        presets = [item for item in overrides if item.startswith(("experiment=", "model="))]
        return f"{' '.join(presets)} sets '{key}', which this program does not have; it is for another program"
    # Composing only the choices of groups cannot fail for an unknown key, so it tells which keys there are.
    choices = [item for item in overrides if "." not in item.partition("=")[0] and item.partition("=")[0] != key]
    known = compose(choices, config=config)
    node = OmegaConf.select(known, parent) if parent else known
    if not isinstance(node, DictConfig):
        return f"unknown key '{key}': '{parent}' has no keys. {suggest(parent, map(str, known))}"
    return f"unknown key '{key}'. {suggest(name, map(str, node))}"


def _group_options(group: str) -> list[str]:
    with _hydra() as hydra:
        return list(hydra.config_loader.get_group_options(group))


@contextmanager
def _hydra() -> Iterator[Hydra]:
    """Initialize Hydra on ``conf/``, and leave a program that runs under ``hydra.main`` as it was."""
    singleton = GlobalHydra.instance()
    outer = singleton.hydra
    singleton.clear()
    try:
        with initialize_config_dir(config_dir=str(CONF_DIR), version_base="1.3"):
            assert singleton.hydra is not None  # initialized in the line above
            yield singleton.hydra
    finally:
        singleton.clear()
        if outer is not None:
            singleton.initialize(outer)
