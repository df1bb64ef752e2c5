"""Packed batches of questions about the clips, with new questions in every epoch."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from recipes.shapes import clips
from recipes.shapes.clips import File
from recipes.shapes.parts import GROUPS
from recipes.shapes.sizes import MAX_SHAPES, NUM_FRAMES, TIMED, Size
from tinyvid import compose
from tinyvid.processing.batch import Batch, Example, VideoInput
from tinyvid.processing.processor import Processor
from tinyvid.registry import TEMPLATES
from tinyvid.types import IGNORE_INDEX, Message, Sample, Video
from tinyvid.worlds.shapes import HELD_OUT, RGB, Scene, sample_scene
from tinyvid.worlds.shapes.questions import FAMILIES, SceneQuestion, ask
from tinyvid.worlds.shapes.traces import traced
from tinyvid.worlds.shapes.wording import lasts

SECONDS = (2.0, 3.0, 4.0, 6.0)  # default durations of the world
UNTIMED = dict.fromkeys((name for name in FAMILIES if name not in TIMED), 1.0)
OPEN = ("open", "caption")  # formats whose replies describe the clip in words
draw_clip = functools.cache(clips.draw_clip)  # drawing a scene is slower than generating its questions


def corpus(seed: int, families: Iterable[str] = ()) -> list[str]:
    """Return texts that contain every word of the world, including words reserved for teaching new skills.

    Words of ``TIMED`` families are included only if ``families`` contains them, with times as the template writes them.
    """
    texts = [f" {color} {plural}" for color in RGB for plural in ("circles", "squares", "triangles", "crosses")]
    for index in range(600):
        rng = np.random.default_rng([seed, 5, index])
        scene = sample_scene(rng, colors=tuple(RGB))
        for question in ask(scene, rng, num=12, families=UNTIMED, duration=draw_duration(rng)):
            texts += [f" {question.text}", f" {question.reply}"]
    timed = dict.fromkeys((name for name in TIMED if name in families), 1.0)
    moments = TEMPLATES.build(compose(GROUPS).template).moments
    for index in range(200 if timed else 0):
        rng = np.random.default_rng([seed, 6, index])
        duration = draw_duration(rng)
        clip = VideoInput(start=0.0, end=duration, times=())
        for question in ask(sample_scene(rng, colors=tuple(RGB)), rng, num=4, families=timed, duration=duration):
            texts += [f" {question.text}", f" {moments.write(question.reply, clip)}"]
    return texts


def draw_duration(rng: np.random.Generator, *, timed: bool = False) -> float:
    """Draw a duration in seconds for the questions about a clip; the model cannot see it in the frames.

    With ``timed`` families, half of the durations are the default ones of the world: to write tenths of a second, a
    small LLM has to learn the times of each duration.
    """
    if timed and rng.random() < 0.5:
        return float(rng.choice(SECONDS))
    lot = rng.random()
    if lot < 0.65:
        return float(rng.integers(1, 13))
    if lot < 0.85:
        return float(rng.integers(10, 120)) / 10
    return float(rng.integers(13, 61))


def questions_of(
    scene: Scene, file: File, rng: np.random.Generator, size: Size, *, duration: float, only_open: bool = False
) -> list[SceneQuestion]:
    """Generate the questions about a clip that a size of the recipe asks, as if it had a duration in seconds."""
    formats = [form for form in size.formats if not only_open or form in OPEN]
    questions = ask(
        scene,
        rng,
        num=size.questions,
        families=size.families,
        formats=formats,
        moments=file.moments,
        duration=duration,
    )
    if size.traces is not None:
        at = [place * duration / NUM_FRAMES for place in range(NUM_FRAMES)]  # of the frames that lay_out shows
        questions = [traced(q, scene, rng, style=size.traces, moments=file.moments, seconds=at) for q in questions]
    if not size.hold_out:
        return questions
    # Otherwise the model would learn to answer "no" to every question about a held-out pair.
    names = [f"{color} {kind}" for color, kind in HELD_OUT]
    return [question for question in questions if not any(name in question.text for name in names)]


def lay_out(processor: Processor, questions: Sequence[SceneQuestion], name: str, *, duration: float) -> Example:
    """Pack the questions about a clip of a duration in seconds after one slot, without reading its video."""
    unread = Video(np.zeros((NUM_FRAMES, 1, 1, 3), dtype=np.uint8), fps=NUM_FRAMES / duration)
    samples = [
        Sample([Message("user", q.text), Message("assistant", q.reply)], video=unread, id=f"{name}/{q.family}")
        for q in questions
    ]
    return processor.plan_pack(samples).without_videos(name)


@dataclass(frozen=True, slots=True)
class Share:
    """A share of a step.

    Attributes:
        batch: Packed clips without their features.
        clips: Numbers of the clips.
        asked: bool (B, Q, N), which shapes the k-th question of a clip is about; all false for captions.
        options: bool (B, L), the tokens of correct options.
        questions: Questions about all clips, to measure accuracy.
    """

    batch: Batch
    clips: np.ndarray
    asked: torch.Tensor
    options: torch.Tensor
    questions: tuple[SceneQuestion, ...] = ()

    def to(self, device: torch.device) -> "Share":
        """Return the share with its tensors on a device."""
        asked, options = self.asked.to(device), self.options.to(device)
        return replace(self, batch=self.batch.to(device), asked=asked, options=options)


class Shares(Dataset[Share]):
    """Shares by number; every epoch shows all clips in a new order, with new questions.

    Args:
        processor: Processor that lays out the questions.
        world: Seed of the clips.
        first: Number of the first clip.
        count: Number of clips.
        together: Clips per share.
        size: Size of the recipe.
        seed: Seed of order and questions.
        length: Number of shares over all epochs.
        only_open: Number of first shares with only open questions and captions.
        keep_questions: Also return the questions, to measure accuracy.
    """

    def __init__(
        self,
        processor: Processor,
        *,
        world: int,
        first: int,
        count: int,
        together: int,
        size: Size,
        seed: int,
        length: int,
        only_open: int = 0,
        keep_questions: bool = False,
    ) -> None:
        self.processor = processor
        self.world = world
        self.first = first
        self.count = count
        self.together = together
        self.size = size
        self.seed = seed
        self.length = length
        self.only_open = only_open
        self.keep_questions = keep_questions

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Share:
        """Return a share; it depends only on its number."""
        epoch, place = divmod(number, self.count // self.together)
        order = np.random.default_rng([self.seed, 2, epoch]).permutation(self.count)
        chosen = np.sort(order[place * self.together : (place + 1) * self.together])
        examples, kept = [], []
        asked: list[list[SceneQuestion]] = []
        for clip in (chosen + self.first).tolist():
            scene, file = draw_clip(self.world, clip, self.size.hold_out)
            rng = np.random.default_rng([self.seed, 3, number, clip])
            duration = draw_duration(rng, timed=not set(TIMED).isdisjoint(self.size.families))
            only_open = number < self.only_open
            questions = questions_of(scene, file, rng, self.size, duration=duration, only_open=only_open)
            if not questions:
                continue  # no question fits this scene
            if self.processor.template.moments.steps is not None:
                questions = [_without_duration(question, duration, rng) for question in questions]
            kept.append(clip)
            examples.append(lay_out(self.processor, questions, f"clip {clip}", duration=duration))
            asked.append(questions)
        all_questions = tuple(question for of_clip in asked for question in of_clip) if self.keep_questions else ()
        batch = self.processor.collate(examples)
        options = _options(self.processor, batch, asked)
        return Share(batch, np.array(kept), _asked(asked, self.size), options, all_questions)

    def loader(self, workers: int, *, first: int = 0) -> Any:
        """Return an iterator over the shares from number ``first`` on, laid out by worker processes."""
        options: dict[str, Any] = {"prefetch_factor": 8} if workers else {}
        numbers = range(first, len(self))
        return iter(DataLoader(self, batch_size=None, sampler=numbers, num_workers=workers, **options))


def _without_duration(question: SceneQuestion, duration: float, rng: np.random.Generator) -> SceneQuestion:
    """Leave the duration out of half of the questions about times, whose replies in steps do not depend on it."""
    if question.family not in TIMED or rng.random() < 0.5:
        return question
    return replace(question, text=question.text.removeprefix(f"{lasts(duration)} "))


def _asked(questions: Sequence[Sequence[SceneQuestion]], size: Size) -> torch.Tensor:
    found = torch.zeros(len(questions), size.questions, MAX_SHAPES, dtype=torch.bool)
    for clip, of_clip in enumerate(questions):
        for number, question in enumerate(of_clip):
            if question.format != "caption":
                found[clip, number, list(question.meta["shapes"])] = True
    return found


def _options(processor: Processor, batch: Batch, questions: Sequence[Sequence[SceneQuestion]]) -> torch.Tensor:
    """Return a mask of the tokens of the correct options in the prompts, bool (B, L)."""
    found = torch.zeros_like(batch.video_mask)
    for row, of_clip in enumerate(questions):
        for number, question in enumerate(of_clip, start=1):
            if question.format != "choice":
                continue
            letter = question.reply.rpartition("Answer: ")[2]  # after the trace, if there is one
            begin = question.text.index(f"\n{letter}. ") + len("\nA.")
            end = question.text.find("\n", begin)
            first = int((batch.blocks[row] == number).nonzero()[0])  # type: ignore[index]
            places = [
                len(processor.tokenizer(f" {question.text[:stop]}", add_special_tokens=False).input_ids)
                for stop in (begin, end if end >= 0 else None)
            ]
            found[row, first + places[0] : first + places[1]] = True
    return found


def right_replies(logits: torch.Tensor, batch: Batch) -> list[bool]:
    """Return for each reply of a batch, in order, whether greedy decoding would generate exactly it."""
    targets = batch.labels[:, 1:]
    wanted = targets != IGNORE_INDEX
    same = torch.zeros_like(wanted)
    same[wanted] = logits.argmax(-1) == targets[wanted]
    replies = []
    for row in range(len(targets)):
        blocks = batch.blocks[row, 1:]  # type: ignore[index]
        for block in range(1, int(blocks.max()) + 1):
            place = (blocks == block) & wanted[row]
            replies.append(bool(same[row][place].all()))
    return replies
