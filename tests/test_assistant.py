"""The Assistant in Python: ask, answer, stream and save."""

import numpy as np
import pytest
import torch

from tests.factories import tiny_config
from tests.goldens import TINYLLAVA_VIDEO
from tinyvid import Assistant, CheckpointError, ConfigError, Message, Sample, Video, VideoError


@pytest.fixture(scope="module")
def assistant():
    return Assistant.from_pretrained(TINYLLAVA_VIDEO / "group_qwen2", device="cpu", dtype="float32")


def array(count=6):
    return np.random.default_rng(count).integers(0, 255, (count, 30, 40, 3), dtype=np.uint8)


@pytest.mark.slow
def test_ask_a_file(assistant):
    reply = assistant.ask("examples/clip.mp4", "What moves?", max_new_tokens=8)
    assert isinstance(reply, str)
    assert reply == assistant.ask("examples/clip.mp4", "What moves?", max_new_tokens=8)


def test_ask_about_an_array_several_videos_and_none(assistant):
    assert isinstance(assistant.ask(array(), "What?", max_new_tokens=4), str)
    assert isinstance(assistant.ask([array(3), Video("examples/clip.mp4", end=1.0)], "Same?", max_new_tokens=4), str)
    assert isinstance(assistant.ask(None, "Hello?", max_new_tokens=4), str)


def test_options_of_decoding_reach_ask_answer_and_stream(assistant):
    """Another seed gives another sampled reply, and all three methods return the same reply."""
    sample = Sample([Message("user", "What?")], video=array())
    options = {"max_new_tokens": 8, "temperature": 2.0, "top_p": 0.95}
    replies = [assistant.ask(array(), "What?", **options, seed=seed) for seed in (0, 1)]
    assert replies[0] != replies[1]
    assert replies[1] == assistant.answer([sample], **options, seed=1)[0]
    assert replies[1] == "".join(assistant.stream(sample, **options, seed=1))
    with pytest.raises(ConfigError, match="temperature=-1 must be a number of at least 0"):
        assistant.ask(None, "Q", temperature=-1)


def test_bounds_reach_the_reader(assistant):
    sample = Sample([Message("user", "Q")], video="examples/clip.mp4", start=1.0, end=2.0)
    whole = Sample([Message("user", "Q")], video="examples/clip.mp4")
    assert not torch.equal(assistant.processor(sample).videos[0].pixels, assistant.processor(whole).videos[0].pixels)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "device='cuda' is not available: torch finds 0 cuda devices"),
        ({"device": "cuda:3"}, "device='cuda:3' is not available"),
        ({"device": "gpu"}, "device='gpu' is unknown"),
        ({"dtype": "float23"}, r"dtype='float23' is unknown. Did you mean 'float32'\?"),
        ({"quant": "nf5"}, r"quant='nf5' is unknown. Did you mean 'nf4'\?"),
    ],
)
def test_load_time_options_are_checked_before_weights(models, monkeypatch, options, message):
    if options.get("device", "").startswith("cuda"):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=message):
        Assistant.from_config(tiny_config(models), **{"device": "cpu"} | options)


def test_a_wrong_option_is_refused_before_weights(models):
    config = tiny_config(models)
    config.llm.path = "nobody/nothing"  # would be a CheckpointError if it were loaded
    config.sampler.num_frames = 0
    with pytest.raises(ConfigError, match="sampler.num_frames=0 must be at least 1"):
        Assistant.from_config(config, device="cpu")


@pytest.mark.parametrize("group", ["fps", None])
def test_a_group_for_a_checkpoint_is_a_mapping(group):
    with pytest.raises(ConfigError, match="sampler must be a mapping of options"):
        Assistant.from_pretrained(TINYLLAVA_VIDEO / "group_qwen2", sampler=group)


@pytest.mark.slow
@pytest.mark.parametrize("device", [None, ["cpu"], "tpu9"])
def test_a_device_of_another_type(device):
    with pytest.raises(ConfigError, match="device=.* is unknown"):
        Assistant.from_pretrained(TINYLLAVA_VIDEO / "group_qwen2", device=device)


@pytest.mark.parametrize(("path", "message"), [("", "is empty"), ("x" * 400, "no directory"), ("a\0b", "no directory")])
def test_a_path_that_is_not_a_directory(path, message):
    with pytest.raises(CheckpointError, match=message):
        Assistant.from_pretrained(path)


def test_default_is_the_included_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()
    named = Assistant.from_pretrained("default", device="meta")
    assert named.config == Assistant.from_pretrained(device="meta").config
    with pytest.raises(CheckpointError, match="it contains nothing"):
        Assistant.from_pretrained("./default")


def test_batches_do_not_change_replies_and_an_error_can_be_skipped(assistant, caplog):
    samples = [Sample([Message("user", text)], video=array(), id=text) for text in ("What moves?", "Where?", "Why?")]
    replies = assistant.answer(samples, batch_size=2, max_new_tokens=3)
    assert replies == [assistant.ask(array(), sample.id, max_new_tokens=3) for sample in samples]
    samples[1] = Sample(samples[1].messages, video="nowhere.mp4", id="lost")
    with pytest.raises(VideoError, match="nowhere"):
        assistant.answer(samples, batch_size=2, max_new_tokens=3)
    skipped = assistant.answer(samples, on_error="skip", max_new_tokens=3)
    assert skipped == [replies[0], None, replies[2]]
    assert "No reply to sample 2 of 3: sample 'lost': nowhere.mp4: no such file" in caplog.text
    assert assistant.answer([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size=0 must be a whole number"), ({"on_error": "skp"}, "Did you mean 'skip'")],
)
def test_a_wrong_option_of_answer_is_refused(assistant, options, message):
    with pytest.raises(ConfigError, match=message):
        assistant.answer([Sample([Message("user", "Q")])], **options)
