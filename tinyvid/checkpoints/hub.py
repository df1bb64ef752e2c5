"""Find a checkpoint by directory, name or hub id, and send one to the Hugging Face hub.

huggingface_hub does the transfers. An interrupted transfer continues: complete files are neither downloaded nor sent
again. All files of a checkpoint become visible in one commit, so nobody downloads half of one.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tinyvid.checkpoints import card, native
from tinyvid.checkpoints.layouts import reader_of
from tinyvid.checkpoints.native import Loaded
from tinyvid.errors import CheckpointError, ConfigError, TinyvidError, raised_as
from tinyvid.files import expanded, read_text, refuse_links
from tinyvid.models.folders import time_limits

DEFAULT_MODEL = Path(__file__).parents[1] / "assets" / "shapes"  # made by recipes/shapes
DEFAULT = "default"  # the path that stands for it
HUB_FILES = ["*.safetensors", "*.json", "*.yaml", "*.txt", "*.model", "*.bin", "*.jinja"]
CARD = "README.md"
# Files of an earlier checkpoint that could be read in place of those of the new one.
REPLACED = ["*.safetensors", "*.bin", "*.index.json"]
REPLACED += [f"{folder}/*" for folder in (native.TOKENIZER, native.QUESTION_TOKENIZER, *native.PARTS)]
REPLACED += [f"{folder}/*" for folder in native.ADAPTERS.values()]
COMMIT = re.compile("[0-9a-f]{40}")


def local_folder(path: str, revision: str | None = None) -> Path:
    """Return the local directory of a checkpoint, downloading it from the hub if the path is a hub id.

    ``default`` is the model that is included in tinyvid; write ``./default`` for a directory with that name.

    Raises:
        CheckpointError: There is no such directory, and it cannot be downloaded from the hub.
        ConfigError: ``revision`` is given for a directory.
    """
    if not path:
        raise CheckpointError("the path of the checkpoint is empty; give a directory or a hub id")
    folder = DEFAULT_MODEL if path == DEFAULT else expanded(path)
    if os.path.isdir(folder):  # unlike Path.is_dir, False for a name that is too long
        if revision is not None:
            raise ConfigError(f"revision={revision!r} applies to hub ids only, and {path!r} is a directory; remove it")
        return folder
    if os.path.isfile(folder):
        raise CheckpointError(f"{path!r} is a file; a checkpoint is a directory")
    if len(folder.parts) != 2 or folder.is_absolute() or path.startswith(("~", ".")):
        raise CheckpointError(f"there is no directory {path!r}, and it is not a hub id ('owner/name')")
    from huggingface_hub import snapshot_download

    try:
        with time_limits():
            return Path(snapshot_download(path, revision=revision, allow_patterns=HUB_FILES))
    except Exception as error:  # of the network, of the hub, or of the cache
        reason = _reason(error)
        raise CheckpointError(f"there is no directory {path!r}, and downloading it failed: {reason}") from error


def push_loaded(loaded: Loaded, repo: str, **options: Any) -> str:
    """Write a model to a temporary directory and send it, with the weights of all parts that are local directories.

    Options, return value and errors as for ``push``.
    """
    check_destination(repo, options.get("revision"))  # before gigabytes are written
    local = {part for part in native.PARTS if _is_local(loaded.groups[part]["path"])}
    with TemporaryDirectory(prefix="tinyvid-") as temporary:
        folder = Path(temporary) / "checkpoint"
        native.save(replace(loaded, stored=loaded.stored | local), folder)
        return push(folder, repo, **options)


def push(
    folder: Path,
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    license: str | None = None,
) -> str:
    """Send the directory of a checkpoint to the hub, and return the address of the commit.

    The repository is created if it is missing, and so is the branch. The commit removes files of an earlier checkpoint
    that could be read in place of the new ones; other files of the repository stay.

    Args:
        folder: The directory.
        repo: Hub id, ``owner/name``.
        private: Whether the repository is private; ``None`` keeps that of an existing one, and leaves it to the hub for
            a new one.
        revision: Branch to write to; ``None`` for the main one.
        commit_message: First line of the commit; ``None`` for a general one.
        license: Identifier for the model card, such as ``apache-2.0``; ``None`` leaves the card as it is.

    Raises:
        ConfigError: ``repo`` is not a hub id, ``revision`` is a commit, or this machine has no token of the hub.
        CheckpointError: The directory is not a checkpoint, or sending it failed.
    """
    check_destination(repo, revision)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    refuse_links(folder)
    reader_of(folder)
    _refuse_local_parts(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if not name.startswith(".")]
    contents: dict[str, str | bytes] = {name: str(folder / name) for name in names}
    if CARD in contents:
        contents[CARD] = card.on_hub(read_text(folder / CARD), repo, license).encode()
    api = HfApi(library_name="tinyvid", library_version=version("tinyvid"))
    with _explained(repo), time_limits():
        api.create_repo(repo, private=private, exist_ok=True)
        info = api.model_info(repo)
        if private is not None and info.private != private:
            raise CheckpointError(
                f"private={private}, but {repo!r} already exists and is {'private' if info.private else 'public'}; "
                "change it in the settings of the repository, or choose another name"
            )
        if revision is not None:
            try:
                info = api.model_info(repo, revision=revision)
            except RevisionNotFoundError:
                api.create_branch(repo, branch=revision)
        there = [file.rfilename for file in info.siblings or []]
        stale = [name for name in there if name not in contents and any(fnmatch(name, p) for p in REPLACED)]
        done = api.create_commit(
            repo,
            [CommitOperationAdd(name, content) for name, content in contents.items()]
            + [CommitOperationDelete(name, is_folder=False) for name in stale],
            commit_message=commit_message or "Upload a checkpoint of tinyvid",
            revision=revision,
            parent_commit=info.sha,
        )
    return str(done.commit_url)


def _refuse_local_parts(folder: Path) -> None:
    """Raise an error if a checkpoint takes a part from another directory of this machine."""
    if not (folder / native.MANIFEST).exists():  # the layouts of other projects contain all parts
        return
    manifest = native.read_manifest(folder)
    for part in native.PARTS:
        path = manifest[part].get("path")
        if part not in manifest["stored"] and path is not None and _is_local(path):
            raise CheckpointError(
                f"{folder} takes the {part} from {path}, which is on this machine only; store it in the checkpoint: "
                f"python recipes/export.py ckpt={folder} out=DIR push=owner/name"
            )


def _is_local(path: str) -> bool:
    return Path(path).is_absolute() or expanded(path).exists()


def check_destination(repo: str, revision: str | None = None) -> None:
    """Raise ``ConfigError`` if nothing can be sent: see ``push``. Nothing is asked of the hub."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"{repo!r} is not a hub id ('owner/name'): {error}") from error
    if repo.count("/") != 1:
        raise ConfigError(f"{repo!r} is not a hub id; write 'owner/name', with your name or organization on the hub")
    if revision is not None and COMMIT.fullmatch(revision):
        raise ConfigError(f"revision={revision!r} is a commit, which cannot be changed; give a branch")
    if get_token() is None:
        raise ConfigError("this machine has no token of the hub; run 'hf auth login', or set HF_TOKEN")


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    where, again = f"sending to {repo!r} failed", "try again: what arrived is not sent again"
    owner = repo.split("/")[0]
    advice = {
        401: "the hub does not accept the token; run 'hf auth login' again",
        403: f"the token may not write there; use one with write access to {owner!r}",
        404: "there is no such repository or branch, or the token may not see it",
        412: "the repository was changed at the same time; try again",
    }
    with raised_as(CheckpointError, where, again):
        try:
            yield
        except TinyvidError:
            raise
        except Exception as error:
            refused = next((e for e in (error, error.__cause__) if isinstance(e, HfHubHTTPError)), None)
            if refused is not None:
                known = advice.get(refused.response.status_code, again)
                raise CheckpointError(f"{where}: {_reason(refused)}; {known}") from error
            if isinstance(error, ValueError):  # of several lines, such as about the metadata of a model card
                raise CheckpointError(f"{where}: {' '.join(str(error).split())}") from error
            raise


def _reason(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
