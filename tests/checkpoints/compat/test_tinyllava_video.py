"""TinyLLaVA-Video's checkpoints: all three layouts reproduce the recorded outputs, and faults are reported."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.goldens import FULL_CHECKPOINTS, TEMPLATE_OF, TINYLLAVA_VIDEO, read_json, to_messages
from tinyvid import Assistant, CheckpointError, ConfigError, Message, Sample
from tinyvid.generation.decode import Decoding, generate
from tinyvid.models.weights import read_weights

# The recordings are float32; the tolerances are what an exact reimplementation reaches on another machine.
FEATURES, LOGITS, PIXELS = 1e-4, 1e-5, 1e-6
LAYOUTS = ("group_qwen2", "naive_qwen2", "group_phi", "group_qwen2_folders", "group_qwen2_lora")
VIDEO_ID = -200


def load(path, **kwargs):
    options = {"device": "cpu", "dtype": "float32", "sampler": {"num_frames": 4}}
    return Assistant.from_pretrained(path, **options | kwargs)


def expected(name):
    """Return the recorded tensors and conversation; layouts of one model share files."""
    tensors = load_file(TINYLLAVA_VIDEO / "group_qwen2" / "expected.safetensors") if "group_qwen2" in name else {}
    own = TINYLLAVA_VIDEO / name / "expected.safetensors"
    tensors |= load_file(own) if own.is_file() else {}
    full = name if name in FULL_CHECKPOINTS else "group_qwen2"
    return tensors, read_json(f"{full}/expected.json")


def frames_of(tensors):
    return tensors["frames_uint8"].permute(0, 2, 3, 1).contiguous().numpy()  # (T, H, W, 3)


@pytest.fixture(scope="module", params=LAYOUTS)
def case(request):
    tensors, notes = expected(request.param)
    assistant = load(TINYLLAVA_VIDEO / request.param, sampler={"num_frames": notes["num_frames"]})
    example = assistant.processor(Sample(to_messages(notes["conversation"]), video=frames_of(tensors)))
    return request.param, assistant, tensors, notes, example


@pytest.mark.slow
def test_pixels(case):
    _, _, tensors, _, example = case
    torch.testing.assert_close(example.videos[0].pixels, tensors["pixel_values"], atol=PIXELS, rtol=0)


def test_vision_features(case):
    _, assistant, tensors, _, _ = case
    features = assistant.model.encode(tensors["pixel_values"])
    torch.testing.assert_close(features, tensors["vision_features"], atol=FEATURES, rtol=0)


def test_connector_output(case):
    _, assistant, tensors, _, _ = case
    output = assistant.model.connector(assistant.model.encode(tensors["pixel_values"]))
    torch.testing.assert_close(output, tensors["connector_output"][0], atol=LOGITS, rtol=0)


def test_training_ids_and_labels(case):
    _, _, tensors, _, example = case
    ids, labels = tensors["train_input_ids"].flatten(), tensors["train_labels"].flatten()
    assert torch.equal(example.input_ids[~example.video_mask], ids[ids != VIDEO_ID])
    assert torch.equal(example.labels[~example.video_mask], labels[ids != VIDEO_ID])


def test_logits_and_loss(case):
    _, assistant, tensors, _, example = case
    batch = assistant.processor.collate([example])
    embeddings = assistant.model.embed(batch)
    logits = assistant.model.llm(inputs_embeds=embeddings, attention_mask=batch.attention_mask).logits
    torch.testing.assert_close(logits, tensors["logits"].view_as(logits), atol=LOGITS, rtol=0)
    out = assistant.model(batch)
    torch.testing.assert_close(out.loss, tensors["loss"].view(()), atol=LOGITS, rtol=0)


def test_greedy_reply(case):
    name, assistant, tensors, notes, _ = case
    if name == "group_qwen2_lora":
        pytest.skip("the recording of the adapted model holds logits, and no generation")
    sample = Sample([Message("user", notes["question"])], video=frames_of(tensors))
    example = assistant.processor(sample)
    recorded = tensors["eval_input_ids"].flatten()
    assert torch.equal(example.input_ids[~example.video_mask], recorded[recorded != VIDEO_ID])
    batch = assistant.processor.collate([example], padding_side="left")
    ids = generate(assistant.model, assistant.processor, batch, Decoding(16), min_new_tokens=16)
    assert torch.equal(ids.flatten(), tensors["greedy_ids"].flatten())


@pytest.mark.slow
def test_converted_checkpoint_is_bit_equal(case, tmp_path):
    name, assistant, _, _, example = case
    assistant.save_pretrained(tmp_path / "converted")
    again = Assistant.from_pretrained(tmp_path / "converted", device="cpu", dtype="float32")
    assert again.processor.sampler.num_frames == len(example.videos[0].pixels)
    batch = assistant.processor.collate([example])
    assert torch.equal(again.model(batch).logits, assistant.model(batch).logits), name
    assert again.config["template"] == assistant.config["template"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_CHECKPOINTS)
def test_template_follows_the_llm(name, caplog):
    assistant = Assistant.from_pretrained(TINYLLAVA_VIDEO / name, device="cpu")
    assert assistant.processor.template.end == "<|endoftext|>"
    assert "does not store a sampler" in caplog.text
    assert f"does not store a template; using {TEMPLATE_OF[name]}" in caplog.text


@pytest.fixture
def copy(tmp_path):
    def make(name="group_qwen2"):
        shutil.copytree(TINYLLAVA_VIDEO / name, tmp_path / name)
        return tmp_path / name

    return make


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        section, _, option = key.rpartition("__")
        target = config[section] if section else config
        if value is None:
            target.pop(option, None)
        else:
            target[option] = value
    (folder / "config.json").write_text(json.dumps(config))


def rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_the_old_name_of_the_naive_connector(copy):
    folder = copy("naive_qwen2")
    edit(folder, connector_type="resamplerwithpe")
    assert load(folder).config["connector"]["name"] == "naive"


def test_a_tied_head_may_be_written_out(copy):
    folder = copy()

    def add_head(weights):
        weights["language_model.lm_head.weight"] = weights["language_model.model.embed_tokens.weight"].clone()

    rewrite(folder, add_head)
    tensors, _ = expected("group_qwen2")
    assistant = load(folder)
    features = assistant.model.encode(tensors["pixel_values"])
    torch.testing.assert_close(features, tensors["vision_features"], atol=FEATURES, rtol=0)
    assert assistant.model.llm.lm_head.weight is assistant.model.llm.get_input_embeddings().weight


def test_values_that_differ_from_the_defaults_survive(copy):
    folder = copy()
    edit(folder, text_config__rope_theta=1000000.0, text_config__rms_norm_eps=1e-5, vision_config__model_type=None)
    config = load(folder).model.llm.config
    assert config.rope_parameters["rope_theta"] == 1000000.0
    assert config.rms_norm_eps == 1e-5


def test_shards_are_read(copy):
    folder = copy()
    weights = load_file(folder / "model.safetensors")
    keys = sorted(weights)
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, part in zip(names, (keys[:40], keys[40:]), strict=True):
        save_file({key: weights[key] for key in part}, folder / name)
    index = {"weight_map": {key: names[int(number >= 40)] for number, key in enumerate(keys)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_weights(folder).keys() == weights.keys()
    load(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("language_model.model.norm.weight"), r"llm .* missing keys \[model.norm.weight\]"),
        (lambda w: w.pop("connector._connector.latents"), r"connector .* missing keys \[latents\]"),
        (
            lambda w: w.pop("vision_tower._vision_tower.vision_model.embeddings.patch_embedding.bias"),
            r"vision_tower .* missing keys \[.*patch_embedding.bias\]",
        ),
        (lambda w: w.update({"connector._connector.extra": torch.ones(1)}), r"connector .* unexpected keys \[extra\]"),
        (lambda w: w.update({"language_model.model.extra": torch.ones(1)}), r"llm .* unexpected keys \[.*extra\]"),
        (lambda w: w.update({"extra": torch.ones(1)}), r"do not belong to any part: \[extra\]"),
        (
            lambda w: w.update({"connector._connector.latents": torch.ones(3, 32)}),
            r"latents: \(3, 32\) in the file, \(4, 32\) in the model",
        ),
        (
            lambda w: w.update({"language_model.model.norm.weight": torch.ones(7)}),
            r"llm .*norm.weight: \(7,\) in the file, \(32,\) in the model",
        ),
        (
            lambda w: w.update({"vision_tower._vision_tower.vision_model.post_layernorm.bias": torch.ones(7)}),
            r"vision_tower .*post_layernorm.bias: \(7,\) in the file, \(24,\) in the model",
        ),
    ],
)
def test_weights_that_do_not_fit(copy, change, message):
    folder = copy()
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"connector_type": "groupresampled"}, r"connector_type='groupresampled' .* Did you mean 'groupresampler'"),
        ({"text_config__model_type": "llama"}, "text_config.model_type='llama' is not supported"),
        ({"vision_config__model_type": "clip_vision_model"}, "only SigLIP towers are"),
        ({"vision_feature_select_strategy": "pach"}, "vision_feature_select_strategy='pach' is unknown"),
        ({"vision_feature_layer": -9}, "layer"),
        ({"vision_feature_select_strategy": ["patch"]}, r"vision_feature_select_strategy=\['patch'\] is unknown"),
        ({"text_config": None}, "text_config must be a JSON object, got None"),
        ({"vision_config": "siglip"}, "vision_config must be a JSON object, got 'siglip'"),
        ({"text_config__model_type": ["qwen2"]}, "text_config.model_type=.* is not supported"),
        ({"text_config__hidden_size": "a"}, "llm .* cannot be loaded: .* 'hidden_size' expected int"),
        ({"text_config__num_attention_heads": 0}, "llm .* cannot be loaded"),
        ({"text_config__max_position_embeddings": "a"}, "max_position_embeddings='a' must be an integer"),
        ({"vision_config__hidden_size": "a"}, "vision_tower .* cannot be loaded: .* 'hidden_size' expected int"),
        ({"vision_config__patch_size": 0}, "vision_tower .* cannot be loaded"),
        ({"num_queries": float("nan")}, "num_queries=nan must be an integer"),
        ({"num_queries": 10**6}, r"latents: \(4, 32\) in the file"),
        ({"num_queries": 10**12}, r"from 1 to 10\^6"),
        ({"num_resampler_layers": 10**5}, r"depth=100000 must be at most 100"),
        ({"text_config__num_hidden_layers": 10**9}, r"llm .* has num_hidden_layers=1000000000, but at most"),
        ({"vision_config__num_hidden_layers": 10**9}, r"the vision_tower in .* has num_hidden_layers=1000000000"),
        ({"group": 0}, "group=0 must be an integer from 1"),
        ({"num_resampler_layers": "2"}, "num_resampler_layers='2' must be an integer"),
        ({"tokenizer_model_max_length": True}, "tokenizer_model_max_length=True must be an integer"),
    ],
)
def test_configurations_that_are_not_supported(copy, changes, message):
    folder = copy()
    edit(folder, **changes)
    with pytest.raises(Exception, match=message) as caught:
        load(folder)
    assert type(caught.value).__module__ == "tinyvid.errors"


def test_a_config_too_deep_to_read(copy):
    folder = copy()
    (folder / "config.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="config.json cannot be read"):
        load(folder)


def test_quantization_is_not_chosen_by_the_checkpoint(copy):
    folder = copy()
    edit(folder, text_config__quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert not hasattr(load(folder).model.llm.config, "quantization_config")


def test_no_weights(copy):
    folder = copy()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="contains no weights; expected model.safetensors or pytorch_model.bin"):
        load(folder)


class Evil:
    """An object whose pickle runs code."""

    def __reduce__(self):
        return (print, ("unpickled",))


def test_a_pickle_that_would_run_code_is_refused(copy, capsys):
    folder = copy("group_qwen2_folders")
    torch.save({"x": Evil()}, folder / "connector" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickle that contains more than tensors and could run code"):
        load(folder)
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x02.", b"\x80\x02K\x01R.", b"PK\x03\x04broken", {1: torch.ones(1)}, {"a": {"b": torch.ones(1)}}],
)
def test_a_damaged_pickle(copy, content):
    file = copy("group_qwen2_folders") / "connector" / "pytorch_model.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin (cannot be read|is refused|is not a mapping)"):
        load(file.parents[1])


def test_a_missing_shard_is_named(copy):
    folder = copy()
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks model-00001-of-00002.safetensors, listed in .*index.json"):
        load(folder)


def test_a_tokenizer_that_needs_code_is_refused(copy):
    folder = copy()
    file = folder / "tokenizer_config.json"
    auto_map = {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}
    settings = json.loads(file.read_text()) | {"auto_map": auto_map, "tokenizer_class": "XTokenizer"}
    file.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"'XTokenizer' needs code of the checkpoint, which tinyvid does not run"):
        load(folder)


def test_a_reducer_needs_another_connector(copy):
    with pytest.raises(ConfigError, match="connector 'group' needs full frames; remove reducer"):
        load(copy(), reducer={"name": "slots"})


def test_an_index_that_leaves_the_folder_is_refused(copy):
    folder = copy()
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"'../outside.safetensors', which is not a plain name"):
        load(folder)


def test_an_adapter_that_is_not_plain_lora_is_refused(copy):
    folder = copy("group_qwen2_lora")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dora": True}))
    with pytest.raises(CheckpointError, match="an adapter with use_dora=True cannot be merged"):
        load(folder)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [None, "x", float("nan"), True])
def test_an_adapter_without_a_scale_is_refused(copy, alpha):
    folder = copy("group_qwen2_lora")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": alpha}))
    with pytest.raises(CheckpointError, match=f"lora_alpha={alpha!r} of the adapter must be a number"):
        load(folder)


@pytest.mark.slow
@pytest.mark.parametrize("shapes", [((4, 7), (32, 4)), ((4,), (32, 4)), ((0, 64), (32, 0)), ((4, 64), (1, 4))])
def test_an_adapter_must_fit_its_weights(copy, shapes):
    folder = copy("group_qwen2_lora")
    weights = load_file(folder / "adapter_model.safetensors")
    key = next(key for key in sorted(weights) if key.endswith("layers.0.mlp.down_proj.lora_A.weight"))
    weights |= {key: torch.ones(shapes[0]), key.replace("lora_A", "lora_B"): torch.ones(shapes[1])}
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"do not match the shape \(32, 64\) of the weight"):
        load(folder)


def test_parts_fixed_by_the_checkpoint_cannot_change():
    with pytest.raises(ConfigError, match="connector is fixed by the checkpoint"):
        load(TINYLLAVA_VIDEO / "group_qwen2", connector={"name": "mlp"})
