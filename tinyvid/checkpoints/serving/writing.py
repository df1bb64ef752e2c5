"""Write a model in a layout of transformers: weights, configuration, tokenizer, processor and chat template."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from tinyvid.checkpoints.compat.keys import joined
from tinyvid.checkpoints.native import Loaded
from tinyvid.checkpoints.serving import chat_template, internvl, llava, llava_onevision, smolvlm
from tinyvid.checkpoints.serving.placeholders import Placeholders, place
from tinyvid.checkpoints.serving.qualification import refuse_unqualified
from tinyvid.errors import ConfigError, suggest
from tinyvid.files import read_json
from tinyvid.generation.decode import stops
from tinyvid.models.vision_towers.preprocessor import PREPROCESSOR, write_image_spec
from tinyvid.models.weights import without_bars

# Modules with the same members, which ``llava`` describes.
LAYOUTS: dict[str, Any] = {
    "llava": llava,
    "smolvlm": smolvlm,
    "internvl": internvl,
    "llava_onevision": llava_onevision,
}
VIDEO = "<video>"  # what a processor replaces by the placeholders of a clip; it needs no row of the embedding
# Settings of parts that describe their file, not the model.
_NOTES = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "quantization_config", "architectures")


def write(
    loaded: Loaded,
    folder: Path,
    name: str,
    *,
    dtypes: Mapping[str, torch.dtype] | None = None,
    enlarge: bool = False,
) -> list[str]:
    """Write a model in a layout of transformers, with the keys that its modules have.

    Args:
        loaded: The model, with its adapters merged.
        folder: An existing folder.
        name: The layout: a key of ``LAYOUTS``.
        dtypes: The data type of each part in the file; ``None`` keeps that of the model.
        enlarge: Whether rows may be added to the embedding for the placeholder of video tokens.

    Returns:
        What other programs do differently from tinyvid, in sentences.

    Raises:
        ConfigError: The layout is unknown, a part has no place in it, or the embedding has no row for the placeholder.
    """
    if name not in LAYOUTS:
        raise ConfigError(f"to={name!r} is unknown. {suggest(name, LAYOUTS)}")
    layout = LAYOUTS[name]
    refuse_unqualified(loaded, name, layout)
    model, processor = loaded.model, loaded.processor
    chat_template.refuse_unwritable(processor.template, loaded.groups["template"]["name"])
    placed = place(
        processor.tokenizer,
        layout.PLACEHOLDERS,
        rows=len(model.llm.get_input_embeddings().weight),
        used=frozenset((*processor.template.control_tokens, *processor.template.stop)),
        enlarge=enlarge,
    )
    texts = {"video": VIDEO, **placed.texts}
    placed.tokenizer.chat_template = jinja = chat_template.write(
        processor.template,
        bos=chat_template.begins_with_bos(placed.tokenizer),
        unit=layout.UNIT,
        texts=texts,
        suffix=layout.suffix(processor.template),
    )
    placed.tokenizer.save_pretrained(folder)
    if names := layout.names(texts):
        file = folder / "tokenizer_config.json"
        _write_json(file, {**read_json(file), "extra_special_tokens": names})
    (folder / "chat_template.jinja").write_text(jinja, encoding="utf-8")
    weights = _weights(loaded, layout, placed.rows, dtypes)
    weights = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    with without_bars():
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", _config(loaded, layout, placed, dtypes))
    _write_json(folder / "generation_config.json", _generation(loaded))
    write_image_spec(folder, model.vision_tower.image, layout.IMAGE_PROCESSORS[loaded.groups["vision_tower"]["name"]])
    for file, content in layout.processors(loaded, texts, read_json(folder / PREPROCESSOR)).items():
        _write_json(folder / file, content)
    return [*placed.notes, *differences(loaded, layout)]


def _weights(loaded: Loaded, layout: Any, rows: int, dtypes: Mapping[str, torch.dtype] | None) -> dict[str, Tensor]:
    """Return all weights under the keys of the layout. New rows of the embedding and the head repeat the first one.

    No video token has the embedding of the placeholder, and a reply cannot contain it: among equal logits, the first
    counts.
    """
    llm = dict(loaded.model.llm.state_dict())
    if loaded.model.llm.config.tie_word_embeddings:
        llm.pop("lm_head.weight", None)
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        if key in llm and len(llm[key]) < rows:
            llm[key] = torch.cat([llm[key], llm[key][:1].expand(rows - len(llm[key]), -1)])
    tower: Any = loaded.model.vision_tower
    connector: Any = loaded.model.connector
    vision = {key.removeprefix("vision_model."): value for key, value in tower.model.state_dict().items()}
    parts: dict[str, Mapping[str, Tensor]] = {
        "llm": llm,
        "vision_tower": {key: value for key, value in vision.items() if not key.startswith("head.")},  # pooling
        "connector": connector.state_dict(),
    }
    if dtypes is not None:
        parts = {part: {key: value.to(dtypes[part]) for key, value in found.items()} for part, found in parts.items()}
    return joined(parts, layout.PREFIXES)


def _config(
    loaded: Loaded, layout: Any, placed: Placeholders, dtypes: Mapping[str, torch.dtype] | None
) -> dict[str, Any]:
    llm, part = loaded.model.llm, cast(Any, loaded.model.vision_tower)
    tower = part.model
    text = {**_settings(llm), "vocab_size": placed.rows, "architectures": [type(llm).__name__]}
    vision = {**_settings(tower), "architectures": [type(tower).__name__]}
    if "vision_use_head" in vision:
        vision["vision_use_head"] = False
    return {
        "architectures": [layout.ARCHITECTURE],
        "dtype": str(dtypes["llm"] if dtypes else loaded.model.dtype).removeprefix("torch."),
        "tie_word_embeddings": bool(llm.config.tie_word_embeddings),
        "text_config": text,
        "vision_config": vision,
        **layout.config(loaded, placed.ids),
    }


def _settings(model: Any) -> dict[str, Any]:
    return {key: value for key, value in model.config.to_dict().items() if key not in _NOTES}


def _generation(loaded: Loaded) -> dict[str, Any]:
    """Return the settings of generation: greedy, until the end of the template."""
    ends, _ = stops(loaded.processor)
    return {"do_sample": False, "eos_token_id": ends or None, "pad_token_id": loaded.processor.pad_id}


def differences(loaded: Loaded, layout: Any) -> list[str]:
    """Return what a server does differently."""
    template = loaded.processor.template
    sampler = {key: value for key, value in loaded.groups["sampler"].items() if value is not None}
    found = [f"The sampler is not exported: {sampler}. A server chooses frames by its own rule."]
    if layout.UNIT == "image" and (fields := chat_template.caller_fields(template.frame.style)):
        items = ", ".join(f"'{name}': ..." for name in fields)
        found.append(
            f"The text next to frames, {template.frame.style!r}, depends on the clip. The chat template writes it if "
            f"each image has these fields: {{'type': 'image', {items}}}. A server that passes images alone omits it."
        )
    elif template.frame.splits_frames and layout.UNIT == "image":
        found.append(f"The text next to frames, {template.frame.style!r}, is written for each image of a message.")
    if "{subtitle}" in template.frame.style:
        found.append("A server does not read subtitles.")
    if texts := stops(loaded.processor)[1]:
        found.append(f"A reply ends with {texts}, which is not one token: pass it as the stop string of each request.")
    return found


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
