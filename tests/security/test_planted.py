"""Planted files are never run, and no part of a checkpoint lies outside its folder."""

import json
import os
import shutil
import sys

import pytest

from tests.security.layouts import CHECKPOINTS, PARTS, copied, load, loaded, same, watched
from tests.security.plants import (
    CANARY,
    TOGETHER,
    add_adapter_that_imports,
    add_generation,
    add_modules,
    add_pickles,
    add_templates,
)
from tinyvid.errors import CheckpointError, TinyvidError

pytestmark = pytest.mark.slow


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """The file that appears when planted code runs; a module that any program could import is planted, too."""
    package = tmp_path / "path" / "megatron"  # the only package that peft lets an adapter name
    package.mkdir(parents=True)
    for name in ("__init__", "canary"):
        (package / f"{name}.py").write_text(CANARY.format(mark=tmp_path / "ran"))
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    yield tmp_path / "ran"
    for name in ("megatron", "megatron.canary"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("plants", TOGETHER.values(), ids=TOGETHER)
@pytest.mark.parametrize("layout", [*CHECKPOINTS, *PARTS])
def test_planted_files_do_nothing(layout, plants, canary, tmp_path):
    folder = copied(layout, tmp_path / "folder")
    for part in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        for plant in plants:
            plant(part, canary)
    refused, after = "", None
    with watched() as events:
        try:
            after = load(layout, folder)
        except TinyvidError as error:
            refused = str(error)
    assert not canary.exists()
    outside = str(tmp_path / "outside")
    assert not [
        event for event in events if event[0].startswith(("socket", "subprocess", "os.")) or outside in event[1]
    ]
    if after is None:  # all else is left unread
        assert "adapter" in refused or layout in ("timm", "open_clip"), refused
        return
    for part, module in loaded(layout).items():
        assert same(module, after[part]), f"{part} was changed"


def hub_cache(tmp_path, monkeypatch, source, name):
    """Put a folder into a cache of the hub, in which files are links to blobs."""
    root = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    snapshot, commit = root / "snapshots", "0" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    (root / "blobs").mkdir()
    for number, file in enumerate(path for path in sorted(source.rglob("*")) if path.is_file()):
        shutil.copy(file, root / "blobs" / str(number))
        place = snapshot / commit / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(root / "blobs" / str(number))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("layout", PARTS)
def test_a_reference_to_the_hub_follows_the_same_rule(layout, canary, tmp_path, monkeypatch):
    copied(layout, tmp_path / "folder")
    for plant in (add_modules, add_pickles, add_templates, add_generation):
        plant(tmp_path / "folder", canary)
    hub_cache(tmp_path, monkeypatch, tmp_path / "folder", "owner/name")
    name = "hf-hub:owner/name" if layout in ("timm", "open_clip") else "owner/name"
    if layout not in ("timm", "open_clip"):  # which refuse the keys
        after = load(layout, name)
        assert all(same(module, after[part]) for part, module in loaded(layout).items())
    add_adapter_that_imports(tmp_path / "folder", canary)
    shutil.rmtree(tmp_path / "hub")
    hub_cache(tmp_path, monkeypatch, tmp_path / "folder", "owner/name")
    with pytest.raises(CheckpointError, match="has adapter_config.json beside its weights; merge the adapter"):
        load(layout, name)
    assert not canary.exists()


@pytest.mark.parametrize("layout", [*CHECKPOINTS, *PARTS])
def test_a_link_that_leaves_the_folder_is_refused(layout, tmp_path):
    folder = copied(layout, tmp_path / "folder")
    weights = next(path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".bin"))
    weights.rename(tmp_path / "outside")
    weights.symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match=r"is a link to .*outside, outside .*; replace it with a copy"):
        load(layout, folder)


UNREAD = [("tinyllava_video_folders", "config.json"), ("tinyllava_video_lora", "config.json")]  # of folders
FILES = [
    (layout, str(file.relative_to(folder)))
    for layout, folder in CHECKPOINTS.items()
    for file in sorted(folder.rglob("*"))
    if file.is_file() and not file.name.startswith(("expected", "README", "special_tokens", "generation"))
    if (layout, file.name) not in UNREAD or file.parent == folder
]


@pytest.mark.parametrize(("layout", "file"), FILES)
def test_a_pipe_in_place_of_a_file_never_blocks(layout, file, tmp_path):
    folder = copied(layout, tmp_path / "folder")
    (folder / file).unlink()
    os.mkfifo(folder / file)
    with pytest.raises(CheckpointError, match=r"is not a regular file|is not a known checkpoint"):
        load(layout, folder)


@pytest.mark.parametrize("layout", ["timm", "open_clip"])
@pytest.mark.parametrize("name", ["hf-hub:owner/name", "local-dir:{outside}", "hf_hub:owner/name", "{outside}", "../x"])
def test_an_architecture_outside_its_folder_is_refused(layout, name, tmp_path):
    folder = copied(layout, tmp_path / "folder")
    name = name.format(outside=copied("timm", tmp_path / "outside"))
    file = folder / ("config.json" if layout == "timm" else "open_clip_config.json")
    config = json.loads(file.read_text())
    if layout == "timm":
        config["architecture"] = name
    else:
        config["model_cfg"]["vision_cfg"]["timm_model_name"] = name
    file.write_text(json.dumps(config))
    with watched() as events, pytest.raises(CheckpointError, match=r"is not an architecture of timm|Unknown model"):
        load(layout, folder)
    assert not [event for event in events if event[0].startswith("socket") or str(tmp_path / "outside") in event[1]]
