"""Moving colored shapes: scenes as functions of time, frames at any rate and size, and questions with answers.

``sample_scene(rng)`` draws a ``Scene``, ``render(scene, num_frames=16)`` renders its frames, and ``ask(scene, rng,
num=8)`` generates questions. ``Scene.state(t)`` and ``Scene.track(times)`` return where shapes are, ``Scene.events``
what happens, and ``boxes`` bounding boxes in pixels. ``write_set`` writes video files with rows for ``data=jsonl``; the
data set ``shapes`` renders clips on the fly. docs/shapes.md describes the world.
"""

from tinyvid.worlds.layout import frame_times, sampled_times
from tinyvid.worlds.shapes.clips import ClipPlan, SetOptions, plan_clip
from tinyvid.worlds.shapes.files import describe_set, encode, write_set
from tinyvid.worlds.shapes.palette import COLORS, EXTRA_COLORS, HELD_OUT, KINDS, MOTIONS, RGB
from tinyvid.worlds.shapes.questions import DEFAULT_FAMILIES, EXTRA_FAMILIES, FAMILIES, FORMATS, SceneQuestion, ask
from tinyvid.worlds.shapes.records import scene_from_dict, scene_to_dict
from tinyvid.worlds.shapes.rendering import boxes, render, render_at
from tinyvid.worlds.shapes.sampling import sample_scene
from tinyvid.worlds.shapes.scene import Background, Scene, Shot
from tinyvid.worlds.shapes.shape import Phase, Shape
from tinyvid.worlds.shapes.traces import key_frames

__all__ = [
    "COLORS",
    "DEFAULT_FAMILIES",
    "EXTRA_COLORS",
    "EXTRA_FAMILIES",
    "FAMILIES",
    "FORMATS",
    "HELD_OUT",
    "KINDS",
    "MOTIONS",
    "RGB",
    "Background",
    "ClipPlan",
    "Phase",
    "Scene",
    "SceneQuestion",
    "SetOptions",
    "Shape",
    "Shot",
    "ask",
    "boxes",
    "describe_set",
    "encode",
    "frame_times",
    "key_frames",
    "plan_clip",
    "render",
    "render_at",
    "sample_scene",
    "sampled_times",
    "scene_from_dict",
    "scene_to_dict",
    "write_set",
]
