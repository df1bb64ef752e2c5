"""What SECURITY.md promises: files that others made run nothing, leave no folder, and reach no network."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from tests.factories import save_llm
from tests.goldens import TINYLLAVA_VIDEO
from tests.towers import TOWERS
from tinyvid import Assistant
from tinyvid.command_line import escape_logs
from tinyvid.data.rows import RowFile
from tinyvid.errors import CheckpointError, ConfigError, DataError, PluginError, TinyvidError, VideoError
from tinyvid.registry import LLMS, VIDEO_READERS, VISION_TOWERS
from tinyvid.types import Video
from tinyvid.video.open_video import open_video

pytestmark = pytest.mark.slow

NATIVE = Path(__file__).parent / "data" / "native_checkpoints"
CHECKPOINTS = {
    "native": NATIVE / "group",
    "native_lora": NATIVE / "llamavid_lora",
    "tinyllava_video": TINYLLAVA_VIDEO / "group_qwen2",
    "tinyllava_video_folders": TINYLLAVA_VIDEO / "group_qwen2_folders",
    "tinyllava_video_lora": TINYLLAVA_VIDEO / "group_qwen2_lora",
}
PARTS = {"llm": save_llm, **TOWERS}
NESTED = ("text_config", "vision_config", "model_cfg", "pretrained_cfg", "model_args")
CANARY = "import pathlib\npathlib.Path(r'{mark}').touch()\nclass Thing: pass\n"
ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "a/b"}


class Unpickled:
    """Creates a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (Path(self.mark),))


def add_adapter(folder, **options):
    """Add an adapter, except where the layout has one."""
    if not (folder / "adapter_config.json").exists():
        (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | options))
        config = folder / "config.json"
        dim = json.loads(config.read_text()).get("hidden_size", 64) if config.is_file() else 64
        key = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
        shapes = {"A": (2, dim), "B": (dim, 2)}
        tensors = {key.format(n, half): torch.ones(shape) for n in range(2) for half, shape in shapes.items()}
        save_file(tensors, folder / "adapter_model.safetensors")


def edit_configs(folder, **settings):
    """Add settings to every JSON file of the folder that has an object at its top."""
    for file in folder.glob("*.json"):
        content = json.loads(file.read_text())
        if file.name in ("tokenizer.json", "vocab.json", "adapter_config.json") or not isinstance(content, dict):
            continue
        nested = {key: value | settings for key, value in content.items() if key in NESTED}
        file.write_text(json.dumps(content | settings | nested))


def add_adapter_that_imports(folder, mark):
    add_adapter(folder, megatron_config={"tensor_model_parallel_size": 1}, megatron_core="megatron.canary")


def add_adapter_that_changes(folder, mark):
    add_adapter(folder)


def add_adapter_that_hangs(folder, mark):
    add_adapter(folder, target_modules="(([a-z_.0-9]+)+)+X")


def add_modules(folder, mark):
    for name in ("modeling_canary", "tokenization_canary", "configuration_canary", "torch", "sitecustomize"):
        (folder / f"{name}.py").write_text(CANARY.format(mark=mark))
    (folder / "custom_generate").mkdir(exist_ok=True)
    (folder / "custom_generate" / "generate.py").write_text(CANARY.format(mark=mark))
    classes = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoImageProcessor")
    names = dict.fromkeys(classes, "modeling_canary.Thing") | {"AutoTokenizer": ["modeling_canary.Thing"] * 2}
    edit_configs(folder, auto_map=names, custom_generate="custom_generate", trust_remote_code=True)


def add_pickles(folder, mark):
    names = ("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "vocab.pkl", "x.ckpt")
    for name in names:
        if not (folder / name).exists():
            torch.save({"x": Unpickled(mark)}, folder / name)


def add_templates(folder, mark):
    template = "{{ cycler.__init__.__globals__.os.system('touch " + str(mark) + "') }}"
    (folder / "chat_template.jinja").write_text(template)
    (folder / "additional_chat_templates").mkdir(exist_ok=True)
    (folder / "additional_chat_templates" / "default.jinja").write_text(template)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    edit_configs(folder, chat_template=template)


def add_generation(folder, mark):
    settings = {"temperature": 9.0, "do_sample": True, "num_beams": 50, "assistant_model": "a/b", "eos_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Thing"}))


def choose_load_options(folder, mark):
    edit_configs(
        folder,
        attn_implementation="flex_attention",
        _attn_implementation="canary/kernel",
        _attn_implementation_internal="canary/kernel",
        experts_implementation="canary/kernel",
        quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True},
        compression_config={"quant_method": "compressed-tensors"},
        use_kernels=True,
        attribute_map={"canary": "quantization_config"},
        canary={"quant_method": "bitsandbytes", "load_in_8bit": True},
    )


def name_other_files(folder, mark):
    outside = folder.parent / "outside"
    outside.mkdir(exist_ok=True)
    save_file({"x": torch.ones(1)}, outside / "model.safetensors")
    (outside / "tokenizer.1.0.0.json").write_text("{}")
    edit_configs(
        folder,
        transformers_weights="../outside/model.safetensors",
        gguf_file="../outside/x.gguf",
        tokenizer_file=str(outside / "tokenizer.1.0.0.json"),
        vocab_file=str(outside / "tokenizer.1.0.0.json"),
        fast_tokenizer_files=["../outside/tokenizer.1.0.0.json"],
        _name_or_path="owner/elsewhere",
        tokenizer_name="owner/elsewhere",
    )


PLANTED = (
    add_adapter_that_imports,
    add_adapter_that_changes,
    add_adapter_that_hangs,
    add_modules,
    add_pickles,
    add_templates,
    add_generation,
    choose_load_options,
    name_other_files,
)


def load(name, folder):
    """Return the modules of a layout, and its tokenizer's files."""
    if name in CHECKPOINTS:
        model = Assistant.from_pretrained(folder, device="cpu", dtype="float32").model
        return {"llm": model.llm, "vision_tower": model.vision_tower, "connector": model.connector}
    if name == "llm":
        options = {"name": "auto", "path": str(folder), "max_length": 64}
        return {"llm": LLMS.build(options, dtype=torch.float32, quant="none", device="cpu").model}
    options = {"name": name, "path": str(folder)}
    return {"vision_tower": VISION_TOWERS.build(options, dtype=torch.float32)}


watching: list[list[tuple[str, str]]] = []


def _audit(event, args):
    if watching and event in ("open", "import", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.exec"):
        watching[-1].append((event, str(args[0] if event != "socket.connect" else args[1])))


@contextmanager
def watched():
    """Record what Python opens, imports, starts and connects to."""
    if not hasattr(sys, "tinyvid_audit"):
        sys.tinyvid_audit = True
        sys.addaudithook(_audit)  # cannot be removed
    watching.append([])
    try:
        yield watching[-1]
    finally:
        watching.pop()


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


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("layout", [*CHECKPOINTS, *PARTS])
def test_planted_files_do_nothing(layout, plant, canary, tmp_path):
    folder = tmp_path / "folder"
    if layout in CHECKPOINTS:
        shutil.copytree(CHECKPOINTS[layout], folder)
    else:
        PARTS[layout](folder)
    before = load(layout, folder)
    for part in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
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
    for part, module in before.items():
        assert same(module, after[part]), f"{part} was changed"


def same(one, other):
    states = one.state_dict(), other.state_dict()
    if states[0].keys() != states[1].keys() or [*map(str, one.modules())][1:] != [*map(str, other.modules())][1:]:
        return False
    settings = [getattr(getattr(model, "config", None), "_attn_implementation", None) for model in (one, other)]
    return settings[0] == settings[1] and all(torch.equal(states[0][key], states[1][key]) for key in states[0])


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
    PARTS[layout](tmp_path / "folder")
    before = load(layout, tmp_path / "folder")
    for plant in (add_modules, add_pickles, add_templates, add_generation):
        plant(tmp_path / "folder", canary)
    hub_cache(tmp_path, monkeypatch, tmp_path / "folder", "owner/name")
    name = "owner/name" if layout in ("llm", "siglip") else "hf-hub:owner/name"
    if layout not in ("timm", "open_clip"):  # which refuse the keys
        after = load(layout, name)
        assert all(same(module, after[part]) for part, module in before.items())
    add_adapter_that_imports(tmp_path / "folder", canary)
    shutil.rmtree(tmp_path / "hub")
    hub_cache(tmp_path, monkeypatch, tmp_path / "folder", "owner/name")
    with pytest.raises(CheckpointError, match="has adapter_config.json beside its weights; merge the adapter"):
        load(layout, name)
    assert not canary.exists()


@pytest.mark.parametrize("layout", CHECKPOINTS)
def test_a_link_that_leaves_the_checkpoint_is_refused(layout, tmp_path):
    shutil.copytree(CHECKPOINTS[layout], tmp_path / "folder")
    weights = next(path for path in sorted((tmp_path / "folder").rglob("*")) if path.suffix in (".safetensors", ".bin"))
    weights.rename(tmp_path / "outside")
    weights.symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match=r"is a link to .*outside, outside .*; replace it with a copy"):
        load(layout, tmp_path / "folder")


@pytest.mark.parametrize("layout", PARTS)
def test_a_link_that_leaves_a_part_is_refused(layout, tmp_path):
    folder = PARTS[layout](tmp_path / "folder")
    weights = next(folder.glob("*.safetensors"))
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
    shutil.copytree(CHECKPOINTS[layout], tmp_path / "folder")
    (tmp_path / "folder" / file).unlink()
    os.mkfifo(tmp_path / "folder" / file)
    with pytest.raises(CheckpointError, match=r"is not a regular file|is not a known checkpoint"):
        load(layout, tmp_path / "folder")


@pytest.mark.parametrize("layout", ["timm", "open_clip"])
@pytest.mark.parametrize("name", ["hf-hub:owner/name", "local-dir:{outside}", "hf_hub:owner/name", "{outside}", "../x"])
def test_an_architecture_outside_its_folder_is_refused(layout, name, tmp_path):
    folder = PARTS[layout](tmp_path / "folder")
    name = name.format(outside=PARTS["timm"](tmp_path / "outside"))
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


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """The file that appears when a program called ``gs`` is started."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # Pillow remembers what it found
    return tmp_path / "started"


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\n%%EOF\n"


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.bmp"])
def test_postscript_is_not_an_image(name, ghostscript, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / name).write_bytes(EPS)
    for video in (Video(str(folder / name)), Video(str(folder), fps=1.0)):
        with watched() as events, pytest.raises(VideoError, match="cannot be read as an image"):
            open_video(video, VIDEO_READERS.build({"name": "pyav"})).read([0])
        assert not [event for event in events if event[0] == "subprocess.Popen"]
    assert not ghostscript.exists()


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "ICO", "PCX", "TGA", "SGI", "JPEG2000", "DDS", "PDF"])
def test_only_documented_formats_are_images(kind, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png", format=kind)
    with pytest.raises(VideoError, match="cannot be read as an image"):
        open_video(Video(str(tmp_path / "x.png")), VIDEO_READERS.build({"name": "pyav"}))


@pytest.mark.parametrize("name", ["x.mp4", "x.png", "x.mkv", "x"])
def test_a_pipe_or_device_is_not_a_video(name, tmp_path):
    os.mkfifo(tmp_path / name)
    for path in (tmp_path / name, "/dev/zero"):
        with pytest.raises(VideoError, match="is not a regular file"):
            open_video(Video(str(path)), VIDEO_READERS.build({"name": "auto"}))
    with pytest.raises(VideoError):
        open_video(Video(str(tmp_path), fps=1.0), VIDEO_READERS.build({"name": "auto"}))


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile 'pipe.mp4'\n",
        "\n\nffconcat version 1.0\nfile 'pipe.mp4'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\npipe.ts\n#EXT-X-ENDLIST\n",
    ],
)
@pytest.mark.parametrize("name", ["x.mp4", "x.m3u8", "x.ffconcat"])
def test_a_playlist_opens_no_other_file(text, name, tmp_path):
    for segment in ("pipe.mp4", "pipe.ts"):
        os.mkfifo(tmp_path / segment)
    (tmp_path / name).write_text(text)
    with pytest.raises(VideoError):
        open_video(Video(str(tmp_path / name)), VIDEO_READERS.build({"name": "pyav"}))


def test_a_pipe_is_not_a_file_of_rows(tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="is not a regular file"):
        RowFile(tmp_path / "rows.jsonl")


ESCAPE = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202e"


@pytest.mark.parametrize("error", [ConfigError, VideoError, DataError, CheckpointError, PluginError])
def test_escape_sequences_in_errors_are_escaped(error):
    assert str(error(f"a{ESCAPE}b\n\té数据👩‍👧")) == r"a\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202eb" + "\n\té数据👩‍👧"


def test_escape_sequences_in_names_do_not_reach_the_terminal(tmp_path):
    name = f"{ESCAPE}.mp4"
    (tmp_path / name).write_text("x")
    command = [sys.executable, "eval.py", f"video={tmp_path / name}", "question=What?"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1])
    assert done.returncode == 2
    assert r"\x1b]0;owned\x07" in done.stderr
    assert not set(ESCAPE[0] + ESCAPE[-1] + "\x07\x9b") & set(done.stdout + done.stderr)


def test_escape_sequences_in_logs_are_escaped(monkeypatch):
    before = logging.getLogRecordFactory()
    try:
        escape_logs()
        record = logging.getLogger("tinyvid.x").makeRecord("x", 30, "f", 1, "Sample %s", (ESCAPE,), None)
        assert logging.Formatter().format(record) == r"Sample \x1b]0;owned\x07\x1b[2J\r\x9b31m\u202e"
    finally:
        logging.setLogRecordFactory(before)


@pytest.fixture
def copied(tmp_path):
    shutil.copytree(CHECKPOINTS["native_lora"], tmp_path / "folder")
    return tmp_path / "folder"


def refused_soon(folder, match, *, layout="native_lora"):
    begin = time.monotonic()
    with pytest.raises(CheckpointError, match=match):
        load(layout, folder)
    assert time.monotonic() - begin < 10


def test_yaml_aliases_that_multiply_are_refused(copied):
    manifest = yaml.safe_load((copied / "tinyvid.yaml").read_text())
    lists = ["&a0 [x,x,x,x,x,x,x,x,x]", *(f"&a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]
    text = yaml.safe_dump(manifest | {"stored": []}).replace("stored: []", "stored:\n- " + "\n- ".join(lists))
    (copied / "tinyvid.yaml").write_text(text)
    refused_soon(copied, r"tinyvid.yaml expands to [\d,]+ values; at most 100,000 are read")


def test_a_large_manifest_is_refused(copied):
    with (copied / "tinyvid.yaml").open("a") as file:
        file.write("# " + "x" * (2 << 20))
    refused_soon(copied, r"tinyvid.yaml has [\d,]+ bytes; at most 1,048,576 are read")


@pytest.mark.parametrize("part", ["adapter", "connector_adapter"])
@pytest.mark.parametrize("rank", [10**9, 10**30, 3, "4", True, None])
def test_the_rank_of_an_adapter_is_compared_before_it_takes_memory(part, rank, copied):
    file = copied / part / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": rank}))
    refused_soon(copied, rf"r={rank!r} does not match its weights")


def test_many_names_in_safetensors_are_refused(copied):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"n{number}": entry for number in range(200_000)}).encode()
    content = len(header).to_bytes(8, "little") + header
    for file in sorted(copied.rglob("*.safetensors")):
        before = file.read_bytes()
        file.write_bytes(content)
        if not file.name.startswith("expected"):
            refused_soon(copied, r"its header claims [\d,]+ bytes, and at most 8,388,608 are read")
        file.write_bytes(before)


def test_labels_without_end_are_ignored(tmp_path):
    folder = save_llm(tmp_path / "llm")
    edit_configs(folder, num_labels=10**12)
    load("llm", folder)


def test_a_link_to_itself_is_refused(copied):
    (copied / "notes").symlink_to(copied / "notes")
    with pytest.raises(CheckpointError, match=r"notes cannot be resolved"):
        load("native_lora", copied)
