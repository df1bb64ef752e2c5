"""Several adapters of the LLM side by side, one of which is chosen per question."""

import filecmp
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinyvid.checkpoints import native
from tinyvid.checkpoints.hub import local_folder
from tinyvid.checkpoints.native import Loaded
from tinyvid.errors import CheckpointError, ConfigError, suggest
from tinyvid.files import refuse_links
from tinyvid.models import adapters
from tinyvid.models.folders import ADAPTER
from tinyvid.models.weights import read_tensors

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def chosen(given: Mapping[str, str], name: str | None) -> dict[str, str]:
    """Return the adapters to load, by name: that of the given name, or all if it is ``None``.

    Raises:
        ConfigError: There is no such adapter, or a path is missing.
    """
    for each, path in given.items():
        if not isinstance(path, str) or not path:
            raise ConfigError(f"adapters.{each}={path!r} must be a directory or a hub id")
    if name is None:
        return dict(given)
    if name not in given:
        raise ConfigError(f"adapter={name!r} is not one of adapters.NAME=. {suggest(str(name), [*given])}")
    return {name: given[name]}


def refuse_several(given: Mapping[str, str], name: str | None) -> None:
    """Raise ``ConfigError`` if several adapters are given, and none of them is chosen."""
    if len(several := chosen(given, name)) > 1:
        raise ConfigError(f"several adapters answer single questions only; choose one: adapter={' or '.join(several)}")


def add_chosen(to: "Adapters", given: Mapping[str, str], name: str | None) -> None:
    """Add the adapters to load, and use it if it is only one; arguments and errors as for ``chosen``."""
    found = chosen(given, name)
    for each, path in found.items():
        to.add(each, path)
    if len(found) == 1:
        to.use(*found)


class Adapters:
    """The adapters of a model's LLM. A model may come with one of its own; others are added by name.

    Example:
        >>> assistant.adapters.add("bounces", "runs/bounces/model")
        >>> with assistant.adapters.using("bounces"):
        ...     assistant.ask("clip.mp4", "How often does it bounce?")
    """

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    @property
    def names(self) -> list[str]:
        """The names of the added adapters."""
        return [name for name in getattr(self._loaded.model.llm, "peft_config", {}) if name != adapters.OWN]

    def add(self, name: str, path: str | Path) -> None:
        """Load an adapter of the LLM next to the others; it is not used until ``using`` chooses it.

        Args:
            name: A name of letters, digits, ``-`` and ``_``.
            path: A checkpoint of tinyvid that was trained on the same model and has an adapter of the LLM, as a
                directory or hub id; or a directory in peft's layout, of which only names and shapes can be checked.

        Raises:
            ConfigError: The name is taken or not allowed.
            CheckpointError: There is no adapter of the LLM, or it was made for another model.
        """
        if not isinstance(name, str) or not NAME.fullmatch(name) or name == adapters.OWN or name in "lora_":
            raise ConfigError(
                f"the name {name!r} of an adapter is not allowed; use letters, digits, '-' and '_', but not 'default' "
                "or a part of 'lora_'"
            )
        if name in self.names:
            raise ConfigError(f"there already is an adapter {name!r}; choose another name")
        folder = local_folder(str(path))
        refuse_links(folder)
        if (folder / native.MANIFEST).exists():
            _refuse_other_models(self._loaded, folder)
            folder = folder / native.ADAPTERS["llm"]
        elif not (folder / ADAPTER).exists():
            raise CheckpointError(f"{folder} has no adapter; expected {native.MANIFEST} (tinyvid) or {ADAPTER} (peft)")
        model = self._loaded.model
        model.llm = adapters.load("llm", model.get_submodule("llm"), folder, name)
        adapters.choose(model.llm, adapters.OWN)

    def use(self, name: str) -> None:
        """Use an added adapter from now on, outside of ``using``.

        Raises:
            ConfigError: There is no such adapter.
        """
        with self.using(name):
            pass
        adapters.choose(self._loaded.model.llm, name)

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Use an added adapter in a block, for everything that the model computes; ``None`` for the LLM without any.

        Afterwards, the model is as it was loaded.

        Raises:
            ConfigError: There is no such adapter.
        """
        if name is not None and name not in self.names:
            raise ConfigError(f"there is no adapter {name!r}. {suggest(str(name), self.names)}")
        llm = self._loaded.model.llm
        if adapters.is_adapted(llm):
            adapters.choose(llm, name)
        try:
            yield
        finally:
            if adapters.is_adapted(llm):
                adapters.choose(llm, adapters.OWN)


def _refuse_other_models(loaded: Loaded, folder: Path) -> None:
    """Raise an error if a checkpoint differs from a model in more than the adapter of the LLM."""
    manifest = native.read_manifest(folder)
    if manifest["adapters"] != ["llm"]:
        found = ", ".join(manifest["adapters"]) or "no part"
        raise CheckpointError(f"{folder} has adapters of {found}; only an adapter of the LLM alone can be added")
    if loaded.groups["llm"]["path"] == "llm":
        raise CheckpointError(
            f"this model is read from another project's layout, whose files cannot be compared with {folder}; write it "
            "with save_pretrained or convert_to=, and train adapters on that checkpoint"
        )
    for part in native.PARTS:
        here, there = loaded.groups[part], manifest[part]
        if not _is_same(here, there, folder / part if part in manifest["stored"] else None):
            raise CheckpointError(
                f"the adapter in {folder} was made for another {part} than {here['path']} (merged weights are others, "
                "too); load the model that it was trained on"
            )
    expected = {key: value.cpu() for key, value in adapters.base_state(loaded.model.connector).items()}
    tensors = read_tensors(folder / "connector.safetensors")
    same = expected.keys() == tensors.keys()
    if not same or any(not value.equal(tensors[key].to(value.dtype)) for key, value in expected.items()):
        raise CheckpointError(
            f"{folder} has another connector than this model, so its adapter would not fit; train it with "
            "recipe.connector.train=frozen, or load the checkpoint itself"
        )


def _is_same(here: dict[str, Any], there: dict[str, Any], stored: Path | None) -> bool:
    """Return whether a part and that of a checkpoint are the same: one reference, or equal files of weights."""
    if stored is None:
        return (here["path"], here.get("revision")) == (there["path"], there.get("revision"))
    names = [file.name for file in stored.glob("*.safetensors")]
    try:
        return bool(names) and all(
            filecmp.cmp(stored / name, Path(here["path"]) / name, shallow=False) for name in names
        )
    except OSError:
        return False
