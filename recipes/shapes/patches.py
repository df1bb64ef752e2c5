"""Stages for ``connector=mlp``: teach the LLM of the default model to read every patch of its tower.

The group connector of the default model returns tokens that its LLM can already read. The MLP first learns to return
for each patch the token that the group connector has for the shape under this patch. Then the MLP and the LLM, which
keeps four of its five layers, are trained on questions. Training uses no reducer.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from recipes.shapes import attention, parts
from recipes.shapes.attention import guidance
from recipes.shapes.fitting import Metrics, fit
from recipes.shapes.questions import Share
from recipes.shapes.sizes import MAX_SHAPES, NUM_FRAMES
from recipes.shapes.stages import RecipeRun, clips, measured, shares
from recipes.shapes.student import CONNECTOR_RATE, GUIDE_WEIGHT, Student, forward_with
from recipes.shapes.supervision import WORDS, single
from recipes.shapes.vision import BACKGROUND, keep_features, nearest_shapes, to_pixels
from tinyvid import Assistant, compose
from tinyvid.checkpoints.hub import DEFAULT_MODEL
from tinyvid.checkpoints.native import Loaded, save

SHOWN = np.linspace(0, NUM_FRAMES - 1, 8).round().astype(int)  # frames of a clip that the model sees
# Without the second layer, the default model loses the least accuracy before training, 2 points; the file is smaller.
LAYERS = (0, 2, 3, 4)
TEACHING = 500  # clips for the connector
PATCHES = 2048  # per step of the connector


def llm(run: RecipeRun) -> None:
    """Write the LLM of the default model without some of its layers, and its tokenizer."""
    whole = Assistant.from_pretrained(device="cpu", dtype="float32")
    model, config = whole.model.llm, whole.model.llm.config
    model.model.layers = nn.ModuleList([model.model.layers[number] for number in LAYERS])
    config.num_hidden_layers, config.layer_types = len(LAYERS), [config.layer_types[number] for number in LAYERS]
    partial = run.out / "llm.partial"
    model.save_pretrained(partial)
    whole.processor.tokenizer.save_pretrained(partial)
    partial.rename(run.out / "llm")


def features(run: RecipeRun) -> None:
    """Store the features of the frames that the model sees."""
    tower: Any = Assistant.from_pretrained(device=run.device, dtype="float32").model.vision_tower
    shown = {"frames": np.ascontiguousarray(run.clips["frames"][:, SHOWN])}
    keep_features(tower, shown, run.out / "features.npy", threads=run.replicas)


def new_student(run: RecipeRun, stage: str | None = None) -> tuple[Assistant, Student]:
    """Return the model with the shortened LLM and an MLP, with the weights that ``stage`` wrote if given."""
    groups = [group if not group.startswith("connector=") else "connector=mlp" for group in parts.GROUPS]
    paths = [f"llm.path={run.out / 'llm'}", f"vision_tower.path={DEFAULT_MODEL / 'vision_tower'}"]
    torch.manual_seed(run.seed)
    overrides = [*groups, *paths, f"sampler.num_frames={len(SHOWN)}"]
    assistant = Assistant.from_config(compose(overrides), device=run.device, dtype="float32")
    parts.initialize(assistant.model.get_submodule("connector"))
    student = Student(assistant.model, assistant.processor.tokenizer).to(run.device)
    student.heads.requires_grad_(False)
    student.model.get_submodule("vision_tower").requires_grad_(False)
    if stage is not None:
        student.load_state_dict(load_file(run.out / f"{stage}.safetensors"), strict=False)
    return assistant, student


def read(connector: Any, features: Tensor) -> Tensor:
    """Map the features of several clips (B, T, P, Dv) to video tokens (B, T * P, D)."""
    return connector.layers(features.flatten(1, 2))


def connector(run: RecipeRun) -> None:
    """Train the MLP to return for each patch the token that the group connector has for the shape under it."""
    _, student = new_student(run)
    features, tokens, row, shown = _lessons(run)
    rng = np.random.default_rng([run.seed, 4])
    engine = run.engine(student.model.get_submodule("connector"))

    def chosen(_: int) -> list[Tensor]:
        count = PATCHES // len(engine.replicas)
        return [torch.from_numpy(rng.integers(0, len(row), count)) for _ in engine.replicas]

    def compute(mlp: Any, chosen: Tensor) -> tuple[Tensor, Metrics]:
        error = (mlp.layers(features[chosen]) - tokens[row[chosen]]).square().mean(-1)  # (N,)
        weight = torch.where(shown[chosen], 1.0, BACKGROUND)
        loss = (error * weight).sum() / weight.sum()
        return loss, {"tokens": loss.item()}

    fit("connector", engine, compute, chosen, steps=run.size.connector_steps, lr=3e-3, after=run.log("connector"))
    run.keep(student, "connector")


@torch.no_grad()
def _lessons(run: RecipeRun) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return features of patches (M, Dv), tokens (K, D), the token of each patch (M,), and whether it shows a shape."""
    teacher = Assistant.from_pretrained(device="cpu", dtype="float32")
    tower, group = teacher.model.get_submodule("vision_tower"), teacher.model.get_submodule("connector")
    count = min(TEACHING, run.size.clips)
    features, tokens = [], []
    for number in range(count):
        of_clip = tower(to_pixels(np.array(run.clips["frames"][number]), torch.device("cpu")))  # (T, P, Dv)
        features.append(of_clip.flatten(0, 1))
        tokens.append(group(of_clip).unflatten(0, (NUM_FRAMES, -1)))  # (T, q, D)
    said = torch.stack(tokens)  # (C, T, q, D)
    best = _spoken_for(said, teacher, run.clips, count)  # (C, T, N): the token of each shape
    clip, frame = np.repeat(np.arange(count), NUM_FRAMES), np.tile(np.arange(NUM_FRAMES), count)
    nearest, shown = nearest_shapes(run.clips, clip, frame, side=_side(run))
    visible = torch.from_numpy(run.clips["visible"][:count])
    used = torch.zeros(said.shape[:3]).scatter_add(2, best, visible.float()) > 0
    blank = said[~used].mean(0, keepdim=True)  # what the group connector says about nothing
    place = best.flatten(0, 1).gather(1, torch.from_numpy(nearest)) + said.shape[2] * torch.arange(len(clip))[:, None]
    on_shape = torch.from_numpy(shown).flatten()
    row = torch.where(on_shape, place.flatten(), said.shape[:3].numel())
    found = torch.cat(features), torch.cat([said.flatten(0, 2), blank]), row, on_shape
    return tuple(part.to(run.device) for part in found)  # type: ignore[return-value]


def _side(run: RecipeRun) -> int:
    """Return the number of patches on a side of a frame."""
    return round(run.features.shape[2] ** 0.5)


def _spoken_for(said: Tensor, teacher: Assistant, clips: Mapping[str, np.ndarray], count: int) -> Tensor:
    """Return for each shape of a frame the token that says its color and its kind best, int64 (C, T, N)."""
    words = teacher.model.llm.get_input_embeddings().weight
    normed = F.rms_norm(said, said.shape[-1:])
    score = torch.zeros(())
    for fact, kind in (("first_color", "color"), ("kind", "kind")):
        ids = [single(teacher.processor.tokenizer, word) for word in WORDS[kind]]
        right = torch.from_numpy(clips[fact][:count]).long().clamp(min=0)[:, None, None]  # (C, 1, 1, N)
        logs = (normed @ words[ids].T).log_softmax(-1)  # (C, T, q, words)
        score = score + logs.gather(-1, right.expand(*said.shape[:3], -1))
    return score.argmax(2)


def answers(run: RecipeRun) -> None:
    """Train the MLP and the LLM on packed questions."""
    attention.install()
    assistant, student = new_student(run, "connector")
    engine = run.engine(student)

    def compute(student: Student, share: Share) -> tuple[Tensor, Metrics]:
        known = torch.from_numpy(run.features[share.clips]).to(engine.device).float()
        loss = forward_with(student.model, share.batch, read(student.model.connector, known)).loss
        assert loss is not None  # every question has a reply to learn
        described, asked = (part.to(engine.device) for part in looks(run, share))
        guide = guidance(student.model.llm, share.batch, asked, described, share.options)
        return loss + GUIDE_WEIGHT * guide, {"loss": loss.item(), "guide": guide.item()}

    training = shares(run.size, assistant, seed=run.seed, replicas=run.replicas, held_out=False)
    training.keep_questions = True  # for the guidance
    loader = training.loader(run.workers)
    fit(
        "answers",
        engine,
        compute,
        lambda _: [next(loader).to(engine.device) for _ in engine.replicas],
        steps=run.size.answer_steps,
        lr=run.size.lr,
        slow={"connector": CONNECTOR_RATE},
        after=measured(run, assistant, engine, run.features, read),
    )
    run.keep(student, "answers")


def looks(run: RecipeRun, share: Share) -> tuple[Tensor, Tensor]:
    """Return what guides the attention: what each token shows, and what each question is about.

    A shape in the first, in the last and in the other frames counts as three things, because questions about the start
    or the end of a clip are about one of them.

    Returns:
        The thing that each token shows (B, K), -1 for the background, and bool (B, Q, things).
    """
    count = len(share.clips)
    clip, frame = np.repeat(share.clips, len(SHOWN)), np.tile(SHOWN, count)
    nearest, shown = nearest_shapes(run.clips, clip, frame, side=_side(run))  # (B * T, P)
    part = np.where(frame == SHOWN[0], 0, np.where(frame == SHOWN[-1], 2, 1))
    described = np.where(shown, MAX_SHAPES * part[:, None] + nearest, -1).reshape(count, -1)  # (B, K)
    asked = share.asked[:, :, None].repeat(1, 1, 3, 1)  # (B, Q, 3, N)
    questions = iter(share.questions)
    for row, number in enumerate(share.batch.blocks.amax(1).tolist()):  # type: ignore[union-attr]
        for place in range(number):
            text = next(questions).text
            if "at the start" in text:
                asked[row, place, 1:] = False
            elif "at the end" in text or "change to" in text:
                asked[row, place, :2] = False
    return torch.from_numpy(described), asked.flatten(2)


def model(run: RecipeRun) -> None:
    """Write the checkpoint in half precision."""
    assistant, student = new_student(run, "answers")
    trained = student.model.cpu().half()
    partial = run.out / "model.partial"
    save(Loaded(trained, assistant.processor, assistant.config, frozenset({"llm", "vision_tower"})), partial)
    partial.rename(run.out / "model")


# The stages in order, with the result of each.
PATCH_STAGES: dict[str, tuple[Callable[[RecipeRun], None], str]] = {
    "clips": (clips, "clips"),
    "llm": (llm, "llm"),
    "features": (features, "features.npy"),
    "connector": (connector, "connector.safetensors"),
    "answers": (answers, "answers.safetensors"),
    "model": (model, "model"),
}
