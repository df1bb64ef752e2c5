"""Load tensors from untrusted files into modules.

Safetensors contain no code. Pickles are opened with ``weights_only=True``, which rejects everything but tensors and
plain containers. File names in an index must stay inside their folder. Keys and shapes must match exactly.
"""

import pickle
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinyvid.errors import CheckpointError
from tinyvid.files import check_header, refuse_special
from tinyvid.models.folders import CONFIG, WEIGHTS, opened, settings_in, weight_files

MAX_LAYERS = 1000  # of any part; an untrusted configuration must not make us build layers forever


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of a folder in the layout of transformers: one file, or shards with an index.

    Raises:
        CheckpointError: There are no weights, a file cannot be read, or an index points outside the folder.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder, *WEIGHTS):
        tensors |= read_tensors(file)
    return tensors


def building_on(device: str) -> AbstractContextManager[Any]:
    """Return a context in which to build a model; on the device ``meta``, shapes are built and no weights are read."""
    return torch.device("meta") if device == "meta" else nullcontext()


def without_weights() -> bool:
    """Return whether a model is being built on the meta device."""
    return torch.get_default_device().type == "meta"


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the progress bars that transformers draws while it reads or writes the weights of a part.

    A model has several parts, so the bars would precede every first answer. Download bars of the hub are still shown.
    """
    from transformers.utils.logging import set_tqdm_hook  # heavy: only when a model is loaded

    previous = set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **{**kwargs, "disable": True}))
    try:
        yield
    finally:
        set_tqdm_hook(previous)


def read_tensors(path: Path, *, under: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of one ``.safetensors`` or ``.bin`` file, on the CPU; only their shapes on the meta device.

    Args:
        path: The file.
        under: Key under which a pickle may store its tensors, as training programs do.

    Raises:
        CheckpointError: The file is missing or damaged, or is a pickle that contains more than tensors.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    refuse_special(path, CheckpointError)
    if path.suffix == ".safetensors":
        check_header(path)
    try:
        if path.suffix == ".safetensors" and without_weights():
            with safe_open(path, framework="pt") as file:
                return {key: torch.empty(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        if path.suffix == ".safetensors":
            return load_file(path)
        device = "meta" if without_weights() else "cpu"
        content = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it is a pickle that contains more than tensors and could run code"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            f"{path} cannot be read: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from error
    if under is not None and isinstance(content, dict) and isinstance(content.get(under), dict):
        content = content[under]
    if not isinstance(content, dict) or not all(
        isinstance(v, Tensor) and isinstance(k, str) for k, v in content.items()
    ):
        raise CheckpointError(f"{path} is not a mapping of names to tensors")
    return content


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], *, part: str, where: object) -> None:
    """Load ``tensors`` into ``module``; every key and every shape must match.

    Raises:
        CheckpointError: Keys are missing or unexpected, or shapes differ.
    """
    own = module.state_dict()
    refuse_key_mismatch(part, where, own.keys() - tensors.keys(), tensors.keys() - own.keys())
    _refuse_other_shapes(part, where, tensors, own)
    if not without_weights():
        module.load_state_dict(dict(tensors))


def load_pretrained(part: str, where: str, model_class: Any, *, revision: str | None = None, **kwargs: Any) -> Any:
    """Call ``from_pretrained`` of a class of transformers, and check that keys and shapes match.

    Args:
        part: Name of the part, for messages.
        where: Directory or hub id. It is not read when ``state_dict`` is given.
        model_class: A model class; not an ``Auto`` class, which looks for code next to the weights.
        revision: Commit, branch or tag of a hub id.
        **kwargs: Arguments of ``from_pretrained``.

    Raises:
        CheckpointError: The weights cannot be found or read, or keys or shapes do not match.
    """
    if without_weights():
        return model_class(kwargs["config"]).to(kwargs.get("dtype") or torch.get_default_dtype())
    given: Any = kwargs.get("state_dict")
    opening = opened(part, where, [CONFIG], WEIGHTS, revision=revision) if given is None else nullcontext()
    with opening as folder:
        try:
            with without_bars():
                model, info = explain(
                    part, where, model_class.from_pretrained, folder, output_loading_info=True, **kwargs
                )
        except CheckpointError as error:
            if "ignore_mismatched_sizes" in str(error):  # transformers lists them on the terminal only
                with building_on("meta"):
                    tensors = given if folder is None else read_weights(folder)
                    own, prefix = model_class(kwargs["config"]).state_dict(), f"{model_class.base_model_prefix}."
                    pair = ({k.removeprefix(prefix): v for k, v in weights.items()} for weights in (tensors, own))
                    _refuse_other_shapes(part, where, *pair)
            raise
    refuse_key_mismatch(part, where, info["missing_keys"], info["unexpected_keys"])
    model.name_or_path = model.config.name_or_path = where  # not the temporary folder
    return model


def explain(part: str, where: str, load: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a loading function of transformers, and turn any exception into one readable error.

    Raises:
        CheckpointError: The function raised; the message states the part and the path.
    """
    try:
        return load(*args, **kwargs)
    except pickle.UnpicklingError as error:  # the original message recommends loading the file without protection
        raise CheckpointError(
            f"the {part} in {where!r} is refused: its weights are a pickle that contains more than tensors and could "
            "run code"
        ) from error
    except Exception as error:  # a wrong configuration can raise anything in the code that uses it
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])
        hint = "" if Path(where).exists() else "; it is not a local directory, and downloading it failed"
        raise CheckpointError(f"the {part} in {where!r} cannot be loaded{hint}: {reason}") from error


def read_config(part: str, where: str, *, revision: str | None = None) -> dict[str, Any]:
    """Return the ``config.json`` of a directory or hub id, without what ``folders.cleaned`` removes.

    Raises:
        CheckpointError: It cannot be found or read, or specifies too many layers.
    """
    with opened(part, where, [CONFIG], revision=revision) as folder:
        stored = settings_in(folder, CONFIG)
    refuse_endless(part, where, stored)
    return stored


def refuse_endless(part: str, where: object, settings: Any) -> None:
    """Raise ``CheckpointError`` if a configuration specifies more than ``MAX_LAYERS`` layers, at any depth."""
    if not isinstance(settings, Mapping):
        return
    for key, value in settings.items():
        counts = ("layer" in str(key) or "depth" in str(key)) and isinstance(value, int | float)
        if counts and value > MAX_LAYERS:
            raise CheckpointError(
                f"the {part} in {str(where)!r} has {key}={value:g}, but at most {MAX_LAYERS} layers are allowed; "
                "correct its configuration"
            )
        refuse_endless(part, where, value)


def refuse_key_mismatch(part: str, where: object, missing: Collection[str], unexpected: Collection[str]) -> None:
    """Raise ``CheckpointError`` if keys of a model are missing in its weights, or unexpected."""
    if missing or unexpected:
        raise CheckpointError(
            f"the weights of the {part} in {where} do not match its configuration: "
            f"missing keys {few(missing)}, unexpected keys {few(unexpected)}"
        )


def _refuse_other_shapes(part: str, where: object, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise ``CheckpointError`` if tensors with the same key differ in shape."""
    wrong = [
        f"{key}: {tuple(tensors[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in own
        if key in tensors and own[key].shape != tensors[key].shape
    ]
    if wrong:
        raise CheckpointError(
            f"the weights of the {part} in {where} do not have the shapes of its configuration: {few(wrong)}"
        )


def few(names: Collection[str]) -> str:
    """Return the first five names of a collection and the number of the others, for a message."""
    shown = sorted(map(str, names))
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return f"[{', '.join(shown[:5])}]{more}"
