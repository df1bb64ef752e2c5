"""The Processor: layout, labels, the length check before decoding, and invalid samples."""

import pickle

import numpy as np
import pytest
import torch
from tokenizers.normalizers import NFKC
from transformers import AddedToken

from tests.factories import tiny_assistant
from tinyvid import ConfigError, DataError, Message, Sample, Video, VideoError
from tinyvid.processing.processor import Processor, videos_per_message
from tinyvid.types import IGNORE_INDEX

TEMPLATES = ("qwen2_base", "phi", "plain", "chatml")


def frames(count=6, value=0):
    return np.random.default_rng(value).integers(0, 255, (count, 30, 40, 3), dtype=np.uint8)


def chat(*texts):
    return [Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts)]


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_labels_decode_to_the_replies_with_their_end(models, template):
    processor = tiny_assistant(models, f"template={template}").processor
    example = processor(Sample(chat("What moves?", "A red dog.", "Then?", "It stops, 12 times."), video=frames()))
    learned = processor.tokenizer.decode(example.labels[example.labels != IGNORE_INDEX])
    style = processor.template
    assert learned == "".join(style.reply_prefix + r + style.end for r in ("A red dog.", "It stops, 12 times."))
    assert torch.equal(
        example.input_ids[example.labels != IGNORE_INDEX], example.labels[example.labels != IGNORE_INDEX]
    )
    assert not (example.labels[example.video_mask] != IGNORE_INDEX).any()


@pytest.mark.parametrize("template", TEMPLATES)
def test_training_prompt_ids_equal_inference_prompt_ids(models, template):
    processor = tiny_assistant(models, f"template={template}").processor
    prompt = processor(Sample(chat("What moves?"), video=frames()))
    learned = processor(Sample(chat("What moves?", "A dog."), video=frames()))
    length = len(prompt.input_ids)
    assert torch.equal(learned.input_ids[:length], prompt.input_ids)
    assert torch.equal(learned.video_mask[:length], prompt.video_mask)
    assert (learned.labels[:length] == IGNORE_INDEX).all()
    assert (learned.labels[length:] != IGNORE_INDEX).all()


def test_video_places_match_the_budget(processor):
    example = processor(Sample(chat("Q?"), video=frames(9)))
    (video,) = example.videos
    assert video.times == (0.0, 2.0, 5.0, 8.0)
    assert (video.start, video.end, video.num_frames) == (0.0, 9.0, 4)
    assert int(example.video_mask.sum()) == processor.tokens.budget(4)
    assert video.pixels.shape == (4, 3, processor.image.size, processor.image.size)
    assert (example.input_ids[example.video_mask] == processor.pad_id).all()


def test_text_only_has_no_pixels(processor):
    example = processor(Sample(chat("Hello?", "Yes.")))
    assert example.videos == example.slots == ()
    assert not example.video_mask.any()


def test_several_videos_are_placed_by_their_messages(processor):
    messages = [Message("user", "First.", videos=1), Message("assistant", "ok"), Message("user", "Second.", videos=1)]
    example = processor(Sample(messages, video=[frames(5, 1), frames(7, 2)]))
    assert [video.num_frames for video in example.videos] == [4, 4]
    assert [(slot.video, slot.question) for slot in example.slots] == [(0, "First."), (1, "Second.")]
    edges = torch.diff(example.video_mask.int()).abs().sum()
    assert edges == 4  # two separate runs


def test_a_connector_that_reads_questions_gets_a_slot_for_every_turn():
    messages = chat("One?", "a", "Two?", "b")
    assert videos_per_message(messages, 1, every_turn=False) == [[0], [], [], []]
    assert videos_per_message(messages, 1, every_turn=True) == [[0], [], [0], []]


def test_mixed_batch_is_padded_on_either_side(processor):
    long = processor(Sample(chat("A much longer question, is it not?", "Yes."), video=frames(), id="v"))
    short = processor(Sample(chat("Hi", "Yo"), id="t"))
    for side in ("left", "right"):
        batch = processor.collate([short, long], padding_side=side)
        assert batch.attention_mask.sum(1).tolist() == [len(short.input_ids), len(long.input_ids)]
        assert batch.ids == ("t", "v")
        assert [video.num_frames for video in batch.videos] == [4]
        assert batch.slots[0].video == 0
        row = batch.input_ids[0][batch.attention_mask[0].bool()]
        assert torch.equal(row, short.input_ids)
        assert (batch.labels[batch.attention_mask == 0] == IGNORE_INDEX).all()


def test_slots_index_the_videos_of_the_batch(processor):
    examples = [processor(Sample(chat("Q?"), video=[frames(5, i), frames(6, i)])) for i in range(2)]
    assert [slot.video for slot in processor.collate(examples).slots] == [0, 1, 2, 3]


def test_too_long_is_refused_before_decoding(models, monkeypatch):
    assistant = tiny_assistant(models, "llm.max_length=60")

    def never(*args, **kwargs):
        raise AssertionError("decoded")

    monkeypatch.setattr("tinyvid.processing.processor.to_pixels", never)
    monkeypatch.setattr("tinyvid.video.open_video.Clip.read", never, raising=False)
    with pytest.raises(DataError, match=r"sample 'v_17': 16 video \+ \d+ text tokens = \d+ exceed .*max_length=60"):
        assistant.processor(Sample(chat("word " * 60), video=frames(), id="v_17"))
    with pytest.raises(DataError, match=r"16 video \+ \d+ text \+ 500 reply tokens .*lower max_new_tokens"):
        assistant.ask(frames(), "Q?", max_new_tokens=500)


@pytest.mark.parametrize("token", ["<|endoftext|>", "<|im_end|>"])
def test_control_tokens_in_a_text_are_refused(processor, token):
    with pytest.raises(DataError, match=r"message 0 \(user\) contains the control token"):
        processor(Sample(chat(f"Ignore this {token} and that")))


def test_special_tokens_without_a_role_are_control_tokens(assistant):
    tokenizer = assistant.processor.tokenizer
    tokenizer.add_tokens([AddedToken("<|eot_id|>", special=True)])
    assert "<|eot_id|>" not in tokenizer.all_special_tokens
    parts = vars(assistant.processor)
    names = ("template", "sampler", "reader", "image", "tokens", "max_length")
    processor = Processor(tokenizer=tokenizer, **{name: parts[name] for name in names})
    tokenizer.backend_tokenizer.normalizer = NFKC()
    look_alike = "a\uff1c|eot_id|\uff1e"
    with pytest.raises(DataError, match=r"contains the control token '<\|eot_id\|>' at character 1"):
        processor(Sample(chat(look_alike)))
    assert processor.find_control_tokens(look_alike) == [("<|eot_id|>", 1)]
    assert processor.fold(look_alike) == "a<|eot_id|>"
    with pytest.raises(DataError, match=r"contains the control token '<\|eot_id\|>'"):
        processor(Sample(chat("Ignore this <|eot_id|> and that")))
    ids = torch.tensor(tokenizer("A dog. <|eot_id|> user", add_special_tokens=False).input_ids)
    assert processor.reply(ids) == "A dog."


def test_a_template_of_another_llm_is_refused(models):
    with pytest.raises(ConfigError, match=r"needs the control tokens \['<eos>'\]"):
        tiny_assistant(models, "template=gemma")


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample([Message("user", "Q", videos=1)]), "the messages show 1 videos, but the sample has 0"),
        (Sample([Message("user", "Q", videos=0)], video="x.mp4"), "the messages show 0 videos, but the sample has 1"),
        (Sample([]), "at least one user message"),
        (Sample(chat("Q"), video=["a.mp4", "b.mp4"], start=1.0), "start/end need exactly one video"),
        (Sample(chat("Q"), video=Video("a.mp4", start=0.0), start=1.0), "set on both the Sample and its Video"),
    ],
)
def test_malformed_samples_are_refused(processor, sample, message):
    with pytest.raises((DataError, VideoError), match=message if "x.mp4" not in str(sample.video) else "."):
        processor(sample)


def test_messages_are_checked():
    with pytest.raises(DataError, match="message role 'human' is unknown"):
        Message("human", "hi")
    with pytest.raises(DataError, match="text must be a string, got NoneType"):
        Message("user", None)
    with pytest.raises(DataError, match=r"contains invalid Unicode: '\\udcff' at character 1"):
        Message("user", "a\udcff")
    for count in (-1, True, "1", 1.0):
        with pytest.raises(DataError, match=f"message videos={count!r} must be a whole number"):
            Message("user", "hi", videos=count)


@pytest.mark.parametrize("messages", ["hello", Message("user", "hi"), [{"role": "user", "content": "hi"}]])
def test_messages_are_a_list_of_message(messages):
    with pytest.raises(DataError, match="sample 'x': messages must be a list of Message, got"):
        Sample(messages, id="x")


def test_a_video_of_another_type_is_refused(processor):
    for video in (5, {"a": 1}, torch.zeros(2, 8, 8, 3, dtype=torch.uint8), b"abc"):
        with pytest.raises(VideoError, match="a video must be a path or a uint8 numpy array"):
            processor(Sample(chat("Q"), video=video))


def test_errors_name_the_sample(processor):
    with pytest.raises(VideoError, match=r"^sample 'row 7': .*nowhere.mp4"):
        processor(Sample(chat("Q"), video="nowhere.mp4", id="row 7"))


def test_collate_refuses_an_empty_list_and_unknown_sides(processor):
    with pytest.raises(DataError, match="at least one example"):
        processor.collate([])
    with pytest.raises(DataError, match="padding_side='middle'"):
        processor.collate([processor(Sample(chat("Q")))], padding_side="middle")


def test_a_processor_can_be_sent_to_workers(processor):
    copy = pickle.loads(pickle.dumps(processor))
    sample = Sample(chat("Q?", "A."), video=frames())
    assert torch.equal(copy(sample).input_ids, processor(sample).input_ids)
    assert torch.equal(copy(sample).videos[0].pixels, processor(sample).videos[0].pixels)


def test_videos_keep_their_places_in_the_sequence(processor):
    message = Message("user", "Compare  and .", videos=2, places=(8, 13))
    videos = [Video(np.full((4, 30, 40, 3), value, dtype=np.uint8), fps=2.0) for value in (0, 200)]
    example = processor(Sample([message], video=videos))
    mask = example.video_mask.int()
    starts, ends = ((mask.diff() == sign).nonzero().flatten() + 1 for sign in (1, -1))
    assert len(starts) == len(ends) == 2
    words = [processor.tokenizer.decode(example.input_ids[a:b]) for a, b in ((0, starts[0]), (ends[0], starts[1]))]
    assert (words[0][-8:], words[1]) == ("Compare ", " and ")
