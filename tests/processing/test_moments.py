"""Markers in samples: the Processor writes them once frames are chosen, and reads them in replies."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AddedToken

from tests.factories import tiny_assistant
from tinyvid import SAMPLERS, TEMPLATES, Assistant, ConfigError, DataError, Message, Sample, Video
from tinyvid.diagnostics.transcript import transcript
from tinyvid.processing.processor import Processor
from tinyvid.text.moments import MARKER, MomentError, has_markers

CODECS = {
    "plain": {"time": "{:.1f} s"},
    "digits": {"time": "{:06.1f} seconds"},
    "percent": {"time": "{:02d}%", "time_steps": 100},
    "relative": {"time": "<|t{:03d}|>", "time_steps": 256},
    "json": {"time": "{:.1f}"},
}
QUESTION = "What happens from <time:1.2> to <time:4>, in <frame:2.4>?"
REPLY = "A dog barks at <time:3.25>. See <frame:5> and <frame:0>."


def sample(*texts, video=None, id="row", **bounds):
    frames = np.random.default_rng(0).integers(0, 255, (12, 30, 40, 3), dtype=np.uint8)
    messages = [Message("assistant" if number % 2 else "user", text) for number, text in enumerate(texts)]
    return Sample(messages, video=Video(frames, fps=2.0, **bounds) if video is None else video, id=id)


def with_template(assistant, *, tokenizer=None, **options):
    """Return the assistant with other options of its template."""
    parts = {
        name: getattr(assistant.processor, name) for name in ("sampler", "reader", "image", "tokens", "max_length")
    }
    template = TEMPLATES.build(assistant.config["template"] | options)
    processor = Processor(tokenizer=tokenizer or assistant.processor.tokenizer, template=template, **parts)
    return Assistant(replace(assistant.loaded, processor=processor))


def text_of(processor, layout, *, learned=False):
    kept = layout.labels >= 0 if learned else ~layout.video_mask
    return processor.tokenizer.decode(layout.input_ids[kept])


def same(example, other):
    return torch.equal(example.input_ids, other.input_ids) and torch.equal(example.labels, other.labels)


def test_markers_give_the_ids_of_the_text_that_they_stand_for(processor):
    marked = processor(sample(QUESTION, REPLY))
    asked = "What happens from 1.2 s to 4.0 s, in Frame 2?"  # the frames at 0, 1.5, 3.5 and 5.5 s
    assert same(marked, processor(sample(asked, "A dog barks at 3.2 s. See Frame 4 and Frame 1.")))
    assert marked.timeline.times == (0.0, 1.5, 3.5, 5.5)
    assert processor.plan(sample(QUESTION)).slots[0].question == asked


def test_every_message_can_have_markers(processor):
    turns = (Message("system", "It starts at <time:1>."), *sample(QUESTION, REPLY, "And <frame:4>?", "Rain.").messages)
    layout = processor.plan(replace(sample("Q?"), messages=turns))
    text = text_of(processor, layout)
    for words in ("It starts at 1.0 s.", "to 4.0 s, in Frame 2?", "See Frame 4 and Frame 1.", "And Frame 3?"):
        assert words in text
    assert not has_markers(text)
    assert "at 3.2 s. See Frame 4" in "".join(
        part.text for part in transcript(layout, processor) if part.kind == "reply"
    )


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_the_text_of_training_is_that_of_inference_and_is_read_back(assistant, codec):
    processor = with_template(assistant, **codec).processor
    bounds = {"start": 1.5, "end": 5.5}
    asked, learned = sample("When is <frame:2>?", **bounds), sample("When is <frame:2>?", "At <time:2.25>.", **bounds)
    prompt, example = processor(asked), processor(learned)
    assert torch.equal(example.input_ids[: len(prompt.input_ids)], prompt.input_ids)
    reply = processor.reply(example.labels[example.labels >= 0])
    read = processor.read_moments(reply, prompt.timeline)
    written = processor.template.moments.write("At <time:2.25>.", prompt.timeline)
    assert (reply, prompt.timeline.start, prompt.timeline.end) == (written, 1.5, 5.5)
    assert abs(float(MARKER.fullmatch(read[3:-1])[2]) - 2.25) <= 0.05


def test_times_count_from_the_start_of_the_clip(processor):
    text = text_of(processor, processor.plan(sample("At <time:3.5>, in <frame:3.5>?", start=3.0, end=5.0)))
    assert "At 0.5 s, in Frame 2?" in text
    with pytest.raises(
        MomentError, match=r"sample 'row': message 0 \(user\): the marker <time:1> lies outside the clip"
    ):
        processor(sample("At <time:1>?", start=3.0, end=5.0))


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "uniform", "num_frames": 12},
        {"name": "uniform", "num_frames": 1},
        {"name": "uniform", "num_frames": 24, "unique": False},
        {"name": "fps", "fps": 1.0},
        {"name": "midpoint", "num_frames": 4},
        {"name": "content"},
    ],
    ids=lambda sampler: f"{sampler['name']}{sampler.get('num_frames', '')}",
)
def test_a_frame_is_the_nearest_that_the_sampler_chose(processor, sampler):
    processor.sampler = SAMPLERS.build(sampler)
    layout = processor.plan(sample("Is it in <frame:4.6>?"))
    shown = [abs(time - 4.6) for time in layout.clips[0].times(layout.indices[0])]
    assert f"in Frame {shown.index(min(shown)) + 1}?" in text_of(processor, layout)


def test_references_follow_when_fewer_frames_fit(models):
    processor = with_template(tiny_assistant(models, connector="mlp"), frame="Frame {i}: {video}\n").processor
    processor.sampler = SAMPLERS.build({"name": "fps", "fps": 2.0, "overflow": "fewer_frames"})
    row = sample("Is it in <frame:5.5>?", "Yes, in <frame:0.1> and <frame:4.6>.")
    for max_length, fewer in ((1024, False), (250, True)):
        processor.max_length = max_length
        layout = processor.plan(row)
        times = layout.clips[0].times(layout.indices[0])
        assert (1 < len(times) < 12) == fewer
        text = text_of(processor, layout)
        assert f"Frame {len(times)}: " in text
        assert f"Is it in Frame {len(times)}?" in text
        nearest = min(range(len(times)), key=lambda number: abs(times[number] - 4.6))
        assert f"Yes, in Frame 1 and Frame {nearest + 1}." in text


def test_packed_rows_have_the_text_of_single_rows(models):
    processor = tiny_assistant(models, connector="mlp").processor
    video = sample("Q?").video
    rows = [sample(QUESTION, REPLY, video=video, id="a"), sample("At <time:5>?", "<frame:5>", video=video, id="b")]
    packed, singles = processor.pack(rows), [processor(row) for row in rows]
    assert packed.blocks is not None
    shared = int((packed.blocks == 0).sum())
    for number, single in enumerate(singles, 1):
        assert torch.equal(packed.input_ids[packed.blocks == number], single.input_ids[shared:])
        assert torch.equal(packed.labels[packed.blocks == number], single.labels[shared:])
    assert torch.equal(processor.plan_pack(rows).input_ids, packed.input_ids)


@pytest.mark.parametrize("videos", [0, 2])
def test_a_marker_needs_exactly_one_video(processor, videos):
    several = [sample("Q?").video] * videos or None
    with pytest.raises(
        DataError, match=rf"message 0 \(user\): a marker needs .*exactly one video, but this one has {videos}"
    ):
        processor(Sample([Message("user", "At <time:1>?")], video=several))
    assert processor(Sample([Message("user", "At < time:1>?")], video=several)).timeline is None


def test_a_malformed_marker_names_the_sample_and_the_message(processor):
    with pytest.raises(
        DataError, match=r"sample 'row': message 1 \(assistant\): '<tme:3>' is not a valid marker; write"
    ):
        processor(sample("Q?", "At <tme:3>."))


def test_media_stay_in_their_place_of_a_text_with_markers(processor):
    text = "It starts at <time:1.25>. Look:  It ends at <frame:5>."
    place = text.index(" It ends")
    video = sample("Q?").video
    marked = Sample([Message("user", text, videos=1, places=(place,))], video=video)
    plain = "It starts at 1.2 s. Look:  It ends at Frame 4."
    expected = Sample([Message("user", plain, videos=1, places=(plain.index(" It ends"),))], video=video)
    assert torch.equal(processor(marked).input_ids, processor(expected).input_ids)
    assert torch.equal(processor(marked).video_mask, processor(expected).video_mask)
    with pytest.raises(DataError, match="'<time:1' is not a valid marker"):
        processor(Sample([Message("user", text, videos=1, places=(text.index(".25"),))], video=video))


def test_a_connector_reads_the_question_in_the_words_of_the_model(models):
    processor = tiny_assistant(models, connector="llamavid").processor
    marked, plain = processor(sample("At <time:3>?")), processor(sample("At 3.0 s?"))
    assert marked.slots == plain.slots


@pytest.mark.parametrize("codec", ["plain", "percent"])
def test_frames_show_their_times_in_the_words_of_the_template(models, codec):
    assistant = tiny_assistant(models, connector="mlp")
    processor = with_template(assistant, **CODECS[codec], frame="{at} {video}\n").processor
    text = text_of(processor, processor.plan(sample("When?", "At <time:3.5>.", start=1.5, end=5.5)))
    shown = ["0.0 s", "1.0 s", "2.5 s", "4.0 s"] if codec == "plain" else ["00%", "25%", "62%", "100%"]
    for words in shown:
        assert f"{words} \n" in text
    assert f"At {'2.0 s' if codec == 'plain' else '50%'}." in text


def test_steps_that_the_tokenizer_cannot_keep_apart_are_refused(assistant):
    tokenizer = assistant.processor.tokenizer

    class Blind:
        """The tokenizer, but blind to the digits after the first."""

        def __call__(self, texts, **options):
            def blind(text):
                return "".join(char for n, char in enumerate(text) if not (char.isdigit() and text[n - 1].isdigit()))

            return tokenizer(blind(texts) if isinstance(texts, str) else list(map(blind, texts)), **options)

        def __getattr__(self, name):
            return getattr(tokenizer, name)

    plain = with_template(assistant, tokenizer=Blind()).processor  # nothing is written yet
    with pytest.raises(ConfigError, match=r"template.time='\{:.1f\} s' cannot be used: the tokenizer .*choose another"):
        plain(sample("At <time:3>?"))
    with pytest.raises(ConfigError, match=r"time='\{:02d\}%' cannot be used: .*same tokens for '00%' and '01%'"):
        with_template(assistant, tokenizer=Blind(), **CODECS["percent"])


def test_a_style_that_ends_a_reply_is_refused(assistant):
    with pytest.raises(ConfigError, match=r"cannot be used: it contains '<\|endoftext\|>', which ends a reply; choose"):
        with_template(assistant, time="<|endoftext|>{:d}s", time_steps=9)


def test_steps_are_no_control_tokens(assistant):
    assert assistant.processor.find_control_tokens("<|t003|>") == []
    tokens = [AddedToken(f"<|t{number:03d}|>", special=True) for number in range(257)]
    assistant.processor.tokenizer.add_tokens(tokens)
    assert with_template(assistant).processor.find_control_tokens("<|t003|>") == [("<|t003|>", 0)]
    processor = with_template(assistant, **CODECS["relative"]).processor
    example = processor(sample("When?", "From <time:0> to <time:6>."))
    reply = processor.reply(example.labels[example.labels >= 0])
    assert reply == "From <|t000|> to <|t256|>."  # times do not end a reply
    assert processor.read_moments(reply, example.timeline) == "From <time:0> to <time:6>."
    assert same(processor(sample("When?", reply)), example)  # an earlier turn of a conversation


def written(assistant, monkeypatch, text):
    """Make the LLM write a text for any prompt."""
    tokens = assistant.processor.tokenizer(text, add_special_tokens=False).input_ids

    def generate(*, streamer=None, **options):
        if streamer is not None:
            for token in tokens:
                streamer.put(torch.tensor([token]))
            streamer.end()
        return torch.tensor([tokens] * len(options["inputs_embeds"]))

    monkeypatch.setattr(assistant.model.llm, "generate", generate)


def test_users_read_seconds_of_the_file_and_not_steps(assistant, monkeypatch):
    assistant = with_template(assistant, **CODECS["relative"])
    written(assistant, monkeypatch, "From <|t064|> to <|t256|>, in Frame 2.")
    video = sample("Q?").video
    assert assistant.ask(video, "When, after <time:2>?", start=2.0, end=6.0) == "From 3.0 s to 6.0 s, in Frame 2."
    words = []

    def stream():
        words.append((yield from assistant.stream(sample("When?", start=2.0, end=6.0))))

    assert "".join(stream()) == "From 3.0 s to 6.0 s, in Frame 2."
    assert words == ["From <|t064|> to <|t256|>, in Frame 2."]
    assert assistant.answer([sample("When?"), Sample([Message("user", "When?")])]) == [
        "From 1.5 s to 6.0 s, in Frame 2.",
        words[0],  # without a video, steps have no seconds
    ]


def test_replies_in_seconds_stay_as_the_model_wrote_them(assistant, monkeypatch):
    written(assistant, monkeypatch, "From 1.0 s to 2.0 s.")
    reply = assistant.ask(sample("Q?").video, "When?", start=2.0)
    assert reply == "".join(assistant.stream(sample("When?", start=2.0))) == "From 1.0 s to 2.0 s."
    timeline = assistant.processor(sample("When?", start=2.0)).timeline
    assert assistant.processor.read_moments(reply, timeline) == "From <time:3> to <time:4>."
    assert assistant.processor.read_moments(reply, None) == reply


@pytest.mark.slow
def test_a_checkpoint_keeps_the_times_of_its_template(models, tmp_path):
    options = ["template.time='<|t{:03d}|>'", "template.time_steps=256"]
    assistant = tiny_assistant(models, *options)
    assistant.save_pretrained(tmp_path / "model")
    loaded = Assistant.from_pretrained(tmp_path / "model", device="cpu")
    assert same(loaded.processor(sample(QUESTION, REPLY)), assistant.processor(sample(QUESTION, REPLY)))
    assert same(pickle.loads(pickle.dumps(loaded.processor))(sample(QUESTION)), assistant.processor(sample(QUESTION)))
