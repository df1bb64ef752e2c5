"""LLaMA-VID's connector in a whole model: questions of turns, batches, checkpoints and training."""

import json

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import load_file

from tests.factories import build_once, tiny_overrides
from tests.llamavid import BERT_SIZES, save_tokenizer
from tests.runs import PLAIN, load_program, write_rows
from tinyvid import Assistant, CheckpointError, ConfigError, Message, Sample, compose
from tinyvid.models.video_llm import PARTS
from tinyvid.training.trainable import PartOptions, PeftOptions, apply, parameter_groups, table
from tinyvid.types import IGNORE_INDEX

DECODERS = ("llm_embed", "qformer", "bert", "siglip_text")


def overrides(models, decoder="llm_embed", *more):
    given = tiny_overrides(models, connector="llamavid")
    if decoder != "llm_embed":
        sizes = BERT_SIZES | {"vocab_size": 80, "path": "null", "tokenizer": save_tokenizer(models / "bert")}
        sizes |= {"num_layers": 2, "max_length": 32} | ({"num_queries": 4} if decoder == "qformer" else {})
        given = [item for item in given if not item.startswith("text_decoder")]
        given += [f"text_decoder={decoder}", *[f"text_decoder.{key}={value}" for key, value in sizes.items()]]
    return [*given, *more]


def make(models, decoder="llm_embed", *more):
    return build_once(*overrides(models, decoder, *more))


def frames(count=6, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (count, 30, 40, 3), dtype=np.uint8)


def talk(*texts):
    return [Message("user" if number % 2 == 0 else "assistant", text) for number, text in enumerate(texts)]


def tokens_of(assistant, *samples):
    batch = assistant.processor.collate([assistant.processor(sample) for sample in samples])
    with torch.inference_mode():
        return assistant.model.slot_tokens(batch)[0]


# --- questions --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_turn_gets_the_tokens_of_its_own_question(models, decoder):
    assistant = make(models, decoder)
    first, second = "What moves?", "Who is it, and why?"
    both = tokens_of(assistant, Sample(talk(first, "A dog.", second, "Me."), video=frames()))
    alone = [tokens_of(assistant, Sample(talk(text, "x"), video=frames())) for text in (first, second)]
    torch.testing.assert_close(both, torch.cat(alone), atol=1e-6, rtol=0)
    assert not torch.allclose(alone[0], alone[1], atol=1e-6)


def test_the_kth_place_is_filled_by_the_kth_question(models):
    assistant = make(models)
    sample = Sample(talk("What moves?", "A dog.", "Who?", "Me."), video=frames())
    example = assistant.processor(sample)
    assert [slot.question for slot in example.slots] == ["What moves?", "Who?"]
    batch = assistant.processor.collate([example])
    with torch.inference_mode():
        embedded, tokens = assistant.model.embed(batch), assistant.model.slot_tokens(batch)[0]
    torch.testing.assert_close(embedded[0][example.video_mask], tokens)
    starts = torch.diff(example.video_mask.int(), prepend=torch.zeros(1, dtype=torch.int)).eq(1).nonzero().flatten()
    runs = [embedded[0][start : start + 8] for start in starts]  # 4 frames, 2 tokens each
    for run, text in zip(runs, ("What moves?", "Who?"), strict=True):
        torch.testing.assert_close(run, tokens_of(assistant, Sample(talk(text), video=frames())), atol=1e-6, rtol=0)


def test_training_and_inference_lay_out_the_same_question(models):
    assistant = make(models)
    asked = assistant.processor(Sample(talk("What moves?"), video=frames()))
    learned = assistant.processor(Sample(talk("What moves?", "A dog."), video=frames()))
    assert asked.slots == learned.slots
    assert asked.slots[0].ids == tuple(assistant.processor.tokenizer("What moves?").input_ids)
    length = len(asked.input_ids)
    assert torch.equal(learned.input_ids[:length], asked.input_ids)
    assert (learned.labels[:length] == IGNORE_INDEX).all()
    assert (learned.labels[learned.video_mask] == IGNORE_INDEX).all()
    reply = learned.labels[learned.labels != IGNORE_INDEX]
    assert assistant.processor.tokenizer.decode(reply) == " A dog.<|endoftext|>"


def test_choices_are_read_only_with_the_option(models):
    text = "What moves?\nA. a dog\nB. a cat"
    full, stem = make(models), make(models, "llm_embed", "connector.choices=false")
    with_choices, without = (one.processor(Sample(talk(text), video=frames())) for one in (full, stem))
    assert torch.equal(with_choices.input_ids, without.input_ids), "the LLM reads all of it"
    assert without.slots[0].ids == stem.processor(Sample(talk("What moves?"), video=frames())).slots[0].ids
    assert len(with_choices.slots[0].ids) > len(without.slots[0].ids)


def test_a_batch_equals_its_samples_alone(models):
    assistant = make(models)
    rows = [
        Sample(talk("What moves?", "A dog."), video=frames(6)),
        Sample(talk("Hello there, who is it?", "Me.")),
        Sample(talk("A much longer question about it, is it not?", "Yes.", "And?", "No."), video=frames(3, seed=1)),
    ]
    examples = [assistant.processor(row) for row in rows]
    with torch.inference_mode():
        together = assistant.model(assistant.processor.collate(examples)).logits
        alone = [assistant.model(assistant.processor.collate([example])).logits for example in examples]
    torch.testing.assert_close(together, torch.cat(alone), atol=2e-5, rtol=0)


def test_another_question_about_the_same_frames_gets_other_tokens(models):
    assistant = make(models)
    first, second = (tokens_of(assistant, Sample(talk(text), video=frames())) for text in ("Who?", "Where to?"))
    context, content = torch.arange(0, 8, 2), torch.arange(1, 8, 2)
    assert not torch.isclose(first[context], second[context], atol=1e-7).all(-1).any()
    assert torch.equal(first[content], second[content])


# --- checkpoints ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_checkpoint_needs_no_second_model(models, decoder, tmp_path):
    assistant = make(models, decoder)
    assistant.save_pretrained(tmp_path / "a")
    assert (tmp_path / "a" / "question_tokenizer").is_dir() == (decoder != "llm_embed")
    manifest = yaml.safe_load((tmp_path / "a" / "tinyvid.yaml").read_text())
    assert manifest["text_decoder"].get("path") is None
    assert manifest["text_decoder"].get("tokenizer") is None
    again = Assistant.from_pretrained(tmp_path / "a", device="cpu")
    before, after = (one.model.connector.state_dict() for one in (assistant, again))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    sample = Sample(talk("What moves?"), video=frames())
    assert again.processor(sample).slots == assistant.processor(sample).slots
    assert torch.equal(tokens_of(again, sample), tokens_of(assistant, sample))
    again.save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "tinyvid.yaml").read_text() == (tmp_path / "a" / "tinyvid.yaml").read_text()


def test_an_untrusted_checkpoint_cannot_read_other_paths(models, tmp_path):
    make(models, "qformer").save_pretrained(tmp_path / "a")
    file = tmp_path / "a" / "tinyvid.yaml"
    manifest = yaml.safe_load(file.read_text())
    manifest["text_decoder"] |= {"path": "/nowhere/x.pth", "tokenizer": "/nowhere/tokenizer"}
    file.write_text(yaml.safe_dump(manifest))
    again = Assistant.from_pretrained(tmp_path / "a", device="cpu")
    assert again.config["text_decoder"]["path"] is None
    assert again.config["text_decoder"]["tokenizer"] == str(tmp_path / "a" / "question_tokenizer")


def test_a_checkpoint_without_its_text_decoder_is_refused(models, tmp_path):
    make(models).save_pretrained(tmp_path / "a")
    file = tmp_path / "a" / "tinyvid.yaml"
    manifest = yaml.safe_load(file.read_text())
    del manifest["text_decoder"]
    file.write_text(yaml.safe_dump(manifest))
    with pytest.raises(ConfigError, match="reads the question with a text decoder"):
        Assistant.from_pretrained(tmp_path / "a", device="cpu")
    file.write_text(yaml.safe_dump(manifest | {"text_decoder": [1]}))
    with pytest.raises(CheckpointError, match="'text_decoder' must be a mapping with a 'name'"):
        Assistant.from_pretrained(tmp_path / "a", device="cpu")


@pytest.mark.slow
def test_it_can_be_counted_without_weights(models):
    torch.manual_seed(0)
    config = compose(overrides(models, "qformer"))
    empty = Assistant.from_config(config, device="meta")
    real = make(models, "qformer")
    assert all(p.is_meta for p in empty.model.connector.parameters())
    shapes = [{key: p.shape for key, p in one.model.connector.named_parameters()} for one in (empty, real)]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_a_new_text_decoder_is_announced(models, caplog):
    with caplog.at_level("WARNING"):
        Assistant.from_config(compose(overrides(models, "qformer")), device="cpu")
    assert "text_decoder 'qformer' starts from random weights" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING"):
        Assistant.from_config(compose(overrides(models)), device="cpu")
    assert "random weights" not in caplog.text


# --- what trains ------------------------------------------------------------------------------------------------


def adapted(assistant, **how):
    parts = {part: PartOptions() for part in PARTS} | how
    return apply(assistant.model, parts, PeftOptions(rank=4), lr=1e-3), parts


def trainable(assistant):
    """Return the trained modules of the connector, including the children of the text decoder."""
    names = [name for name, p in assistant.model.connector.named_parameters() if p.requires_grad]
    return {name.split(".")[0] for name in names}


FULL = PartOptions(train="full")
STAGES = {
    "1": ({"connector": FULL}, {"context", "content"}),
    "2": ({"connector": FULL, "text_decoder": FULL, "llm": FULL}, {"context", "content", "text_decoder"}),
    "3": ({"connector": PartOptions(train="full", freeze=["context"]), "llm": FULL}, {"content"}),
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_three_stages_of_the_original(models, stage):
    assistant = make(models, "qformer")
    how, expected = STAGES[stage]
    reports, parts = adapted(assistant, **how)
    assert trainable(assistant) == expected
    assistant.model.train()
    decoder = assistant.model.connector.text_decoder
    assert any(module.training for module in decoder.modules()) == (stage == "2")
    rows = {report.part: report for report in reports}
    assert list(rows) == [*PARTS, "text_decoder"]
    assert rows["text_decoder"].parameters == sum(p.numel() for p in decoder.parameters())
    assert sum(row.parameters for row in reports) == sum(p.numel() for p in assistant.model.parameters())
    assert sum(row.trainable for row in reports) == sum(
        p.numel() for p in assistant.model.parameters() if p.requires_grad
    )
    assert f"text_decoder  {'full' if stage == '2' else 'frozen'}" in table(reports)
    batch = assistant.processor.collate([assistant.processor(Sample(talk("Q?", "A."), video=frames()))])
    assistant.model(batch).loss.backward()
    learned = {name for name, p in assistant.model.named_parameters() if p.grad is not None}
    assert learned <= {name for name, p in assistant.model.named_parameters() if p.requires_grad}
    groups = parameter_groups(assistant.model, parts, lr=1e-3, weight_decay=0.1)
    counted = sum(p.numel() for group in groups for p in group["params"])
    assert counted == sum(row.trainable for row in reports)


def test_a_text_decoder_of_new_layers_trains_with_its_connector(models):
    assistant = make(models)
    reports, _ = adapted(assistant, connector=FULL)
    assert trainable(assistant) == {"context", "content", "text_decoder"}
    assert [report.part for report in reports] == list(PARTS)
    with pytest.raises(ConfigError, match="but this model has no pretrained text decoder"):
        adapted(make(models), connector=FULL, text_decoder=FULL)


def test_lora_of_the_connector_leaves_the_text_decoder_alone(models, tmp_path):
    assistant = make(models, "qformer")
    adapted(assistant, connector=PartOptions(train="lora"))
    adapters = {name for name, p in assistant.model.connector.named_parameters() if p.requires_grad}
    assert adapters
    assert not any("text_decoder" in name for name in adapters)
    for name, parameter in assistant.model.connector.named_parameters():
        if "lora_B" in name:  # peft starts it at zero, where the adapter would change nothing
            torch.nn.init.normal_(parameter, std=0.05)
    assistant.model.eval()
    assistant.save_pretrained(tmp_path)
    again = Assistant.from_pretrained(tmp_path, device="cpu")
    sample = Sample(talk("Q?"), video=frames())
    assert torch.equal(tokens_of(again, sample), tokens_of(assistant, sample))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"connector": PartOptions(train="full", freeze=["contxt"])}, "freeze='contxt' is not a module .* 'context'"),
        (
            {"connector": FULL, "text_decoder": PartOptions(train="lora")},
            "recipe.text_decoder.train=lora is not supported",
        ),
    ],
)
def test_wrong_training_options_are_refused(models, how, message):
    with pytest.raises(ConfigError, match=message):
        adapted(make(models, "qformer"), **how)


# --- configuration ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_choosing_the_connector_adds_its_text_decoder():
    assert compose(["connector=llamavid"]).text_decoder.name == "llm_embed"
    config = compose(["connector=llamavid", "text_decoder=qformer", "text_decoder.path=x.pth"], config="train")
    assert (config.text_decoder.name, config.text_decoder.path) == ("qformer", "x.pth")
    assert "text_decoder" not in compose(["connector=mlp"])
    with pytest.raises(ConfigError, match="'text_decoder' applies only to connectors that read the question; add"):
        compose(["connector=mlp", "text_decoder=bert"])
    with pytest.raises(ConfigError, match="text_decoder=brt: unknown option. Did you mean 'bert'"):
        compose(["connector=llamavid", "text_decoder=brt"])


@pytest.mark.slow
def test_a_separate_tokenizer_is_needed(models):
    with pytest.raises(ConfigError, match="text_decoder 'bert' needs text_decoder.tokenizer"):
        make(models, "bert", "text_decoder.tokenizer=null")
    with pytest.raises(ConfigError, match="has 63 tokens, but the text decoder has text_decoder.vocab_size=50"):
        make(models, "bert", "text_decoder.vocab_size=50")


def test_groups_survive_json(models):
    assistant = make(models, "qformer")
    assert json.loads(json.dumps(assistant.config)) == assistant.config


# --- programs ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_trained_model_answers(models, tmp_path):
    """Frozen weights, including the text decoder's, may be bfloat16; trained weights are float32."""
    program = load_program("train")
    rows = write_rows(tmp_path / "data")
    run = [f"data.path={rows}", "run_dir=unused", "recipe.max_steps=2", "dtype=bfloat16", "connector.chunk=3"]
    run.append("recipe.gradient_checkpointing=true")
    config = compose([*overrides(models, "qformer"), *PLAIN, *run], config="train")
    result = program.train(OmegaConf.to_container(config, resolve=True), tmp_path / "run")
    trained = load_file(next((tmp_path / "run").glob("checkpoint-*")) / "trained.safetensors")
    assert {key.split(".")[1] for key in trained if key.startswith("connector.")} == {"context", "content"}
    assert all(value.dtype == torch.float32 for value in trained.values())
    reply = Assistant.from_pretrained(result, device="cpu").ask(frames(), "What moves?", max_new_tokens=3)
    assert isinstance(reply, str)
