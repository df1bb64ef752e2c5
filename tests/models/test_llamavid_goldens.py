"""LLaMA-VID's weights reproduce the original's outputs, and its files are read strictly."""

import json

import pytest
import torch

from tests.goldens import TINYLLAVA_VIDEO
from tests.llamavid import golden
from tests.models.test_text_decoders import write_weights
from tinyvid import Assistant, CheckpointError
from tinyvid.build import build_connector
from tinyvid.checkpoints.compat import llama_vid
from tinyvid.types import FeatureSpec, Question

LAYOUTS = ["adapter.bin", "adapter.safetensors", "stage 1 folder", "shards", "pickled shards"]


def build(name, path, *, dim=24, llm_dim=40):
    config, tensors = golden(name)
    groups = llama_vid.describe(path, config)
    spec = FeatureSpec(dim=dim, num_patches=16, grid=(4, 4))
    decoder = groups["text_decoder"] | {"num_heads": config["bert"]["num_attention_heads"]}  # 8 wide, not 64
    connector = build_connector(groups["connector"], features=spec, llm_dim=llm_dim, text_decoder=decoder)
    return connector.eval(), config, tensors


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["qformer_mean", "raw_grid2"])
def test_equals_the_original_program(name, layout, tmp_path):
    path = write_weights(golden(name)[1], tmp_path, layout)
    connector, config, tensors = build(name, path)
    llama_vid.load_connector(connector, path)
    clips = tensors["image_features"].split(config["frames_per_sample"])
    for number, rows in enumerate(clips):
        patches = rows[:, 1:]  # row 0 is the class row
        question = Question("", tensors[f"prompt_ids.{number}"])
        # In the original, the Q-Former also sees the class row; BERT and the attention see only patches.
        read = connector.read(rows if name == "qformer_mean" else patches, question)
        tokens = connector.combine(patches, *read).flatten(0, 1)
        torch.testing.assert_close(tokens, tensors[f"output.{number}"][0], atol=1e-5, rtol=0)
        assert len(tokens) == connector.tokens.budget(len(rows))
        if name == "raw_grid2":
            torch.testing.assert_close(connector(patches, question), tokens, atol=1e-6, rtol=0)


def test_describe_reads_options_from_the_weights(tmp_path):
    for name in ("qformer_mean", "raw_grid2"):
        (tmp_path / name).mkdir()
    qformer = write_weights(golden("qformer_mean")[1], tmp_path / "qformer_mean", "adapter.bin")
    groups = llama_vid.describe(qformer, {"bert_type": "qformer_pretrain_freeze", "compress_type": None})
    assert groups["connector"] == {"name": "llamavid", "content": "none", "depth": 2}
    expected = {"name": "qformer", "path": None, "dim": 32, "num_layers": 4, "num_heads": 1, "mlp_dim": 64}
    expected |= {"vocab_size": 120, "num_positions": 64, "max_length": 64, "num_queries": 4}
    assert groups["text_decoder"] == expected | {"encoder_dim": 24, "norm": True}
    bert = write_weights(golden("raw_grid2")[1], tmp_path / "raw_grid2", "adapter.bin")
    groups = llama_vid.describe(bert, {"bert_type": "raw_bert", "compress_type": "grid:2"})
    assert groups["connector"] == {"name": "llamavid", "content": "grid", "grid": 2, "legacy_grid": True, "depth": 2}
    assert (groups["text_decoder"]["name"], groups["text_decoder"]["num_layers"]) == ("bert", 4)
    assert (
        llama_vid.describe(bert, {"bert_type": "raw", "compress_type": "mean_concat"})["connector"]["content"] == "mean"
    )


@pytest.mark.parametrize("kind", ["grid", "grid:0", "gird:2", "mean:2"])
def test_an_unknown_compression_is_refused(kind, tmp_path):
    path = write_weights(golden("raw_grid2")[1], tmp_path, "adapter.bin")
    with pytest.raises(CheckpointError, match=f"compress_type='{kind}' is unknown. Available: mean, grid:K, null"):
        llama_vid.describe(path, {"bert_type": "raw", "compress_type": kind})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.vlm_att_val_projector.bias"), r"missing keys \[context.out.bias\]"),
        (
            lambda t: t.update({"model.vlm_att_visual_proj.weight": torch.zeros(1)}),
            "unexpected keys .vlm_att_visual_proj",
        ),
        (lambda t: t.update({"model.mm_projector.4.bias": torch.zeros(1)}), "unexpected keys .content.layers.4.bias"),
        (
            lambda t: t.update({"model.mm_projector.0.bias": torch.zeros(3)}),
            r"layers.0.bias: \(3,\) in the file, \(40,\)",
        ),
    ],
    ids=["missing", "unknown", "left over", "shape"],
)
def test_weights_that_do_not_fit_are_refused(change, message, tmp_path):
    whole = write_weights(golden("qformer_mean")[1], tmp_path, "adapter.bin")
    connector, _, tensors = build("qformer_mean", whole)
    before = connector.context.out.weight.clone()
    change(tensors)
    torch.save({key: value for key, value in tensors.items() if key.startswith("model.")}, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=message):
        llama_vid.load_connector(connector, tmp_path / "x.bin")
    assert torch.equal(connector.context.out.weight, before)


def test_files_of_other_models_are_refused(tmp_path):
    torch.save({"model.layers.0.weight": torch.zeros(1)}, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=r"contains no LLaMA-VID connector; expected weights named vlm_att_\*"):
        llama_vid.read_connector(tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="contains no weights"):
        llama_vid.read_connector(TINYLLAVA_VIDEO)
    path = write_weights(golden("raw_grid2")[1], tmp_path, "adapter.bin")
    with pytest.raises(CheckpointError, match="which bert_type='qformer_pretrain' requires"):
        llama_vid.describe(path, {"bert_type": "qformer_pretrain"})


def test_a_full_llama_vid_model_explains_what_can_be_loaded(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "bert_type": "qformer_pretrain"}))
    with pytest.raises(CheckpointError, match="is a LLaMA-VID model, and only its connector can be loaded"):
        Assistant.from_pretrained(tmp_path)


def test_one_linear_layer_has_no_number(tmp_path):
    tensors = golden("raw_grid2")[1]
    tensors["model.mm_projector.weight"] = tensors.pop("model.mm_projector.0.weight")
    tensors["model.mm_projector.bias"] = tensors.pop("model.mm_projector.0.bias")
    tensors = {key: value for key, value in tensors.items() if ".mm_projector.2." not in key}
    path = write_weights(tensors, tmp_path, "adapter.bin")
    assert llama_vid.describe(path, {"bert_type": "raw", "compress_type": "mean"})["connector"]["depth"] == 1
    connector, _, _ = build("raw_grid2", path)
    llama_vid.load_connector(connector, path)
    assert torch.equal(connector.content.layers[0].weight, tensors["model.mm_projector.weight"])
