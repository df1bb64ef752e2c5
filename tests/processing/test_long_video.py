"""Long video end to end: text between frames, reducing frames or tokens, and streaming."""

import pickle
from functools import cache

import numpy as np
import pytest
import torch

from tests.clips import write_clip
from tests.factories import tiny_overrides
from tinyvid import Assistant, ConfigError, DataError, Message, Sample, Video, compose
from tinyvid.diagnostics.transcript import transcript
from tinyvid.generation.decode import Decoding, generate
from tinyvid.processing.layout import same_videos
from tinyvid.text.numerals import in_words
from tinyvid.types import IGNORE_INDEX, Cue, TokenBudget, TokenSpec
from tinyvid.video.samplers import Content

CUES = (Cue(0.5, 1.5, "Hello there."), Cue(3.2, 3.9, "Bye."))
FPS = ["sampler=fps", "sampler.max_frames=1000"]


@cache
def build(models, *overrides, connector="llamavid"):
    """Compose a tiny assistant. Tests with equal overrides share it and must restore what they change."""
    parts = [item for item in tiny_overrides(models, connector=connector) if not item.startswith("sampler.")]
    return Assistant.from_config(compose([*parts, *FPS, *overrides]), device="cpu")


@pytest.fixture(scope="module")
def assistant(models):
    return build(models)


def array(count=6, value=0):
    return np.random.default_rng(value).integers(0, 255, (count, 30, 40, 3), dtype=np.uint8)


def chat(*texts):
    return [Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts)]


def film(count=6, cues=CUES, **bounds):
    return Video(array(count), subtitles=cues, **bounds)


def read(processor, example):
    """Return the sequence as text, with ``.`` for video tokens."""
    pieces = [
        "." if is_video else processor.tokenizer.decode([token])
        for token, is_video in zip(example.input_ids.tolist(), example.video_mask.tolist(), strict=True)
    ]
    return "".join(pieces)


# --- text between frames ----------------------------------------------------------------------------------------


def test_subtitles_come_after_the_last_frame_before_they_end(assistant):
    example = assistant.processor(Sample(chat("What?"), video=film()))
    assert "USER: ....Hello there.....Bye.....\nWhat?" in read(assistant.processor, example)
    assert int(example.video_mask.sum()) == 6 * 2
    assert len(example.slots) == 1


def test_without_subtitles_nothing_changes(assistant):
    plain = assistant.processor(Sample(chat("What?"), video=array()))
    empty = assistant.processor(Sample(chat("What?"), video=film(cues=())))
    assert torch.equal(plain.input_ids, empty.input_ids)
    assert "USER: ............\nWhat?" in read(assistant.processor, plain)


def test_labels_and_times(models, monkeypatch):
    processor = build(models, "template.frame='[{i} {time}] {video} {subtitle}|'", connector="mlp").processor
    monkeypatch.setattr(processor, "tokens", TokenSpec(TokenBudget(per_frame=1), in_pieces=True))
    example = processor(Sample(chat("What?"), video=film(3)))
    assert "USER: [1 0:00] . |[2 0:01] . Hello there.|[3 0:02] . Bye.|\nWhat?" in read(processor, example)


HEADED = ["template.heading=' {count_words} frames, {duration}:|'", "template.user_prefix='USER:'"]


def test_a_heading_comes_once_before_the_frames_of_each_video(models):
    processor = build(models, *HEADED, "template.frame='{clock}{video} '").processor
    text = read(processor, processor(Sample(chat("What?"), video=[film(3), film(1, cues=())])))
    assert "USER: three frames, 0:00:03:|00:00.. 00:01.. 00:02.. \n one frames, 0:00:01:|00:00.. \nWhat?" in text
    assert "USER:What?" in read(processor, processor(Sample(chat("What?"))))


def test_a_heading_is_tokenized_with_the_text_around_it(models):
    processor = build(models, *HEADED, "template.frame='{clock}{video} '").processor
    example = processor(Sample(chat("What?"), video=film(2)))
    first = int(example.video_mask.nonzero()[0])
    system = processor.template.system + " "
    whole = processor.tokenizer(f"{system}USER: two frames, 0:00:02:|00:00", add_special_tokens=False).input_ids
    assert example.input_ids[:first].tolist() == whole


def test_a_heading_needs_no_tokens_per_frame(models):
    processor = build(models, *HEADED, "connector.num_queries=16", connector="group").processor
    text = read(processor, processor(Sample(chat("What?"), video=film(3, cues=()))))
    assert f"USER: three frames, 0:00:03:|{'.' * 16}\nWhat?" in text


def test_a_heading_counts_the_frames_that_fit(models):
    overrides = ("llm.max_length=200", "sampler.overflow=fewer_frames", "template.frame='{clock}{video}'")
    processor = build(models, *HEADED, *overrides).processor
    layout = processor.plan(Sample(chat("What?"), video=array(80)))
    (plan,) = layout.plans
    assert 180 < len(layout.input_ids) <= 200
    assert 1 < len(plan.indices) < 80
    text = processor.tokenizer.decode(layout.input_ids)
    assert f"USER: {in_words(len(plan.indices))} frames, 0:01:20:" in text


def test_a_template_can_omit_subtitles(models):
    processor = build(models, "template.frame='{video}'").processor
    assert "USER: ............\nWhat?" in read(processor, processor(Sample(chat("What?"), video=film())))
    missing = Video(array(), subtitles="nowhere.srt")
    assert processor(Sample(chat("What?"), video=missing)).video_mask.sum() == 12


def test_subtitles_of_a_file_count_from_the_beginning_of_the_video(assistant, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", num_frames=60, fps=10)
    srt = tmp_path / "clip.srt"
    srt.write_text("1\n00:00:00,500 --> 00:00:01,500\nbefore\n\n2\n00:00:03,500 --> 00:00:04,500\nwithin\n")
    whole = assistant.processor(Sample(chat("What?"), video=Video(clip, subtitles=srt)))
    assert "USER: ....before......within..\nWhat?" in read(assistant.processor, whole)
    part = assistant.processor(Sample(chat("What?"), video=Video(clip, start=3, end=6, subtitles=srt)))
    assert "USER: ....within..\nWhat?" in read(assistant.processor, part)


def test_the_error_of_a_broken_subtitle_file_has_line_and_sample(assistant, tmp_path):
    (tmp_path / "x.srt").write_text("1\nsoon --> later\nHi\n")
    with pytest.raises(DataError, match=r"sample 'row 7': .*x.srt:2: invalid times"):
        assistant.processor(Sample(chat("What?"), video=Video(array(), subtitles=tmp_path / "x.srt"), id="row 7"))


def test_a_subtitle_cannot_end_a_turn(assistant):
    cues = (Cue(0.0, 1.0, "fine"), Cue(1.0, 2.0, "not <|endoftext|> fine"))
    with pytest.raises(DataError, match=r"subtitle 1 contains the control token '<\|endoftext\|>' at character 4"):
        assistant.processor(Sample(chat("What?"), video=film(cues=cues)))


@pytest.mark.slow
def test_a_connector_of_whole_clips_refuses_text_between_frames(models):
    overrides = [item for item in tiny_overrides(models, connector="group") if not item.startswith("sampler.")]
    with pytest.raises(
        ConfigError, match=r"template.frame='Frame .*16 tokens for all frames together; use connector=mlp"
    ):
        Assistant.from_config(compose([*overrides, "template.frame='Frame {i}: {video}'"]), device="cpu")
    processor = Assistant.from_config(compose([*overrides, "sampler.num_frames=4"]), device="cpu").processor
    with pytest.raises(DataError, match="its subtitles go between frames, but this connector makes 16 tokens"):
        processor(Sample(chat("What?"), video=film()))
    assert processor(Sample(chat("What?"), video=film(cues=()))).video_mask.sum() == 16


def test_a_closing_token_refuses_text_between_frames(models):
    closed = ["connector.newline=true", "connector.pool_after=2"]
    with pytest.raises(
        ConfigError, match=r"text between frames, but connector.newline=true adds a token after the last"
    ):
        build(models, *closed, "template.frame='{video} '", connector="mlp")
    processor = build(models, *closed, connector="mlp").processor
    with pytest.raises(
        DataError, match="subtitles go between frames, but connector.newline=true.*template.frame='{video}'"
    ):
        processor(Sample(chat("What?"), video=film()))
    with pytest.raises(DataError, match=r"241 video .* lower the frames of the sampler"):
        processor.check_length(10**4, 241)


@pytest.mark.slow
@pytest.mark.parametrize("heading", ["", "{count_words} frames from {duration}|"])
@pytest.mark.parametrize("frame", ["{video}{subtitle}", "Frame {i}: {video}{subtitle}", "{video} ({clock}) {subtitle}"])
def test_training_and_inference_read_the_same(models, frame, heading):
    processor = build(models, f"template.frame='{frame}'", f"template.heading='{heading}'").processor
    prompt = processor(Sample(chat("What?"), video=film()))
    learned = processor(Sample(chat("What?", "A dog."), video=film()))
    length = len(prompt.input_ids)
    assert torch.equal(learned.input_ids[:length], prompt.input_ids)
    assert torch.equal(learned.video_mask[:length], prompt.video_mask)
    assert (learned.labels[:length] == IGNORE_INDEX).all()
    assert processor.tokenizer.decode(learned.labels[length:]) == " A dog.<|endoftext|>"


def test_every_turn_shows_the_frames_and_their_text_again(assistant):
    example = assistant.processor(Sample(chat("One?", "a", "Two?"), video=film()))
    assert read(assistant.processor, example).count("....Hello there.....Bye.....") == 2
    assert [slot.question for slot in example.slots] == ["One?", "Two?"]
    assert int(example.video_mask.sum()) == 2 * 6 * 2


def test_text_between_frames_does_not_change_video_tokens(models):
    plain, labeled = (
        build(models),
        build(models, "template.frame='Frame {i}: {video} {subtitle} '"),
    )  # with other weights
    labeled.model.load_state_dict(plain.model.state_dict())
    rows = []
    for assistant in (plain, labeled):
        batch = assistant.processor.collate([assistant.processor(Sample(chat("What?"), video=film()))])
        with torch.no_grad():
            rows.append(assistant.model.embed(batch)[batch.video_mask])
    assert torch.equal(*rows)


def test_a_transcript_contains_every_token_once(assistant):
    processor = assistant.processor
    layout = processor.plan(Sample(chat("One?", "a", "Two?", "b"), video=film()))
    text = "".join(passage.text for passage in transcript(layout, processor))
    assert text.count("[video 12 tokens, 6 frames") == 2
    assert text.count("[continued]") == 4


def test_videos_with_different_subtitles_are_different():
    frames = array()
    samples = [Sample(chat("?"), video=Video(frames, subtitles=cues)) for cues in (CUES, CUES, None, "a.srt")]
    assert same_videos(samples[0], samples[1])
    assert not same_videos(samples[0], samples[2])
    assert not same_videos(samples[2], samples[3])


# --- reducing frames or tokens ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("turns", [1, 2])
@pytest.mark.parametrize("num_frames", [1, 2, 17])
@pytest.mark.parametrize("content", ["mean", "grid", "none", "drop"])
def test_counts_agree_between_plan_layout_and_model(models, content, num_frames, turns):
    assistant = build(models, f"connector.content={content}")
    messages = chat("One?", "a", "Two?", "b")[: 2 * turns]
    layout = assistant.processor.plan(Sample(messages, video=array(num_frames)))
    per_frame = {"mean": 2, "grid": 5, "none": 17, "drop": 1}[content]
    assert layout.plans[0].num_places == num_frames * per_frame
    assert int(layout.video_mask.sum()) == turns * num_frames * per_frame
    batch = assistant.processor.collate([assistant.processor(Sample(messages, video=array(num_frames)))])
    with torch.no_grad():
        assert len(assistant.model.slot_tokens(batch)[0]) == turns * num_frames * per_frame


def too_long(assistant, count=80, reserve=0):
    return assistant.processor.plan(
        Sample(chat("What happens?", "A dog."), video=array(count), id="row 7"), reserve=reserve
    )


def test_the_default_is_to_refuse(models):
    with pytest.raises(DataError, match=r"sample 'row 7': 160 video \+ \d+ text tokens = \d+ exceed .*max_length=150"):
        too_long(build(models, "llm.max_length=150"))


@pytest.mark.parametrize("reserve", [0, 20])
def test_fewer_frames_fills_the_context_and_reports_the_rate(models, caplog, reserve):
    assistant = build(models, "llm.max_length=200", "sampler.overflow=fewer_frames")
    with caplog.at_level("INFO", logger="tinyvid.processing.processor"):
        layout = too_long(assistant, reserve=reserve)
    (plan,) = layout.plans
    assert 200 - reserve - 2 < len(layout.input_ids) <= 200 - reserve
    assert plan.wanted == 80
    assert plan.fps == pytest.approx(len(plan.indices) / 80)
    assert f"Sample 'row 7' was reduced to fit in {200 - reserve} tokens: {plan}" in caplog.text
    replies = layout.labels[layout.labels != IGNORE_INDEX]
    assert assistant.processor.tokenizer.decode(replies) == " A dog.<|endoftext|>"


def test_labels_and_subtitles_count_toward_the_length(models):
    frame = "template.frame='Frame {i} at {time}: {video} {subtitle} '"
    assistant = build(models, "llm.max_length=400", "sampler.overflow=fewer_frames", frame)
    cues = tuple(Cue(i, i + 0.5, f"word {i}") for i in range(0, 80, 10))
    layout = assistant.processor.plan(Sample(chat("What?"), video=film(80, cues)))
    assert 350 < len(layout.input_ids) <= 400
    text = assistant.processor.tokenizer.decode(layout.input_ids)
    assert all(f"word {i} " in text for i in range(0, 80, 10))
    assert f"Frame {len(layout.indices[0])} at 1:19: " in text


@pytest.mark.slow
def test_fewer_tokens_keeps_every_frame_and_the_model_agrees(models):
    options = ["connector.content=grid", "connector.grid=4", "llm.max_length=600", "sampler.overflow=fewer_tokens"]
    assistant = build(models, *options)
    assert assistant.processor.tokens.smaller == (10, 5, 2)
    example = assistant.processor(Sample(chat("One?", "a", "Two?"), video=array(40)))
    assert [slot.per_frame for slot in example.slots] == [5, 5]
    assert [video.num_frames for video in example.videos] == [40]
    with torch.no_grad():
        tokens = assistant.model.slot_tokens(assistant.processor.collate([example]))[0]
    coarse = build(models, "connector.content=grid", "connector.grid=2")
    coarse.model.load_state_dict(assistant.model.state_dict())
    small = coarse.processor.collate([coarse.processor(Sample(chat("One?", "a", "Two?"), video=array(40)))])
    with torch.no_grad():
        torch.testing.assert_close(tokens, coarse.model.slot_tokens(small)[0])


@pytest.mark.slow
def test_fewer_tokens_refuses_if_the_fewest_are_too_many(models):
    with pytest.raises(DataError, match=r"160 video .*exceed"):
        too_long(build(models, "llm.max_length=150", "sampler.overflow=fewer_tokens"))
    mlp = build(models, "llm.max_length=600", "sampler.overflow=fewer_tokens", connector="mlp")
    with pytest.raises(DataError, match=r"1,280 video .*exceed"):
        too_long(mlp)


def test_text_is_never_truncated(models):
    assistant = build(models, "llm.max_length=100", "sampler.overflow=fewer_frames")
    with pytest.raises(DataError, match="exceed the limit"):
        assistant.processor.plan(Sample(chat("word " * 200), video=array(80)))


# --- content-based sampling -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sampler_that_looks_finds_the_change_in_a_file(models, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", num_frames=60, fps=2)  # 30 s in which all frames differ
    still = Video(np.repeat(array(1), 60, axis=0), fps=2.0)
    assistant = build(models, "sampler=content", "sampler.fps=2", "sampler.max_frames=20")
    moving = assistant.processor.plan(Sample(chat("What?"), video=clip)).plans[0]
    assert len(moving.indices) == 20
    assert "capped from" in moving.reason
    quiet = assistant.processor.plan(Sample(chat("What?"), video=still)).plans[0]
    assert quiet.indices == (0, 19, 39, 59)
    assert "evenly spaced, too little change" in str(quiet)


def test_looking_keeps_one_piece_in_memory(monkeypatch):
    from tinyvid.video.open_video import Clip, open_video

    monkeypatch.setattr("tinyvid.video.open_video.PIECE_BYTES", 1)
    sizes = []
    read = Clip.read

    def watched(self, indices):
        sizes.append(len(indices))
        return read(self, indices)

    monkeypatch.setattr(Clip, "read", watched)
    opened = open_video(Video(array(100)), reader=None)
    choice = Content(fps=1, max_frames=30)(opened.meta, opened.look)
    assert len(choice.indices) == 30
    assert max(sizes) == 16
    assert sum(sizes) == 100


# --- streaming --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [("llamavid",), ("mlp",), ("mlp", "connector.pool_after=2", "connector.newline=true")],
    ids=["llamavid", "mlp", "mlp with a closing token"],
)
def test_a_streamed_video_gives_the_same_tokens(models, tmp_path, options, monkeypatch):
    connector, *options = options
    clip = write_clip(tmp_path / "clip.mp4", num_frames=70, fps=1)
    assistant = build(models, "llm.max_length=1024", *options, connector=connector)
    processor, model = assistant.processor, assistant.model
    # The batch mixes streams, pixels and text.
    samples = [
        Sample(chat("One?", "a", "Two?"), video=[Video(clip, start=3, end=39), array(3)], id="two"),
        Sample(chat("Text?")),
        Sample(chat("What?"), video=array(5)),
    ]
    samples[0] = Sample([Message("user", "One?", videos=2), *samples[0].messages[1:]], video=samples[0].video)
    held = processor.collate([processor(sample) for sample in samples], padding_side="left")
    assert [video.lazy for video in held.videos] == [None, None, None]
    monkeypatch.setattr(processor, "lazy_bytes", 12 * 56**2 * 10)
    monkeypatch.setattr("tinyvid.video.lazy_pixels.PIECE_BYTES", 1)
    examples = [pickle.loads(pickle.dumps(processor(sample))) for sample in samples]
    batch = processor.collate(examples, padding_side="left")
    assert [video.lazy is not None for video in batch.videos] == [True, False, False]
    assert [len(video.pixels) for video in batch.videos[1:]] == [3, 5]
    assert [len(piece) for piece in batch.videos[0].lazy] == [16, 16, 4]
    assert torch.equal(torch.cat(list(batch.videos[0].lazy)), held.videos[0].pixels)
    assert (batch.videos[0].start, batch.videos[0].end) == (3, 39)
    assert torch.equal(batch.input_ids, held.input_ids)
    with torch.inference_mode():
        torch.testing.assert_close(model.slot_tokens(batch)[0], model.slot_tokens(held)[0], atol=1e-5, rtol=1e-5)
        short = Decoding(4)
        assert torch.equal(generate(model, processor, batch, short), generate(model, processor, held, short))


@pytest.mark.slow
def test_a_connector_of_whole_clips_gets_whole_clips(models, monkeypatch):
    assistant = build(models, connector="group")
    monkeypatch.setattr(assistant.processor, "lazy_bytes", 1)
    example = assistant.processor(Sample(chat("What?"), video=array(5)))
    assert [len(video.pixels) for video in example.videos] == [5]


def test_features_of_streams_are_not_cached(models, monkeypatch):
    assistant = build(models)
    monkeypatch.setattr(assistant.processor, "lazy_bytes", 12 * 56**2 * 4)
    for parameter in assistant.model.vision_tower.parameters():
        parameter.requires_grad_(False)
    batch = assistant.processor.collate([assistant.processor(Sample(chat("What?"), video=[array(3), array(9)]))])
    filled = assistant.model.fill_features(batch)
    assert [video.features is not None for video in filled.videos] == [True, False]
    with torch.no_grad():
        torch.testing.assert_close(assistant.model.slot_tokens(filled)[0], assistant.model.slot_tokens(batch)[0])
