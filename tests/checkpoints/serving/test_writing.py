"""Exports in layouts of transformers compute what tinyvid computes, bit for bit in float32, and are read again."""

import inspect
import json

import pytest
import torch
from safetensors.torch import load_file

from tests.factories import tiny_assistant
from tests.goldens import FAMILIES
from tests.runs import load_program
from tinyvid import Assistant, ConfigError, Message, Sample
from tinyvid.checkpoints.serving import llava, parity, writing
from tinyvid.models.adapters import merged
from tinyvid.models.video_llm import PARTS
from tinyvid.training.trainable import PartOptions, PeftOptions, apply

pytestmark = pytest.mark.slow
program = load_program("export")
# By layout: the models to export, and options that their layout states.
MODELS = {
    "llava": ("llava_siglip", "llava_clip"),
    "smolvlm": ("smolvlm",),
    "internvl": ("internvl_qwen2",),
    "llava_onevision": ("llava_onevision",),
}
CASES = [(to, name) for to, names in MODELS.items() for name in names]


def read(name, **options):
    return Assistant.from_pretrained(FAMILIES / name / "hf", device="cpu", dtype="float32", **options)


def exported(assistant, folder, to, **options):
    """Write an export of a model, and return the comparison with it."""
    folder.mkdir()
    notes = writing.write(assistant.loaded, folder, to, **options)
    (sample,) = program.samples_of(None, 1, "What moves?")
    (found,) = parity.compare(assistant.loaded, folder, to, [sample], reply_tokens=4)
    assert parity.fault([found], 0.0) == ""
    return found, notes


@pytest.mark.parametrize(("to", "name"), CASES, ids=[name for _, name in CASES])
def test_an_export_is_bit_equal_and_is_read_again(to, name, tmp_path):
    sampler = {"sampler": {"name": "uniform", "num_frames": 3}}
    assistant = read(name, **sampler)
    found, _ = exported(assistant, tmp_path / "out", to)
    assert found.logits == 0
    assert found.exported == found.reply
    assert found.prompt in (True, None)
    again = Assistant.from_pretrained(tmp_path / "out", device="cpu", dtype="float32", **sampler)
    state = again.model.state_dict()
    for key, value in assistant.model.state_dict().items():
        assert torch.equal(state[key], value), key
    assert again.processor.image == assistant.processor.image
    stored = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (
        assistant.processor.tokenizer.convert_tokens_to_ids(assistant.processor.template.end)
        in (stored["eos_token_id"])
    )


@pytest.fixture(scope="module")
def composed(models):
    """Return a function that composes a tiny model of SigLIP, an MLP and a Qwen2, with options."""

    def compose(*overrides):
        return tiny_assistant(models, "llm.max_length=1024", "template=chatml", *overrides, connector="mlp")

    return compose


def test_a_composition_with_adapters_gets_a_placeholder_behind_its_tokenizer(composed, tmp_path):
    assistant = composed("template.frame='Frame {i}: {video}\n'", "template.system='Look.'")
    how = {part: PartOptions(train="lora" if part == "llm" else "frozen") for part in ("llm", "vision_tower")}
    apply(assistant.model, {**how, "connector": PartOptions(train="full")}, PeftOptions(rank=2), lr=1e-3)
    for key, parameter in assistant.model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.05)
    assistant.model.llm = merged(assistant.model.llm)
    found, notes = exported(assistant, tmp_path / "out", "llava")
    assert found.logits == 0
    assert found.prompt
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["image_token_index"] == max(assistant.processor.tokenizer.get_vocab().values()) + 1
    assert config["text_config"]["vocab_size"] == 512
    assert "<image>" not in assistant.processor.tokenizer.get_vocab()  # the model itself is unchanged
    assert any("The sampler is not exported" in note for note in notes)
    assert "'Frame {i}: {video}\\n', is written for each image" in " ".join(notes)


def test_times_next_to_frames_come_from_the_caller(composed, tmp_path):
    assistant = composed("template.frame='{time} {clock} {seconds} {at}: {video}\n'")
    found, notes = exported(assistant, tmp_path / "out", "llava")
    assert found.prompt
    assert "A server that passes images alone omits it" in " ".join(notes)


def test_a_smolvlm_that_learned_five_rows_replies_the_same_in_transformers(tmp_path):
    assistant = read("smolvlm", sampler={"name": "uniform", "num_frames": 2})
    options = {part: PartOptions(train="lora" if part == "llm" else "frozen") for part in PARTS}
    apply(assistant.model, options, PeftOptions(rank=2), lr=1e-2)
    trained = [parameter for parameter in assistant.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for number in range(5):
        messages = [Message("user", "What moves?"), Message("assistant", "A dog.")]
        row = assistant.processor(Sample(messages, video=program.generated_clip(number)))
        assistant.model(assistant.processor.collate([row])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assistant.model.eval()
    assistant.save_pretrained(tmp_path / "run")
    samples = program.samples_of(None, 1, "What moves?")
    program.serve(str(tmp_path / "run"), tmp_path / "out", "smolvlm", samples, tolerance=0.0, reply_tokens=6)
    (found,) = json.loads((tmp_path / "out" / "parity.json").read_text())["clips"]
    assert found["exported"] == found["reply"] == assistant.answer(samples, max_new_tokens=6)[0]


def test_the_architectures_are_listed_in_the_registry_of_vllm():
    """As of commit 0002bff0b6 of vllm-project/vllm, vllm/model_executor/models/registry.py."""
    assert {layout.ARCHITECTURE for layout in writing.LAYOUTS.values()} == {
        "InternVLForConditionalGeneration",
        "LlavaForConditionalGeneration",
        "LlavaOnevisionForConditionalGeneration",
        "SmolVLMForConditionalGeneration",
    }


def test_keys_have_the_spelling_of_the_modules(tmp_path):
    exported(read("llava_siglip"), tmp_path / "out", "llava")
    starts = {".".join(key.split(".")[:2]) for key in load_file(tmp_path / "out" / "model.safetensors")}
    assert starts == {"model.vision_tower", "model.multi_modal_projector", "model.language_model"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_config"]["architectures"] == ["Qwen2ForCausalLM"]
    assert config["vision_config"]["architectures"] == ["SiglipVisionModel"]


@pytest.mark.parametrize(("to", "message"), [("llavva", "to='llavva' is unknown. Did you mean 'llava'")])
def test_unknown_layouts_are_refused(to, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        writing.write(None, tmp_path, to)


@pytest.mark.parametrize("name", writing.LAYOUTS)
def test_the_modules_of_layouts_have_the_same_members(name):
    layout, described = writing.LAYOUTS[name], vars(llava)
    constants = {key for key in described if key.isupper()}
    functions = {key for key, value in described.items() if inspect.isfunction(value) and not key.startswith("_")}
    assert constants == {key for key in vars(layout) if key.isupper()} - {"VISION", "FPS", "MAX_FRAMES"}
    for function in functions:
        assert inspect.signature(getattr(layout, function)) == inspect.signature(described[function])
