"""Show a library only the files of a folder that it needs.

Libraries read more than weights: transformers gives ``adapter_config.json`` to peft, which imports a module that it
names, and looks for code, templates and generation settings. Therefore no library sees a folder that others made. It
sees a temporary folder with links to the files that are listed here, and with copies of the configurations, from which
everything is removed that chooses code, other files or how a model is loaded.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tinyvid.errors import CheckpointError, listed, raised_as
from tinyvid.files import MAX_TEXT, read_json, refuse_outside, refuse_unreadable

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # whole, or as shards with an index; the first that exists
TOKENIZER = (
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",  # kept as text; only template=tokenizer renders it, in a process with limits
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
VOCABULARIES = (  # files that define a tokenizer, any of these
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("tokenizer.model",),
    ("sentencepiece.bpe.model",),
)
HUB_SECONDS = 120.0  # without an answer from the hub
TIMEOUTS = ("connect", "read", "write", "pool")
# Settings of a configuration that choose code, other files, or how the model is loaded.
_REMOVED = re.compile(
    r".*(attn|experts)_implementation.*|(quantization|compression|kernel)_config|use_kernels|auto_map|attribute_map"
    r"|custom_generate|trust_remote_code|transformers_weights|gguf_file|fast_tokenizer_files|output_attentions"
    r"|(tokenizer|vocab|merges|spm)_file|num_labels"
)


def loading(part: str, where: str) -> AbstractContextManager[None]:
    """Return a context that raises every error of a library as a ``CheckpointError`` about a part.

    Args:
        part: Name of the part.
        where: Its directory or hub id.
    """
    advice = "check its configuration and its weights"
    if not Path(where).exists():
        advice = "it is not a local directory; check its name and the connection to the hub"
    return raised_as(CheckpointError, f"the {part} in {where!r} cannot be loaded", advice)


@contextmanager
def opened(
    part: str, where: str, names: Sequence[str], weights: Sequence[str] = (), *, revision: str | None = None
) -> Iterator[Path]:
    """Yield a temporary folder with the listed files of a directory or hub id, as far as they exist.

    Every error in the context is raised as a ``CheckpointError``; see ``loading``.

    Args:
        part: Name of the part, for messages.
        where: Directory or hub id.
        names: Files that may be read.
        weights: Names of weight files in order of preference; the first that exists is taken, with its shards.
        revision: Commit, branch or tag on the hub.

    Raises:
        CheckpointError: The place cannot be reached, contains an adapter beside its weights, or a file is not a regular
            file inside it.
    """
    with loading(part, where):
        source = Path(where)
        if not source.is_dir():
            source = _download(part, where, names, weights, revision)
        chosen = [*names]
        if weights:
            chosen += [file.name for file in weight_files(source, *weights)]
            chosen += [f"{name}.index.json" for name in weights]
        if weights and (source / ADAPTER).exists():
            raise CheckpointError(
                f"the {part} in {where!r} has {ADAPTER} beside its weights; merge the adapter, or remove this file"
            )
        with TemporaryDirectory(prefix="tinyvid-") as temporary:
            for name in chosen:
                if (source / name).is_symlink() or (source / name).exists():
                    _admit(source / name, Path(temporary) / name)
            try:
                with loading(part, where):
                    yield Path(temporary)
            except CheckpointError as error:  # the message of a library names the folder that it saw
                raise CheckpointError(str(error).replace(temporary, where)) from error.__cause__


@contextmanager
def time_limits() -> Iterator[None]:
    """Limit the time that requests of huggingface_hub wait for an answer: some of them would wait forever."""
    from huggingface_hub import get_session  # heavy

    def limit(request: Any) -> None:
        limits = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {kind: limits.get(kind) or HUB_SECONDS for kind in TIMEOUTS}

    session = get_session()
    hooks = session.event_hooks
    session.event_hooks = {**hooks, "request": [*hooks["request"], limit]}
    try:
        yield
    finally:
        session.event_hooks = hooks


def settings_in(folder: Path, name: str) -> dict[str, Any]:
    """Return the settings in a JSON file of an opened folder.

    Raises:
        CheckpointError: There is no such file.
    """
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder} has no {name}")
    return read_json(folder / name)


def cleaned(settings: Any) -> Any:
    """Return a configuration without settings that choose code, other files or how a model is loaded, at any depth."""
    if isinstance(settings, dict):
        return {key: cleaned(value) for key, value in settings.items() if not _REMOVED.fullmatch(str(key))}
    return [cleaned(value) for value in settings] if isinstance(settings, list) else settings


def weight_files(folder: Path, *names: str, wanted: Callable[[str], bool] = lambda key: True) -> list[Path]:
    """Return the first file with one of these names, or its shards that contain a wanted key.

    Raises:
        CheckpointError: There is no such file, an index points outside the folder, or one of its shards is missing.
    """
    for name in names:
        if (folder / name).exists():
            return [folder / name]
        if (index := folder / f"{name}.index.json").exists():
            shards = [folder / shard for shard in shard_names(index, wanted)]
            if missing := [shard.name for shard in shards if not shard.exists()]:
                raise CheckpointError(
                    f"{folder} lacks {listed(missing)}, listed in {index.name}; the copy is incomplete, so copy or "
                    "download it again"
                )
            return shards
    raise CheckpointError(f"{folder} contains no weights; expected {' or '.join(names)}, or shards of one of them")


def shard_names(index: Path, wanted: Callable[[str], bool] = lambda key: True) -> list[str]:
    """Return the shard files in an index that contain a wanted key, sorted.

    Raises:
        CheckpointError: The index is malformed, or a file name points outside the folder.
    """
    try:
        shards = read_json(index)["weight_map"]
        names = set(shards.values())
    except (KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is not an index of weights: it must map tensors to files") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise CheckpointError(f"{index} lists the file {name!r}, which is not a plain name inside its folder")
    return sorted({shard for key, shard in shards.items() if wanted(key)})


def _admit(file: Path, place: Path) -> None:
    refuse_unreadable(file)
    refuse_outside(file, file.parent)
    if file.name.endswith("config.json"):
        place.write_text(json.dumps(cleaned(read_json(file))), encoding="utf-8")
        return
    size = file.stat().st_size
    if file.suffix not in (".safetensors", ".bin", ".gguf") and size > MAX_TEXT:
        raise CheckpointError(f"{file} has {size:,} bytes; at most {MAX_TEXT:,} are read")
    place.symlink_to(file.resolve())


def _download(part: str, where: str, names: Sequence[str], weights: Sequence[str], revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # heavy: only for parts that lie on the hub

    def download(*patterns: str) -> Path:
        try:
            with time_limits():
                return Path(snapshot_download(where, revision=revision, allow_patterns=[*names, *patterns]))
        except Exception as error:  # of the network, of the hub, or of the cache
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise CheckpointError(
                f"the {part} in {where!r} cannot be loaded; it is not a local directory, and downloading it failed: "
                f"{reason.strip()}"
            ) from error

    folder = download(ADAPTER)
    for name in weights:
        stem, _, suffix = name.partition(".")
        folder = download(ADAPTER, name, f"{name}.index.json", f"{stem}-*.{suffix}")
        if (folder / name).exists() or (folder / f"{name}.index.json").exists():
            break
    return folder
