"""Read a Q-Former from the files of InstructBLIP or LLaMA-VID, and rename its tensors as in transformers."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from tinyvid.errors import CheckpointError
from tinyvid.files import expanded
from tinyvid.models.folders import weight_files
from tinyvid.models.weights import load_strict, read_tensors

logger = logging.getLogger(__name__)

# Name in a file of either project -> name in ``qformer.QFormer``.
PREFIXES = {
    "vlm_att_encoder.bert.": "model.",
    "vlm_att_query": "queries",
    "vlm_att_ln.": "norm.",
    "vlm_att_bert_proj.": "project.",
    "Qformer.bert.": "model.",
    "query_tokens": "queries",
    "ln_vision.": "norm.",
}
_LAYER = re.compile(r"^model\.encoder\.layer\.(\d+)\.")


def read_qformer(decoder: nn.Module, path: str) -> None:
    """Load the weights of a file or folder into a Q-Former; keys and shapes must match.

    The files contain more than the Q-Former, so only names with a prefix in ``PREFIXES`` are read. Layers beyond the
    decoder's are skipped, and the projection of patches stays new if it is missing; both are logged.

    Raises:
        CheckpointError: The weights cannot be read, contain no Q-Former, or do not match.
    """
    place = expanded(path)
    tensors = rename(read_selected(place, tuple(PREFIXES)))
    if not tensors:
        raise CheckpointError(
            f"{place} contains no Q-Former; expected weights named {', '.join(f'{prefix}*' for prefix in PREFIXES)}"
        )
    own = decoder.state_dict()
    depth = 1 + max(int(found[1]) for key in own if (found := _LAYER.match(key)))
    beyond = {key for key in tensors if (found := _LAYER.match(key)) and int(found[1]) >= depth}
    if beyond:
        logger.info("The Q-Former uses only the first %d layers in %s.", depth, place)
    new = {key for key in own if key.startswith("project.")} - tensors.keys()
    if new:
        logger.info("%s contains no projection of this tower's patches, so a new one is used; train it.", place)
    fitting = {key: value for key, value in tensors.items() if key not in beyond}
    load_strict(decoder, fitting | {key: own[key] for key in new}, part="text_decoder", where=place)


def read_selected(path: Path, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors of a file or folder whose names begin with a prefix, after a leading ``model.`` is removed.

    Only shards with such tensors are opened.

    Raises:
        CheckpointError: A file is missing or damaged, a pickle contains more than tensors, or an index points outside
            the folder.
    """

    def wanted(name: str) -> bool:
        return name.removeprefix("model.").startswith(prefixes)

    names = ("model.safetensors", "pytorch_model.bin", "mm_projector.bin")
    selected: dict[str, Tensor] = {}
    for file in weight_files(path, *names, wanted=wanted) if path.is_dir() else [path]:
        selected |= {key: value for key, value in read_tensors(file, under="model").items() if wanted(key)}
    return selected


def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of InstructBLIP or LLaMA-VID as in ``qformer.QFormer``; other tensors keep their names."""
    renamed = {}
    for key, value in tensors.items():
        name = key.removeprefix("model.")
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if not name.endswith("position_ids"):  # a buffer that older versions of transformers saved
            renamed[key if prefix is None else _of_transformers(PREFIXES[prefix] + name.removeprefix(prefix))] = value
    return renamed


def _of_transformers(name: str) -> str:
    return name.replace("attention.self.", "attention.attention.").replace(
        "embeddings.LayerNorm", "embeddings.layernorm"
    )
