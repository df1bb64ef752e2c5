"""Sizes in a checkpoint are compared before they take time or memory."""

import json
import time

import pytest
import yaml

from tests.security.layouts import copied as copy_of, edit_configs, load
from tinyvid.errors import CheckpointError

pytestmark = pytest.mark.slow


@pytest.fixture
def copied(tmp_path):
    return copy_of("native_lora", tmp_path / "folder")


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
    refused_soon(copied, r"tinyvid.yaml has [\d,]+ bytes; at most 131,072 are read")


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
    folder = copy_of("llm", tmp_path / "llm")
    edit_configs(folder, num_labels=10**12)
    load("llm", folder)


def test_a_link_to_itself_is_refused(copied):
    (copied / "notes").symlink_to(copied / "notes")
    with pytest.raises(CheckpointError, match=r"notes cannot be resolved"):
        load("native_lora", copied)
