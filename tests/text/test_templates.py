"""Chat templates: exactly the original prompts, the order of turns, and every YAML file of the group."""

import re
from dataclasses import replace

import pytest
from transformers import AutoTokenizer, Qwen2Config

from tests.goldens import TINYLLAVA_VIDEO, read_json, to_messages
from tinyvid import ConfigError, DataError, Message, compose
from tinyvid.config import CONF_DIR
from tinyvid.registry import TEMPLATES
from tinyvid.types import IGNORE_INDEX, Segment

GOLDENS = read_json("templates.json")
VIDEO_ID = -200  # the video marker in the recordings


def load(name):
    return TEMPLATES.build(compose([f"template={name}"]).template)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINYLLAVA_VIDEO / "group_qwen2", config=Qwen2Config())


def segments_of(case):
    name = case.partition("/")[0]
    messages = to_messages(GOLDENS[case]["conversation"])
    slots = [message.videos for message in messages]
    if name == "pretrain":  # the original writes its marker in every turn, with or without a video
        slots = [int(message.role == "user") for message in messages]
    return load({"pretrain": "plain"}.get(name, name))(messages, slots=slots)


@pytest.mark.slow
@pytest.mark.parametrize("case", GOLDENS)
def test_prompt_equals_the_original(case):
    text = "".join("<image>" if s.kind == "video" else s.text for s in segments_of(case))
    assert text == GOLDENS[case]["prompt"]


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in GOLDENS if not case.startswith("gemma")])
def test_ids_and_labels_equal_the_original(case, tokenizer):
    ids, labels = [], []
    for segment in segments_of(case):
        piece = [VIDEO_ID] if segment.kind == "video" else tokenizer(segment.text).input_ids
        ids += piece
        labels += piece if segment.kind == "reply" else [IGNORE_INDEX] * len(piece)
    assert ids == GOLDENS[case]["input_ids"]
    expected = GOLDENS[case]["labels"]
    if case == "pretrain/multi":
        # The original masks only the first of several markers and would learn the others as text.
        expected = [IGNORE_INDEX if label == VIDEO_ID else label for label in expected]
    assert labels == expected


@pytest.mark.parametrize("system", [[], [Message("system", "Be brief.")]])
def test_start_comes_once_and_text_prefix_where_no_video_is(system):
    template = TEMPLATES.build(
        {"name": "turns", "start": "<s>", "system_prefix": "[", "system_suffix": "]", "user_prefix": "User:"}
        | {"text_prefix": " ", "user_suffix": "|", "end": "."}
    )
    messages = [*system, Message("user", "What?"), Message("assistant", "A dog"), Message("user", "Where?")]
    segments = template(messages, slots=[*[0] * len(system), 1, 0, 0])
    text = "".join("<video>" if segment.kind == "video" else segment.text for segment in segments)
    begin = "<s>[Be brief.]" if system else "<s>"
    assert text == f"{begin}User:<video>\nWhat?|A dog.User: Where?|"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_base", "phi", "plain", "gemma", "chatml"])
def test_reply_segments_are_the_replies_with_their_end(name):
    template = load(name)
    messages = [Message("user", "a?"), Message("assistant", "b"), Message("user", "c?"), Message("assistant", "d e")]
    replies = [s.text for s in template(messages, slots=[1, 0, 0, 0]) if s.kind == "reply"]
    assert replies == [template.reply_prefix + reply + template.end for reply in ("b", "d e")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_base", "phi", "plain", "gemma", "chatml"])
def test_a_prompt_is_the_beginning_of_its_training_text(name):
    template = load(name)
    question, reply = Message("user", "What moves?"), Message("assistant", "A dog.")
    prompt = template([question], slots=[1])
    assert template([question, reply], slots=[1, 0])[: len(prompt)] == prompt


def test_chatml_is_written_as_qwen_instruct_reads_it():
    messages = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yo"), Message("user", "?")]
    assert load("chatml")(messages, slots=[0, 1, 0, 0]) == [
        Segment("prompt", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"),
        Segment("video"),
        Segment("prompt", "\nHi<|im_end|>\n<|im_start|>assistant\n"),
        Segment("reply", "Yo<|im_end|>"),
        Segment("prompt", "\n<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n"),
    ]


TALK = [Message("system", "S"), Message("user", "A"), Message("assistant", "B"), Message("user", "C")]
START, END = "<|start_header_id|>", "<|end_header_id|>\n\n"
LLAMA = f"{START}system{END}Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "whole", "alone"), [
    ("chatml_no_system", "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB"
     "<|im_end|>\n<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
     "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n"),
    ("gemma3", "<start_of_turn>user\nS\n\nA<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>\n<start_of_turn>user\nC"
     "<end_of_turn>\n<start_of_turn>model\n", "<start_of_turn>user\nC<end_of_turn>\n<start_of_turn>model\n"),
    ("llama3", f"{LLAMA}S<|eot_id|>{START}user{END}A<|eot_id|>{START}assistant{END}B<|eot_id|>{START}user{END}C"
     f"<|eot_id|>{START}assistant{END}", f"{LLAMA}<|eot_id|>{START}user{END}C<|eot_id|>{START}assistant{END}"),
    ("phi4_mini", "<|system|>S<|end|><|user|>A<|end|><|assistant|>B<|end|><|user|>C<|end|><|assistant|>",
     "<|user|>C<|end|><|assistant|>"),
])  # fmt: skip
def test_turns_of_instruction_tuned_models(name, whole, alone):
    template = load(name)
    assert "".join(segment.text for segment in template(TALK, slots=[0] * 4)) == whole
    assert "".join(segment.text for segment in template(TALK[3:], slots=[0])) == alone


def test_a_system_text_in_the_user_turn_precedes_the_video():
    shown = load("gemma3")(TALK[:2], slots=[0, 1])
    assert [s.text or "VIDEO" for s in shown][:2] == ["<start_of_turn>user\nS\n\n", "VIDEO"]


@pytest.mark.parametrize("path", sorted((CONF_DIR / "llm").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_llm_names_a_template_that_exists(path):
    named = re.findall(r"template=(\w+)", path.read_text().splitlines()[0])
    assert all((CONF_DIR / "template" / f"{name}.yaml").is_file() for name in named)
    assert named or "base" in path.read_text().splitlines()[0] or path.stem in ("auto", "qwen2_5_tiny")


@pytest.mark.parametrize("name", ["qwen2_base", "phi", "plain", "gemma", "chatml"])
def test_a_reply_that_is_not_learned_is_the_same_text(name):
    template = load(name)
    first, second = Message("assistant", "b"), Message("assistant", "d e")
    asked = [Message("user", "a?"), first, Message("user", "c?"), second]
    learned = template(asked, slots=[1, 0, 0, 0])
    read = template([asked[0], replace(first, loss=False), *asked[2:]], slots=[1, 0, 0, 0])
    assert [segment.text for segment in read] == [segment.text for segment in learned]
    assert [s.text for s in read if s.kind == "reply"] == [s.text for s in learned if s.kind == "reply"][1:]


def test_llava_is_written_as_version_1_5_reads_it():
    messages = [Message("user", "Hi"), Message("assistant", "Yo"), Message("user", "?")]
    template = load("llava")
    assert template(messages, slots=[1, 0, 0]) == [
        Segment("prompt", "USER: "),
        Segment("video"),
        Segment("prompt", "Hi ASSISTANT:"),
        Segment("reply", " Yo</s>"),
        Segment("prompt", "USER: ? ASSISTANT:"),
    ]
    assert [(run.text, run.num_frames) for run in template.frame([0, 1], ["", ""])] == [("", 1), ("\n", 1), ("\n", 0)]


def test_videos_keep_their_places_in_the_text():
    message = Message("user", "Compare  and .", videos=2, places=(8, 13))
    shown = load("qwen2_base")([message], slots=[3])  # the first video is repeated from an earlier turn
    text = "".join("VIDEO" if segment.kind == "video" else segment.text for segment in shown)
    assert text.count("VIDEO") == 3
    assert "VIDEO\nCompare VIDEO and VIDEO." in text


@pytest.mark.parametrize("places", [(1, 0), (0,), (0, 15), (-1, 2)])
def test_places_must_lie_in_the_text_in_order(places):
    with pytest.raises(DataError, match="must be 2 positions in a text of 14 characters, in order"):
        Message("user", "Compare  and .", videos=2, places=places)


def test_several_videos_come_before_their_question():
    kinds = [s.kind for s in load("qwen2_base")([Message("user", "Which one?")], slots=[2])]
    assert kinds == ["prompt", "video", "prompt", "video", "prompt"]


def test_a_reply_must_end():
    with pytest.raises(ConfigError, match="template.end is empty"):
        TEMPLATES.build({"name": "turns", "end": ""})


def test_plain_drops_the_question():
    segments = load("plain")([Message("user", "Describe."), Message("assistant", "A dog.")], slots=[1, 0])
    assert segments == [Segment("video"), Segment("reply", "A dog.\n")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "needs at least one user message"),
        ([Message("system", "s")], "needs at least one user message"),
        ([Message("assistant", "a")], "message 0 has role 'assistant', expected 'user'"),
        ([Message("user", "a"), Message("user", "b")], "message 1 has role 'user', expected 'assistant'"),
        ([Message("user", "a"), Message("system", "b")], "message 1 has role 'system', expected 'assistant'"),
    ],
)
def test_turns_must_alternate(messages, message):
    with pytest.raises(DataError, match=message):
        load("qwen2_base")(messages, slots=[0] * len(messages))
