"""From a list of Hydra overrides to one composed configuration.

``conf/`` holds one group per kind of part. The order of the defaults list makes the command line beat an experiment,
and an experiment beat a model preset. Packages add options to the groups through the entry-point group
``tinyvid.conf``; they are searched last, so that they cannot replace a built-in option.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

from hydra import compose as hydra_compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinyvid.errors import ConfigError, suggest

_INSTALLED = Path(__file__).parent / "conf"
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
            return hydra_compose(config_name=config, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(error, overrides, config)) from error


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
