"""The four verbs, from Python: ask, answer, stream, save."""

import numpy as np
import pytest
import torch

from tests.factories import tiny_assistant, tiny_config
from tests.goldens import TINYLLAVA_VIDEO
from tinyvid import Assistant, CheckpointError, ConfigError, Message, Sample, Video


@pytest.fixture(scope="module")
def assistant():
    return Assistant.from_pretrained(TINYLLAVA_VIDEO / "group_qwen2", device="cpu", dtype="float32")


def array(count=6):
    return np.random.default_rng(count).integers(0, 255, (count, 30, 40, 3), dtype=np.uint8)


def test_ask_a_file(assistant):
    reply = assistant.ask("examples/clip.mp4", "What moves?", max_new_tokens=8)
    assert isinstance(reply, str)
    assert reply == assistant.ask("examples/clip.mp4", "What moves?", max_new_tokens=8)


def test_ask_an_array_several_and_none(assistant):
    assert isinstance(assistant.ask(array(), "What?", max_new_tokens=4), str)
    assert isinstance(assistant.ask([array(3), Video("examples/clip.mp4", end=1.0)], "Same?", max_new_tokens=4), str)
    assert isinstance(assistant.ask(None, "Hello?", max_new_tokens=4), str)


def test_bounds_reach_the_reader(assistant):
    sample = Sample([Message("user", "Q")], video="examples/clip.mp4", start=1.0, end=2.0)
    whole = Sample([Message("user", "Q")], video="examples/clip.mp4")
    assert not torch.equal(assistant.processor(sample).pixels, assistant.processor(whole).pixels)


@pytest.mark.parametrize("template", ["qwen2_base", "plain", "chatml"])
def test_streamed_pieces_join_to_the_reply(models, template):
    torch.manual_seed(3)
    assistant = tiny_assistant(models, f"template={template}")
    sample = Sample([Message("user", "What moves?")], video=array())
    pieces = list(assistant.stream(sample, max_new_tokens=24))
    assert "".join(pieces) == assistant.answer([sample], max_new_tokens=24)[0]


def test_a_stream_ends_at_a_special_token_like_the_reply(assistant):
    tokenizer = assistant.processor.tokenizer
    written = tokenizer("one two<|im_start|>three<|endoftext|>", add_special_tokens=False).input_ids

    def generate(batch, *, streamer=None, **options):
        if streamer is not None:
            for token in written:
                streamer.put(torch.tensor([token]))
            streamer.end()
        return torch.tensor([written])

    assistant.model.generate = generate
    sample = Sample([Message("user", "Q")])
    assert assistant.answer([sample]) == ["one two"]
    assert "".join(assistant.stream(sample)) == "one two"


def test_a_closed_stream_stops(assistant):
    stream = assistant.stream(Sample([Message("user", "Q")], video=array()), max_new_tokens=200)
    next(stream)
    stream.close()


def test_a_failure_while_streaming_is_raised(assistant, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(assistant.model, "generate", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(assistant.stream(Sample([Message("user", "Q")], video=array()), max_new_tokens=8))


@pytest.mark.parametrize(("text", "pieces"), [("a cat\n", ["a", " cat", "\n"]), ("x", ["  x", "  "])])
def test_stop_text_split_over_pieces_is_not_shown(models, text, pieces):
    assistant = tiny_assistant(models, "template=plain")
    assert "".join(assistant._trimmed(iter(pieces))) == text.strip()
    assistant.processor.ends = ("###",)
    assert "".join(assistant._trimmed(iter(["one #", "two ", "##", "# three"]))) == "one #two"


def test_generation_ignores_the_sampling_defaults_of_the_base_model(assistant):
    assert assistant.model.llm.generation_config.repetition_penalty in (None, 1.0)
    options = assistant.generation(8)["generation_config"]
    assert (options.do_sample, options.max_new_tokens) == (False, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "device='cuda' is asked for, but torch sees 0 cuda devices"),
        ({"device": "cuda:3"}, "device='cuda:3' is asked for"),
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


@pytest.mark.parametrize("count", [0, -1, 1.5, "8", None, True])
def test_new_tokens_are_a_count(assistant, count):
    with pytest.raises(ConfigError, match=f"max_new_tokens={count!r} must be a whole number of at least 1"):
        assistant.ask(None, "Q", max_new_tokens=count)
    with pytest.raises(ConfigError, match="max_new_tokens"):
        list(assistant.stream(Sample([Message("user", "Q")]), max_new_tokens=count))


@pytest.mark.parametrize("group", ["fps", None])
def test_a_group_for_a_checkpoint_is_a_mapping(group):
    with pytest.raises(ConfigError, match="sampler must be a mapping of options"):
        Assistant.from_pretrained(TINYLLAVA_VIDEO / "group_qwen2", sampler=group)


@pytest.mark.parametrize("device", [None, ["cpu"], "tpu9"])
def test_a_device_of_another_type(device):
    with pytest.raises(ConfigError, match="device=.* is unknown"):
        Assistant.from_pretrained(TINYLLAVA_VIDEO / "group_qwen2", device=device)


@pytest.mark.parametrize(("path", "message"), [("", "is empty"), ("x" * 400, "no directory"), ("a\0b", "no directory")])
def test_a_path_that_is_no_directory(path, message):
    with pytest.raises(CheckpointError, match=message):
        Assistant.from_pretrained(path)


def test_default_is_the_model_that_comes_with_tinyvid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()
    named = Assistant.from_pretrained("default", device="meta")
    assert named.config == Assistant.from_pretrained(device="meta").config
    with pytest.raises(CheckpointError, match="it holds nothing"):
        Assistant.from_pretrained("./default")
