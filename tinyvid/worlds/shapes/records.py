"""Scenes and questions as plain data: a line of ``scenes.jsonl``, and a row that ``data=jsonl`` trains on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from tinyvid.errors import DataError
from tinyvid.types import Message, Sample, Video
from tinyvid.worlds.layout import frame_times
from tinyvid.worlds.shapes.clips import ClipPlan
from tinyvid.worlds.shapes.questions import SceneQuestion
from tinyvid.worlds.shapes.rendering import box_at
from tinyvid.worlds.shapes.scene import Background, Event, Scene, Shot
from tinyvid.worlds.shapes.shape import Phase, Shape
from tinyvid.worlds.shapes.wording import full_name


def scene_record(clip: ClipPlan, video: str, **encoding: Any) -> dict[str, Any]:
    """Return a line of ``scenes.jsonl``, the complete description of a clip."""
    return {
        "clip": clip.index,
        "video": video,
        "width": clip.width,
        "height": clip.height,
        "fps": clip.fps,
        "num_frames": clip.num_frames,
        **encoding,
        "events": [asdict(event) for event in clip.scene.events],
        "scene": scene_to_dict(clip.scene),
    }


def scene_to_dict(scene: Scene) -> dict[str, Any]:
    """Return a scene as plain data; ``scene_from_dict`` undoes it exactly."""
    return asdict(scene)


def scene_from_dict(record: Mapping[str, Any]) -> Scene:
    """Return the scene that ``scene_to_dict`` wrote.

    Raises:
        DataError: The record is not a valid scene.
    """
    try:
        return Scene(
            shapes=tuple(_shape(shape) for shape in record["shapes"]),
            shots=tuple(_shot(shot) for shot in record["shots"]),
            collisions=tuple(Event(**event) for event in record["collisions"]),
            seed=int(record["seed"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the record is not a scene of the shapes world ({type(error).__name__}: {error}); write the set again"
        ) from error


def question_row(clip: ClipPlan, number: int, video: str, *, split: str, frames: int) -> dict[str, Any]:
    """Return a row for ``data=jsonl``: one question about a clip, with its metadata.

    The path of ``video`` is relative to the set. ``frames`` frames have boxes, chosen as by the sampler ``uniform``.
    """
    question = clip.questions[number]
    return {
        "id": f"{split}-{clip.index:06d}-{number}",
        "video": video,
        "conversations": [{"from": "human", "value": question.text}, {"from": "gpt", "value": question.reply}],
        **_facts(clip, question, frames),
    }


def question_sample(clip: ClipPlan, number: int, video: Video, *, split: str, frames: int) -> Sample:
    """Return one question about a clip as a sample, with the arguments, ``id`` and ``meta`` of ``question_row``."""
    question = clip.questions[number]
    messages = [Message("user", question.text), Message("assistant", question.reply)]
    return Sample(messages, video, id=f"{split}-{clip.index:06d}-{number}", meta=_facts(clip, question, frames))


def _facts(clip: ClipPlan, question: SceneQuestion, frames: int) -> dict[str, Any]:
    """Return the metadata of a question."""
    numbers = np.linspace(0, clip.num_frames - 1, frames, dtype=int)
    tracks = clip.scene.track(frame_times(clip.num_frames)[numbers], aspect=clip.width / clip.height)
    facts = {
        "family": question.family,
        "format": question.format,
        "answer": question.meta["answer"],
        "duration": round(clip.duration, 3),
        "about": question.meta["shapes"],
        "seconds": [round(time * clip.duration, 3) for time in question.meta["times"]],
        "frames": numbers.tolist(),
        "objects": [
            {
                "name": full_name(shape),
                "shape": shape.kind,
                "colors": list(shape.colors),
                "motions": [phase.motion for phase in shape.phases],
                "boxes": [box_at(clip.scene, tracks, frame, index, clip.width, clip.height) for frame in range(frames)],
            }
            for index, shape in enumerate(clip.scene.shapes)
        ],
    }
    if "key_frames" in question.meta:
        facts["key_frames"] = question.meta["key_frames"]
    if question.options:
        facts |= {"options": list(question.options), "answer_index": question.options.index(question.meta["answer"])}
    return facts


def _shape(record: Mapping[str, Any]) -> Shape:
    phases = [
        Phase(**{**phase, "origin": tuple(phase["origin"]), "target": tuple(phase["target"])})
        for phase in record["phases"]
    ]
    recolor = record["recolor"] and (float(record["recolor"][0]), str(record["recolor"][1]))
    return Shape(**{**record, "phases": tuple(phases), "recolor": recolor, "shade": tuple(record["shade"])})


def _shot(record: Mapping[str, Any]) -> Shot:
    background = record["background"]
    background = Background(**{**background, "top": tuple(background["top"]), "bottom": tuple(background["bottom"])})
    return Shot(**{**record, "background": background, "shift": tuple(record["shift"]), "pan": tuple(record["pan"])})
