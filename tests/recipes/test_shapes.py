"""The recipe of the default model: its stages, and a run at the smallest size."""

import json
import multiprocessing
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from recipes.shapes import attention, parts
from recipes.shapes.__main__ import run_stages
from recipes.shapes.clips import draw_clip, make_clips, read_frames, write_video
from recipes.shapes.continued import Continued, continue_training, held_out_spans, train
from recipes.shapes.facts import CHOICES, EVENTS, NUMBERS, facts
from recipes.shapes.fitting import Engine, fit, rate
from recipes.shapes.patches import LAYERS
from recipes.shapes.plots import read
from recipes.shapes.questions import SECONDS, Shares, corpus, draw_duration, lay_out, questions_of, right_replies
from recipes.shapes.release import digest, release, replaceable, ship
from recipes.shapes.sizes import MAX_SHAPES, NUM_FRAMES, SIZES, with_extra
from recipes.shapes.stages import STAGES, RecipeRun
from recipes.shapes.student import TRACE_WEIGHT, Student, accuracy, answer_loss, forward_with, mix, resample
from recipes.shapes.supervision import WORDS, TokenHeads, match, targets_of, token_loss
from recipes.shapes.vision import patch_targets, to_pixels
from tests.clips import write_clip
from tests.runs import python
from tinyvid import Assistant, compose
from tinyvid.checkpoints.hub import DEFAULT_MODEL
from tinyvid.processing.batch import Output, VideoInput
from tinyvid.registry import TEMPLATES
from tinyvid.worlds.shapes import COLORS, FAMILIES, HELD_OUT, KINDS, MOTIONS, render
from tinyvid.worlds.shapes.wording import life_events

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = SIZES["smoke"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Parts with random weights."""
    folder = tmp_path_factory.mktemp("shapes")
    parts.make_llm(folder / "llm", TINY, corpus(0)[:4000], seed=0)
    parts.make_tower(folder / "vision_tower", TINY, seed=0)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    make_clips(folder, seed=3, count=12, processes=1)
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}


@pytest.fixture
def assistant(folder):
    options = [f"connector.{key}={value}" for key, value in TINY.connector.items() if key != "name"]
    overrides = [*parts.GROUPS, f"llm.path={folder / 'llm'}", f"vision_tower.path={folder / 'vision_tower'}"]
    torch.manual_seed(0)
    return Assistant.from_config(compose([*overrides, *options]), device="cpu")


# --- clips --------------------------------------------------------------------------------------------------------


def test_a_clip_depends_only_on_its_number():
    assert draw_clip(0, 5) == draw_clip(0, 5)
    assert draw_clip(0, 5) != draw_clip(0, 6)
    assert draw_clip(0, 5) != draw_clip(1, 5)


def test_a_fifth_of_the_clips_have_a_collision_and_most_have_two_events():
    scenes = [draw_clip(0, index)[0] for index in range(400)]
    assert 0.14 < np.mean([len(scene.collisions) > 0 for scene in scenes]) < 0.28
    assert np.mean([len(scene.events) > 1 for scene in scenes]) > 0.6


def test_held_out_pairs_are_neither_shown_nor_mentioned():
    shown, named = set(), set()
    for index in range(150):
        scene, file = draw_clip(0, index, hold_out=True)
        shown |= {(shape.color, shape.kind) for shape in scene.shapes}
        rng = np.random.default_rng(index)
        size = replace(TINY, hold_out=True, families=dict.fromkeys(FAMILIES, 1.0), formats=("open", "choice", "yesno"))
        named |= {question.text for question in questions_of(scene, file, rng, size, duration=4.0)}
    assert len(shown) == len(COLORS) * len(KINDS) - len(HELD_OUT)
    assert not shown & set(HELD_OUT)
    assert not [text for text in named if any(f"{color} {kind}" in text for color, kind in HELD_OUT)]
    assert any("red circle" in text for text in named)


def test_frames_are_those_of_the_file(tmp_path):
    scene, file = next(clip for clip in (draw_clip(0, i) for i in range(50)) if clip[1].width == 64)
    frames = render(scene, num_frames=file.num_frames, width=64, height=64)
    write_video(tmp_path / "clip.mp4", frames, file.fps, 18)
    shown = frames[[int(i) for i in np.linspace(0, file.num_frames - 1, NUM_FRAMES, dtype=int)]]
    assert np.abs(read_frames(tmp_path / "clip.mp4").astype(int) - shown).mean() < 4


def test_facts_match_the_scene():
    for index in range(20):
        scene, file = draw_clip(0, index)
        found = facts(scene, 1.0, file.moments)
        events = life_events(scene)
        for number, shape in enumerate(scene.shapes):
            assert COLORS[found["first_color"][number]] == shape.color
            assert KINDS[found["kind"][number]] == shape.kind
            assert MOTIONS[found["motion"][number]] == shape.motion
            assert bool(found["has_second"][number]) == (shape.second_motion is not None)
            own = [(rank, event) for rank, event in enumerate(events, 1) if event.shape == number]
            assert found["rank"][number] == (own[0][0] if own else 0)
            assert EVENTS[found["event"][number]] == (own[0][1].kind if own else "nothing")
            if own:
                assert found["time"][number] == pytest.approx(own[0][1].time, abs=1e-6)
                frame = int(found["frame"][number])
                assert file.moments[frame] >= own[0][1].time > file.moments[frame - 1]
        assert (found["kind"][len(scene.shapes) :] == -1).all()


def test_patch_targets_match_the_scene(clips):
    clip, frame = np.arange(12), np.full(12, 8)
    color, kind, _ = patch_targets(clips, clip, frame, 8)
    for row in range(12):
        seen = {(int(c), int(k)) for c, k in zip(color[row], kind[row], strict=True) if c < len(COLORS)}
        shown = clips["visible"][row, 8]
        there = {(int(clips["color"][row, 8, n]), int(clips["kind"][row, n])) for n in range(MAX_SHAPES) if shown[n]}
        assert seen == there
        brightness = clips["frames"][row, 8].reshape(8, 8, 8, 8, 3).mean((1, 3, 4)).ravel()
        if seen:
            assert brightness[color[row] < len(COLORS)].max() >= np.median(brightness)


# --- parts --------------------------------------------------------------------------------------------------------


def test_every_word_of_the_world_is_one_token(assistant):
    tokenizer = assistant.processor.tokenizer
    for words in WORDS.values():
        for word in words:
            assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1, word
    text = "What color is the Señor's triangle? 12.5\nA. left"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_parts_from_the_same_seed_are_the_same(tmp_path):
    for name in ("one", "two"):
        parts.make_llm(tmp_path / name, TINY, ["What color is it?"], seed=4)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_batched_connector_equals_one_clip_at_a_time(assistant):
    connector = assistant.model.connector
    features = torch.randn(3, NUM_FRAMES, 64, TINY.vision["hidden_size"])
    alone = torch.stack([connector(clip) for clip in features])
    torch.testing.assert_close(mix(connector, resample(connector, features)), alone)


# --- supervision --------------------------------------------------------------------------------------------------


def test_matching_does_not_depend_on_the_order_of_tokens(assistant, clips):
    torch.manual_seed(0)
    heads = TokenHeads(64, assistant.processor.tokenizer)
    words = assistant.model.llm.get_input_embeddings().weight
    targets = targets_of(clips, np.arange(12), torch.device("cpu"))
    tokens = torch.randn(12, NUM_FRAMES, MAX_SHAPES, 64)
    loss, metrics, described = token_loss(heads(tokens, words), targets)
    turned, *_ = token_loss(heads(tokens.flip(2), words), targets)
    torch.testing.assert_close(loss, turned)
    assert set(CHOICES) | set(NUMBERS) <= metrics.keys()
    shown = targets["visible"].sum(-1)
    assert torch.equal((described >= 0).sum(-1), shown)
    assert (described.sort(-1).values.diff(dim=-1) != 0).logical_or(described.sort(-1).values[..., 1:] < 0).all()


def test_matching_finds_the_shape_that_a_token_describes(clips):
    targets = targets_of(clips, np.arange(12), torch.device("cpu"))
    order = torch.tensor([2, 0, 3, 1])
    place = order.argsort()  # token place[n] describes shape n

    def said(name: str, classes: int) -> torch.Tensor:
        right = targets[name].long().clamp(min=0)
        right = right[:, None].expand(-1, NUM_FRAMES, -1) if right.ndim == 2 else right
        return nn.functional.one_hot(right[:, :, order], classes).float() * 9

    speech = {
        "color": said("color", len(COLORS)),
        "kind": said("kind", len(KINDS)),
        "center": targets["center"][:, :, order],
        "present": targets["visible"][:, :, order].float() * 9,
    }
    pair = match(speech, targets)
    shown = targets["visible"]
    for shape in range(MAX_SHAPES):
        assert (pair[:, :, place[shape]][shown[:, :, shape]] == shape).all()


# --- fitting ------------------------------------------------------------------------------------------------------


def test_replicas_give_the_gradient_of_the_whole_batch():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    data = torch.randn(6, 4)

    def compute(replica, share):
        loss = replica(share).square().mean()
        return loss, {"loss": loss.item()}

    engine = Engine(module, bf16=False, replicas=2)
    assert all(a is b for a, b in zip(*(replica.parameters() for replica in engine.replicas), strict=True))
    metrics = engine.gradients(compute, data.chunk(2))
    found = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    loss = module(data).square().mean()
    loss.backward()
    assert metrics["loss"] == pytest.approx(loss.item())
    for gradient, parameter in zip(found, module.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_fitting_learns_and_is_reproducible():
    def run() -> list[float]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        data = torch.randn(32, 4)
        losses = []

        def compute(replica, share):
            loss = (replica(share)[:, 0] - share.sum(-1)).square().mean()
            return loss, {"loss": loss.item()}

        engine = Engine(module, bf16=False, replicas=2)
        fit("test", engine, compute, lambda _: data.chunk(2), steps=80, lr=0.1,
            after=lambda step, metrics: losses.append(metrics["loss"]))  # fmt: skip
        return losses

    losses = run()
    assert losses[-1] < 0.2 * losses[0]
    assert losses == run()


def test_learning_rate_rises_and_falls():
    rates = [rate(step, 1000) for step in range(1000)]
    assert rates[0] < rates[49] == pytest.approx(1, abs=1e-3)
    assert rates[-1] == pytest.approx(0.02, abs=1e-3)


# --- questions ----------------------------------------------------------------------------------------------------


def test_a_share_is_the_same_every_time(assistant):
    shares = Shares(assistant.processor, world=0, first=0, count=8, together=4, size=TINY, seed=1, length=4,
                    keep_questions=True)  # fmt: skip
    one, again, other = shares[1], shares[1], shares[3]
    assert torch.equal(one.batch.input_ids, again.batch.input_ids)
    assert sorted([*shares[0].clips, *shares[1].clips]) == list(range(8))
    assert not np.array_equal(one.questions, other.questions)
    assert one.batch.blocks.max() == TINY.questions
    assert int((one.batch.video_mask.sum(1) == assistant.processor.tokens.budget.fixed).sum()) == 4


def test_durations_of_timed_families_are_often_those_of_the_world():
    usual, timed = ([draw_duration(np.random.default_rng(i), timed=kind) for i in range(400)] for kind in (False, True))
    assert min(usual) == 1.0
    assert max(usual) > 40
    share = [np.isin(found, SECONDS).mean() for found in (usual, timed)]
    assert share[0] < 0.3
    assert 0.5 < share[1] < 0.7


def test_packed_questions_have_times_in_the_words_of_the_template(assistant):
    size = replace(TINY, families={"grounding": 1.0}, formats=("open",))
    steps = Shares(assistant.processor, world=0, first=0, count=4, together=4, size=size, seed=1, length=1)[0]
    template = {**assistant.config["template"], "time": "{:.1f} s", "time_steps": None}
    assistant.processor.template = TEMPLATES.build(template)
    seconds = Shares(assistant.processor, world=0, first=0, count=4, together=4, size=size, seed=1, length=1)[0]
    texts = [assistant.processor.tokenizer.decode(share.batch.input_ids.flatten()) for share in (seconds, steps)]
    assert len(re.findall(r"From \d+\.\d s to \d+\.\d s\.", texts[0])) == texts[0].count("The video lasts") > 8
    assert len(re.findall(r"From \d\d+% to \d\d+%\.", texts[1])) > texts[1].count("The video lasts") > 2


def test_a_reply_is_right_if_all_of_it_is(assistant):
    shares = Shares(assistant.processor, world=0, first=0, count=4, together=4, size=TINY, seed=1, length=1,
                    keep_questions=True)  # fmt: skip
    share = shares[0]
    targets = share.batch.labels[share.batch.labels != -100]
    logits = nn.functional.one_hot(targets, len(assistant.processor.tokenizer)).float()
    assert right_replies(logits, share.batch) == [True] * len(share.questions)
    logits[0] = 0  # the first token of the first reply is wrong
    assert right_replies(logits, share.batch) == [False] + [True] * (len(share.questions) - 1)


def test_accuracy_of_the_default_model_is_high_and_does_not_depend_on_cores(clips):
    shipped = Assistant.from_pretrained(device="cpu", dtype="float32")
    model = shipped.model.requires_grad_(False)
    with torch.no_grad():
        frames = torch.from_numpy(clips["frames"])  # (12, T, H, W, 3)
        features = model.vision_tower(to_pixels(frames.flatten(0, 1).numpy(), torch.device("cpu")))
        tokens = resample(model.connector, features.unflatten(0, frames.shape[:2])).numpy()
    shares = Shares(shipped.processor, world=3, first=0, count=12, together=3, size=SIZES["default"], seed=1, length=4,
                    keep_questions=True)  # fmt: skip
    asked = [shares[number] for number in range(4)]
    student = Student(model, shipped.processor.tokenizer)
    one, two = (accuracy(Engine(student, bf16=False, replicas=count), asked, tokens) for count in (1, 2))
    assert one == two
    assert one["overall"] > 0.8
    assert accuracy(Engine(student, bf16=False, replicas=2), asked, np.roll(tokens, 3, axis=0))["overall"] < 0.6


def test_known_tokens_and_fast_attention_change_nothing(assistant, monkeypatch):
    share = Shares(assistant.processor, world=0, first=0, count=4, together=4, size=TINY, seed=1, length=1)[0]
    features = torch.randn(4, NUM_FRAMES, 64, TINY.vision["hidden_size"])
    model = assistant.model
    tokens = mix(model.connector, resample(model.connector, features))
    known = forward_with(model, share.batch, tokens)
    seconds = tuple(float(second) for second in range(NUM_FRAMES))
    videos = tuple(VideoInput(0.0, float(NUM_FRAMES), seconds, features=clip) for clip in features)
    slots = tuple(replace(slot, video=number) for number, slot in enumerate(share.batch.slots))
    whole = model(replace(share.batch, videos=videos, slots=slots))
    torch.testing.assert_close(known.logits, whole.logits)
    monkeypatch.setitem(attention.ALL_ATTENTION_FUNCTIONS, "sdpa", attention.attend)
    torch.testing.assert_close(forward_with(model, share.batch, tokens).logits, known.logits, atol=1e-4, rtol=0)
    with torch.no_grad():
        assert torch.equal(forward_with(model, share.batch, tokens).logits, known.logits)
    with torch.autocast("cpu", torch.bfloat16):
        fast = forward_with(model, share.batch, tokens)
    torch.testing.assert_close(fast.loss, known.loss, atol=0.02, rtol=0.01)


def test_tokens_of_a_trace_weigh_less_than_those_of_an_answer():
    torch.manual_seed(0)
    mark, end = [7, 8], 9
    labels = torch.tensor([5, 9, 1, 2, 7, 8, 5, 9, 7, 6, 9])  # the second of three replies has a trace, up to its mark
    output = Output(torch.randn(len(labels), 12), labels)
    weight = torch.tensor([1, 1, *[TRACE_WEIGHT] * 4, 1, 1, 1, 1, 1])
    each = torch.stack([output.logits[k].log_softmax(-1)[label] for k, label in enumerate(labels)])
    torch.testing.assert_close(answer_loss(output, mark=mark, end=end), -(weight * each).sum() / weight.sum())
    plain = Output(output.logits[:2], labels[:2])
    torch.testing.assert_close(answer_loss(plain, mark=mark, end=end), plain.loss)


def test_guidance_rewards_looking_at_the_shapes_in_question(assistant):
    share = Shares(assistant.processor, world=0, first=0, count=4, together=4, size=TINY, seed=1, length=1,
                   keep_questions=True)[0]  # fmt: skip
    batch, count = share.batch, assistant.processor.tokens.budget.fixed
    described = torch.arange(count).remainder(MAX_SHAPES).expand(4, -1)  # token k describes shape k % 4
    length = batch.input_ids.shape[1]
    numbers = torch.full((4, length), -1)
    numbers[batch.video_mask] = described.flatten()
    asked = share.asked.gather(1, (batch.blocks - 1).clamp(min=0)[..., None].expand(-1, -1, MAX_SHAPES))  # (4, L, N)
    right = asked.gather(2, numbers.clamp(min=0)[:, None].expand(-1, length, -1)) & (numbers >= 0)[:, None]
    layers = [SimpleNamespace(self_attn=SimpleNamespace()) for _ in range(4)]
    llm = SimpleNamespace(model=SimpleNamespace(layers=layers))
    none = torch.zeros_like(share.options)

    def loss(weights, options, of_options=right):
        for number, seen in zip(attention.GUIDED_LAYERS, (weights, of_options), strict=True):
            layers[number].self_attn.weights = seen[:, None].expand(-1, attention.GUIDED_HEADS, -1, -1)
        return attention.guidance(llm, batch, share.asked, described, options).item()

    looks = right.float() / right.sum(-1, keepdim=True).clamp(min=1)
    assert loss(looks, none) == pytest.approx(0, abs=1e-3)
    assert loss(1 - right.float(), none) == pytest.approx(-np.log(1e-4), abs=1e-3)
    some = torch.zeros_like(none).scatter(1, (batch.blocks == 1).int().argmax(1, keepdim=True), True)
    assert loss(looks, some, some[:, None].expand(-1, length, -1).float()) == pytest.approx(0, abs=1e-3)
    assert loss(looks, some, torch.zeros(4, length, length)) == pytest.approx(-np.log(1e-4), abs=1e-3)
    assert share.asked.any(-1).sum() == len(share.questions)


def test_right_options_are_found_in_the_prompt(assistant):
    size = replace(TINY, formats=("choice", "open"), questions=6)
    share = Shares(assistant.processor, world=0, first=0, count=4, together=4, size=size, seed=1, length=1,
                   keep_questions=True)[0]  # fmt: skip
    tokenizer, waiting, found = assistant.processor.tokenizer, iter(share.questions), 0
    for row in range(4):
        for block in range(1, int(share.batch.blocks[row].max()) + 1):
            question = next(waiting)
            words = tokenizer.decode(
                share.batch.input_ids[row][share.options[row] & (share.batch.blocks[row] == block)]
            )
            assert words == (f" {question.meta['answer']}" if question.format == "choice" else "")
            found += question.format == "choice"
    assert found > 5


# --- the whole recipe ---------------------------------------------------------------------------------------------


def run_every_stage(out, size):
    steps = dict.fromkeys(("vision_steps", "connector_steps", "mixer_steps", "answer_steps", "open_steps"), 2)
    run = RecipeRun(out, replace(size, clips=12, held_out=4, test=4, check_every=2, **steps), 0, "cpu", False, 1)
    run_stages(run)
    release(run, command="none")


def in_a_child(function, *arguments):
    # The recipe uses several threads per operation, and a process that has done so cannot fork and compute.
    child = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of all stages."""
    tmp_path = tmp_path_factory.mktemp("run")
    families = with_extra(TINY.families, ("grounding", "dense_caption"))
    in_a_child(run_every_stage, tmp_path, replace(TINY, families=families, formats=("open", "caption")))
    return tmp_path


def test_every_stage_runs(finished):
    report = json.loads((finished / "report.json").read_text())
    assert {"test", "test_of_another_clip", "test_of_spans", "sha256"} <= report.keys()
    assert "grounding" not in report["test"]
    assert report["test_of_spans"]["spans"] == 8
    for name in ("loss.png", "accuracy.png", "model/tinyvid.yaml"):
        assert (finished / name).is_file()
    written = Assistant.from_pretrained(finished / "model", device="cpu")
    assert written.config["connector"]["mixer_layers"]
    for text in (" From 02% to 59%.", " Describe every event with its time."):  # each word is one token
        tokens = written.processor.tokenizer(text, add_special_tokens=False).input_ids
        assert len(tokens) == len(re.findall(r" ?[a-zA-Z]+|[0-9.%]| (?=[0-9])", text)), text


def test_every_stage_runs_for_a_model_that_reads_patches(finished, tmp_path):
    shutil.copytree(finished / "clips", tmp_path / "clips")
    size = replace(SIZES["patches_smoke"], clips=12, held_out=4, connector_steps=2, answer_steps=2, check_every=2)
    in_a_child(run_stages, RecipeRun(tmp_path, size, 0, "cpu", False, 1))
    written = Assistant.from_pretrained(tmp_path / "model", device="cpu")
    assert written.config["connector"] == {
        "name": "mlp",
        "depth": 2,
        "pool": 1,
        "pool_after": 1,
        "newline": False,
    }
    assert written.model.llm.config.num_hidden_layers == size.llm["num_hidden_layers"] == len(LAYERS)
    assert (tmp_path / "accuracy.png").is_file()


def test_traces_cite_the_frames_that_the_model_sees():
    assistant = Assistant.from_pretrained(device="cpu")
    size, cited = replace(SIZES["default"], traces="cited"), 0
    for index in range(20):
        scene, file = draw_clip(4, index)
        for duration in (2.0, 7.3):
            rng = np.random.default_rng([1, index])
            for question in questions_of(scene, file, rng, size, duration=duration):
                example = lay_out(assistant.processor, [question], "clip", duration=duration)
                reply = assistant.processor.tokenizer.decode(example.input_ids[example.labels >= 0])
                said = [int(number) for number in re.findall(r"in Frame (\d+)", reply, re.IGNORECASE)]
                seen = [seconds * NUM_FRAMES / duration + 1 for seconds in question.meta.get("key_frames", [])]
                assert said == pytest.approx(seen, abs=0.01), (question, reply)
                for event in re.finditer(r"In Frame (\d+) the \w+ \w+ appears", reply):
                    times = [event.time for event in scene.events if event.kind == "appear"]
                    before, at = ([-1.0, *file.moments][int(event[1]) + shift] for shift in (-1, 0))
                    assert any(before < time <= at + 1e-3 for time in times), (question, reply)
                cited += len(said)
    assert cited > 100
    chosen = {"world": 4, "first": 0, "count": 8, "together": 8, "seed": 1, "length": 1}
    plain, traced = (Shares(assistant.processor, size=each, **chosen)[0] for each in (SIZES["default"], size))
    assert plain.options.sum() == traced.options.sum() > 0


class Damaged:
    """Tokens of clips on a disk that fails."""

    def __init__(self, tokens, reads):
        self.tokens = tokens
        self.reads = reads

    def __getitem__(self, chosen):
        self.reads -= 1
        if self.reads < 0:
            raise OSError("the disk is gone")
        return self.tokens[chosen]


def test_continued_training_goes_on_after_an_interruption(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(attention.ALL_ATTENTION_FUNCTIONS, "sdpa", attention.USUAL)  # the recipe replaces it
    size = replace(
        TINY, clips=8, held_out=8, answer_steps=2, check_every=1, batch_size=4, open_steps=0, formats=("open", "yesno"),
        families=with_extra(TINY.families, ["grounding"]),
    )  # fmt: skip
    run, stopped = (Continued(tmp_path / name, size, 5, 0, 1) for name in ("whole", "stopped"))
    continue_training(run, finished / "model", {})
    curve = read(run.out / "curve.jsonl")
    assert [row["step"] for row in curve] == [0, 1, 2]
    assert {"miou", "r70", "overall", "color", "loss"} <= curve[2].keys()
    assert curve[0]["spans"] == len(held_out_spans(run)) >= 8
    learned, before = (Assistant.from_pretrained(path / "model", device="cpu") for path in (run.out, finished))
    changed = {
        name.split(".")[0] for name, weight in learned.model.state_dict().items()
        if not torch.equal(weight, before.model.state_dict()[name])
    }  # fmt: skip
    assert changed == {"connector", "llm"}

    stopped.out.mkdir()
    tokens = np.load(run.out / "tokens.npy")
    reads = 2 * (1 + -(-len(held_out_spans(run)) // 32)) + 1  # of two checks, and of the step in between
    with pytest.raises(OSError, match="the disk is gone"):
        train(stopped, Assistant.from_pretrained(finished / "model", device="cpu"), Damaged(tokens, reads))
    assert read(stopped.out / "curve.jsonl")[:2] == [row | {"seconds": again["seconds"]} for row, again in zip(
        curve, read(stopped.out / "curve.jsonl"), strict=False)]  # fmt: skip
    train(stopped, Assistant.from_pretrained(finished / "model", device="cpu"), tokens)
    again = read(stopped.out / "curve.jsonl")
    assert [row | {"seconds": 0} for row in again] == [row | {"seconds": 0} for row in curve]


@pytest.mark.long
def test_smoke_run_beats_its_blind_baseline(tmp_path):
    """Takes about a minute and a half on two idle cores."""
    command = [sys.executable, "-m", "recipes.shapes", "--size", "smoke", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    seeing, blind = report["test"]["overall"], report["test_of_another_clip"]["overall"]
    assert seeing["low"] > blind["high"], (seeing, blind)


def test_the_card_reports_replies_about_videos_without_shapes(tmp_path):
    write_clip(tmp_path / "noise.mp4", num_frames=20, fps=10)
    done = tmp_path / "run"
    done.mkdir()
    shutil.copytree(DEFAULT_MODEL, done / "model")
    report = json.loads((DEFAULT_MODEL / "report.json").read_text())
    report.pop("real_videos", None)
    (done / "report.json").write_text(json.dumps(report))
    for _ in range(2):  # the second time over what the first has left
        ship(done, tmp_path / "shipped", [tmp_path / "noise.mp4"])
        assert replaceable(tmp_path / "shipped")
    shipped = json.loads((tmp_path / "shipped" / "report.json").read_text())
    found = shipped.pop("real_videos")
    assert shipped == report
    assert (found["clips"], found["asked"], len(found["counted"])) == (1, len(COLORS) * len(KINDS), 1)
    card = (tmp_path / "shipped" / "README.md").read_text()
    assert f"it said yes {found['yes']} of {found['asked']} times" in card
    assert digest(tmp_path / "shipped") in card


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--ship", "{folder}"], "would replace a folder that is not a model"),
        (["--real-videos", "clip.mp4"], "--real-videos requires --ship"),
        (["--size", "patches", "--ship", "model"], "--ship is for the default model"),
        (["--ship", "{folder}/new", "--real-videos", "clip.mp4"], "these files do not exist: clip.mp4"),
    ],
)
def test_wrong_ship_options_are_refused_before_the_run(tmp_path, options, told):
    (tmp_path / "thesis.tex").touch()
    options = [option.format(folder=tmp_path) for option in options]
    done = python("-m", "recipes.shapes", "--out", tmp_path / "run", *options)
    assert done.returncode == 2
    assert told in done.stderr
    assert (tmp_path / "thesis.tex").is_file()
    assert not (tmp_path / "run").exists()


def test_finished_stages_are_not_repeated(tmp_path):
    run = RecipeRun(tmp_path, TINY, 0, "cpu", False, 1)
    for _, result in STAGES.values():
        (tmp_path / result).touch()
    run_stages(run)
    assert not (tmp_path / "seconds.jsonl").exists()
