"""A chat template in Jinja writes the conversations of its template."""

import itertools

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tinyvid import ConfigError, Message
from tinyvid.build import REGISTRIES
from tinyvid.checkpoints.compat.assembly import presets
from tinyvid.checkpoints.serving import chat_template
from tinyvid.text.templates import TurnTemplate

TEXTS = {"image": "<image>", "video": "<video>"}


def template_of(name, **options):
    group = {**presets(template=name, sampler="uniform")["template"], **options}
    return REGISTRIES["template"].build(group)


def rendered(source, messages, **options):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.Undefined)
    return environment.from_string(source).render(messages=messages, **options)


def conversation(turns, system):
    messages = [Message(("user", "assistant")[turn % 2], f'"{turn}"\n{{{{ x }}}} 😀') for turn in range(turns)]
    return [Message("system", "Be\\brief.")] * system + messages


def as_items(messages, unit, count):
    found = []
    for message in messages:
        items = [{"type": unit}] * count if message.role == "user" else []
        found.append({"role": message.role, "content": [*items, {"type": "text", "text": message.text}]})
    return found


@pytest.mark.parametrize("unit", ["image", "video"])
@pytest.mark.parametrize("name", ["chatml", "llava", "chatml_no_system", "llama3", "gemma3", "internvl", "idefics3"])
def test_conversations_equal_those_of_the_template(name, unit):
    template = template_of(name)
    source = chat_template.write(template, bos=False, unit=unit, texts=TEXTS, suffix=template.video_suffix)
    for turns, system, videos in itertools.product((1, 2, 3), (0, 1), (0, 1)):
        messages = conversation(turns, system)
        slots = [videos if message.role == "user" else 0 for message in messages]
        written = "".join(
            segment.text if segment.kind != "video" else frames(template, unit)
            for segment in template(messages, slots=slots)
        )
        given = as_items(messages, unit, videos)
        assert rendered(source, given, add_generation_prompt=turns % 2 == 1) == written


def frames(template, unit):
    """One frame with what stands next to it; a processor of videos writes this itself."""
    style = template.frame.style if unit == "image" else "{video}"
    return style.format(video=TEXTS[unit], i=1, subtitle="")


def test_a_text_instead_of_items_and_the_beginning():
    template = template_of("chatml")
    source = chat_template.write(template, bos=True, unit="image", texts=TEXTS, suffix=template.video_suffix)
    found = rendered(source, [{"role": "user", "content": "Hello"}], bos_token="<s>", add_generation_prompt=True)
    assert found.startswith("<s><|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHello<")


def test_a_template_without_a_place_for_a_system_message():
    template = template_of("chatml", system_turn="none", system="")
    source = chat_template.write(template, bos=False, unit="image", texts=TEXTS, suffix="")

    def refuse(message):
        raise ValueError(message)

    with pytest.raises(ValueError, match="has no place for a system message"):
        rendered(source, [{"role": "system", "content": "Look."}], raise_exception=refuse)


def test_frames_are_numbered_and_counted():
    template = TurnTemplate(end="E", video_suffix="|", frame="{i}={video};", heading="{count} frames: ")
    source = chat_template.write(template, bos=False, unit="image", texts=TEXTS, suffix=template.video_suffix)
    messages = [{"role": "user", "content": [{"type": "image"}] * 3 + [{"type": "text", "text": "Q?"}]}]
    assert rendered(source, messages) == "3 frames: 1=<image>;2=<image>;3=<image>;|Q?"


def test_times_are_written_if_the_caller_gives_them():
    template = TurnTemplate(end="E", video_suffix="|", frame="{time} {video}\n")
    source = chat_template.write(template, bos=False, unit="image", texts=TEXTS, suffix=template.video_suffix)
    items = [{"type": "image", "time": "0:01"}, {"type": "image"}]
    assert rendered(source, [{"role": "user", "content": items}]) == "0:01 <image>\n<image>|"


def test_headings_that_no_server_knows_are_refused():
    template = TurnTemplate(end="E", heading="{duration}")
    with pytest.raises(ConfigError, match="contains {duration}, which no chat template knows"):
        chat_template.write(template, bos=False, unit="image", texts=TEXTS, suffix=template.video_suffix)
