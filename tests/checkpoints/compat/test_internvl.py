"""InternVL in both layouts equals recorded outputs, keeps its prompt and vocabulary, and refuses what it cannot run."""

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
)
from tests.clips import write_clip
from tests.goldens import FAMILIES, read_oracle
from tinyvid import Assistant, CheckpointError, ConfigError, Message, Sample
from tinyvid.errors import TinyvidError

CASES = [("internvl_qwen2", "original"), ("internvl_qwen2", "hf"), ("internvl_internlm2", "original")]


def load(folder, **options):
    return Assistant.from_pretrained(folder, device="cpu", dtype="float32", **options)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    name, layout = request.param
    tensors, notes = read_oracle(name)
    num_frames = len(tensors["frames"])
    assistant = load(FAMILIES / name / layout, sampler={"name": "uniform", "num_frames": num_frames})
    messages = [Message("user", notes["question"])]
    if layout == "hf":  # whose template has no default system message
        messages = [Message("system", notes["system"]), *messages]
    return assistant, name, assistant.processor(Sample(messages, video=tensors["frames"].numpy()))


def test_equals_the_recorded_outputs(case):
    assistant, name, example = case
    assert_equals_oracle(assistant, name, example=example, pixels=0)


def test_a_converted_checkpoint_is_bit_equal(case, tmp_path):
    assistant, _, example = case
    assert_converts(assistant, example, tmp_path / "converted")


def test_shapes_are_known_without_weights(case):
    assert_shapes_are_known(case[0], case[0].model.llm.name_or_path)


def test_a_saved_tower_loads_by_itself(case, tmp_path):
    from tinyvid.registry import VISION_TOWERS

    assistant, name, _ = case
    tensors, _ = read_oracle(name)
    assistant.model.vision_tower.save(tmp_path / "tower")
    tower = VISION_TOWERS.build({"name": "internvit", "path": str(tmp_path / "tower")}, dtype=torch.float32)
    torch.testing.assert_close(tower(tensors["pixel_values"]), tensors["tower"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("layout", "system"), [("original", "你是书生"), ("hf", "")])
def test_what_the_checkpoint_brings_along(layout, system, caplog):
    assistant = load(FAMILIES / "internvl_qwen2" / layout)
    template, image = assistant.processor.template, assistant.processor.image
    assert template.system.startswith(system)
    assert bool(template.system) == bool(system)
    assert (assistant.config["sampler"], assistant.processor.max_length) == (
        {"name": "midpoint", "num_frames": 16},
        2048,
    )
    assert (image.resize, image.interpolation, image.mean[0]) == ("stretch", "bicubic", 0.485)
    assert "does not store a sampler; using midpoint" in caplog.text
    assert "an image is shown as one tile of 56 x 56 pixels" in caplog.text


def test_it_answers_about_a_clip_and_learns(tmp_path):
    assistant = load(FAMILIES / "internvl_qwen2" / "original", sampler={"num_frames": 2})
    clip = write_clip(tmp_path / "clip.mp4", num_frames=10)
    assert isinstance(assistant.ask(clip, "What?", max_new_tokens=2), str)
    sample = Sample([Message("user", "What?"), Message("assistant", "A dog.")], video=clip)
    assert_lora_learns(assistant, assistant.processor(sample))


def test_a_qwen3_equals_transformers(tmp_path):
    """Its queries and keys are normalized, and the head is tied to the embeddings."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    source = FAMILIES / "internvl_qwen2" / "hf"
    settings = json.loads((source / "config.json").read_text())
    settings["text_config"] |= {"model_type": "qwen3", "head_dim": 16, "layer_types": None, "tie_word_embeddings": True}
    torch.manual_seed(0)
    original = InternVLForConditionalGeneration(InternVLConfig(**settings | {"tie_word_embeddings": True})).eval()
    original.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, tmp_path)
    assistant = load(tmp_path, sampler={"num_frames": 2})
    frames = np.random.default_rng(0).integers(0, 255, (2, 30, 40, 3), dtype=np.uint8)
    example = assistant.processor(Sample([Message("user", "What?")], video=frames))
    ids = example.input_ids.masked_fill(example.video_mask, settings["image_token_id"])
    expected = original(input_ids=ids[None], pixel_values=example.videos[0].pixels).logits[0]
    torch.testing.assert_close(logits_of(assistant, example), expected, atol=TOLERANCE, rtol=0)
    assert assistant.model.llm.lm_head.weight is assistant.model.llm.get_input_embeddings().weight


@pytest.mark.parametrize(("threshold", "tokens"), [(1.1, 12), (-1.0, 4)])
def test_a_reducer_can_be_added(threshold, tokens, tmp_path):
    """Its patches are the squares that InternVL concatenates; 1.1 keeps all, and -1 those of the first frame."""
    reducer = {"name": "drop", "threshold": threshold}
    sampler = {"name": "uniform", "num_frames": 3}
    assistant = load(FAMILIES / "internvl_qwen2" / "original", sampler=sampler, reducer=reducer)
    frames = read_oracle("internvl_qwen2")[0]["frames"].numpy()
    batch = assistant.processor.collate([assistant.processor(Sample([Message("user", "Q?")], video=frames))])
    embeddings, filled = assistant.model.fill(batch)
    assert filled.video_mask.sum() == tokens
    assistant.save_pretrained(tmp_path / "saved")
    assert torch.equal(load(tmp_path / "saved").model.fill(batch)[0], embeddings)


# --- variants of the files --------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    def make(layout="original", name="internvl_qwen2"):
        return shutil.copytree(FAMILIES / name / layout, tmp_path / layout)

    return make


def test_image_settings_in_the_file_that_all_processors_share(copy):
    settings = {"size": {"height": 56, "width": 56}, "image_mean": [0.1, 0.2, 0.3]}
    folder = copy("hf")
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert load(folder).processor.image.mean == (0.1, 0.2, 0.3)
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": [settings]}))
    with pytest.raises(CheckpointError, match=r"processor_config.json: image_processor must be a JSON object, got \[{"):
        load(folder)


def test_files_of_transformers(copy):
    """Keys may have the spelling of its modules, which it reads and does not write; its preprocessor is read, too."""
    folder = copy("hf")
    prefixes = {
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
    }

    def respell(weights):
        for key in list(weights):
            old = next(prefix for prefix in prefixes if key.startswith(prefix))
            weights[prefixes[old] + key.removeprefix(old)] = weights.pop(key)

    rewrite(folder, respell)
    settings = {"size": {"height": 56, "width": 56}, "image_mean": [0.1, 0.2, 0.3], "crop_to_patches": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    respelled, plain = load(folder), load(FAMILIES / "internvl_qwen2" / "hf")
    assert respelled.processor.image.mean == (0.1, 0.2, 0.3)
    weights = respelled.model.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in plain.model.state_dict().items())


@pytest.mark.parametrize(
    ("layout", "stored"),
    [("original", "absent"), ("original", "equal"), ("original", "different"), ("hf", "different")],
)
def test_a_stored_head_decides_whether_it_is_tied(copy, layout, stored):
    folder = copy(layout)
    edit(folder, {"tie_word_embeddings": True, f"{'llm' if layout == 'original' else 'text'}_config__vocab_size": 7})

    def change(weights):
        if stored == "absent":
            del weights["language_model.lm_head.weight"]
        elif stored == "equal":
            weights["language_model.lm_head.weight"] = weights["language_model.model.embed_tokens.weight"].clone()

    rewrite(folder, change)
    llm = load(folder).model.llm
    assert llm.config.vocab_size == 440  # the rows of the tensor
    assert (llm.lm_head.weight is llm.get_input_embeddings().weight) == (stored != "different")


def test_chain_of_frames(copy, caplog):
    """Its vocabulary is larger than its configuration says, and its question asks for key frames."""
    folder = copy()
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    first = max(token["id"] for token in tokenizer["added_tokens"]) + 1
    template = tokenizer["added_tokens"][-1]
    names = [f"<Frame-{number}>" for number in range(1, 31)]
    tokenizer["added_tokens"] += [template | {"id": first + i, "content": name} for i, name in enumerate(names)]
    file.write_text(json.dumps(tokenizer))

    def enlarge(weights):
        for key in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
            weights[key] = torch.cat([weights[key][:first], torch.ones(30, 48)])

    rewrite(folder, enlarge)
    assistant = load(folder)
    assert assistant.model.llm.config.vocab_size == first + 30
    assert assistant.config["sampler"] == {"name": "midpoint", "num_frames": 30}
    clip = np.zeros((300, 8, 8, 3), np.uint8)
    example = assistant.processor(Sample([Message("user", "What falls?")], video=clip))
    assert len(example.videos[0].times) == 30
    text = assistant.processor.tokenizer.decode(example.input_ids[~example.video_mask])
    assert "<|im_start|>user\nFrame1: <img></img>\nFrame2: <img></img>\n" in text
    assert "Frame30: <img></img>\nGiven a video and a question, Start reasoning step-by-step like this:\n" in text
    assert text.endswith("Question: What falls?\n **Reasoning:** <|im_end|>\n<|im_start|>assistant\n")


def test_the_system_message_of_the_checkpoint(copy):
    assert load(edit(copy(), {"system_message": "Be brief."})).processor.template.system == "Be brief."


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_dynamic_positions_change_nothing_up_to_the_trained_length(copy, key):
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1000000.0}
    assistant = load(edit(copy("hf"), {f"text_config__{key}": dynamic}))
    parameters = assistant.model.llm.config.rope_parameters
    assert (parameters["rope_type"], parameters["rope_theta"]) == ("default", 1000000.0)


def test_the_trained_length_is_the_limit():
    with pytest.raises(ConfigError, match=r"llm.max_length=2049 exceeds the 2048 positions"):
        load(FAMILIES / "internvl_qwen2" / "original", llm={"max_length": 2049})


def test_a_configuration_without_the_order_of_video_tokens(copy):
    folder = copy("original")
    config = json.loads((folder / "config.json").read_text())
    del config["ps_version"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="ps_version='v1' is not supported"):
        load(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        ("original", {"template": "phi3-chat"}, "template='phi3-chat' is not supported: it is the prompt of another"),
        ("original", {"ps_version": "v1"}, "ps_version='v1' is not supported: it transposes the video tokens"),
        ("original", {"use_llm_lora": 128}, "use_llm_lora=128 is not supported: the weights of the LLM are adapters"),
        ("original", {"use_backbone_lora": 16}, "use_backbone_lora=16 is not supported: .*vision tower are adapters"),
        ("original", {"pad2square": True}, "pad2square=True is not supported: frames are stretched"),
        ("original", {"select_layer": [-1, -4]}, r"layer \[-1, -4\] of the vision tower must be one integer"),
        ("original", {"select_layer": -9}, "vision_tower.layer=-9 is out of range"),
        ("original", {"downsample_ratio": 0.4}, "downsample_ratio=0.4 must be 1 divided by an integer"),
        ("original", {"downsample_ratio": "x"}, "downsample_ratio='x' must be 1 divided by an integer"),
        ("original", {"downsample_ratio": 1 / 3}, "connector.factor=3 does not divide the tower's grid of 4 x 4"),
        ("original", {"force_image_size": 448}, "force_image_size=448 differs from vision_config.image_size=56"),
        ("original", {"system_message": 5}, "system_message=5 must be a text"),
        ("original", {"vision_config__norm_type": "rms_norm"}, "norm_type='rms_norm' of the vision tower"),
        ("original", {"vision_config__qk_normalization": True}, "qk_normalization=True of the vision tower"),
        ("original", {"llm_config__architectures": ["Phi3ForCausalLM"]}, "architectures=.'Phi3ForCausalLM'. is not"),
        ("original", {"llm_config__architectures": None}, "architectures=None is not supported"),
        ("original", {"llm_config__architectures": "Qwen2ForCausalLM"}, "architectures='Qwen2ForCausalLM' is not supp"),
        ("original", {"llm_config__rope_scaling": {"type": "yarn"}}, "rope_scaling=.*yarn.* only dynamic is"),
        ("original", {"llm_config": None}, "llm_config must be a JSON object"),
        ("original", {"vision_config__hidden_size": 10**9}, "vision_tower .*hidden_size=1000000000"),
        ("original", {"llm_config__num_hidden_layers": 10**9}, "llm .*num_hidden_layers=1000000000"),
        ("hf", {"vision_feature_layer": [-1]}, r"layer \[-1\] of the vision tower must be one integer"),
        ("hf", {"vision_feature_select_strategy": "full"}, "select_strategy='full' .* class token as a video token"),
        ("hf", {"projector_hidden_act": "relu"}, "projector_hidden_act='relu' is not supported"),
        ("hf", {"vision_config__use_qk_norm": True}, "use_qk_norm=True of the vision tower"),
        ("hf", {"vision_config__use_mean_pooling": False}, "use_mean_pooling=False of the vision tower"),
        ("hf", {"vision_config__image_size": [56, 28]}, r"takes images of \[56, 28\] pixels"),
        ("hf", {"text_config__model_type": "gpt2"}, "text_config.model_type='gpt2' is not supported"),
    ],
)
def test_configurations_that_are_not_supported(copy, layout, changes, message):
    with pytest.raises(TinyvidError, match=message):
        load(edit(copy(layout), changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({"mlp2.0.weight": torch.ones(1)}), r"do not belong to any part: \[mlp2.0.weight\]"),
        (lambda w: w.pop("mlp1.3.bias"), r"connector .* missing keys \[layers.2.bias\]"),
        (lambda w: w.pop("vision_model.encoder.layers.1.ls2"), r"vision_tower .*missing keys \[.*layer.1.lambda_2\]"),
        (lambda w: w.update({"mlp1.1.qweight": torch.ones(1)}), r"quantized weights: \[mlp1.1.qweight\]; .*quant=nf4"),
        (lambda w: w.pop("language_model.model.embed_tokens.weight"), r"missing keys \[model.embed_tokens.weight\]"),
    ],
)
def test_weights_that_do_not_fit(copy, change, message):
    folder = copy()
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llm_config__bias": True}, "bias=True of InternLM2 must be false"),
        ({"llm_config__rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling=.*linear.* only dynamic is"),
        ({"llm_config__num_key_value_heads": 3}, r"does not match num_attention_heads=4 and num_key_value_heads=3"),
    ],
)
def test_an_internlm2_that_is_not_supported(copy, changes, message):
    with pytest.raises(CheckpointError, match=message):
        load(edit(copy(name="internvl_internlm2"), changes))


def test_a_tokenizer_that_only_code_can_read(copy):
    folder = copy(name="internvl_internlm2")
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    settings = {"auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "InternLM2Tokenizer"}))
    with pytest.raises(CheckpointError, match=r"tokenizer 'InternLM2Tokenizer' needs code of the checkpoint"):
        load(folder)
