"""Packed samples train like separate ones: same loss, same gradients, no attention between them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.clips import write_clip
from tests.factories import tiny_assistant
from tinyvid import ConfigError, DataError, Message, Sample, Video
from tinyvid.data.datasets import RowDataset
from tinyvid.generation.decode import Decoding, generate
from tinyvid.models.video_llm import _block_mask
from tinyvid.processing.batch import Batch
from tinyvid.processing.collate import positions_of
from tinyvid.training.data import TrainingData
from tinyvid.training.options import DataPolicy
from tinyvid.training.packing import PackedRows
from tinyvid.types import IGNORE_INDEX

TURNS = [
    ("What moves?", "A dog, to the left."),
    ("Where?", "Home."),
    ("A longer question about it, is it not?", "Yes, and the reply is longer as well."),
]


def samples(count=6, seed=0, turns=TURNS):
    frames = np.random.default_rng(seed).integers(0, 255, (count, 30, 40, 3), dtype=np.uint8)
    video = Video(frames, fps=2.0)
    return [
        Sample([Message("user", asked), Message("assistant", reply)], video=video, id=f"row {number}")
        for number, (asked, reply) in enumerate(turns)
    ]


def gradients(model, batch):
    model.zero_grad()
    output = model(batch)
    output.loss.backward()
    return output, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("family", "connector", "options"),
    [
        ("qwen2", "group", ()),
        ("phi", "mlp", ()),
        ("gemma", "naive", ()),
        ("qwen2", "mlp", ("connector.pool_after=2", "connector.newline=true")),
        ("qwen2", "mlp", ("template.heading='{count_words} frames. '", "template.frame='{clock}: {video}'")),
    ],
)
def test_packed_rows_train_like_single_rows(models, family, connector, options, attention):
    assistant = tiny_assistant(models, f"llm.attention={attention}", *options, family=family, connector=connector)
    processor, model = assistant.processor, assistant.model.train()
    first, second = samples(), samples(count=9, seed=1)[:2]
    together = processor.collate([processor.pack(first), processor.pack(second)])
    alone = processor.collate([processor(sample) for sample in [*first, *second]])
    packed, packed_gradients = gradients(model, together)
    single, single_gradients = gradients(model, alone)
    assert len(packed.labels) == len(single.labels)
    torch.testing.assert_close(packed.logits, single.logits, atol=5e-5, rtol=0)
    torch.testing.assert_close(packed.loss, single.loss, atol=1e-5, rtol=0)
    assert packed_gradients.keys() == single_gradients.keys()
    for name, gradient in single_gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, atol=2e-5, rtol=1e-3, msg=name)


def test_packed_and_single_examples_mix_in_a_batch(assistant):
    processor, model = assistant.processor, assistant.model
    text = processor(Sample([Message("user", "Hello?"), Message("assistant", "Hello.")]))
    mixed = model(processor.collate([processor.pack(samples()), text, processor(samples(seed=2)[0])]))
    alone = [model(processor.collate([e])) for e in (processor.pack(samples()), text, processor(samples(seed=2)[0]))]
    torch.testing.assert_close(mixed.logits, torch.cat([each.logits for each in alone]), atol=2e-5, rtol=0)


def test_a_pack_of_one_is_the_sample(processor):
    (sample, *_) = samples()
    packed, alone = processor.pack([sample]), processor(sample)
    for name in ("input_ids", "labels", "video_mask"):
        assert torch.equal(getattr(packed, name), getattr(alone, name))
    assert torch.equal(packed.videos[0].pixels, alone.videos[0].pixels)


def test_layout_of_a_pack(processor):
    packed, singles = processor.pack(samples()), [processor(sample) for sample in samples()]
    shared = int((packed.blocks == 0).sum())
    assert packed.id == "row 0+row 1+row 2"
    assert int(packed.video_mask.sum()) == processor.tokens.budget(6) == int(packed.video_mask[:shared].sum())
    for number, single in enumerate(singles, start=1):
        rest = packed.blocks == number
        assert torch.equal(packed.input_ids[rest], single.input_ids[shared:])
        assert torch.equal(packed.labels[rest], single.labels[shared:])
    assert (packed.labels[:shared] == IGNORE_INDEX).all()
    assert len(packed.videos) == len(packed.slots) == 1


def test_a_reply_that_is_not_learned_stays_in_the_pack(processor):
    first, *others = samples()
    read = replace(first, messages=[first.messages[0], replace(first.messages[1], loss=False)])
    masked, learned = processor.pack([read, *others]), processor.pack([first, *others])
    assert torch.equal(masked.input_ids, learned.input_ids)
    assert (masked.labels[masked.blocks == 1] == IGNORE_INDEX).all()
    assert torch.equal(masked.labels[masked.blocks > 1], learned.labels[learned.blocks > 1])


def test_positions_and_mask():
    blocks = torch.tensor([[0, 0, 1, 1, 2, 2, 2, 0]])
    real = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0]])
    assert positions_of(Batch(real, real, real, real.bool(), blocks=blocks))[0, :7].tolist() == [0, 1, 2, 3, 2, 3, 4]
    mask = _block_mask(real, blocks)[0, 0].int()
    assert mask[:7].tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 1, 0],
    ]
    assert mask[7].any()  # softmax of a fully masked row would be NaN


def test_the_limit_applies_to_each_sample_alone(processor):
    longest = max(len(processor.plan(sample).input_ids) for sample in samples())
    processor.max_length = longest
    assert len(processor.pack(samples()).input_ids) > longest
    processor.max_length = longest - 1
    with pytest.raises(DataError, match="sample 'row 2'.*exceed the limit"):
        processor.pack(samples())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [rows[0], samples(seed=3)[1]], "must show the same videos"),
        (lambda rows: [rows[0], replace(rows[1], video=None)], "must show the same videos"),
        (lambda rows: [replace(rows[0], video=None)], "must show the same videos"),
        (
            lambda rows: [rows[0], replace(rows[1], messages=[Message("system", "Be brief."), *rows[1].messages])],
            "same text before the videos",
        ),
        (lambda rows: [], "at least one sample"),
    ],
)
def test_samples_that_cannot_be_packed(processor, change, message):
    with pytest.raises(DataError, match=message):
        processor.plan_pack(change(samples()))


def test_a_template_without_text_before_the_reply(processor):
    processor.template.video_suffix = processor.template.user_suffix = processor.template.assistant_prefix = ""
    processor.template.read_user_text = False
    with pytest.raises(DataError, match="reply directly after or before a video.*recipe.pack=1"):
        processor.pack(samples())


def test_a_connector_that_reads_the_question(processor):
    processor.tokens = replace(processor.tokens, reads_question=True)
    with pytest.raises(ConfigError, match="questions cannot share video tokens; set recipe.pack=1"):
        processor.pack(samples())


def test_packed_examples_are_not_for_generation(assistant):
    packed = assistant.processor.pack(samples())
    with pytest.raises(DataError, match="only for training"):
        assistant.processor.collate([packed], padding_side="left")
    with pytest.raises(DataError, match="only for training"):
        generate(assistant.model, assistant.processor, assistant.processor.collate([packed]), Decoding(2))


def test_other_attention_is_refused(assistant):
    assistant.model.llm.config._attn_implementation = "flash_attention_2"
    batch = assistant.processor.collate([assistant.processor.pack(samples())])
    with pytest.raises(ConfigError, match=r"recipe.pack above 1 needs llm.attention=sdpa or eager"):
        assistant.model(batch)


# --- rows ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path):
    for name in ("one", "two"):
        write_clip(tmp_path / f"{name}.mp4", num_frames=8)
    lines = [
        {"id": f"{name} {number}", "video": f"{name}.mp4",
         "messages": [{"role": "user", "content": f"What is in {number}?"}, {"role": "assistant", "content": "It."}]}
        for number in range(3) for name in ("one", "two")
    ]  # fmt: skip
    lines.append({"id": "text", "messages": lines[0]["messages"]})
    between = [{"role": "user", "content": "<video> or <video>?"}, {"role": "assistant", "content": "It."}]
    lines += [{"id": f"between {n}", "videos": ["one.mp4", "two.mp4"], "messages": between} for n in range(2)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "no row\n")
    return RowDataset(path=str(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize(
    ("most", "items"),
    [(8, [[0, 2, 4], [1, 3, 5], [6], [7], [8], [9]]), (2, [[0, 2], [1, 3], [4], [5], [6], [7], [8], [9]])],
)
def test_rows_about_the_same_video_are_grouped(rows, most, items):
    packed = PackedRows(rows, most)
    assert packed.items == items
    assert sorted(index for item in packed.items for index in item) == list(range(len(rows)))
    assert packed.size(0) == sum(rows.size(index) for index in items[0])
    assert packed.where(0).endswith(f"rows.jsonl:1 (packed with {len(items[0]) - 1} more)")


def test_training_data_packs(processor, rows):
    data = TrainingData(PackedRows(rows, 8), processor, DataPolicy(on_error="skip", max_skip=0.5))
    examples = [data[index] for index in range(len(data))]
    assert [getattr(e, "blocks", None) is not None for e in examples] == [True, True] + [False] * 4
    (skipped,) = examples[5]
    assert "rows.jsonl:10" in skipped.row
    assert examples[0].id == "one 0+one 1+one 2"
    batch = data.collate(examples)["batch"]
    assert batch.blocks.shape == batch.input_ids.shape
