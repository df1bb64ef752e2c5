"""Image models of timm: vision transformers (SigLIP, CLIP, DINOv3, EVA) and models with stages (EfficientNet)."""

import difflib
from contextlib import nullcontext
from pathlib import Path

import torch

from tinyvid.errors import ConfigError
from tinyvid.models.folders import CONFIG, WEIGHTS, loading, opened, settings_in
from tinyvid.models.vision_towers.intermediate import IntermediateTower
from tinyvid.models.vision_towers.metadata import HUB, LOCAL, Resize, check_architecture, image_spec, resized, square
from tinyvid.models.weights import check_sizes, load_strict, read_weights, without_weights
from tinyvid.registry import VISION_TOWERS


@VISION_TOWERS.register("timm")
def timm(
    *, path: str, revision: str | None = None, layer: int = -2, resize: Resize = "auto", dtype: torch.dtype
) -> "TimmTower":
    """Load an image model of timm: a vision transformer, or one whose stages return grids of features.

    Args:
        path: Architecture with the tag of its weights (``vit_base_patch16_siglip_224.webli``), ``hf-hub:<id>``, or a
            directory with ``config.json`` and ``model.safetensors`` as ``timm.models.save_for_hf`` writes them.
        revision: Commit, branch or tag of a hub id.
        layer: Index of the hidden state to return; -2 is the output of the second-to-last block, or of the
            second-to-last stage of a model that reduces its resolution, such as EfficientNet.
        resize: How frames become square; ``auto`` follows timm's metadata, which often crops the sides.
        dtype: Dtype of the weights.

    Raises:
        ConfigError: The architecture is unknown or returns no grids of features, or ``layer`` is out of range.
        CheckpointError: The path cannot be read, or its weights do not match.
    """
    try:
        import timm  # heavy, so imported only for this tower
    except ImportError as error:
        raise ConfigError("vision_tower 'timm' needs the package timm; run pip install timm") from error

    place = _place(path, revision)
    weights = () if without_weights() else WEIGHTS
    opening = nullcontext() if place is None else opened("vision_tower", place, [CONFIG], weights, revision=revision)
    with loading("vision_tower", path), opening as folder:
        name = path if folder is None else f"{LOCAL}{folder}"
        if folder is not None:
            check_sizes("vision_tower", path, settings_in(folder, CONFIG))
        tensors = read_weights(folder) if folder is not None and weights else None
        with torch.device("meta"):  # check shapes before anything takes memory
            model = timm.create_model(name, pretrained=False)
            if tensors is not None:
                load_strict(model, tensors, part="vision_tower", where=place)
        data = timm.data.resolve_model_data_config(model)
        side = square(data["input_size"][1:], f"vision_tower.path={path!r}")
        features, num_blocks = TimmTower.probe(model, side, layer, path)

        model = timm.create_model(name, pretrained=folder is None and bool(weights))
        if tensors is not None:
            load_strict(model, tensors, part="vision_tower", where=place)
        if hasattr(model, "reset_classifier"):  # the encoders of Qwen3 have none
            model.reset_classifier(0)
        crop = {"squash": "stretch", "border": "pad"}.get(data["crop_mode"], "crop")
        where = f"vision_tower.path={path!r}"
        image = resized(image_spec(data, side, where, resize=crop, crop_pct=data["crop_pct"]), resize)
    return TimmTower(model.eval().to(dtype=dtype), image, features, num_blocks)


class TimmTower(IntermediateTower):
    """Features of an image model of timm; see ``IntermediateTower``."""

    example = "vit_base_patch16_siglip_224"
    norm = "norm"

    def save(self, directory: Path) -> None:
        """Write the tower in the layout of timm, without the classifier."""
        from timm.models import save_for_hf

        save_for_hf(self.model, str(directory), model_args={"num_classes": 0}, safe_serialization=True)


def _place(path: str, revision: str | None) -> str | None:
    """Return the directory or hub id in ``path``; ``None`` for an architecture of timm."""
    folder = path.removeprefix(LOCAL)
    if Path(folder).is_dir():
        return folder
    if path.startswith(HUB):
        return path.removeprefix(HUB)
    check_architecture(path, revision, example="the name of a timm architecture")
    _check_weights(path)
    return None


def _check_weights(path: str) -> None:
    import timm

    architecture, _, tag = path.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        raise ConfigError(
            f"vision_tower.path={path!r}: timm has no architecture {architecture!r}"
            f"{'. Did you mean ' + ', '.join(near) + '?' if near else ''}"
            " List all names with python -c \"import timm; print(timm.list_models('vit*'))\""
        )
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if not tags or (tag and tag not in tags):
        raise ConfigError(
            f"vision_tower.path={path!r}: timm has no such weights. "
            f"Tags of {architecture!r}: {', '.join(sorted(tags)) or 'none; give a directory or a hub id'}"
        )
