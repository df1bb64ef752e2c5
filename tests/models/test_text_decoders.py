"""Text decoders: the shared contract, and weights of other projects."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.llamavid import BERT_SIZES, DECODERS, SPEC, D, ask, golden, padded, random_features
from tinyvid.errors import CheckpointError, ConfigError
from tinyvid.registry import TEXT_DECODERS
from tinyvid.types import FeatureSpec

NAMES = TEXT_DECODERS.names()


def make(name, spec=SPEC, seed=0, **options):
    torch.manual_seed(seed)
    return TEXT_DECODERS.build({**DECODERS[name], **options}, features=spec, llm_dim=D).eval()


# --- the contract, for every name -------------------------------------------------------------------------------


def test_every_name_is_tested():
    assert set(DECODERS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 6, 24])
def test_rows_and_mask(name, length):
    decoder = make(name)
    rows, mask = decoder(random_features(3), ask(0, length))
    count = 5 if name == "qformer" else length
    assert rows.shape == (3, count, decoder.dim)
    assert mask.shape == (count,)
    assert mask.dtype == torch.bool
    assert mask.all()
    assert rows.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_no_real_row(name):
    decoder = make(name)
    expected, _ = decoder(random_features(3), ask())
    rows, mask = decoder(random_features(3), padded(ask(), 11))
    torch.testing.assert_close(rows[:, mask], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_every_word_counts(name):
    decoder = make(name)
    rows = [decoder(random_features(1), ask(seed))[0] for seed in (1, 2)]
    assert not torch.isclose(rows[0], rows[1], atol=1e-6).all(-1).any()


@pytest.mark.parametrize("name", NAMES)
def test_frames_do_not_see_each_other(name):
    decoder = make(name)
    together, _ = decoder(random_features(4), ask())
    alone, _ = decoder(random_features(4)[2:3], ask())
    torch.testing.assert_close(together[2:3], alone, atol=1e-6, rtol=0)
    looks = not torch.isclose(together[0], together[1], atol=1e-6).all()
    assert looks == (name != "siglip_text")


def test_gradients_reach_every_parameter_of_the_small_one():
    decoder = make("llm_embed")
    decoder(random_features(3), ask(0, 24))[0].square().sum().backward()
    # The final norm fixes the mean of squares, so the sum of squares depends only on the weights of that norm.
    rows, _ = decoder(random_features(3), ask(0, 24))
    decoder.zero_grad()
    (rows * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert [key for key, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []


# --- the Q-Former -----------------------------------------------------------------------------------------------


def test_words_of_the_q_former_do_not_attend_to_the_frame():
    """Only queries have cross-attention, so with one layer, words carry no information about the frame."""
    decoder = make("qformer", num_layers=1)
    out = decoder.model(
        input_ids=ask().ids[None].expand(2, -1),
        query_embeds=decoder.queries.expand(2, -1, -1),
        encoder_hidden_states=decoder.norm(decoder.project(random_features(2))),
    ).last_hidden_state
    assert torch.equal(out[0, 5:], out[1, 5:])
    assert not torch.equal(out[0, :5], out[1, :5])


def original_options():
    config, tensors = golden("qformer_mean")
    sizes = {key: config["bert"][key] for key in ("vocab_size",)}
    sizes |= {"dim": 32, "num_layers": 4, "num_heads": 4, "mlp_dim": 64, "num_positions": 64, "max_length": 64}
    return {"encoder_dim": 24, "num_queries": 4, **sizes}, tensors


def as_instruct_blip(tensors):
    """Rename the original's weights as in InstructBLIP's files, and add weights that are not read."""
    names = {
        "model.vlm_att_encoder.": "Qformer.",
        "model.vlm_att_query": "query_tokens",
        "model.vlm_att_ln.": "ln_vision.",
    }
    renamed = {"llm_proj.weight": torch.zeros(2, 2), "Qformer.cls.predictions.bias": torch.zeros(3)}
    for key, value in tensors.items():
        for prefix, own in names.items():
            if key.startswith(prefix):
                renamed[own + key.removeprefix(prefix)] = value
    return renamed


def write_weights(tensors, folder, layout):
    """Write weights in one of the published layouts, and return the value of ``path``."""
    ours = {key: value.contiguous() for key, value in tensors.items() if key.startswith("model.")}
    if layout == "instructblip.pth":
        torch.save({"model": as_instruct_blip(tensors)}, folder / layout)
    elif layout == "adapter.bin":
        torch.save(ours, folder / layout)
    elif layout == "adapter.safetensors":
        save_file(ours, folder / layout)
    elif layout == "stage 1 folder":
        torch.save(ours, folder / "mm_projector.bin")
        return folder
    else:
        keys = sorted(ours)
        shards = {"a": keys[::2], "b": keys[1::2], "c": []}
        suffix = "bin" if layout == "pickled shards" else "safetensors"
        stem = "pytorch_model" if suffix == "bin" else "model"
        places = {}
        for name, own in shards.items():
            content = {key: ours[key] for key in own} | {f"model.layers.{name}.weight": torch.zeros(1)}
            file = f"{stem}-{name}.{suffix}"
            (torch.save if suffix == "bin" else save_file)(content, folder / file)
            places |= dict.fromkeys(content, file)
        (folder / f"{stem}-c.{suffix}").write_bytes(b"never opened: it holds nothing that is read")
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": places}))
        return folder
    return folder / layout


LAYOUTS = ["instructblip.pth", "adapter.bin", "adapter.safetensors", "stage 1 folder", "shards", "pickled shards"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_q_former_weights_load_from_every_layout(tmp_path, layout):
    options, tensors = original_options()
    decoder = make("qformer", **options, path=str(write_weights(tensors, tmp_path, layout)))
    assert torch.equal(decoder.queries, tensors["model.vlm_att_query"])
    assert torch.equal(decoder.norm.weight, tensors["model.vlm_att_ln.weight"])
    word = "model.vlm_att_encoder.bert.embeddings.word_embeddings.weight"
    assert torch.equal(decoder.model.embeddings.word_embeddings.weight, tensors[word])
    last = "encoder.layer.2.crossattention.self.key.weight"
    found = decoder.model.encoder.layer[2].crossattention.attention.key.weight
    assert torch.equal(found, tensors[f"model.vlm_att_encoder.bert.{last}"])


def test_a_q_former_may_use_only_the_first_layers(tmp_path, caplog):
    options, tensors = original_options()
    path = str(write_weights(tensors, tmp_path, "adapter.bin"))
    with caplog.at_level("INFO"):
        decoder = make("qformer", **options | {"num_layers": 2}, path=path)
    assert "only the first 2 layers" in caplog.text
    assert len(decoder.model.encoder.layer) == 2


def test_a_tower_of_another_width_gets_a_new_projection(tmp_path, caplog):
    options, tensors = original_options()
    path = str(write_weights(tensors, tmp_path, "adapter.bin"))
    spec = FeatureSpec(dim=20, num_patches=16, grid=(4, 4))
    with caplog.at_level("INFO"):
        decoder = make("qformer", spec, **options, path=path)
    assert "contains no projection of this tower's patches" in caplog.text
    rows, _ = decoder(random_features(2, spec), ask())
    assert rows.shape == (2, 4, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.vlm_att_ln.weight"), r"missing keys \[norm.weight\]"),
        (
            lambda t: t.update({"model.vlm_att_encoder.bert.pooler.x": torch.zeros(1)}),
            r"unexpected keys \[model.pooler.x",
        ),
        (lambda t: t.update({"model.vlm_att_query": torch.zeros(1, 7, 32)}), r"queries: \(1, 7, 32\) in the file"),
        (lambda t: [t.pop(key) for key in list(t) if "vlm_att" in key], "contains no Q-Former; expected weights named"),
    ],
    ids=["missing", "unexpected", "shape", "nothing"],
)
def test_q_former_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    options, tensors = original_options()
    change(tensors)
    torch.save(tensors, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=message):
        make("qformer", **options, path=str(tmp_path / "x.bin"))


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_with_more_than_tensors_is_refused(tmp_path, capsys):
    torch.save({"model": {"query_tokens": Evil()}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="pickle that contains more than tensors"):
        make("qformer", path=str(tmp_path / "x.pth"))
    assert "code ran" not in capsys.readouterr().out


def test_an_index_that_leaves_its_folder_is_refused(tmp_path):
    index = {"weight_map": {"model.vlm_att_query": "../x.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not a plain name inside its folder"):
        make("qformer", path=str(tmp_path))


# --- BERT and SigLIP, from transformers -------------------------------------------------------------------------


def save_bert(folder, **sizes):
    from transformers import BertConfig, BertForMaskedLM

    settings = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(7)
    model = BertForMaskedLM(BertConfig(**settings | {"vocab_size": 60, "max_position_embeddings": 32} | sizes))
    model.save_pretrained(folder)
    return model


def test_bert_starts_from_a_directory(tmp_path):
    model = save_bert(tmp_path)
    decoder = make("bert", path=str(tmp_path))
    own = decoder.model.state_dict()
    for key, value in model.bert.state_dict().items():
        assert torch.equal(own[key], value), key
    assert any("crossattention" in key for key in own)


def test_siglip_text_starts_from_a_whole_siglip_and_equals_it(tmp_path):
    from transformers import SiglipConfig, SiglipModel

    text = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    text |= {"vocab_size": 60, "max_position_embeddings": 24, "pad_token_id": 1}
    vision = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    torch.manual_seed(7)
    whole = SiglipModel(
        SiglipConfig(text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14})
    ).eval()
    whole.save_pretrained(tmp_path)
    decoder = make("siglip_text", path=str(tmp_path))
    ids = torch.cat([ask().ids, torch.ones(18, dtype=torch.long)])  # as in SigLIP's training: padded, without a mask
    expected = whole.text_model(input_ids=ids[None]).last_hidden_state[:, :6]
    rows, _ = decoder(random_features(2), ask())
    torch.testing.assert_close(rows, expected.expand(2, -1, -1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 8}, r"text_decoder.num_heads=8 must be 4"),
        (
            {"num_layers": 2, "dim": 64},
            r"text_decoder.dim=64 must be 32, text_decoder.num_layers=2 must be 3",
        ),
    ],
)
def test_a_bert_of_other_sizes_is_refused(tmp_path, options, message):
    save_bert(tmp_path)
    with pytest.raises(ConfigError, match=message):
        make("bert", path=str(tmp_path), **options)


def test_a_missing_path_is_an_error():
    with pytest.raises(CheckpointError, match="text_decoder in '/nowhere/bert' cannot be loaded"):
        make("bert", path="/nowhere/bert")
    with pytest.raises(CheckpointError, match="/nowhere/q.pth cannot be read"):
        make("qformer", path="/nowhere/q.pth")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("llm_embed", {"num_heads": 5}, "text_decoder.dim=32 must be divisible by text_decoder.num_heads=5"),
        ("qformer", {"max_length": 99}, "max_length=99 exceeds text_decoder.num_positions=32"),
        ("bert", {"max_length": 99}, "max_length=99 exceeds text_decoder.num_positions=32"),
        ("siglip_text", {"pad_id": 60}, "pad_id=60 must be a token id from 0 to 59"),
        ("qformer", {"num_layers": 1000}, "text_decoder.num_layers=1000"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make(name, **options)


def test_the_q_former_requires_a_path():
    with pytest.raises(ConfigError, match="needs text_decoder.path"):
        TEXT_DECODERS.check({"name": "qformer"})
    assert TEXT_DECODERS.check({"name": "qformer", "path": None})["num_queries"] == 32
    assert set(BERT_SIZES) <= set(TEXT_DECODERS.check({"name": "bert"}))
