"""The model for lmms-eval: conversion of messages and options, and, with lmms-eval installed, replies."""

import importlib.util
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.clips import write_clip
from tests.factories import tiny_config
from tinyvid import Assistant, ConfigError, DataError, VideoError
from tinyvid.generation.decode import Decoding
from tinyvid.integrations.chat import KNOWN, Generation, generation_of, names_of, sample_of

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/lmms_eval"
INSTALLED = importlib.util.find_spec("lmms_eval") is not None
needs_lmms_eval = pytest.mark.skipif(not INSTALLED, reason="lmms-eval is not installed")


def user(*parts):
    return [{"role": "user", "content": [*parts]}]


def text(value):
    return {"type": "text", "text": value}


# --- messages -----------------------------------------------------------------------------------------------------


def test_media_precede_their_message():
    messages = [
        {"role": "system", "content": "Be brief."},
        *user({"type": "video", "url": "a.mp4", "start_time": 1.0, "end_time": 2.5}, text("What "), text("moves?")),
        {"role": "assistant", "content": [text("A dog.")]},
        *user({"type": "image", "url": "b.png"}, {"type": "video", "url": "c.mp4"}, text("And here?")),
    ]
    sample = sample_of(messages, name="task/3")
    assert [(m.role, m.text, m.videos) for m in sample.messages] == [
        ("system", "Be brief.", 0),
        ("user", "What moves?", 1),
        ("assistant", "A dog.", 0),
        ("user", "And here?", 2),
    ]
    assert [(v.source, v.start, v.end) for v in sample.videos] == [
        ("a.mp4", 1.0, 2.5),
        ("b.png", None, None),
        ("c.mp4", None, None),
    ]
    assert sample.id == "task/3"


def test_text_alone_has_no_video():
    assert sample_of(user(text("Hello?")), name="t").videos == ()


def test_bounds_in_a_mapping():
    """Convert the output of a task's doc_to_visual as lmms-eval does."""
    part = {"type": "video", "url": {"type": "video", "url": "a.mp4", "video_start": 3, "video_end": 4}}
    (video,) = sample_of(user(part, text("?")), name="t").videos
    assert (video.source, video.start, video.end) == ("a.mp4", 3, 4)


def test_decoded_images():
    picture = Image.new("LA", (6, 4), (200, 255))
    picture.getexif()[0x0112] = 6  # to be rotated by 90 degrees
    (video,) = sample_of(user({"type": "image", "url": picture}, text("?")), name="t").videos
    assert video.source.shape == (1, 6, 4, 3)
    assert video.source.dtype == np.uint8
    assert (video.source == 200).all()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "audio", "url": "a.wav"}, "sample 't/1' has a part of type 'audio'; tinyvid reads text"),
        ({"type": "video", "url": 7}, "of type 'video' that is a int; use a file"),
        ({"type": "image", "url": None}, "of type 'image' that is a NoneType"),
    ],
)
def test_other_media_are_refused(part, message):
    with pytest.raises(DataError, match=message):
        sample_of(user(part, text("?")), name="t/1")


def test_media_after_text_keep_their_places():
    first, second = {"type": "image", "url": "a.png"}, {"type": "image", "url": "b.png"}
    (message,) = sample_of(user(text("First: "), first, text(", second: "), second), name="t").messages
    assert (message.text, message.videos, message.places) == ("First: , second: ", 2, (7, 17))
    (message,) = sample_of(user(text(" "), first, second, text("Which?")), name="t").messages
    assert (message.text, message.videos, message.places) == (" Which?", 2, ())


# --- options ------------------------------------------------------------------------------------------------------


def test_greedy_options_are_taken():
    options = {
        "max_new_tokens": 16, "temperature": 0.0, "top_p": 1.0, "num_beams": 1, "do_sample": False,
        "image_aspect_ratio": "original", "until": ["ASSISTANT:", "\n\n", ""],
    }  # fmt: skip
    assert generation_of(options, task="t") == Generation(Decoding(16), ("ASSISTANT:",))
    assert generation_of({"until": "stop", "temperature": None}, task="t") == Generation(Decoding(), ("stop",))
    assert generation_of({"until": None}, task="t") == generation_of({}, task="t") == Generation(Decoding())
    greedy = {"temperature": 0, "top_p": 0.9, "top_k": 40, "seed": 1}
    assert generation_of(greedy, task="t") == Generation(Decoding()), "requests that are replied to alike go together"


def test_sampled_options_are_taken():
    options = {"temperature": 0.7, "top_p": 0.9, "seed": 1, "top_k": 0, "do_sample": True}
    decoding = Decoding(temperature=0.7, top_p=0.9, seed=1)
    assert generation_of(options, task="t").decoding == decoding
    assert generation_of(options | {"do_sample": None}, task="t").decoding == decoding
    assert generation_of({"do_sample": True}, task="t").decoding == Decoding(temperature=1.0)


def test_repeats_of_a_document_have_different_names():
    assert names_of([("a", 1), ("b", 1), ("a", 1), ("a", 2), ("a", 1)]) == ["a/1", "b/1", "a/1#1", "a/2", "a/1#2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.7, "do_sample": False}, "task 'mmvu': .*do_sample=False contradicts temperature=0.7"),
        ({"temperature": 0, "do_sample": True}, "do_sample=True contradicts temperature=0"),
        ({"temperature": 0.7, "top_k": 40}, "top_k=40 is not supported; .* --gen_kwargs top_k=0 "),
        ({"temperature": -1}, "generation option temperature=-1 must be a number of at least 0"),
        ({"max_new_tokens": "8"}, "generation option max_new_tokens='8' must be a whole number"),
        ({"num_beams": 5}, "num_beams=5 is not supported; .* --gen_kwargs num_beams=1"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2 is not supported"),
        ({"max_tokens": 5}, "max_tokens=5 is unknown. Did you mean 'max_new_tokens'?"),
        ({"until": [1]}, "until=.* must be a text or a list of texts"),
    ],
)
def test_other_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        generation_of(options, task="mmvu")


def test_every_known_option_is_handled():
    assert len(set(KNOWN)) == len(KNOWN)
    for key in KNOWN:
        generation_of({key: None}, task="t")


def test_a_reply_ends_at_the_first_end_text():
    generation = Generation(Decoding(), ("Q:", "END"))
    assert generation.cut("a cat END Q: more") == "a cat"
    assert generation.cut("no end") == "no end"


@pytest.mark.skipif(INSTALLED, reason="lmms-eval is installed")
def test_without_lmms_eval():
    with pytest.raises(ConfigError, match="needs lmms-eval .* install it in a separate environment"):
        importlib.import_module("tinyvid.integrations.lmms_eval")


# --- the model ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    Assistant.from_config(tiny_config(folder), device="cpu", dtype="float32").save_pretrained(folder / "saved")
    return folder / "saved"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "a.mp4", num_frames=20, fps=10)


class Hook:
    def __init__(self):
        self.seen = []

    def add_partial(self, kind, request, reply):
        self.seen.append((kind, request[0], reply))


def wrapped(checkpoint, messages, **options):
    """Return the model and a request for each of ``messages``."""
    from tinyvid.integrations.lmms_eval import TinyVid

    model = TinyVid(str(checkpoint), device="cpu", dtype="float32", **options)
    model.task_dict = {"t": {"test": messages}}
    generation = {"max_new_tokens": 6, "temperature": 0}
    requests = [
        SimpleNamespace(
            args=(f"context {number}", lambda doc: doc, generation | {"until": ["\n\n"]}, number, "t", "test")
        )
        for number in range(len(messages))
    ]
    return model, requests


@needs_lmms_eval
def test_replies_come_in_order_and_are_those_of_the_assistant(checkpoint, clip):
    video = {"type": "video", "url": str(clip)}
    picture = {"type": "image", "url": Image.new("RGB", (40, 30), (10, 200, 30))}
    cut = video | {"start_time": 0.5, "end_time": 1.5}
    conversations = [
        user(video, text("What is it?")),
        user(text("Hello?")),
        user(cut, text("What is it?")),
        user(picture, text("Which color?")),
        user(video, text("And then?")),
    ]
    model, requests = wrapped(checkpoint, conversations, batch_size="2")
    model.set_cache_hook(hook := Hook())
    replies = model.generate_until(requests)
    ask = partial(model.assistant.ask, max_new_tokens=6)
    frame = np.asarray(picture["url"])[None]
    assert replies == [
        ask(clip, "What is it?"),
        ask(None, "Hello?"),
        ask(clip, "What is it?", start=0.5, end=1.5),
        ask(frame, "Which color?"),
        ask(clip, "And then?"),
    ]
    assert sorted(hook.seen) == [("generate_until", f"context {n}", reply) for n, reply in enumerate(replies)]
    assert model.generate_until(requests[::-1]) == replies[::-1]
    assert not model.is_simple
    assert model.device.type == "cpu"


@needs_lmms_eval
def test_each_request_has_its_own_length(checkpoint):
    model, requests = wrapped(checkpoint, [user(text("Hello?"))] * 2, batch_size=2)
    requests[1].args[2]["max_new_tokens"] = 1
    long, short = model.generate_until(requests)
    assert long.startswith(short)
    assert len(long) > len(short)


@needs_lmms_eval
def test_frames_follow_the_options(checkpoint):
    options = {"sampler": "{name: fps, fps: 2.5}"}, {"sampler": "midpoint", "num_frames": 8}, {"num_frames": 8}
    groups = [wrapped(checkpoint, [], **each)[0].assistant.config["sampler"] for each in options]
    assert [(group["name"], group.get("fps"), group.get("num_frames")) for group in groups] == [
        ("fps", 2.5, None),
        ("midpoint", None, 8),
        ("uniform", None, 8),
    ]


@needs_lmms_eval
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": "auto"}, "batch_size='auto' must be a whole number"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number"),
        ({"unreadable": "skip"}, "unreadable='skip' is unknown"),
        ({"sampler": "[1, 2]"}, "sampler='\\[1, 2\\]' must be a name or a mapping"),
        ({"sampler": "{a"}, "must be a name or a mapping, but"),
        ({"sampler": "unifrom"}, "Did you mean 'uniform'"),
    ],
)
def test_wrong_options(checkpoint, options, message):
    with pytest.raises(ConfigError, match=message):
        wrapped(checkpoint, [], **options)


@needs_lmms_eval
def test_unreadable_videos(checkpoint, clip, tmp_path, caplog):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:300])
    conversations = [user({"type": "video", "url": str(path)}, text("What is it?")) for path in (clip, broken)]
    model, requests = wrapped(checkpoint, conversations)
    with pytest.raises(VideoError, match="broken.mp4.*use unreadable=empty"):
        model.generate_until(requests)
    model.unreadable = "empty"
    replies = model.generate_until(requests)
    assert replies[0]
    assert replies[1] == ""
    assert "The reply to t/1 is empty" in caplog.text


@needs_lmms_eval
def test_unsupported_requests(checkpoint):
    model, requests = wrapped(checkpoint, [user(text("Hello?"))])
    with pytest.raises(NotImplementedError, match="score=likelihood"):
        model.loglikelihood(requests)
    with pytest.raises(NotImplementedError, match="replies to each request once"):
        model.generate_until_multi_round(requests)
    requests[0].args[2]["num_beams"] = 2
    with pytest.raises(ConfigError, match="task 't': generation option num_beams=2"):
        model.generate_until(requests)
    model.clean()
    assert not hasattr(model, "assistant")


@needs_lmms_eval
def test_lmms_eval_finds_the_model_by_its_entry_point():
    from lmms_eval.models import get_model, list_available_models

    from tinyvid.integrations.lmms_eval import TinyVid

    assert "tinyvid" in list_available_models()
    assert get_model("tinyvid") is TinyVid


@needs_lmms_eval
@pytest.mark.slow
def test_replies_equal_those_of_the_runner(tmp_path, checkpoint):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    for program in ("draw.py", "compare.py"):
        more = ["--ckpt", str(checkpoint), "--device", "cpu"] if program == "compare.py" else ["--clips", "3"]
        done = subprocess.run(
            [sys.executable, str(EXAMPLE / program), str(tmp_path / "task"), *more],
            capture_output=True, text=True, timeout=600, cwd=tmp_path, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert "11 of 11 replies are equal" in done.stdout


def test_the_example_writes_rows_that_both_read(tmp_path):
    spec = importlib.util.spec_from_file_location("draw", EXAMPLE / "draw.py")
    spec.loader.exec_module(draw := importlib.util.module_from_spec(spec))
    assert draw.draw(tmp_path, clips=1, questions=2) == 4
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    spec = importlib.util.spec_from_file_location("utils", tmp_path / "utils.py")
    spec.loader.exec_module(utils := importlib.util.module_from_spec(spec))
    from tinyvid import build_benchmark

    benchmark = build_benchmark({"name": "custom", "root": str(tmp_path)})
    for row, item in zip(rows, benchmark, strict=True):
        doc = dict.fromkeys(("video", "image", "clip")) | row
        sample = sample_of(utils.doc_to_messages(doc), name=item.id)
        assert [m.text for m in sample.messages] == [m.text for m in item.sample.messages]
        assert [(str(v), v.start, v.end) for v in sample.videos] == [
            (str(v), v.start, v.end) for v in item.sample.videos
        ]
        assert utils.process_results(doc, [f"{item.answer}."]) == {"accuracy": 1.0}
        assert utils.process_results(doc, ["something else"]) == {"accuracy": 0.0}
