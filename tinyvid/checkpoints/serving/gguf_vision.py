"""Write vision tower and connector as a GGUF file: llama.cpp's mmproj."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinyvid.checkpoints.native import Loaded
from tinyvid.checkpoints.serving import gguf_llm, internvl, llava, smolvlm
from tinyvid.errors import ConfigError

ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu", "quick_gelu": "", "silu": "silu"}  # of llama.cpp
# Names of tensors of the three towers in transformers, and those of llama.cpp.
TOWER = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"embeddings\.(class_embedding|cls_token)$", "v.class_embd"),
        (r"embeddings\.position_embeddings?(\.weight)?$", "v.position_embd.weight"),
        (r"embeddings\.patch_embedding(s\.projection)?\.", "v.patch_embd."),
        (r"pre_layrnorm\.", "v.pre_ln."),
        (r"post_layernorm\.", "v.post_ln."),
        (r"encoder\.layers?\.(\d+)\.(self_attn|attention)\.([qkv])_proj\.", r"v.blk.\1.attn_\3."),
        (r"encoder\.layers?\.(\d+)\.(self_attn\.out_proj|attention\.projection_layer)\.", r"v.blk.\1.attn_out."),
        (r"encoder\.layers?\.(\d+)\.(layer_norm1|layernorm_before)\.", r"v.blk.\1.ln1."),
        (r"encoder\.layers?\.(\d+)\.(layer_norm2|layernorm_after)\.", r"v.blk.\1.ln2."),
        (r"encoder\.layers?\.(\d+)\.lambda_([12])$", r"v.blk.\1.ls\2.weight"),
        (r"encoder\.layers?\.(\d+)\.mlp\.fc1\.", r"v.blk.\1.ffn_up."),
        (r"encoder\.layers?\.(\d+)\.mlp\.fc2\.", r"v.blk.\1.ffn_down."),
    )
)
BLOCK = re.compile(r"encoder\.layers?\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Projector:
    """A kind of connector that llama.cpp computes, with the vision towers that it may have.

    Attributes:
        kind: llama.cpp's name.
        parts: As ``PARTS`` of ``llava``.
        names: The start of the names of tensors of the connector, and of llama.cpp's.
        before: Text that llama.cpp writes before each image.
        after: Text that it writes after each image.
    """

    kind: str
    parts: dict[str, dict[str, dict[str, Any]]]
    names: Mapping[str, str]
    before: str = ""
    after: str = ""


# Without CLIP: llama.cpp drops the first patch in place of the class token (its issue 25814).
WITHOUT_CLIP = {**llava.PARTS, "vision_tower": {"siglip": llava.PARTS["vision_tower"]["siglip"]}}
MLP = Projector("mlp", WITHOUT_CLIP, {"layers.0.": "mm.0.", "layers.2.": "mm.2."})
IDEFICS3 = Projector(
    "idefics3",
    smolvlm.PARTS,
    {"layers.0.": "mm.model.fc."},
    "<fake_token_around_image><global-img>",
    "<fake_token_around_image>",
)
INTERNVL = Projector(
    "internvl",
    internvl.PARTS,
    {"norm.": "mm.model.mlp.0.", "layers.0.": "mm.model.mlp.1.", "layers.2.": "mm.model.mlp.3."},
    "<img>",
    "</img>",
)


def projector_of(group: Mapping[str, Any]) -> Projector:
    """Return the projector for the options of a connector, which may differ in some of them.

    Raises:
        ConfigError: llama.cpp has no connector of this name.
    """
    if group["name"] == "mlp":
        return MLP
    if group["name"] == "pixel_shuffle":
        return IDEFICS3 if group["depth"] == 1 else INTERNVL
    raise ConfigError(
        f"to=gguf: llama.cpp does not compute connector '{group['name']}'; it needs connector=mlp or "
        "connector=pixel_shuffle"
    )


def write(loaded: Loaded, file: Path, projector: Projector, *, dtype: torch.dtype) -> None:
    """Write the vision tower up to the block that its features come from, and the connector.

    Args:
        loaded: The model, whose parts are those of the projector.
        file: The file to write.
        projector: See ``projector_of``.
        dtype: Data type of the matrices.

    Raises:
        ConfigError: llama.cpp does not compute the activation of the vision tower, or would confuse its matrices.
    """
    import gguf

    tower: Any = loaded.model.vision_tower
    settings, image = tower.model.config, loaded.model.vision_tower.image
    refuse_other_blocks(settings, projector)
    writer = gguf.GGUFWriter(file, "clip")
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_name(file.stem)
    writer.add_file_type(gguf.LlamaFileType[gguf_llm.TYPES[dtype][1]])
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(projector.kind)
    writer.add_vision_projection_dim(loaded.model.llm.config.hidden_size)
    writer.add_vision_image_size(image.size)
    writer.add_vision_patch_size(_side(settings.patch_size))
    writer.add_vision_embedding_length(settings.hidden_size)
    writer.add_vision_feed_forward_length(settings.intermediate_size)
    writer.add_vision_block_count(tower.num_blocks)
    writer.add_vision_head_count(settings.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(settings.layer_norm_eps)
    writer.add_vision_image_mean(list(image.mean))
    writer.add_vision_image_std(list(image.std))
    if ACTIVATIONS[settings.hidden_act] == "gelu":
        writer.add_vision_use_gelu(True)
    elif ACTIVATIONS[settings.hidden_act] == "silu":
        writer.add_vision_use_silu(True)
    if projector is MLP:
        # Without this, the last block would not run.
        writer.add_array("clip.vision.feature_layer", [tower.num_blocks])
        writer.add_bool("clip.has_text_encoder", False)  # this and the next one are read by old versions only
        writer.add_bool("clip.has_llava_projector", True)
    else:
        writer.add_vision_projector_scale_factor(loaded.groups["connector"]["factor"])
    if projector is IDEFICS3:
        writer.add_vision_preproc_image_size(image.size)  # one tile
    if projector is INTERNVL:
        writer.add_vision_preproc_min_tiles(1)
        writer.add_vision_preproc_max_tiles(1)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, tensor in tensors(loaded, projector).items():
        gguf_llm.add(writer, name, tensor, torch.float32 if name == "v.position_embd.weight" else dtype)
    gguf_llm.finish(writer)


def tensors(loaded: Loaded, projector: Projector) -> dict[str, Tensor]:
    """Return the weights of vision tower and connector under llama.cpp's names."""
    tower: Any = loaded.model.vision_tower
    found = {}
    for key, tensor in tower.model.state_dict().items():
        key = key.removeprefix("vision_model.")
        block = BLOCK.match(key)
        if key.startswith("head.") or (block and int(block[1]) >= tower.num_blocks):  # pooling, and unused blocks
            continue
        if key.startswith("post_layernorm.") and not getattr(tower, "final_norm", False):
            continue
        name = next((rule.sub(name, key) for rule, name in TOWER if rule.match(key)), None)
        if name is None:
            raise ConfigError(f"to=gguf: llama.cpp has no place for {key!r} of the vision tower")
        if name == "v.class_embd":
            tensor = tensor.flatten()
        elif name == "v.position_embd.weight":
            tensor = tensor.flatten(0, -2)  # (P, Dv), or (1 + P, Dv)
            if projector is INTERNVL:
                # llama.cpp puts the class token last, and adds the rows in the order of the file.
                tensor = tensor.roll(-1, 0)
        found[name] = tensor
    connector: Any = loaded.model.connector
    for key, tensor in connector.state_dict().items():
        start = next(start for start in projector.names if key.startswith(start))
        found[projector.names[start] + key.removeprefix(start)] = tensor
    return found


def refuse_other_blocks(settings: Any, projector: Projector) -> None:
    """Raise ``ConfigError`` if llama.cpp does not compute the blocks of a vision tower with these settings."""
    if settings.hidden_act not in ACTIVATIONS:
        raise ConfigError(
            f"to=gguf: llama.cpp does not compute {settings.hidden_act!r}, the activation of the vision tower; it "
            f"needs {', '.join(ACTIVATIONS)}"
        )
    if projector is not INTERNVL and settings.intermediate_size == settings.hidden_size:
        raise ConfigError(
            f"to=gguf: the two matrices of each MLP in the vision tower have the same shape "
            f"({settings.hidden_size} x {settings.hidden_size}), which llama.cpp takes for files of an old version, "
            "with both swapped; use a vision tower with a wider MLP"
        )


def _side(value: Any) -> int:
    return value if isinstance(value, int) else value[0]
