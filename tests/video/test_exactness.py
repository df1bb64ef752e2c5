"""Frames read one by one, on several threads or past skipped frames are bit-equal to those of sequential decoding."""

import random
from collections import deque
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.video.test_readers import why_not
from tinyvid.registry import VIDEO_READERS
from tinyvid.video.readers import pyav as pyav_module
from tinyvid.video.readers.index import index_of

COUNT = 40
VARIABLE = np.cumsum([0, *random.Random(0).choices([10, 40, 40, 200], k=COUNT - 1)]).tolist()  # milliseconds
X264 = "keyint=18:min-keyint=18:scenecut=0:"
X265 = "log-level=none:pools=1:frame-threads=1:keyint=18:min-keyint=18:scenecut=0:"
# file name: encoder, its options
CLIPS = {
    "h264_pyramid.mp4": ("libx264", {"x264-params": X264 + "bframes=3:b-pyramid=normal:ref=4"}),
    "h264_one_group.mp4": ("libx264", {"x264-params": "keyint=250:bframes=5:b-pyramid=strict:ref=2:direct=temporal"}),
    "h264_open.mkv": ("libx264", {"x264-params": X264 + "open-gop=1:bframes=3"}),
    "h264_no_b.mp4": ("libx264", {"x264-params": X264 + "bframes=0:ref=3:slices=3"}),
    "h264_fields.mp4": ("libx264", {"x264-params": X264 + "interlaced=1:bframes=2"}),
    "h264_refresh.mp4": ("libx264", {"x264-params": "keyint=18:intra-refresh=1"}),
    "h264_variable.mp4": ("libx264", {"x264-params": X264 + "bframes=3"}),
    "h264.ts": ("libx264", {"x264-params": X264 + "bframes=3"}),
    "hevc.mp4": ("libx265", {"x265-params": X265 + "open-gop=0:bframes=3"}),
    "hevc_open.mkv": ("libx265", {"x265-params": X265 + "open-gop=1:bframes=4"}),
    "hevc.ts": ("libx265", {"x265-params": X265 + "bframes=3"}),
    "vp9_hidden.webm": ("libvpx-vp9", {"g": "18", "auto-alt-ref": "1", "lag-in-frames": "12", "cpu-used": "8"}),
    "vp8_hidden.webm": ("libvpx", {"g": "18", "auto-alt-ref": "1", "lag-in-frames": "12", "cpu-used": "8"}),
    "av1.mp4": ("libsvtav1", {"g": "18", "preset": "12", "svtav1-params": "lp=1"}),
    "mpeg4_variable.mp4": ("mpeg4", {"g": "18", "bf": "2", "flags": "+global_header"}),
    "mpeg2.ts": ("mpeg2video", {"g": "18", "bf": "2"}),
}
FROM_START = {"h264_refresh.mp4"}  # decoding cannot begin at its recovery points without earlier frames
SKIPPING = {name for name in CLIPS if name.startswith("h264")} | {"hevc.mp4", "hevc_open.mkv"}


def write_clip(path):
    """Write a camera pan over a texture with noise, so that a wrong reference changes the frame."""
    codec, options = CLIPS[path.name]
    chance = np.random.default_rng(0)
    texture = chance.integers(0, 256, (24, 48, 3)).repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.thread_count = 1
        if "variable" in path.name:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(COUNT):
            picture = texture[2 * i : 2 * i + 64, 5 * i : 5 * i + 96] + chance.integers(-9, 10, (64, 96, 3))
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            frame.pts = VARIABLE[i] if "variable" in path.name else i
            frame.time_base = Fraction(1, 1000 if "variable" in path.name else 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exact")
    return lambda name: folder / name if (folder / name).exists() else write_clip(folder / name)


def in_order(path):
    """Decode all frames with plain PyAV, on one thread."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = {frame.pts: frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)}
    return np.stack([frames[int(pts)] for pts in index_of(path).pts])


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("reader_name", ["pyav", "decord", "torchcodec"])
def test_sparse_frames_equal_those_of_sequential_decoding(clip, monkeypatch, reader_name, name):
    if why_not(reader_name):
        pytest.skip(why_not(reader_name))
    monkeypatch.setattr(pyav_module, "DECODER_PAYS", 1)  # even these runs are decoded on several threads
    path, chance = clip(name), random.Random(name)
    reader = VIDEO_READERS.build({"name": reader_name, "threads": 3})
    # The libraries round YUV to RGB differently.
    expected = in_order(path) if reader_name == "pyav" else reader.read(path, range(COUNT)).frames
    if name not in FROM_START:
        monkeypatch.delattr(pyav_module._Read, "from_start")
    for numbers in ([0], [5, 30], sorted(chance.sample(range(COUNT), 5)), sorted(chance.sample(range(COUNT), 12))):
        np.testing.assert_array_equal(reader.read(path, numbers).frames, expected[numbers])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CLIPS.keys() - FROM_START))
def test_one_decoder_takes_runs_in_any_order(clip, name):
    path, runs = clip(name), [[30], [5], [38], [0]]
    frames = {number: np.empty((64, 96, 3), dtype=np.uint8) for (number,) in runs}
    pyav_module._Read(path, index_of(path), frames)._take_runs(deque(runs), 1)
    expected = in_order(path)
    for number, frame in frames.items():
        np.testing.assert_array_equal(frame, expected[number])


@pytest.mark.parametrize("name", ["h264_pyramid.mp4", "hevc.mp4"])
def test_frames_without_references_are_not_decoded(clip, monkeypatch, name):
    decoded = []
    placed = pyav_module._Read._placed
    monkeypatch.setattr(
        pyav_module._Read,
        "_placed",
        lambda self, frames: ((decoded.append(at), (at, frame))[1] for at, frame in placed(self, frames)),
    )
    VIDEO_READERS.build({"name": "pyav"}).read(clip(name), [17])
    assert 0 < len(decoded) <= 14  # of 18


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
def test_only_codecs_that_mark_all_references_skip_frames(clip, name):
    with av.open(str(clip(name))) as container:
        assert pyav_module._marks_unreferenced(container.streams.video[0].codec_context) is (name in SKIPPING)
