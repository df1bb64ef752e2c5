import contextlib
import os
import pickle
import random
import struct
import sys
import time
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from tests import clips
from tests.runs import python
from tinyvid.config import CONF_DIR
from tinyvid.errors import ConfigError, VideoError
from tinyvid.registry import VIDEO_READERS
from tinyvid.video.readers import decord as decord_module, index as index_module, pyav as pyav_module
from tinyvid.video.readers.index import index_of
from tinyvid.video.readers.orientation import turns_and_mirror

steps = random.Random(0)
VARIABLE = [0]  # milliseconds
for _ in range(59):
    VARIABLE.append(VARIABLE[-1] + steps.choice([20, 40, 40, 100, 200]))

X265 = {"x265-params": "log-level=none:keyint=12:min-keyint=12:scenecut=0"}
# 60 frames at 25 frames/s each, unless said otherwise
CLIPS = {
    "constant.mp4": {},
    "no_b_frames.mp4": {"bframes": 0},
    "all_key_frames.mp4": {"gop": 1},
    "short_groups.mp4": {"gop": 3},
    "one_group.mp4": {"gop": 250},
    "variable.mp4": {"times": VARIABLE},
    "variable.mkv": {"times": VARIABLE},
    "starts_late.mp4": {"times": [2000 + 40 * i for i in range(60)]},
    "sound.mp4": {"audio": True},
    "index_first.mp4": {"muxer": {"movflags": "faststart"}},
    "fragments.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "no_frame_count.mkv": {},
    "rounded_times.mkv": {"fps": Fraction(30000, 1001)},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "leading_frames.mp4": {"codec": "libx265", "encoder": X265},
    "open_groups.mp4": {"encoder": {"x264-params": "open-gop=1:keyint=12:scenecut=0"}},
    "recovery_points.mp4": {"encoder": {"x264-params": "intra-refresh=1:keyint=12"}},
    "mpeg4.avi": {"codec": "mpeg4", "bframes": 0},
    "reordered.avi": {},
    "raw.h264": {"container": "h264"},
    "broadcast.ts": {},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "one_frame.mp4": {"num_frames": 1},
    "two_frames.mp4": {"num_frames": 2},
    "turned_left.mp4": {"rotation": 90},
    "upside_down.mp4": {"rotation": 180},
    "turned_right.mp4": {"rotation": -90},
}
# decord would return wrong frames for these, or does not turn them in every container
LEFT_TO_PYAV = {
    "leading_frames.mp4", "open_groups.mp4", "recovery_points.mp4", "mpeg4.avi", "reordered.avi", "raw.h264",
    "broadcast.ts", "mpeg2.mpg", "turned_left.mp4", "upside_down.mp4", "turned_right.mp4",
}  # fmt: skip
# torchcodec cannot find frames in these and must raise an error
BEYOND_TORCHCODEC = {"recovery_points.mp4", "reordered.avi", "raw.h264", "broadcast.ts", "mpeg2.mpg"}


def why_not(name):
    """Return why a reader cannot be built here, or an empty string."""
    try:
        VIDEO_READERS.build({"name": name})
    except ConfigError as error:
        return str(error)
    return ""


@pytest.fixture(params=[name for name in VIDEO_READERS.names() if not why_not(name)])
def reader(request):
    return VIDEO_READERS.build({"name": request.param})


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


@pytest.fixture
def clip(folder):
    def get(name):
        path = folder / name
        return path if path.exists() else clips.write_clip(path, **CLIPS[name])

    return get


def beyond(reader, name):
    return reader.name == "torchcodec" and name in BEYOND_TORCHCODEC


@pytest.mark.parametrize("name", VIDEO_READERS.names())
def test_every_reader_can_be_tried(name):
    if why_not(name):
        pytest.skip(why_not(name))
    assert VIDEO_READERS.build({"name": name}).name in ("decord", "decord2", "pyav", "torchcodec")


# --- what every reader does -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_has_its_number_and_time(reader, clip, name):
    path, options = clip(name), CLIPS[name]
    meta = reader.probe(path)
    count = options.get("num_frames", 60)
    assert meta.num_frames == count
    turned = options.get("rotation", 0) % 180 != 0
    assert (meta.width, meta.height) == ((96, 160) if turned else (160, 96))
    assert meta.duration == pytest.approx(count / meta.fps)
    if beyond(reader, name):
        return
    got = reader.read(path, range(count))
    assert clips.frame_numbers(got.frames) == list(range(count))
    assert got.frames.shape == (count, meta.height, meta.width, 3)
    assert got.times.dtype == np.float32
    np.testing.assert_allclose(got.times, reader.times(path), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
def test_any_selection_returns_exactly_these_frames(reader, clip, name):
    path, chance = clip(name), random.Random(name)
    count = reader.probe(path).num_frames
    for size in (1, 2, 5, 16):
        numbers = sorted(chance.choices(range(count), k=size))
        try:
            got = reader.read(path, numbers)
        except VideoError:
            assert beyond(reader, name)
        else:
            assert clips.frame_numbers(got.frames) == numbers


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bikes.mp4", "bigbuckbunny.mp4"])
def test_real_video_is_the_same_with_every_reader(reader, name):
    path = clips.real_video(name)
    meta = reader.probe(path)
    assert (meta.num_frames, meta.fps) == ((250, 25.0) if name == "bikes.mp4" else (132, 25.0))
    numbers = [0, 1, 60, meta.num_frames - 1]
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    expected = np.stack([decoded[i].to_ndarray(format="rgb24") for i in numbers]).astype(int)
    got = reader.read(path, numbers).frames
    # The libraries round YUV to RGB differently, by a few levels of 255.
    assert np.abs(got - expected).max() <= 4
    assert np.abs(got - expected).mean() < 0.5


def test_repeated_indices_repeat_frames(reader, clip):
    got = reader.read(clip("constant.mp4"), [5, 5, 5, 40, 40])
    assert clips.frame_numbers(got.frames) == [5, 5, 5, 40, 40]
    np.testing.assert_allclose(got.times, np.array([5, 5, 5, 40, 40]) / 25, rtol=1e-6)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([], "no frame indices given"),
        ([3, 60], "frames 3 to 60 do not all exist; choose frames from 0 to 59"),
        ([-1, 3], "frames -1 to 3 do not all exist"),
        ([3, 2], "must not decrease"),
    ],
)
def test_indices_are_checked(reader, clip, indices, message):
    with pytest.raises(VideoError, match=message):
        reader.read(clip("constant.mp4"), indices)


def test_a_rewritten_file_is_scanned_again(reader, tmp_path):
    path = clips.write_clip(tmp_path / "clip.mp4", num_frames=10)
    assert reader.probe(path).num_frames == 10
    clips.write_clip(path, num_frames=20)
    assert reader.probe(path).num_frames == 20


@pytest.mark.parametrize("name", ["a clip (1).mp4", "50%: what's left?.mp4", "вид-ео.mp4"])
def test_any_file_name_works(reader, tmp_path, monkeypatch, name):
    clips.write_clip(tmp_path / name, num_frames=5)
    monkeypatch.chdir(tmp_path)
    assert clips.frame_numbers(reader.read(name, [0, 4]).frames) == [0, 4]


class Frames(torch.utils.data.Dataset):
    def __init__(self, reader, path):
        self.reader = reader
        self.path = path

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return clips.frame_numbers(self.reader.read(self.path, [i, 30 + i]).frames)


@pytest.mark.slow
def test_readers_work_in_data_loader_workers(reader, clip):
    path = clip("constant.mp4")
    reader.read(path, [0])  # the parent has decoded before its workers are forked
    data = Frames(pickle.loads(pickle.dumps(reader)), path)
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2, timeout=60)
    assert list(loader) == [[i, 30 + i] for i in range(6)]


FORKED = """
import gc, os, sys, time, av
import tinyvid.video.readers.pyav
gc.disable()
def leave():
    container = av.open(sys.argv[1])
    stream = container.streams.video[0]
    stream.thread_type, stream.codec_context.thread_count = "AUTO", 2
    next(container.decode(stream))
    left = [stream.codec_context]
    left.append(left)
leave()
child = os.fork()
if not child:
    gc.collect()
    os._exit(0)
for _ in range(100):
    if os.waitpid(child, os.WNOHANG)[0]:
        sys.exit(0)
    time.sleep(0.1)
os.kill(child, 9)
sys.exit("the child hangs")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_can_collect_a_decoder_of_its_parent(clip):
    done = python("-c", FORKED, clip("constant.mp4"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", VIDEO_READERS.names())
def test_yaml_states_every_option_with_the_default_of_the_code(name):
    config = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "video_reader" / f"{name}.yaml"))
    assert config == {"name": name, **VIDEO_READERS.check({"name": name})}
    with pytest.raises(ConfigError, match=r"video_reader\.threads=0 must be at least 1"):
        VIDEO_READERS.build({"name": name, "threads": 0})


# --- orientation ------------------------------------------------------------------------------------------------

ORIENTATIONS = [(rotation, mirrored) for rotation in (0, 90, 180, 270) for mirrored in (False, True)]


@pytest.mark.parametrize(("rotation", "mirrored"), ORIENTATIONS[1:])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_the_display_matrix_decides_in_every_container(reader, tmp_path, name, rotation, mirrored):
    path = clips.write_clip(tmp_path / name, num_frames=3, rotation=rotation, mirrored=mirrored)
    meta, got = reader.probe(path), reader.read(path, [1, 2]).frames
    assert got.shape[1:3] == (meta.height, meta.width) == ((160, 96) if rotation % 180 else (96, 160))
    assert clips.frame_numbers(got) == [1, 2]
    assert all(map(clips.is_upright, got))


def test_a_remuxed_clip_keeps_its_orientation(reader, tmp_path):
    path = clips.remux(clips.write_clip(tmp_path / "phone.mp4", num_frames=3, rotation=180), tmp_path / "phone.mkv")
    got = reader.read(path, [1]).frames
    assert clips.frame_numbers(got) == [1]
    assert clips.is_upright(got[0])


ONE = 1 << 16  # in a display matrix


@pytest.mark.parametrize(
    ("matrix", "quarter_turns", "mirrored"),
    [
        ((ONE, 0, 0, ONE), 0, False),
        ((0, -ONE, ONE, 0), 1, False),
        ((0, ONE, ONE, 0), 3, True),
        ((2 * ONE, 0, 0, ONE), 0, False),  # a pixel aspect ratio, which is not applied
        ((400, -ONE, ONE, -400), 1, False),  # 89.65 degrees, as floats are rounded
        ((0, 0, 0, 0), 0, False),  # some cameras leave the matrix empty; players ignore it
    ],
)
def test_a_display_matrix_is_quarter_turns_and_a_mirror(matrix, quarter_turns, mirrored):
    a, b, c, d = matrix
    assert turns_and_mirror("a.mp4", [a, b, 0, c, d, 0, 0, 0, 1 << 30]) == (quarter_turns, mirrored)


@pytest.mark.parametrize("matrix", [(ONE, -ONE, ONE, ONE), (ONE, 0, 0, 0), (ONE, ONE, 0, ONE)])
def test_another_display_matrix_is_refused(tmp_path, matrix):
    a, b, c, d = matrix
    data = bytearray(clips.write_clip(tmp_path / "clip.mp4", num_frames=3, rotation=180).read_bytes())
    header = data.index(b"tkhd") + 4 + 40  # 40 bytes after its version: the matrix
    struct.pack_into(">9i", data, header, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "tilted.mp4").write_bytes(data)
    with pytest.raises(VideoError, match=r"tilted.mp4: its display matrix .* only quarter turns and mirroring"):
        index_of(tmp_path / "tilted.mp4")


# --- clocks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["variable.mp4", "variable.mkv"])
def test_a_variable_rate_keeps_its_times(reader, clip, name):
    meta = reader.probe(clip(name))
    np.testing.assert_allclose(reader.times(clip(name)), np.array(VARIABLE) / 1000, atol=1e-3)
    assert meta.duration == pytest.approx(VARIABLE[-1] / 1000 + 0.04, abs=0.001)
    assert meta.fps == pytest.approx(60 / meta.duration)


def test_a_constant_rate_is_exact_even_if_its_times_are_rounded(reader, clip):
    meta = reader.probe(clip("rounded_times.mkv"))
    assert meta.fps == pytest.approx(30000 / 1001, rel=1e-12)


@pytest.mark.parametrize("name", ["starts_late.mp4", "broadcast.ts", "raw.h264"])
def test_times_count_from_the_first_frame(reader, clip, name):
    np.testing.assert_allclose(reader.times(clip(name))[:3], [0, 0.04, 0.08], atol=1e-6)


def test_frames_hidden_by_an_edit_list_do_not_count(reader, clip, tmp_path):
    path = trimmed(clip("constant.mp4"), tmp_path / "trimmed.mp4", first=5)
    meta = reader.probe(path)
    got = reader.read(path, range(meta.num_frames))
    assert clips.frame_numbers(got.frames) == list(range(5, 60))
    assert got.times[0] == 0


def trimmed(source, target, *, first):
    """Copy packets so that frames before ``first`` have negative times, which MP4 hides behind an edit list."""
    with av.open(str(source)) as old, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.size:
                shift = first * packet.duration
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                new.mux(packet)
    return target


# --- broken files, and files that are not videos ----------------------------------------------------------------


def test_a_missing_file(reader, tmp_path):
    with pytest.raises(VideoError, match=r"gone.mp4: no such file; check the path"):
        reader.probe(tmp_path / "gone.mp4")


def test_a_directory(reader, tmp_path):
    with pytest.raises(VideoError, match="is not a file"):
        reader.probe(tmp_path)


def test_an_empty_file(reader, tmp_path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match=r"empty.mp4: the file is empty \(0 bytes\)"):
        reader.probe(tmp_path / "empty.mp4")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("words.mp4", b"just some words\n" * 99, "is not a video that FFmpeg can read"),
        ("words.txt", b"just some words\n" * 99, "is Tele-typewriter, not a video"),
        ("noise.mp4", random.Random(0).randbytes(50_000), "is not a video that FFmpeg can read"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n", "is not a video"),
        ("script.mp4", b"ffconcat version 1.0\nfile clip.mp4\n", "not a video"),
        ("audio.mp4", None, "contains no video stream, only audio"),
    ],
)
def test_a_file_that_is_not_a_video(reader, tmp_path, name, content, message):
    path = tmp_path / name
    if content is None:
        clips.write_audio(path)
    else:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=message) as error:
        reader.probe(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("share", [0.6, 0.9])
@pytest.mark.parametrize(
    ("name", "message"),
    [("constant.mp4", "its index is missing or broken .* truncated"), ("index_first.mp4", "is truncated after")],
)
def test_a_truncated_mp4(reader, clip, tmp_path, name, message, share):
    path = clips.truncate(clip(name), tmp_path / "cut.mp4", share)
    began = time.monotonic()
    for call in (reader.probe, lambda path: reader.read(path, [0])):
        with pytest.raises(VideoError, match=message):
            call(path)
    assert time.monotonic() - began < 5


def test_an_mp4_truncated_between_two_frames(reader, clip, tmp_path):
    with av.open(str(clip("index_first.mp4"))) as container:
        position = [packet.pos for packet in container.demux(video=0) if packet.size][30]
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip("index_first.mp4").read_bytes()[:position])
    with pytest.raises(VideoError, match="is truncated after 30 of 60 frames"):
        reader.probe(path)


@pytest.mark.parametrize("name", ["no_frame_count.mkv", "vp9.webm"])
def test_a_truncated_matroska_file(reader, clip, tmp_path, name):
    path = clips.truncate(clip(name), tmp_path / name, 0.5)
    with pytest.raises(VideoError, match=r"is truncated: it declares \d+ bytes, but has"):
        reader.probe(path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_bit_errors_end_in_frames_or_in_an_error(reader, clip, tmp_path, seed):
    data, chance = bytearray(clip("constant.mp4").read_bytes()), random.Random(seed)
    for _ in range(4):
        data[chance.randrange(100, len(data) * 8 // 10)] = chance.randrange(256)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with contextlib.suppress(VideoError):  # any other error, or a hang, is a failure
        assert reader.read(path, [0, 20, 40, 59]).frames.shape == (4, 96, 160, 3)


@pytest.mark.parametrize("name", ["wider.ts", "wider.mkv"])
def test_a_picture_that_changes_size(reader, tmp_path, name):
    parts = [tmp_path / f"{width}.ts" for width in (160, 320)]
    for part in parts:
        clips.write_clip(part, num_frames=10, width=int(part.stem))
    joined(parts, tmp_path / name)
    assert clips.frame_numbers(reader.read(tmp_path / name, [0, 9]).frames) == [0, 9]
    if reader.name.startswith("decord") and name == "wider.mkv":
        assert clips.frame_numbers(reader.read(tmp_path / name, [0, 12]).frames) == [0, 2]  # it scales
        return
    message = rf"{name}: .* changes its size: 160x96 pixels at the start, 320x96 at 0\.\d\d s \(frame 12\)"
    with pytest.raises(VideoError, match=message):
        reader.read(tmp_path / name, [0, 12])


def joined(sources, target):
    """Copy the packets of videos one after the other into one stream."""
    with av.open(str(target), "w") as new:
        copy, start = None, 0.0
        for source in sources:
            with av.open(str(source)) as old:
                stream = old.streams.video[0]
                copy = copy or new.add_stream_from_template(stream)
                packets = [packet for packet in old.demux(stream) if packet.size]
                shift = round(start / stream.time_base) - min(packet.dts for packet in packets)
                start = float((max(packet.pts for packet in packets) + shift) * stream.time_base) + 0.04
                for packet in packets:
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                    new.mux(packet)
    return target


# --- one reader at a time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIPS)
def test_decord_is_used_only_if_it_counts_correctly(clip, name):
    index = index_of(clip(name))
    assert decord_module._counts_right(index) is (name not in LEFT_TO_PYAV)


def test_pyav_decodes_what_decord_repeats(clip, tmp_path):
    if decord_module.import_decord() is None:
        pytest.skip("decord is not installed")
    path = tmp_path / "still.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(clips.numbered_frame(7), format="rgb24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    assert decord_module._decode(path, [10, 11], index_of(path), 2) is None
    got = VIDEO_READERS.build({"name": "decord"}).read(path, [10, 11])
    assert clips.frame_numbers(got.frames) == [7, 7]


def test_pyav_seeks_only_over_frames_that_it_can_skip(clip):
    index = index_of(clip("one_group.mp4"))
    assert list(pyav_module._runs([0, 20, 59], index)) == [[0, 20, 59]]
    index = index_of(clip("no_b_frames.mp4"))
    assert index.keys.tolist()[:3] == [0, 12, 24]
    assert list(pyav_module._runs([0, 11, 13, 59], index)) == [[0, 11, 13], [59]]


def test_pyav_converts_only_the_requested_frames(clip, monkeypatch):
    converted = []
    upright = index_module.FrameIndex.upright

    def counted(index, picture, **options):
        converted.append(1)
        return upright(index, picture, **options)

    monkeypatch.setattr(index_module.FrameIndex, "upright", counted)
    VIDEO_READERS.build({"name": "pyav"}).read(clip("constant.mp4"), [3, 3, 3, 50])
    assert len(converted) == 2


def test_probe_and_read_scan_the_file_once(reader, tmp_path):
    path = clips.write_clip(tmp_path / "clip.mp4", num_frames=10)
    before = index_module._scan.cache_info().misses
    reader.probe(path)
    reader.read(path, [0, 5])
    assert index_module._scan.cache_info().misses == before + 1


def test_decord2_is_named(monkeypatch, tmp_path):
    if decord_module.import_decord() is None:
        pytest.skip("decord is not installed")
    assert VIDEO_READERS.build({"name": "decord"}).name == decord_module.package_name()
    (tmp_path / "decord2-2.0.0.dist-info").mkdir()
    (tmp_path / "decord2-2.0.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: decord2\nVersion: 2.0.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert VIDEO_READERS.build({"name": "decord"}).name == "decord2"


def test_auto_is_pyav():
    assert VIDEO_READERS.build({"name": "auto"}).name == "pyav"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ConfigError, match="pip install decord"):
        VIDEO_READERS.build({"name": "decord"})
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(ConfigError, match=r"pip install tinyvid\[torchcodec\]"):
        VIDEO_READERS.build({"name": "torchcodec"})
