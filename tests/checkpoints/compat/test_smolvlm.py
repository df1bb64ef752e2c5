"""SmolVLM2 and SmolVLM equal recorded outputs and transformers, keep their prompt and frames, and refuse the rest."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.checkpoints.compat.recorded import (
    TOLERANCE,
    assert_converts,
    assert_equals_oracle,
    assert_lora_learns,
    assert_shapes_are_known,
    edit,
    logits_of,
    rewrite,
    with_pixels,
)
from tests.clips import write_clip
from tests.goldens import FAMILIES, read_oracle
from tests.runs import python, write_rows
from tinyvid import Assistant, Message, Sample, Video
from tinyvid.checkpoints.compat.smolvlm import _check_positions
from tinyvid.errors import CheckpointError, TinyvidError
from tinyvid.types import ImageSpec

FOLDER = FAMILIES / "smolvlm" / "hf"
HALF = (0.5, 0.5, 0.5)


def load(folder, **options):
    return Assistant.from_pretrained(folder, device="cpu", dtype="float32", **options)


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(FOLDER, tmp_path / "copy")


@pytest.fixture
def idefics3(copy):
    return edit(copy, {"model_type": "idefics3", "vision_config__model_type": "idefics3_vision"})


@pytest.fixture(scope="module")
def case():
    """The assistant, the recorded tensors, and the recorded question about a clip with the recorded frames."""
    tensors, notes = read_oracle("smolvlm")
    assistant = load(FOLDER)
    clip = np.zeros((6, 40, 60, 3), np.uint8)  # 3 seconds, of which the sampler shows 0, 1 and 2.5
    clip[[0, 2, 5]] = tensors["frames"].numpy()
    video = {"source": clip, "fps": 2.0}
    return assistant, tensors, assistant.processor(question(notes["question"], **video))


def question(text, **video):
    return Sample([Message("user", text)], video=Video(**video))


@torch.no_grad()
def test_equals_the_recorded_outputs(case):
    assistant, tensors, example = case
    assert_equals_oracle(assistant, "smolvlm", example=example, pixels=None)
    logits = logits_of(assistant, with_pixels(example, tensors["pixel_values_video_processor"]))
    torch.testing.assert_close(logits, tensors["logits_video_processor"], atol=TOLERANCE, rtol=0)


def test_frames_equal_those_of_the_video_processor(case):
    """Its filters work on tensors, which round differently."""
    _, tensors, example = case
    difference = (example.videos[0].pixels - tensors["pixel_values_video_processor"]).abs() * 127.5
    assert difference.max() <= 2.01
    assert difference.mean() < 0.7


def test_a_converted_checkpoint_is_bit_equal(case, tmp_path):
    assistant, _, example = case
    assert_converts(assistant, example, tmp_path / "converted")


def test_shapes_are_known_without_weights(case):
    assert_shapes_are_known(case[0], FOLDER)


def test_what_the_checkpoint_brings_along(case, caplog):
    assistant = load(FOLDER, sampler={"name": "uniform", "num_frames": 2})
    assert "store a sampler" not in caplog.text
    assert "an image is shown as one tile of 32 x 32 pixels" in caplog.text
    assert assistant.processor.image == ImageSpec(32, HALF, HALF, "lanczos", longest_edge=32)
    assert case[0].config["sampler"] == {
        "name": "smolvlm",
        "fps": 1.0,
        "max_frames": 51,  # (2,048 - 1,024) / (4 + 16)
        "skip": 1.0,
        "overflow": "refuse",
    }
    load(FOLDER)
    assert "does not store a sampler; using smolvlm" in caplog.text


@pytest.mark.slow
def test_it_answers_about_a_clip_and_learns(tmp_path):
    assistant = load(FOLDER, sampler={"max_frames": 2})
    clip = write_clip(tmp_path / "clip.mp4", num_frames=30, fps=10)
    assert isinstance(assistant.ask(clip, "What?", max_new_tokens=2), str)
    sample = Sample([Message("user", "What?"), Message("assistant", "A dog.")], video=clip)
    example = assistant.processor(sample)
    text = assistant.processor.tokenizer.decode(example.input_ids[~example.video_mask])
    frame = "<fake_token_around_image><global-img><fake_token_around_image>"
    assert text == (
        "<|im_start|>User: You are provided the following series of two frames from a 0:00:03 [H:MM:SS] video.\n\n"
        f"Frame from 00:00:{frame}\nFrame from 00:02:{frame}\n\nWhat?<end_of_utterance>\n"
        "Assistant: A dog.<end_of_utterance>"
    )
    assert_lora_learns(assistant, example)


@pytest.mark.slow
def test_lora_learns_on_an_llm_of_four_bits():
    assistant = load(FOLDER, quant="nf4")
    chat = [Message("user", "What?"), Message("assistant", "A dog.")]
    assert_lora_learns(assistant, assistant.processor(Sample(chat, video=np.zeros((2, 32, 32, 3), np.uint8))))


@pytest.mark.slow
def test_the_programs_before_a_run_read_it(tmp_path):
    rows = write_rows(tmp_path / "data", 2)
    checked = python("recipes/check_data.py", f"ckpt={FOLDER}", f"data.path={rows}", f"out={tmp_path / 'out'}")
    assert "No faults in 2 rows" in checked.stdout, checked.stderr
    estimated = python("recipes/estimate.py", f"ckpt={FOLDER}")
    assert estimated.returncode == 0, estimated.stderr


# --- SmolVLM ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_smolvlm_equals_transformers(idefics3, caplog):
    """The prompt, the frames and the logits of images, which its processor expands and resizes."""
    import transformers
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    sizes = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    images = transformers.Idefics3ImageProcessorPil(do_image_splitting=False, **sizes)
    images.save_pretrained(idefics3)
    assistant = load(idefics3, sampler={"fps": 2.0})
    assert "does not store a template; using idefics3" in caplog.text
    frames = np.random.default_rng(0).integers(0, 255, (4, 40, 60, 3), dtype=np.uint8)
    chat = [Message("user", "What?"), Message("assistant", "A dog."), Message("user", "Where?")]
    example = assistant.processor(Sample(chat, video=frames))
    tokenizer = transformers.AutoTokenizer.from_pretrained(idefics3)
    processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=4)
    content = [[{"type": "image"}] * 4 + [{"type": "text", "text": "What?"}]]
    content += [[{"type": "text", "text": message.text}] for message in chat[1:]]
    turns = [{"role": message.role, "content": part} for message, part in zip(chat, content, strict=True)]
    text = processor.apply_chat_template(turns, chat_template=DEFAULT_CHAT_TEMPLATE, add_generation_prompt=True)
    expected = processor(images=[list(frames)], text=[text], return_tensors="pt")
    ids, image_id = expected.input_ids[0], processor.image_token_id
    assert torch.equal(example.video_mask, ids == image_id)
    assert torch.equal(example.input_ids[~example.video_mask], ids[ids != image_id])
    torch.testing.assert_close(example.videos[0].pixels, expected.pixel_values[0], atol=1e-5, rtol=0)
    original = transformers.Idefics3ForConditionalGeneration.from_pretrained(idefics3).eval()
    with torch.no_grad():
        logits = original(**expected).logits[0]
        torch.testing.assert_close(logits_of(assistant, example), logits, atol=TOLERANCE, rtol=0)


def test_idefics3_8b_begins_as_a_llama_3(idefics3):
    """Its tokenizer writes the first token, and has none of ChatML."""
    file = idefics3 / "tokenizer.json"
    content = json.loads(file.read_text().replace("<|im_start|>", "<|begin_of_text|>"))
    first = {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}
    content["post_processor"]["single"].insert(0, first)
    content["post_processor"]["special_tokens"] = {
        "<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [1], "tokens": ["<|begin_of_text|>"]}
    }
    file.write_text(json.dumps(content))
    edit(idefics3, {"bos_token": "<|begin_of_text|>"}, "tokenizer_config.json")
    processor = load(idefics3).processor
    chat = [Message("user", "What?"), Message("assistant", "A dog."), Message("user", "Where?")]
    ids = processor(Sample(chat, video=np.zeros((1, 32, 32, 3), np.uint8))).input_ids
    text = processor.tokenizer.decode(ids).replace("<|im_end|>" * 4, "{video}")  # the pad token
    assert text == (
        "<|begin_of_text|>User:<fake_token_around_image><global-img>{video}<fake_token_around_image>What?"
        "<end_of_utterance>\nAssistant: A dog.<end_of_utterance>\nUser: Where?<end_of_utterance>\nAssistant:"
    )


# --- variants of the files --------------------------------------------------------------------------------------

SAMPLING = {"fps": 2, "max_frames": 9, "video_size": {"longest_edge": 48}}
SIZES = {"size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 32}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "edge", "frames"),
    [
        ({"preprocessor_config.json": SIZES | {"video_sampling": SAMPLING}}, 48, 9),
        ({"processor_config.json": {"video_processor": SIZES | {"video_sampling": SAMPLING}}}, 48, 9),
        ({"preprocessor_config.json": SIZES, "video_preprocessor_config.json": {"video_sampling": SAMPLING}}, 48, 9),
        ({"processor_config.json": {"image_processor": SIZES}}, 128, 51),
        ({"preprocessor_config.json": {"image_mean": [0.1, 0.2, 0.3]}}, 32, 51),
    ],
)
def test_sizes_and_sampling_of_the_processor_files(copy, files, edge, frames):
    for name, content in files.items():
        (copy / name).write_text(json.dumps(content))
    assistant = load(copy)
    mean = (0.1, 0.2, 0.3) if "image_mean" in str(files) else HALF
    assert assistant.processor.image == ImageSpec(32, mean, HALF, "lanczos", longest_edge=edge)
    sampler = assistant.config["sampler"]
    assert (sampler["fps"], sampler["max_frames"]) == (2.0 if frames == 9 else 1.0, frames)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SIZES | {"max_image_size": {"longest_edge": 64}}, "does not match the tower's input of 32 pixels"),
        (SIZES | {"resample": 0}, "resample=0 is not supported"),
        (SIZES | {"size": [64]}, "preprocessor_config.json of .*; correct its sizes"),
        (SIZES | {"rescale_factor": [1]}, r"preprocessor_config.json of .*: rescale_factor=\[1\] is not supported"),
        (SIZES | {"do_rescale": False, "do_resize": 0}, "do_resize=false, do_rescale=false is not supported"),
        ({"video_sampling": SAMPLING | {"video_size": {"longest_edge": 9999}}}, "images of 9999 pixels"),
        ({"video_sampling": SAMPLING | {"max_frames": 0}}, r"config.json: .*video_sampling.max_frames=0 must"),
        (
            {"video_sampling": SAMPLING | {"fps": "fast"}},
            "config.json: .*video_sampling.fps=.fast. .*; correct",
        ),
    ],
)
def test_processor_files_that_are_not_supported(copy, settings, message):
    (copy / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(TinyvidError, match=message):
        load(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config__qk_layer_norms": True}, "text_config.qk_layer_norms=True is not supported: the queries"),
        ({"text_config__use_resampler": True}, "text_config.use_resampler=True is not supported: a resampler"),
        ({"text_config__rope_interleaved": True}, "text_config.rope_interleaved=True is not supported"),
        ({"text_config__pixel_shuffle_factor": 2}, "pixel_shuffle_factor=2 differs from scale_factor=4"),
        ({"text_config__model_type": "mistral"}, "text_config.model_type='mistral' is not supported"),
        ({"text_config__num_hidden_layers": 10**9}, "llm .*num_hidden_layers=1000000000"),
        ({"text_config": None}, "text_config must be a JSON object"),
        ({"vision_config__qk_layer_norms": True}, "vision_config.qk_layer_norms=True is not supported"),
        ({"vision_config__num_channels": 4}, "vision_config.num_channels=4 is not supported: frames have three"),
        ({"vision_config__image_size": [32, 16]}, r"takes images of \[32, 16\] pixels"),
        ({"vision_config__image_size": 76}, "a grid of 19 x 19 patches, for which the original's positions are not"),
        ({"vision_config__patch_size": 64}, "a grid of 0 x 0 patches"),
        ({"vision_config__hidden_size": 10**9}, "vision_tower .*hidden_size=1000000000"),
        ({"scale_factor": 3}, "connector.factor=3 does not divide the tower's grid of 8 x 8"),
        ({"scale_factor": "4"}, "scale_factor='4' must be an integer"),
    ],
)
def test_configurations_that_are_not_supported(copy, changes, message):
    with pytest.raises(TinyvidError, match=message):
        load(edit(copy, changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({"model.perceiver.latents": torch.ones(1)}), r"to any part: \[model.perceiver.latents\]"),
        (lambda w: w.pop("model.vision_model.post_layernorm.bias"), r"vision_tower .*missing keys \[post_layernorm"),
        (lambda w: w.pop("model.connector.modality_projection.proj.weight"), r"connector .*missing keys \[layers.0"),
        (lambda w: w.update({"lm_head.qweight": torch.ones(1)}), r"quantized weights: \[lm_head.qweight\]"),
        (lambda w: w.pop("lm_head.weight"), r"llm .*missing keys \[lm_head.weight\]"),
    ],
)
def test_weights_that_do_not_fit(copy, change, message):
    rewrite(copy, change)
    with pytest.raises(CheckpointError, match=message):
        load(copy)


def test_another_tokenizer_needs_another_template(copy):
    """As that of Idefics3-8B, which has a Llama 3."""
    file = copy / "tokenizer.json"
    file.write_text(file.read_text().replace("<|im_start|>", "<|begin_of_text|>"))
    edit(copy, {"bos_token": "<|begin_of_text|>"}, "tokenizer_config.json")
    with pytest.raises(TinyvidError, match=r"needs the control tokens \['<\|im_start\|>'\].*choose another template"):
        load(copy)


@pytest.mark.parametrize("side", [*range(2, 19), 20, 24, 26, 27, 28, 30, 32, 37])
def test_positions_in_reading_order(side):
    _check_positions(side)


@pytest.mark.parametrize("side", [19, 25, 29, 31, 38, 41])
def test_positions_that_rounding_changes_are_refused(side):
    with pytest.raises(CheckpointError, match=f"a grid of {side} x {side} patches, for which the original's positions"):
        _check_positions(side)


def test_transformers_positions_are_those_that_are_checked():
    from transformers import Idefics3VisionConfig
    from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionEmbeddings

    for side in (26, 29):
        module = Idefics3VisionEmbeddings(Idefics3VisionConfig(hidden_size=1, image_size=side, patch_size=1))
        torch.nn.init.zeros_(module.patch_embedding.weight)
        torch.nn.init.zeros_(module.patch_embedding.bias)
        module.position_embedding.weight.data = torch.arange(float(side * side))[:, None]
        shown = module(torch.zeros(1, 3, side, side), torch.ones(1, side, side, dtype=torch.bool)).flatten()
        assert torch.equal(shown, torch.arange(float(side * side))) == (side == 26)
