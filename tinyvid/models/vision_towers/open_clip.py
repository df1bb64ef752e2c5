"""Image towers of open_clip: CLIP, SigLIP, MobileCLIP and others. Text towers are dropped."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinyvid.errors import CheckpointError, ConfigError, suggest
from tinyvid.models.folders import loading, opened, settings_in, weight_files
from tinyvid.models.vision_towers.intermediate import IntermediateTower
from tinyvid.models.vision_towers.metadata import HUB, LOCAL, Resize, check_architecture, image_spec, resized, square
from tinyvid.models.weights import check_sizes, load_strict, read_tensors, without_weights
from tinyvid.registry import VISION_TOWERS
from tinyvid.types import FeatureSpec, ImageSpec

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
_VISUAL = "visual."  # prefix of the image tower in the weights of a CLIP model


@VISION_TOWERS.register("open_clip")
def open_clip(
    *, path: str, revision: str | None = None, layer: int = -2, resize: Resize = "auto", dtype: torch.dtype
) -> "OpenClipTower":
    """Load the image tower of an open_clip model.

    Args:
        path: Architecture and tag of its weights (``ViT-B-16-SigLIP:webli``), ``hf-hub:<id>``, or a directory with
            ``open_clip_config.json`` and weights.
        revision: Commit, branch or tag of a hub id.
        layer: Index of the hidden state to return; -2 is the output of the second-to-last block, or of the
            second-to-last stage of a model that reduces its resolution, such as ConvNeXt.
        resize: How frames become square; ``auto`` follows open_clip's metadata, which crops the sides for CLIP.
        dtype: Dtype of the weights.

    Raises:
        ConfigError: The architecture or tag is unknown, the model returns no grids of features, or ``layer`` is out
            of range.
        CheckpointError: The path cannot be read, or its weights do not match.
    """
    try:
        import open_clip  # heavy, so imported only for this tower
    except ImportError as error:
        raise ConfigError(
            "vision_tower 'open_clip' needs the package open_clip; run pip install open_clip_torch"
        ) from error

    place = path.removeprefix(LOCAL).removeprefix(HUB)
    with loading("vision_tower", path):
        if Path(place).is_dir() or path.startswith(HUB):
            with opened("vision_tower", place, [CONFIG], WEIGHTS, revision=revision) as folder:
                config = _read_config(folder, path)
                (file,) = weight_files(folder, *WEIGHTS)
                tensors = {k.removeprefix(_VISUAL): v for k, v in read_tensors(file).items() if k.startswith(_VISUAL)}
                features, num_blocks = _probe(config, layer, path, tensors)
                model = _build(config)
                load_strict(model, tensors, part="vision_tower", where=file)
        else:
            architecture, tag = _architecture_and_tag(path, revision)
            config = {"model_cfg": open_clip.get_model_config(architecture)}
            features, num_blocks = _probe(config, layer, path)
            if without_weights():
                model, stored = _build(config), open_clip.get_pretrained_cfg(architecture, tag)
                config["preprocess_cfg"] = {key: stored[key] for key in _PREPROCESSING if key in stored}
            else:
                model = open_clip.create_model(architecture, pretrained=tag, require_pretrained=True).visual
                config["preprocess_cfg"] = model.preprocess_cfg
        image = resized(_image_spec(config, model, path), resize)
    return OpenClipTower(model.eval().to(dtype=dtype), image, features, num_blocks, config=config)


class OpenClipTower(IntermediateTower):
    """Patch features of an image tower of open_clip, its ``visual`` part; see ``IntermediateTower``."""

    example = "ViT-B-16-SigLIP:webli"
    norm = "normalize_intermediates"

    def __init__(
        self, model: Any, image: ImageSpec, features: FeatureSpec, num_blocks: int, *, config: Mapping[str, Any]
    ) -> None:
        super().__init__(model, image, features, num_blocks)
        self.config = config

    def save(self, directory: Path) -> None:
        """Write the image tower in the layout of open_clip, without the text tower."""
        from safetensors.torch import save_file

        directory.mkdir(parents=True, exist_ok=True)
        (directory / CONFIG).write_text(json.dumps(self.config, indent=2), encoding="utf-8")
        tensors = {f"{_VISUAL}{key}": value.contiguous() for key, value in self.model.state_dict().items()}
        save_file(tensors, directory / WEIGHTS[0])


def _read_config(folder: Path, path: str) -> dict[str, Any]:
    config, where = settings_in(folder, CONFIG), f"{CONFIG} of vision_tower.path={path!r}"
    try:
        vision = config["model_cfg"]["vision_cfg"]
        vision["timm_model_pretrained"] = False  # the weights are next to the file
        architecture = vision.get("timm_model_name")
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where} is not a configuration of open_clip: {error!r}") from error
    if architecture is not None:  # timm would also accept a hub id or another folder
        import timm

        if not isinstance(architecture, str) or not timm.is_model(architecture):
            raise CheckpointError(f"{where}: timm_model_name={architecture!r} is not an architecture of timm")
    check_sizes("vision_tower", path, config)
    return config


def _architecture_and_tag(path: str, revision: str | None) -> tuple[str, str]:
    import open_clip

    architecture, _, tag = path.partition(":")
    example = "an open_clip architecture with a tag, such as ViT-B-16-SigLIP:webli"
    check_architecture(path, revision, example=example)
    if architecture not in open_clip.list_models():
        raise ConfigError(
            f"vision_tower.path={path!r}: open_clip has no architecture {architecture!r}. "
            f"{suggest(architecture, open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise ConfigError(
            f"vision_tower.path={path!r}: {architecture} has no weights with the tag {tag!r}. Write "
            f"{architecture}:<tag>; available tags: {', '.join(tags) or 'none; give a directory or a hub id'}"
        )
    wants, has = (
        bool(settings.get("quick_gelu", False))
        for settings in (open_clip.get_pretrained_cfg(architecture, tag), open_clip.get_model_config(architecture))
    )
    if wants != has:
        raise ConfigError(
            f"vision_tower.path={path!r}: these weights were trained {'with' if wants else 'without'} QuickGELU, "
            f"but this architecture runs {'with' if has else 'without'} it; choose the architecture "
            f"{architecture + '-quickgelu' if wants else architecture.removesuffix('-quickgelu')}"
        )
    return architecture, tag


def _build(config: Mapping[str, Any]) -> Any:
    """Build only the image tower, without weights."""
    from open_clip.model import _build_vision_tower  # the public function also builds the text tower

    settings = config["model_cfg"]
    return _build_vision_tower(settings["embed_dim"], dict(settings["vision_cfg"]), settings.get("quick_gelu", False))


def _probe(
    config: Mapping[str, Any], layer: int, path: str, tensors: Mapping[str, Tensor] | None = None
) -> tuple[FeatureSpec, int]:
    """Probe the tower in ``config``, after comparing it with its weights; see ``IntermediateTower.probe``."""
    with torch.device("meta"):
        model = _build(config)
        if tensors is not None:
            load_strict(model, tensors, part="vision_tower", where=path)
    return OpenClipTower.probe(model, square(model.image_size, f"vision_tower.path={path!r}"), layer, path)


def _image_spec(config: Mapping[str, Any], model: Any, path: str) -> ImageSpec:
    from open_clip.transform import PreprocessCfg

    settings = asdict(PreprocessCfg()) | dict(config.get("preprocess_cfg") or {})
    resize = {"squash": "stretch", "longest": "pad"}.get(settings["resize_mode"], "crop")
    where = f"vision_tower.path={path!r}"
    return image_spec(settings, square(model.image_size, where), where, resize=resize)
