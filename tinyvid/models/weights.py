"""Load tensors from untrusted files into modules.

Safetensors contain no code. Pickles are opened with ``weights_only=True``, which rejects everything but tensors and
plain containers. File names in an index must stay inside their folder. Keys and shapes must match exactly.
"""

import copy
import pickle
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinyvid.errors import CheckpointError, listed, raised_as
from tinyvid.files import refuse_unreadable
from tinyvid.models.folders import CONFIG, WEIGHTS, loading, opened, settings_in, weight_files

# Bounds of numbers in an untrusted configuration, by key. Layers, blocks and experts are built one by one.
_LIMITS = (
    (re.compile(r"layer|depth|^(num|n)_.*(block|expert)"), 1000),
    (re.compile(r"(size|dim|width|positions|heads|channels|length)$"), 1 << 26),
)
MAX_NEW = 1 << 20  # parameters without weights, before they are listed
MAX_BUFFERS = 1 << 28  # values of tables that are computed, such as causal masks


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of a folder in the layout of transformers: one file, or shards with an index.

    Raises:
        CheckpointError: There are no weights, a file cannot be read, two files contain the same tensor, or an index
            points outside the folder.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder, *WEIGHTS):
        shard = read_tensors(file)
        if twice := tensors.keys() & shard.keys():
            raise CheckpointError(f"{file} contains tensors that another file contains too: {few(twice)}; remove one")
        tensors |= shard
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

    refuse_unreadable(path)
    with raised_as(CheckpointError, f"{path} cannot be read", "the file is damaged; copy or download it again"):
        if path.suffix == ".safetensors" and without_weights():
            with safe_open(path, framework="pt") as file:
                return {key: _without_values(file, key) for key in file.keys()}  # noqa: SIM118
        if path.suffix == ".safetensors":
            return load_file(path)
        return _read_pickle(path, under)


def _without_values(file: Any, key: str) -> Tensor:
    shape = file.get_slice(key).get_shape()
    dtype = (file.get_slice(key)[:0] if shape else file.get_tensor(key)).dtype
    return torch.empty(shape, dtype=dtype)


def _read_pickle(path: Path, under: str | None) -> dict[str, Tensor]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            unpacked, size = sum(entry.file_size for entry in file.infolist()), path.stat().st_size
        if unpacked > size:  # torch never compresses
            raise CheckpointError(f"{path} is refused: it has {size:,} bytes, which unpack to {unpacked:,}")
    try:
        content = torch.load(path, map_location="meta" if without_weights() else "cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # the original message recommends loading the file without protection
        raise CheckpointError(
            f"{path} is refused: it is a pickle that contains more than tensors and could run code"
        ) from error
    if under is not None and isinstance(content, dict) and isinstance(content.get(under), dict):
        content = content[under]
    if not isinstance(content, dict) or not all(isinstance(k, str) and _is_plain(v) for k, v in content.items()):
        raise CheckpointError(f"{path} is not a mapping of names to tensors")
    return content


def _is_plain(value: Any) -> bool:
    """Return whether a value is a tensor with memory for each of its elements; a view can claim any size."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return False
    return (value.is_meta == without_weights()) and value.untyped_storage().nbytes() >= value.nbytes


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], *, part: str, where: object) -> None:
    """Load ``tensors`` into ``module``; every key and every shape must match.

    Raises:
        CheckpointError: Keys are missing or unexpected, or shapes differ.
    """
    own = module.state_dict()
    refuse_key_mismatch(part, where, own.keys() - tensors.keys(), tensors.keys() - own.keys())
    _refuse_other_shapes(part, where, tensors, module)
    _refuse_integers(part, where, tensors, module)
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
        with loading(part, where):
            return model_class(kwargs["config"]).to(kwargs.get("dtype") or torch.get_default_dtype())
    from transformers.initialization import no_init_weights

    given: Any = kwargs.pop("state_dict", None)
    opening = opened(part, where, [CONFIG], WEIGHTS, revision=revision) if given is None else nullcontext()
    with loading(part, where), opening as folder, without_bars():
        if folder is not None and weight_files(folder, *WEIGHTS)[0].suffix == ".bin":
            given = read_weights(folder)  # refuses more pickles than transformers
        with building_on("meta"), no_init_weights():
            expected = model_class(copy.deepcopy(kwargs["config"]))
            stored = given if folder is None or given is not None else read_weights(folder)
        _refuse_larger(part, where, expected, stored)
        _refuse_integers(part, where, stored, expected)
        try:
            place = folder if given is None else None
            model, info = model_class.from_pretrained(place, state_dict=given, output_loading_info=True, **kwargs)
        except RuntimeError:  # transformers lists shapes that differ on the terminal only
            _refuse_other_shapes(part, where, stored, expected)
            raise
    refuse_key_mismatch(part, where, info["missing_keys"], info["unexpected_keys"])
    model.name_or_path = model.config.name_or_path = where  # not the temporary folder
    return model


def _refuse_larger(part: str, where: str, expected: Any, stored: Mapping[str, Tensor]) -> None:
    """Raise ``CheckpointError`` if a model of transformers needs more memory than its weights account for."""
    new = re.compile("|".join(expected._keys_to_ignore_on_load_missing or ["(?!)"]))
    needed = sum(value.numel() for key, value in expected.named_parameters() if not new.search(key))
    found = sum(value.numel() for value in stored.values())
    if needed > 2 * found + MAX_NEW:  # fewer are listed as missing keys or other shapes after loading
        _refuse_other_shapes(part, where, stored, expected)
        raise CheckpointError(
            f"the configuration of the {part} in {where!r} needs {needed:,} parameters, but its weights have {found:,}"
        )
    buffers = sum(value.numel() for value in expected.buffers())
    if buffers > max(found, MAX_BUFFERS):
        raise CheckpointError(
            f"the configuration of the {part} in {where!r} needs tables of {buffers:,} values; correct its sizes"
        )


def read_config(part: str, where: str, *, revision: str | None = None) -> dict[str, Any]:
    """Return the ``config.json`` of a directory or hub id, without what ``folders.cleaned`` removes.

    Raises:
        CheckpointError: It cannot be found or read, or specifies too many layers.
    """
    with opened(part, where, [CONFIG], revision=revision) as folder:
        stored = settings_in(folder, CONFIG)
    check_sizes(part, where, stored)
    return stored


def check_sizes(part: str, where: object, settings: Any) -> None:
    """Raise ``CheckpointError`` if a size or a number of layers in a configuration is too large, at any depth."""
    if not isinstance(settings, Mapping):
        return
    for key, value in settings.items():
        limit = next((limit for pattern, limit in _LIMITS if pattern.search(str(key))), None)
        for number in value if isinstance(value, list) else [value]:
            if limit is not None and isinstance(number, int | float) and number > limit:
                raise CheckpointError(
                    f"the {part} in {str(where)!r} has {key}={number!r:.40}, but at most {limit:,} is allowed; correct "
                    "its configuration"
                )
        check_sizes(part, where, value)


def refuse_key_mismatch(part: str, where: object, missing: Collection[str], unexpected: Collection[str]) -> None:
    """Raise ``CheckpointError`` if keys of a model are missing in its weights, or unexpected."""
    if missing or unexpected:
        raise CheckpointError(
            f"the weights of the {part} in {where} do not match its configuration: "
            f"missing keys {few(missing)}, unexpected keys {few(unexpected)}"
        )


def _refuse_other_shapes(part: str, where: object, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raise ``CheckpointError`` if tensors with the same key differ in shape."""
    wrong = [
        f"{key}: {tuple(given.shape)} in the file, {tuple(own.shape)} in the model"
        for key, given, own in _pairs(tensors, model)
        if own.shape != given.shape
    ]
    if wrong:
        raise CheckpointError(
            f"the weights of the {part} in {where} do not have the shapes of its configuration: {few(wrong)}"
        )


def _refuse_integers(part: str, where: object, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raise ``CheckpointError`` if weights are whole numbers: quantized or damaged ones would load silently."""
    pairs = _pairs(tensors, model)
    whole = [key for key, given, own in pairs if own.is_floating_point() and not given.is_floating_point()]
    if whole:
        raise CheckpointError(
            f"the weights of the {part} in {where} are not floating-point numbers: {few(whole)}; use weights that are "
            "not quantized, and quantize when loading"
        )


def _pairs(tensors: Mapping[str, Tensor], model: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    """Return the keys in both a file and a model, with the tensor of each; a model may be stored inside another."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    given, own = ({k.removeprefix(prefix): v for k, v in weights.items()} for weights in (tensors, model.state_dict()))
    return [(key, given[key], own[key]) for key in own if key in given]


def few(names: Collection[str]) -> str:
    """Return the first five names of a collection and the number of the others, for a message."""
    return f"[{listed(sorted(map(str, names)), 5)}]"
