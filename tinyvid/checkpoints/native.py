"""Write and read tinyvid's checkpoint directory.

::

    tinyvid.yaml             format number, version, component groups, which parts are stored, digests of tokenizers
    connector.safetensors    always
    tokenizer/               always, so tokenization works offline
    question_tokenizer/      only if the connector's text decoder has a separate tokenizer
    llm/  vision_tower/      only weights that no path or hub id provides, in the layouts of their libraries
    adapter/                 LoRA of the LLM in peft's layout; also vision_tower_adapter/ and connector_adapter/
    README.md                model card

A checkpoint stores the trained weights, and the paths or hub ids of all other weights. It includes everything that
``ask`` needs: template, sampler and image specification. Names resolve to installed code only, weights are tensors
only, and keys and shapes must match exactly. Dtype and quantization are chosen when loading.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file

from tinyvid.build import OPTIONAL, REGISTRIES, assemble, check, is_weightless, load_parts, settled
from tinyvid.checkpoints import card
from tinyvid.errors import CheckpointError, ConfigError, PluginError
from tinyvid.files import expanded, read_text, refuse_unreadable
from tinyvid.models import adapters
from tinyvid.models.folders import CONFIG, TOKENIZER as FILES
from tinyvid.models.video_llm import VideoLLM
from tinyvid.models.weights import few, without_bars
from tinyvid.outputs import share
from tinyvid.processing.processor import Processor
from tinyvid.registry import REDUCERS

FORMAT = 1
MANIFEST = "tinyvid.yaml"
MAX_MANIFEST = 1 << 17  # bytes; a manifest has a few thousand
MAX_VALUES = 100_000  # of the manifest, with aliases expanded
TOKENIZER, QUESTION_TOKENIZER = "tokenizer", "question_tokenizer"
PARTS = ("llm", "vision_tower")  # parts that may be stored elsewhere; the connector is always stored
ADAPTERS = {"llm": "adapter", "vision_tower": "vision_tower_adapter", "connector": "connector_adapter"}
Overrides = Mapping[str, Mapping[str, Any] | None]
_OPTIONAL_KEYS = {"version", "plugins", "digests", *OPTIONAL}
_KEYS = {"format", "stored", "adapters", *REGISTRIES} | _OPTIONAL_KEYS


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded model with its Processor and its configuration.

    Attributes:
        groups: The component groups, with every option.
        stored: Parts whose weights must be saved, because no path in ``groups`` provides them.
    """

    model: VideoLLM
    processor: Processor
    groups: dict[str, dict[str, Any]]
    stored: frozenset[str]


def save(loaded: Loaded, path: Path) -> None:
    """Write a checkpoint directory atomically.

    Raises:
        CheckpointError: ``path`` cannot be written or is not empty, or a stored part is quantized.
    """
    try:
        _save(loaded, expanded(path))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def _save(loaded: Loaded, path: Path) -> None:
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise CheckpointError(f"{path} already exists and is not empty; choose another directory, or remove it first")
    if "llm" in loaded.stored and adapters.is_quantized(loaded.model.llm):
        raise CheckpointError("the LLM is quantized, so its weights cannot be saved; load it with quant=none")
    path = path.resolve()  # a link stays, and . has a name
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        write(loaded, partial)
        share(partial)
        if path.is_dir():
            path.rmdir()
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def load(path: Path, *, device: str, dtype: str, quant: str, overrides: Overrides) -> Loaded:
    """Read a checkpoint directory that ``save`` wrote; ``overrides`` replace some of its groups.

    Options as in ``build.build``.

    Raises:
        CheckpointError: The manifest is damaged or has a newer format, a tokenizer has changed, or weights do not
            match.
        PluginError: A part needs a plugin that is not installed.
    """
    manifest = read_manifest(path)
    written = {kind: manifest[kind] for kind in REGISTRIES if kind in manifest}
    groups = apply_overrides(written, overrides)
    stored = frozenset(manifest["stored"])
    for part in stored:
        groups[part]["path"] = str(_stored_folder(path, part))
    _refuse_changed(path, manifest.get("digests"))
    groups["llm"]["tokenizer"] = str(path / TOKENIZER)
    if "tokenizer" in groups.get("text_decoder", {}):
        groups["text_decoder"] |= {"path": None, "tokenizer": str(path / QUESTION_TOKENIZER)}
    _refuse_absent_plugins(groups, manifest.get("plugins") or {}, path)
    groups = check(groups)
    refuse_learned_reducers(written.get("reducer"), groups.get("reducer"), path)
    weights = path / "connector.safetensors"
    parts = load_parts(groups, device=device, dtype=dtype, quant=quant, connector_weights=weights)
    groups = settled(groups, parts[0])
    model, processor = assemble(groups, *parts)
    for part in manifest["adapters"]:
        setattr(model, part, adapters.load(part, model.get_submodule(part), path / ADAPTERS[part]))
    return Loaded(model, processor, groups, stored)


def apply_overrides(groups: Mapping[str, Mapping[str, Any]], overrides: Overrides) -> dict[str, dict[str, Any]]:
    """Return ``groups`` with overrides.

    An override with a ``name`` replaces its group, or adds it; others change options of it. An empty one removes an
    optional group.
    """
    result = {kind: dict(group) for kind, group in groups.items()}
    for kind, override in overrides.items():
        if override is None or (kind in OPTIONAL and not override):
            result.pop(kind, None)
        else:
            result[kind] = dict(override) if "name" in override else {**result.get(kind, {}), **override}
    return result


def refuse_learned_reducers(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, path: Path) -> None:
    """Raise ``ConfigError`` if a reducer with weights is added to a checkpoint, changed or removed."""
    if old is not None:
        old = {"name": old["name"], **REDUCERS.check(old, key="reducer")}
    for group in (old, new):
        if group is not None and old != new and not is_weightless(group["name"]):
            raise ConfigError(
                f"reducer '{group['name']}' has weights that are trained with the model, so it cannot be added to "
                f"{path}, changed or removed; choose a reducer without weights, or train a model with it"
            )


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the content of ``tinyvid.yaml`` after checking its structure.

    Raises:
        CheckpointError: It is not valid YAML, has another format, or has missing or unknown keys.
    """
    file = path / MANIFEST
    try:
        text = read_text(file, limit=MAX_MANIFEST)
        _refuse_multiplied(file, yaml.compose(text, yaml.SafeLoader))
        manifest = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(manifest, dict) or type(manifest.get("format")) is not int:
        raise CheckpointError(
            f"{file} has no 'format' number, so it was not written by tinyvid; use another checkpoint"
        )
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"{file} has format {manifest['format']}, but tinyvid {version('tinyvid')} reads format {FORMAT}; "
            "install the version that wrote it"
        )
    missing = sorted(_KEYS - _OPTIONAL_KEYS - manifest.keys())
    unknown = sorted(map(str, manifest.keys() - _KEYS))
    if missing or unknown:
        raise CheckpointError(f"{file}: missing keys {missing}, unknown keys {unknown}")
    _check_values(file, manifest)
    return manifest


def write(loaded: Loaded, folder: Path) -> None:
    """Write the files of a checkpoint into an existing folder. ``save`` does this atomically."""
    model, processor = loaded.model, loaded.processor
    connector = adapters.base_state(model.connector)
    save_file({k: v.detach().cpu().contiguous() for k, v in connector.items()}, folder / "connector.safetensors")
    processor.tokenizer.save_pretrained(folder / "tokenizer")
    with without_bars():
        if "llm" in loaded.stored:
            adapters.base(model.llm).save_pretrained(folder / "llm", state_dict=adapters.base_state(model.llm))
        if "vision_tower" in loaded.stored:
            adapters.without(model.vision_tower).save(folder / "vision_tower")
    adapted = [part for part in ADAPTERS if adapters.has_own(model.get_submodule(part))]
    for part in adapted:
        adapters.save(model.get_submodule(part), folder / ADAPTERS[part])
    groups = {kind: dict(group) for kind, group in loaded.groups.items()}
    groups["llm"]["tokenizer"] = None
    if "tokenizer" in groups.get("text_decoder", {}):  # its weights are stored with the connector
        assert processor.questions is not None  # created with the text decoder
        processor.questions.tokenizer.save_pretrained(folder / QUESTION_TOKENIZER)
        groups["text_decoder"] |= {"path": None, "tokenizer": None}
    for part in loaded.stored:
        groups[part] |= {"path": part, "revision": None}
    plugins = {kind: REGISTRIES[kind].provider(group["name"]) for kind, group in groups.items()}
    manifest = {
        "format": FORMAT,
        "version": version("tinyvid"),
        "stored": sorted(loaded.stored),
        "adapters": adapted,
        "plugins": {kind: package for kind, package in plugins.items() if package},
        "digests": _digests(folder),
        **groups,
    }
    (folder / MANIFEST).write_text(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True), encoding="utf-8")
    (folder / "README.md").write_text(card.of_manifest(manifest), encoding="utf-8")


def _check_values(file: Path, manifest: Mapping[str, Any]) -> None:
    """Raise an error if a value of a manifest has another type than ``write`` writes, or lists unknown parts."""
    for key, known in (("stored", PARTS), ("adapters", tuple(ADAPTERS))):
        if not isinstance(manifest[key], list) or not all(part in [*known] for part in manifest[key]):
            raise CheckpointError(f"{file}: '{key}' must list some of {list(known)}, got {manifest[key]!r}")
    for kind in [kind for kind in REGISTRIES if kind in manifest or kind not in OPTIONAL]:
        if not isinstance(manifest[kind], dict) or not isinstance(manifest[kind].get("name"), str):
            raise CheckpointError(f"{file}: '{kind}' must be a mapping with a 'name', got {manifest[kind]!r}")
    for key, content in (("plugins", "kinds to packages"), ("digests", "files to digests")):
        if not isinstance(manifest.get(key) or {}, dict):
            raise CheckpointError(f"{file}: '{key}' must map {content}, got {manifest[key]!r}")


def _refuse_multiplied(file: Path, root: yaml.Node | None) -> None:
    """Raise an error if aliases multiply the values of a YAML document: a few lines can stand for billions."""
    counts: dict[int, int] = {}

    def count(node: Any) -> int:
        children = [*chain(*node.value)] if isinstance(node, yaml.MappingNode) else node.value
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in counts:
            counts[id(node)] = MAX_VALUES + 1  # of a node that contains itself
            counts[id(node)] = 1 + sum(map(count, children))
        return counts[id(node)]

    if root is not None and (values := count(root)) > MAX_VALUES:
        raise CheckpointError(f"{file} expands to {values:,} values; at most {MAX_VALUES:,} are read")


def _digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a checkpoint that defines a tokenizer."""
    found = {}
    for name in (f"{folder}/{name}" for folder in (TOKENIZER, QUESTION_TOKENIZER) for name in (CONFIG, *FILES)):
        if (path / name).exists():
            refuse_unreadable(path / name)
            with (path / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _refuse_changed(path: Path, written: Mapping[str, str] | None) -> None:
    """Raise an error if a tokenizer is not the one that was saved: the LLM would read other tokens.

    Manifests of early versions contain no digests.
    """
    if written is None:
        return
    found = _digests(path)
    changed = [name for name in {*found, *written} if found.get(name) != written.get(name)]
    if changed:
        raise CheckpointError(
            f"{path / MANIFEST}: {few(changed)} changed after the checkpoint was written; restore the files, or remove "
            "'digests' from it if the change is yours"
        )


def _stored_folder(path: Path, part: str) -> Path:
    folder = path / part
    if not folder.is_dir():
        raise CheckpointError(
            f"{path / MANIFEST} lists the {part} as stored, but {folder} is missing; restore the folder"
        )
    return folder


def _refuse_absent_plugins(groups: Mapping[str, Mapping[str, Any]], plugins: Mapping[str, str], path: Path) -> None:
    for kind, group in groups.items():
        try:
            REGISTRIES[kind].get(group["name"])
        except ConfigError as error:
            if kind not in plugins:
                raise
            raise PluginError(
                f"{kind} '{group['name']}' is not installed; according to {path / MANIFEST}, it is part of the "
                f"package '{plugins[kind]}'. Install that package if you trust it"
            ) from error
