"""A composition without a place in a layout is refused, with the part and the option that would qualify."""

from dataclasses import replace

import pytest
import torch

from tests.factories import tiny_assistant
from tests.goldens import FAMILIES
from tinyvid import Assistant, ConfigError
from tinyvid.checkpoints.serving.qualification import refuse_unqualified
from tinyvid.checkpoints.serving.writing import LAYOUTS


def refused(assistant, to):
    with pytest.raises(ConfigError) as error:
        refuse_unqualified(assistant.loaded, to, LAYOUTS[to])
    return str(error.value)


@pytest.mark.parametrize("connector", ["group", "naive"])
def test_connectors(models, connector):
    message = refused(tiny_assistant(models, connector=connector), "llava")
    assert f"connector '{connector}' has no place in this layout; it needs connector=mlp" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("connector.pool=2", "connector.pool=2 has no place in this layout; it needs connector.pool=1"),
        ("connector.depth=1", "it needs connector.depth=2"),
        ("connector.newline=true", "it needs connector.newline=False"),
        ("vision_tower.select=patch", "it needs vision_tower.select='all'"),
        ("vision_tower.resize=pad", "it needs vision_tower.resize='stretch'"),
        ("reducer=drop", "reducer 'drop' has no place in this layout"),
        ("motion=correlation", "motion 'correlation' has no place in this layout; export without to="),
    ],
)
def test_options(models, override, message):
    assert message in refused(tiny_assistant(models, override, connector="mlp"), "llava")


def test_llms_of_another_design(models):
    assert "an LLM of type 'gpt2'" in refused(tiny_assistant(models, connector="mlp", family="gpt2"), "llava")


def test_changed_logits(models):
    assistant = tiny_assistant(models, "llm.attention=eager", connector="mlp", family="gemma2")
    assert "final_logit_softcapping=30.0" in refused(assistant, "llava")


def test_a_tied_head_with_other_weights(models):
    assistant = tiny_assistant(models, connector="mlp")
    assistant.model.llm.lm_head.weight = torch.nn.Parameter(torch.zeros(512, 64))
    assert "would need an untied head" in refused(assistant, "llava")


def test_frames_that_are_resized_twice(models):
    assistant = tiny_assistant(models, connector="mlp")
    assistant.model.vision_tower.image = replace(assistant.model.vision_tower.image, longest_edge=56)
    assert "use to=smolvlm" in refused(assistant, "llava")


@pytest.mark.parametrize("to", ["smolvlm", "internvl", "llava_onevision"])
def test_what_a_layout_needs_instead(models, to):
    message = refused(tiny_assistant(models, connector="mlp"), to)
    needed = {
        "smolvlm": "it needs vision_tower.final_norm=True",
        "internvl": "vision_tower 'siglip' has no place in this layout; it needs vision_tower=internvit",
        "llava_onevision": "it needs connector.pool_after=2",
    }
    assert needed[to] in message


def test_templates_that_a_processor_does_not_write():
    assistant = Assistant.from_pretrained(
        FAMILIES / "smolvlm" / "hf", device="cpu", dtype="float32", template={"heading": "Look:"}
    )
    message = refused(assistant, "smolvlm")
    assert message.startswith("to=smolvlm: template.heading='Look:' is not what the processor of this layout writes")
