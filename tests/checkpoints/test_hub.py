"""The hub: push and load with the real client, against a local server with the hub's HTTP API."""

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from tests.factories import tiny_assistant
from tests.goldens import FAMILIES
from tests.hub import READER, WRITER, running
from tests.runs import load_program
from tinyvid import Assistant, CheckpointError, ConfigError, compose
from tinyvid.checkpoints import native
from tinyvid.checkpoints.hub import push
from tinyvid.command_line import CommandLine
from tinyvid.models.folders import opened

program = load_program("export")
LARGE = "PUT /lfs/"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running hub with nothing in it, its client, and a token that may write to it."""
    import huggingface_hub

    with running() as server:
        constants = "huggingface_hub.constants"
        monkeypatch.setattr(f"{constants}.ENDPOINT", server.url)
        file = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", server.url + file)
        monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)  # large files by LFS, not by another server
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield server
        huggingface_hub.close_session()


@pytest.fixture(scope="module")
def checkpoint(models, tmp_path_factory):
    """A checkpoint that contains all parts, with a chat template in a file of its own."""
    assistant = tiny_assistant(models)
    assistant.processor.tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    folder = tmp_path_factory.mktemp("hub") / "model"
    native.save(replace(assistant.loaded, stored=frozenset(native.PARTS)), folder)
    return folder


def weights(assistant):
    return assistant.model.state_dict()


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_a_model_returns_from_the_hub_as_it_was(hub, models):
    assistant = tiny_assistant(models)
    address = assistant.push_to_hub("owner/name", private=True, license="apache-2.0", commit_message="First")
    repository = hub.repositories["owner/name"]
    assert address == f"{hub.url}/owner/name/commit/{repository.branches['main']}"
    assert repository.private
    again = Assistant.from_pretrained("owner/name", device="cpu")
    expected = weights(assistant)
    assert weights(again).keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in weights(again).items())
    files = repository.commits[repository.branches["main"]]
    assert str(models) not in files["tinyvid.yaml"].decode()
    _, head, card = files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "tinyvid",
        "pipeline_tag": "video-text-to-text",
        "tags": ["tinyvid", "video"],
        "license": "apache-2.0",
    }
    assert 'from_pretrained("owner/name")' in card


@pytest.mark.slow
def test_what_is_there_is_neither_sent_nor_downloaded_again(hub, checkpoint):
    push(checkpoint, "owner/name")
    assert len(hub.sent(LARGE)) == 3
    count = len(hub.repositories["owner/name"].commits)
    push(checkpoint, "owner/name")
    assert hub.sent(LARGE) == []
    assert len(hub.repositories["owner/name"].commits) == count
    Assistant.from_pretrained("owner/name", device="meta")
    assert len(hub.sent("GET .*safetensors")) == 3
    Assistant.from_pretrained("owner/name", device="meta")
    assert hub.sent("(GET|HEAD) .*resolve") == []


def test_an_interrupted_push_and_an_interrupted_download_continue(hub, checkpoint, monkeypatch):
    hub.fail_after = 1
    with pytest.raises(CheckpointError, match="sending to 'owner/name' failed: .*507.*; try again: what arrived"):
        push(checkpoint, "owner/name")
    assert hub.repositories["owner/name"].commits.keys() == {hub.repositories["owner/name"].branches["main"]}
    hub.fail_after = 1000
    hub.sent(LARGE)
    push(checkpoint, "owner/name")
    assert len(hub.sent(LARGE)) == 2
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.cut = 100_000
    Assistant.from_pretrained("owner/name", device="meta")
    assert len(hub.sent("RANGE 100000 ")) == 1


def test_a_branch_and_files_of_an_earlier_checkpoint(hub, checkpoint):
    """Shards of an earlier checkpoint are removed, files that are not part of one stay, and main does not change."""
    shard = "llm/model-00001-of-00002.safetensors"
    there = hub.add("owner/name", **{shard: b"old", "adapter/adapter_config.json": b"{}", "LICENSE": b"mine"})
    main = there.branches["main"]
    push(checkpoint, "owner/name", revision="v2")
    found = there.commits[there.branches["v2"]]
    assert shard not in found
    assert "adapter/adapter_config.json" not in found
    assert found["LICENSE"] == b"mine"
    assert there.branches["main"] == main
    loaded = Assistant.from_pretrained("owner/name", revision="v2", device="meta")
    assert loaded.config["llm"]["path"].endswith(f"{there.branches['v2']}/llm")


@pytest.mark.parametrize(
    ("repo", "options", "kind", "message"),
    [
        ("name", {}, ConfigError, "'name' is not a hub id; write 'owner/name'"),
        ("a/b/c", {}, ConfigError, "'a/b/c' is not a hub id"),
        ("owner/na me", {}, ConfigError, "'owner/na me' is not a hub id"),
        ("owner/name", {"revision": "a" * 40}, ConfigError, "is a commit, which cannot be changed; give a branch"),
        (
            "other/name",
            {},
            CheckpointError,
            "the token may not write there; use one with write access to 'other'",
        ),
        (
            "owner/public",
            {"private": True},
            CheckpointError,
            "but 'owner/public' already exists and is public",
        ),
    ],
)
def test_what_cannot_be_sent(hub, checkpoint, repo, options, kind, message):
    hub.add("owner/public")
    with pytest.raises(kind, match=message):
        push(checkpoint, repo, **options)
    assert hub.sent(LARGE) == []


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "this machine has no token of the hub; run 'hf auth login', or set HF_TOKEN"),
        ("wrong", "the hub does not accept the token; run 'hf auth login' again"),
        (READER, "the token may not write there; use one with write access to 'owner'"),
    ],
)
def test_tokens_that_do_not_suffice(hub, checkpoint, monkeypatch, tmp_path, token, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises((ConfigError, CheckpointError), match=message):
        push(checkpoint, "owner/name")


@pytest.mark.parametrize("fault", ["silent", "closed", "offline"])
def test_a_hub_that_cannot_be_reached_is_an_error_in_bounded_time(hub, checkpoint, monkeypatch, fault):
    if fault == "silent":
        monkeypatch.setattr("tinyvid.models.folders.HUB_SECONDS", 0.2)
        hub.is_silent = True
    elif fault == "closed":
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cause = {"silent": "timed out", "closed": "refused", "offline": "offline mode is enabled"}[fault]
    with pytest.raises(CheckpointError, match=f"sending to 'owner/name' failed: .*{cause}.*; try again"):
        push(checkpoint, "owner/name")
    with pytest.raises(CheckpointError, match="no directory 'owner/name', and downloading it failed"):
        Assistant.from_pretrained("owner/name")
    with (
        pytest.raises(CheckpointError, match="the llm in 'owner/name' cannot be loaded; .* downloading it failed"),
        opened("llm", "owner/name", ["config.json"]),
    ):
        pass


@pytest.mark.slow
def test_what_was_downloaded_loads_without_the_hub(hub, checkpoint, monkeypatch):
    push(checkpoint, "owner/name")
    Assistant.from_pretrained("owner/name", device="meta")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    Assistant.from_pretrained("owner/name", device="meta")


@pytest.mark.parametrize(
    ("repo", "revision", "message"),
    [
        ("owner/nothing", None, "there is no directory 'owner/nothing', and downloading it failed: .*404"),
        ("owner/name", "v9", "there is no directory 'owner/name', and downloading it failed: .*404"),
    ],
)
def test_what_the_hub_does_not_have(hub, repo, revision, message):
    hub.add("owner/name")
    with pytest.raises(CheckpointError, match=message):
        Assistant.from_pretrained(repo, revision=revision)


def test_a_revision_is_for_hub_ids(checkpoint):
    with pytest.raises(ConfigError, match="revision='main' applies to hub ids only"):
        Assistant.from_pretrained(checkpoint, revision="main")


def test_directories_that_nobody_else_could_load_are_not_sent(hub, checkpoint, models, tmp_path):
    tiny_assistant(models).save_pretrained(tmp_path / "linked")
    with pytest.raises(CheckpointError, match="takes the llm from .*, which is on this machine only; store it"):
        push(tmp_path / "linked", "owner/name")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="is not a checkpoint that tinyvid can read"):
        push(tmp_path / "empty", "owner/name")
    assert hub.requests == []


def export(*arguments):
    line = CommandLine.parse(arguments)
    program.main(compose(line.overrides, config="export"), line)


@pytest.mark.slow
def test_export_sends_what_it_wrote_and_can_send_it_again(hub, checkpoint, tmp_path, capsys):
    options = (f"out={tmp_path / 'out'}", "push=owner/name", "license=mit", "message=It's [new], a=b")
    hub.fail_after = 0
    with pytest.raises(CheckpointError, match="out is complete, so run the same command without ckpt="):
        export(f"ckpt={checkpoint}", *options)
    hub.fail_after = 1000
    export(*options)
    assert f"Sent to {hub.url}/owner/name/commit/" in capsys.readouterr().out
    there = hub.repositories["owner/name"]
    card = there.commits[there.branches["main"]]["README.md"].decode()
    assert "license: mit" in card
    assert 'from_pretrained("owner/name")' in card


def test_an_export_from_the_hub_keeps_the_dtype(hub, tmp_path):
    folder = Path(shutil.copytree(FAMILIES / "smolvlm" / "hf", tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    push(folder, "owner/name")
    loaded = Assistant.from_pretrained("owner/name", device="cpu", dtype="float32").loaded
    assert set(program.dtypes_of("owner/name", loaded).values()) == {torch.bfloat16}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ckpt=x", "out=x", "license=mit"), "license= needs push="),
        (("out=nowhere", "push=owner/name"), "there is no directory out='nowhere' to send; set ckpt="),
        (("ckpt=x", "out=x", "push=name"), "'name' is not a hub id"),
        (("ckpt=x", "out=x", "push=owner/name", "private=maybe"), "private='maybe' must be true, false or null"),
        (("push=owner/name",), "out= is missing"),
    ],
)
def test_wrong_arguments_of_export(hub, arguments, message):
    with pytest.raises((ConfigError, CheckpointError), match=message):
        export(*arguments)
