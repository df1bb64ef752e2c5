"""Random damage to the files of a checkpoint: values, bytes, missing, exchanged and extra files, links."""

import json
import os
import random

import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.security.plants import PLANTED

NESTED = "[" * 2000 + "]" * 2000
VALUES = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 17, 1000, 10**6, 10**9, 2**31, 2**63, 10**30, -(10**9)),
    *(0.5, -1.5, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "auto", "${oc.env:HOME}", "${a.b}", "../../outside", "/etc/passwd", "owner/name", "hf-hub:owner/name"),
    *("local-dir:/tmp", "(([a-z]+)+)+$", "\x1b[2J", "\x00", "\ud800", "x" * 100_000, "gelu", "bf16", "torch.float16"),
    *([], [None], [1, 2, 3], ["x"] * 3, [[[]]], [0.5] * 3, [10**9], [0] * 3, ["full_attention"] * 5, [1] * 100_000),
    *({}, {"a": {"b": None}}, {"name": "x"}, {"rope_type": "yarn", "factor": 1e300}, {"content": "x", "id": -1}),
)
KEYS = (
    *("hidden_size", "vocab_size", "num_hidden_layers", "image_size", "patch_size", "head_dim", "intermediate_size"),
    *("num_attention_heads", "num_key_value_heads", "num_channels", "hidden_act", "dtype", "torch_dtype"),
    *("rope_parameters", "rope_scaling", "rope_theta", "max_position_embeddings", "layer_types", "sliding_window"),
    *("pruned_heads", "problem_type", "id2label", "label2id", "output_hidden_states", "return_dict", "tie_encoder"),
    *("use_cache", "pad_token_id", "eos_token_id", "bos_token_id", "tie_word_embeddings", "model_type", "text_config"),
    *("vision_config", "architectures", "sub_configs", "base_model_tp_plan", "_name_or_path", "tokenizer_class"),
    *("model_max_length", "added_tokens_decoder", "extra_special_tokens", "additional_special_tokens", "pad_token"),
    *("eos_token", "model_input_names", "padding_side", "truncation_side", "chat_template", "backend", "vocab_size"),
    *("model_args", "pretrained_cfg", "architecture", "num_classes", "input_size", "mean", "std", "interpolation"),
    *("embed_dim", "depth", "img_size", "in_chans", "mlp_ratio", "num_heads", "patch_drop_rate", "global_pool"),
    *("timm_model_name", "timm_pool", "hf_model_name", "layers", "width", "head_width", "attentional_pool", "size"),
    *("crop_size", "image_mean", "image_std", "rescale_factor", "resample", "do_resize", "act_kwargs", "norm_kwargs"),
    *("r", "lora_alpha", "target_modules", "exclude_modules", "use_dora", "task_type", "lora_dropout", "peft_type"),
)
RAW = (
    *(b"", b"null", b"[]", b"{}", b"1", b"NaN", b'"x"', b"{", b"\x00" * 64, b"\xff\xfe\x00", b"\xef\xbb\xbf{}"),
    *(b"9" * 10_000, b'{"a": ' + b"9" * 10_000 + b"}", NESTED.encode(), b'{"a":' * 2000 + b"1" + b"}" * 2000),
    *(
        b"[" * 200_000,
        b'{"weight_map": {"x": "../x"}}',
        b'{"weight_map": []}',
        b"x: &a [*a]\n",
        b"PK\x03\x04",
        b"\x80\x04N.",
    ),
)


def mutate(folder, layouts, seed, mark):
    """Apply one random change to a folder, and return its description."""
    rng = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("expected"))
    if not files:
        return "nothing left"
    change = rng.choice(
        [value] * 8 + [key] * 4 + [raw, raw, cut, flip, removed, exchanged, linked, tensors, header, planted]
    )
    if change in (value, key):
        files = [file for file in files if file.suffix in (".json", ".yaml")] or files
    if change in (tensors, header):
        files = [file for file in files if file.suffix == ".safetensors"] or files
    if change is planted:
        folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        return planted(rng, rng.choice(folders), mark)
    file = rng.choice(files)
    return f"{file.relative_to(folder)}: {change(rng, file, layouts)}"


def read(file):
    text = file.read_text(errors="replace")
    try:
        return yaml.safe_load(text) if file.suffix == ".yaml" else json.loads(text)
    except Exception:
        return None


def write(file, content):
    file.unlink()
    if file.suffix == ".yaml":
        file.write_text(yaml.safe_dump(content, sort_keys=False))
    else:
        file.write_text(json.dumps(content))


def nodes(content, most=300):
    """Return the containers of a document with the keys of their members."""
    found, queue = [], [content]
    while queue and len(found) < most:
        node = queue.pop(0)
        members = list(node.items()) if isinstance(node, dict) else list(enumerate(node[:20]))
        found += [(node, name) for name, _ in members]
        queue += [member for _, member in members if isinstance(member, dict | list)]
    return found


def value(rng, file, layouts):
    content = read(file)
    if not isinstance(content, dict | list) or not nodes(content):
        return raw(rng, file, layouts)
    node, name = rng.choice(nodes(content))
    if rng.random() < 0.2:
        node.pop(name)
        write(file, content)
        return f"without {name!r}"
    old = node[name]
    new = rng.choice(VALUES)
    if type(old) is int and rng.random() < 0.5:
        new = rng.choice([old + 1, old * 2, old * 1000, old // 2, -old, old - 1])
    node[name] = new
    write(file, content)
    return f"{name!r}: {old!r:.40} -> {new!r:.60}"


def key(rng, file, layouts):
    content = read(file)
    if not isinstance(content, dict):
        return raw(rng, file, layouts)
    places = [content, *(member for member in content.values() if isinstance(member, dict))]
    place, name, new = rng.choice(places), rng.choice(KEYS), rng.choice(VALUES)
    place[name] = new
    write(file, content)
    return f"+{name!r}: {new!r:.60}"


def raw(rng, file, layouts):
    file.unlink()
    content = rng.choice(RAW)
    file.write_bytes(content)
    return f"= {content!r:.60}"


def cut(rng, file, layouts):
    content = file.read_bytes()
    length = rng.randrange(len(content) + 1)
    file.unlink()
    file.write_bytes(content[:length])
    return f"cut to {length} of {len(content)}"


def flip(rng, file, layouts):
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice([1, 3, 30])):
        if content:
            content[min(rng.randrange(len(content)), rng.choice([len(content), 4000]) - 1)] = rng.randrange(256)
    file.unlink()
    file.write_bytes(content)
    return "flipped bytes"


def removed(rng, file, layouts):
    file.unlink()
    if rng.random() < 0.3:
        file.mkdir()
        return "a folder"
    return "removed"


def exchanged(rng, file, layouts):
    others = sorted(path for folder in layouts for path in folder.rglob("*") if path.is_file())
    same = [path for path in others if path.name == file.name]
    other = rng.choice(same if same and rng.random() < 0.7 else others)
    content = other.read_bytes()
    file.unlink()
    file.write_bytes(content)
    return f"content of {other.parent.name}/{other.name}"


def linked(rng, file, layouts):
    target = rng.choice(["/etc/passwd", "/dev/zero", "/dev/tty", str(file), "../../outside", "missing", "."])
    file.unlink()
    if rng.random() < 0.2:
        os.mkfifo(file)
        return "a pipe"
    file.symlink_to(target)
    return f"a link to {target}"


DTYPES = (torch.int8, torch.float64, torch.bool, torch.int64, torch.bfloat16, torch.float8_e4m3fn, torch.uint8)
TENSORS = (
    lambda rng, tensor: torch.full_like(tensor, torch.nan),
    lambda rng, tensor: tensor.to(rng.choice(DTYPES)),
    lambda rng, tensor: tensor[:1].clone(),
    lambda rng, tensor: tensor[:0].clone(),
    lambda rng, tensor: tensor.reshape(-1),
    lambda rng, tensor: tensor[None],
    lambda rng, tensor: torch.cat([tensor, tensor]),
    lambda rng, tensor: tensor * 1e30,
    lambda rng, tensor: torch.tensor(1.0),
    lambda rng, tensor: None,
)
NAMES = ("x", "", "\x1b[2J", "model.layers.5.mlp.up_proj.weight", "lm_head.weight", "base_layer.x")
FIELDS = {
    "dtype": ("F32", "X", None, "I64", "BOOL"),
    "shape": ([0, 0], [10**18, 10**18], [-1], [2**64 - 1], [1] * 100, None),
    "data_offsets": ([0, 0], [0, 10**12], [-1, 4], [5, 1], None),
}


def tensors(rng, file, layouts):
    try:
        found = load_file(file)
    except Exception:
        return raw(rng, file, layouts)
    name, change = rng.choice(sorted(found)), rng.randrange(len(TENSORS))
    tensor = found[name] if found[name].ndim else found[name][None]
    found[rng.choice([name] * 5 + [*NAMES])] = TENSORS[change](rng, tensor)
    file.unlink()
    save_file({key: value.clone().contiguous() for key, value in found.items() if value is not None}, file)
    return f"tensor {name}, change {change}"


def header(rng, file, layouts):
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    try:
        entries = json.loads(content[8 : 8 + length])
    except ValueError:
        return raw(rng, file, layouts)
    name, field = rng.choice(sorted(entries)), rng.choice([*FIELDS])
    entries[name] = {**entries[name], field: rng.choice(FIELDS[field])}
    text = json.dumps(entries).encode()
    file.unlink()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return f"header {name}: {field}={entries[name][field]!r:.40}"


def planted(rng, folder, mark):
    plant = rng.choice(PLANTED)
    try:
        plant(folder, mark)
    except Exception as error:  # of files that are damaged already
        return f"{folder.name}: {plant.__name__} failed: {error!r:.50}"
    return f"{folder.name}: {plant.__name__}"
