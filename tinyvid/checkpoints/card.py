"""Write the model card (README.md) of a checkpoint, and its metadata for the hub."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HERE = "path/to/this/folder"  # in the example of a card; on the hub, the id
FENCE = "---\n"


def front_matter(
    origins: Iterable[str | None],
    *,
    tags: Sequence[str] = (),
    results: Sequence[Mapping[str, Any]] = (),
    name: str = "",
) -> str:
    """Return the metadata at the start of a card.

    Args:
        origins: Where the weights came from; only hub ids are listed.
        tags: Tags besides those that every card has.
        results: Results of evaluations, in the form of the hub's ``model-index``.
        name: Name of the model, for these results.
    """
    head: dict[str, Any] = {
        "library_name": "tinyvid",
        "pipeline_tag": "video-text-to-text",
        "tags": ["tinyvid", "video", *tags],
    }
    if bases := sorted({name for name in origins if name and _is_hub_id(name)}):
        head["base_model"] = bases
    if results:
        head["model-index"] = [{"name": name, "results": [*results]}]
    return _fenced(head)


def of_manifest(manifest: Mapping[str, Any]) -> str:
    """Return the card of a checkpoint that ``native.save`` writes."""

    def origin(part: str) -> str:
        return "stored here" if part in manifest["stored"] else f"from `{manifest[part]['path']}`"

    elsewhere = [manifest[part]["path"] for part in ("llm", "vision_tower") if part not in manifest["stored"]]
    return f"""{front_matter(elsewhere, tags=["lora"] if manifest["adapters"] else [])}
# A video-language model made with tinyvid {manifest["version"]}

| part | name and source |
|---|---|
| LLM | `{manifest["llm"]["name"]}`, {origin("llm")} |
| vision tower | `{manifest["vision_tower"]["name"]}`, {origin("vision_tower")} |
| connector | `{manifest["connector"]["name"]}`, stored here |
| frames | `{manifest["sampler"]}` |

```python
from tinyvid import Assistant

print(Assistant.from_pretrained("{HERE}").ask("clip.mp4", "What happens?"))
```
"""


def on_hub(text: str, repo: str, license: str | None) -> str:
    """Return a card with the hub id in its example, and with a license if one is given."""
    text = text.replace(f'"{HERE}"', f'"{repo}"')
    if license is None:
        return text
    before, head, rest = text.split(FENCE, 2) if text.startswith(FENCE) and text.count(FENCE) > 1 else ("", "", text)
    return before + _fenced({**(yaml.safe_load(head) or {}), "license": license}) + rest


def _fenced(head: Mapping[str, Any]) -> str:
    return f"{FENCE}{yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True)}{FENCE}"


def _is_hub_id(name: str) -> bool:
    return bool(HUB_ID.fullmatch(name)) and not Path(name).exists()
