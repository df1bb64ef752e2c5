"""LLaVA in the layout of transformers: recorded outputs, the guesses, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints.compat.recorded import assert_converts, assert_equals_oracle, load, recorded_example
from tests.clips import write_clip
from tests.goldens import FAMILIES
from tests.towers import write_preprocessor
from tinyvid import Assistant, CheckpointError, ConfigError, Message, Sample
from tinyvid.checkpoints.compat import assembly, llava
from tinyvid.checkpoints.compat.keys import canonical, split
from tinyvid.models.vision_towers import clip
from tinyvid.training.trainable import PartOptions, PeftOptions, apply
from tinyvid.types import ImageSpec

FRAME = {"frame": "Frame {i}: {video}\n", "video_suffix": ""}  # as recorded
SQUARE = {"height": 28, "width": 28}
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module", params=["llava_siglip", "llava_clip"])
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava") / request.param
    shutil.copytree(FAMILIES / request.param / "hf", folder)
    if request.param == "llava_clip":  # recorded without its crop
        write_preprocessor(folder, image_processor_type="CLIPImageProcessor", size=SQUARE, do_center_crop=False)
    return request.param, load(folder, request.param, template=FRAME)


@pytest.fixture
def edited(tmp_path):
    """Return a function that copies a model and changes settings of its config.json, of a section if it is nested."""

    def edit(name="llava_siglip", **settings):
        folder = tmp_path / name
        shutil.copytree(FAMILIES / name / "hf", folder)
        config = json.loads((folder / "config.json").read_text())
        for key, value in settings.items():
            config[key] = {**config[key], **value} if isinstance(value, dict) else value
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return edit


def test_equals_the_recorded_outputs(case):
    name, assistant = case
    assert_equals_oracle(assistant, name)


@pytest.mark.slow
def test_a_converted_checkpoint_is_bit_equal_and_answers(case, tmp_path):
    name, assistant = case
    again = assert_converts(assistant, recorded_example(assistant, name), tmp_path / "converted")
    clip_file = write_clip(tmp_path / "clip.mp4", num_frames=8, fps=4)
    replies = [model.ask(clip_file, "What happens?", max_new_tokens=3) for model in (again, assistant)]
    assert replies[0] == replies[1]


@pytest.mark.slow
def test_a_step_of_lora():
    assistant = load(FAMILIES / "llava_siglip" / "hf", "llava_siglip")
    frozen = {part: PartOptions() for part in ("vision_tower", "connector")}
    apply(assistant.model, frozen | {"llm": PartOptions(train="lora")}, PeftOptions(rank=2), lr=1e-3)
    turns = [Message("user", "What?"), Message("assistant", "A dog.")]
    video = torch.zeros(2, 28, 28, 3, dtype=torch.uint8).numpy()
    assistant.model(assistant.processor.collate([assistant.processor(Sample(turns, video=video))])).loss.backward()
    learning = {name: p for name, p in assistant.model.named_parameters() if p.requires_grad}
    assert learning
    assert all("lora_" in name for name in learning)
    assert any(p.grad is not None and p.grad.any() for p in learning.values())


@pytest.mark.slow
@torch.no_grad()
def test_another_llm_and_fewer_patches_equal_transformers(tmp_path):
    """Qwen3, the last block, and all patches but the first, as transformers itself writes and runs them."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen3Config, SiglipVisionConfig

    source = FAMILIES / "llava_siglip" / "hf"
    config = json.loads((source / "config.json").read_text())
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    text = Qwen3Config(num_hidden_layers=2, head_dim=12, **{size: config["text_config"][size] for size in sizes})
    vision = SiglipVisionConfig(**config["vision_config"])
    options = {"vision_feature_layer": -1, "vision_feature_select_strategy": "default", "image_token_index": 403}
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, **options)).eval()
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, tmp_path)
    assistant = load(tmp_path, "llava_siglip")
    batch = assistant.processor.collate([recorded_example(assistant, "llava_siglip")])
    assert batch.video_mask.sum() == 2 * 15
    ids = batch.input_ids.masked_fill(batch.video_mask, 403)
    expected = model(input_ids=ids, pixel_values=batch.videos[0].pixels).logits
    logits = assistant.model.llm(inputs_embeds=assistant.model.embed(batch)).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("names", [
    {"vision_tower.": "vision_tower.vision_model."},
    {"vision_tower.": "model.vision_tower.", "multi_modal_projector.": "model.multi_modal_projector.",
     "language_model.model.": "model.language_model.", "language_model.lm_head.": "lm_head."},
], ids=["older", "modules"])  # fmt: skip
@pytest.mark.parametrize("name", ["llava_siglip", "llava_clip"])
def test_every_spelling_of_the_keys_gives_the_same_parts(name, names):
    stored = load_file(FAMILIES / name / "hf" / "model.safetensors")
    renamed = {}
    for key, value in stored.items():
        old = next((old for old in names if key.startswith(old)), "")
        renamed[names.get(old, "") + key.removeprefix(old)] = value
    assert renamed.keys() != stored.keys()
    parts, again = (split("x", canonical(tensors), llava.PREFIXES) for tensors in (stored, renamed))
    assert {part: weights.keys() for part, weights in parts.items()} == {
        part: weights.keys() for part, weights in again.items()
    }
    assert all(torch.equal(parts[part][key], again[part][key]) for part in parts for key in parts[part])


@pytest.mark.parametrize(("stated", "tied"), [
    (({}, {}), None), (({}, {"tie_word_embeddings": False}), False), ((True, {"tie_word_embeddings": False}), True),
])  # fmt: skip
def test_the_head_is_tied_if_any_settings_say_so(stated, tied):
    assert assembly.tied(*({"tie_word_embeddings": each} if each is True else each for each in stated)) is tied


def test_guesses_are_logged_and_fit_the_context(edited, caplog):
    folder = edited(text_config={"max_position_embeddings": 1024 + 16 * 3})
    assistant = Assistant.from_pretrained(folder, device="meta")
    assert assistant.config["sampler"]["num_frames"] == 3
    assert assistant.config["template"]["end"] == "<|im_end|>"
    assert assistant.config["template"]["system"] == ""
    assert "does not store a sampler" in caplog.text
    assert "does not store a template; using chatml_no_system. Choose another with template=" in caplog.text
    assert "has no preprocessor_config.json" in caplog.text


def test_the_end_of_a_reply_chooses_the_template(edited):
    folder = edited()
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"eos_token": {"content": "</s>"}}))
    assert llava._template(folder) == "llava"
    file.write_text(json.dumps(settings | {"eos_token": "<|eot_id|>"}))
    with pytest.raises(CheckpointError, match=r"eos_token='<\|eot_id\|>' in .* does not suggest it; choose"):
        Assistant.from_pretrained(folder, device="meta")
    plain = {"name": "turns", "end": "<|endoftext|>"}
    assert Assistant.from_pretrained(folder, device="meta", template=plain).config["template"]["end"] == plain["end"]


@pytest.mark.parametrize(("settings", "expected"), [
    ({"size": {"shortest_edge": 32}, "crop_size": SQUARE},
     ImageSpec(28, clip.MEAN, clip.STD, resize="crop", crop_pct=0.875)),
    ({"image_processor_type": "SiglipImageProcessor", "size": SQUARE}, ImageSpec(28, HALF, HALF)),
    ({"image_processor_type": "LlavaImageProcessor", "size": {"shortest_edge": 28}, "crop_size": SQUARE, "do_pad": True,
      "resample": 2}, ImageSpec(28, clip.MEAN, clip.STD, "bilinear", "pad")),
])  # fmt: skip
@pytest.mark.parametrize("joint", [False, True])
def test_image_settings(tmp_path, settings, expected, joint):
    settings = {"image_processor_type": "CLIPImageProcessor"} | settings
    if joint:
        (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    else:
        write_preprocessor(tmp_path, **settings)
    assert llava._image_spec(tmp_path, ("image",), ImageSpec(28, HALF, HALF)) == expected


@pytest.mark.parametrize(("name", "settings", "message"), [
    ("llava_clip", {"vision_feature_layer": [-2, -5]}, r"vision_feature_layer=\[-2, -5\] .* several layers side by"),
    ("llava_clip", {"vision_feature_layer": 4}, "vision_tower.layer=4 is out of range: this tower has 3 blocks"),
    ("llava_clip", {"vision_feature_select_strategy": "full"}, "'full' is not supported for a clip tower"),
    ("llava_siglip", {"vision_feature_select_strategy": "cls"}, "strategy='cls' is not supported for a siglip tower"),
    ("llava_siglip", {"multimodal_projector_bias": False}, "multimodal_projector_bias=False is not supported"),
    ("llava_siglip", {"projector_hidden_act": "relu"}, "projector_hidden_act='relu' is not supported"),
    ("llava_siglip", {"vision_config": {"model_type": "pixtral"}}, "vision_config.model_type='pixtral' .* clip_vision"),
    ("llava_siglip", {"vision_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers=1000000000, but at most"),
    ("llava_siglip", {"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers=1000000000, but at most"),
    ("llava_siglip", {"text_config": {"hidden_size": 64}}, "do not have the shapes of its configuration"),
    ("llava_siglip", {"text_config": {"model_type": "t5"}}, "of type 't5', which is not a causal LM"),
    ("llava_siglip", {"text_config": None}, "text_config must be a JSON object, got None"),
])  # fmt: skip
def test_refused_settings(edited, name, settings, message):
    with pytest.raises((CheckpointError, ConfigError), match=message):
        Assistant.from_pretrained(edited(name, **settings), device="meta")


def test_the_first_patch_can_be_dropped(edited):
    assistant = Assistant.from_pretrained(edited(vision_feature_select_strategy="default"), device="meta")
    assert assistant.model.vision_tower.features.num_patches == 15


def test_an_empty_special_token_is_not_in_every_text(edited):
    folder = edited("llava_siglip")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bos_token": ""}))
    processor = Assistant.from_pretrained(folder, device="cpu").processor
    assert processor.find_control_tokens("What?") == []
    assert "" not in processor.ends


def test_a_tokenizer_without_settings_is_named(edited):
    folder = edited("llava_siglip")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match="and the missing tokenizer_config.json does not suggest it; choose"):
        Assistant.from_pretrained(folder, device="meta")


def test_shards_with_the_same_tensor_are_refused(edited):
    folder = edited("llava_siglip")
    tensors = load_file(folder / "model.safetensors")
    name, other, *_ = sorted(tensors)
    save_file(tensors, folder / "a.safetensors")
    save_file({name: tensors[name] + 1}, folder / "b.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: "a.safetensors", other: "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=rf"b.safetensors contains tensors that another file .*: \[{name}\]"):
        Assistant.from_pretrained(folder, device="meta")


@pytest.mark.parametrize("files", [{"a": 1}, {"a": ["b"]}, [], None])
def test_an_index_that_names_no_files_is_refused(edited, files):
    folder = edited("llava_siglip")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    message = "which is not a plain name|is not an index of weights: it must map tensors to files"
    with pytest.raises(CheckpointError, match=message):
        Assistant.from_pretrained(folder, device="meta")


def test_a_pointer_of_git_lfs_is_named(edited):
    folder = edited("llava_siglip")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match="is a pointer of Git LFS in place of the file; run 'git lfs pull'"):
        Assistant.from_pretrained(folder, device="meta")


def test_an_adapter_beside_the_weights_is_refused(edited):
    folder = edited()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has adapter_config.json beside its weights; merge the adapter"):
        Assistant.from_pretrained(folder, device="meta")


def test_weights_that_belong_to_no_part_are_named(edited):
    file = edited() / "model.safetensors"
    save_file(load_file(file) | {"vision_resampler.query": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"do not belong to any part: \[vision_resampler.query\]"):
        Assistant.from_pretrained(file.parent, device="meta")
