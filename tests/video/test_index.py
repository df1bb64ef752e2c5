"""The frame index of unusual files: their clocks, streams and tags."""

import io
import logging
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import ExifTags, Image

from tests import clips
from tinyvid.errors import VideoError
from tinyvid.registry import VIDEO_READERS
from tinyvid.video.readers import decord as decord_module, index as index_module, packets as packets_module
from tinyvid.video.readers.index import index_of

VP8 = {"codec": "libvpx", "encoder": {"deadline": "realtime", "cpu-used": "8"}}


@pytest.fixture(params=["decord", "pyav"])
def reader(request):
    if request.param == "decord" and decord_module.import_decord() is None:
        pytest.skip("decord is not installed")
    return VIDEO_READERS.build({"name": request.param})


def shows(reader, path, numbers):
    """Return whether a reader finds frames that show these numbers, each where it must be."""
    count = reader.probe(path).num_frames
    everything = clips.frame_numbers(reader.read(path, range(count)).frames)
    last = clips.frame_numbers(reader.read(path, [count - 1]).frames)
    return everything == numbers and last == numbers[-1:]


# --- when the first frame is shown, and how long the file is ----------------------------------------------------


@pytest.mark.parametrize(("name", "start"), [("a.mkv", 3_000), ("a.mkv", 600_000), ("a.webm", 3_000)])
def test_a_file_that_starts_late_is_complete(reader, tmp_path, name, start):
    times = [start + 40 * i for i in range(20)]
    path = clips.write_clip(tmp_path / name, num_frames=20, times=times, **(VP8 if name == "a.webm" else {}))
    assert shows(reader, path, list(range(20)))
    np.testing.assert_allclose(reader.times(path), np.arange(20) / 25, atol=1e-6)


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_a_file_that_starts_before_zero(reader, tmp_path, name):
    times = [40 * i - 120 for i in range(24)]
    options = {"muxer": {"avoid_negative_ts": "disabled"}, "gop": 12, **(VP8 if name == "a.webm" else {"bframes": 0})}
    path = clips.write_clip(tmp_path / name, num_frames=24, times=times, **options)
    assert reader.probe(path).num_frames == 24
    numbers = [0, 3, 6, 9, 13, 16, 19, 23]
    assert clips.frame_numbers(reader.read(path, numbers).frames) == numbers


@pytest.mark.parametrize("start", [0, 3_000, 600_000])
def test_a_file_that_starts_late_and_is_truncated(tmp_path, start):
    path = clips.write_clip(tmp_path / "a.mkv", times=[start + 200 * i for i in range(60)])
    with pytest.raises(VideoError, match=r"is truncated: it declares \d+ bytes"):
        index_of(clips.truncate(path, tmp_path / "cut.mkv", 0.5))


@pytest.mark.parametrize("tag", ["nan:na:na.000000000", "junk", "", "00:02", "99", "1:2:3:4", "-1:00:00", "00:00:٣"])
def test_a_duration_tag_that_is_not_a_time_is_ignored(tmp_path, tag):
    data = clips.write_clip(tmp_path / "clip.mkv", num_frames=10).read_bytes()
    written = b"00:00:00.400000000"
    assert data.count(written) == 1
    (tmp_path / "tag.mkv").write_bytes(data.replace(written, tag.encode()[: len(written)].ljust(len(written), b"\0")))
    assert index_of(tmp_path / "tag.mkv").meta.duration == pytest.approx(0.4)


@pytest.mark.parametrize("tag", ["00:10:00.000", "junk", ""])
@pytest.mark.parametrize("name", ["DURATION", "FRAME_RATE", "r_frame_rate"])
def test_tags_of_other_containers_mean_nothing(tmp_path, name, tag):
    source = clips.write_clip(tmp_path / "clip.mp4", num_frames=10)
    meta = index_of(clips.remux(source, tmp_path / "tag.nut", tags={name: tag})).meta
    assert (meta.num_frames, meta.fps) == (10, 25)


@pytest.mark.parametrize(("first", "named"), [(5, False), (14, True)])
def test_an_edit_list_that_hides_most_frames_is_named(tmp_path, caplog, first, named):
    source = clips.write_clip(tmp_path / "clip.mp4", num_frames=20)
    path = clips.remux(source, tmp_path / "trimmed.mp4", pts=lambda i, pts: pts - first * 512)
    assert index_of(path).meta.num_frames == 20 - first
    assert ("trimmed.mp4: shows 6 of 20 frames; an edit list hides the others" in caplog.text) == named


# --- clocks that repeat a time or jump back ---------------------------------------------------------------------


def test_a_repeated_time_leaves_the_other_times_alone(reader, tmp_path, caplog):
    times = [40 * i if i < 10 else 1000 * i for i in range(20)]
    source = clips.write_clip(tmp_path / "clip.mkv", num_frames=20, times=times, bframes=0, gop=1)
    path = clips.remux(source, tmp_path / "twin.mkv", pts=lambda i, pts: times[i - 1] if i == 5 else pts)
    assert shows(reader, path, [i for i in range(20) if i != 5])
    np.testing.assert_allclose(reader.times(path), np.array([t for t in times if t != 200]) / 1000, atol=1e-6)
    assert "twin.mkv: 1 of 20 frames have the time of another frame and are left out" in caplog.text


def test_without_usable_times_the_rate_counts(reader, tmp_path, caplog):
    source = clips.write_clip(tmp_path / "clip.mkv", num_frames=20, bframes=0, gop=1)
    path = clips.remux(source, tmp_path / "pairs.mkv", pts=lambda i, pts: pts // 80 * 80)
    assert reader.probe(path).num_frames == 20
    assert "pairs.mkv: 10 of 20 frames have no timestamp; all times are computed from the frame rate" in caplog.text


@pytest.mark.parametrize(("scale", "rate"), [(1, 0xFFFFFFFF), (0xFFFFFFFF, 1), (1, 20_000), (4000, 1)])
def test_a_header_cannot_give_absurd_times(tmp_path, scale, rate):
    data = bytearray(clips.write_clip(tmp_path / "clip.avi", num_frames=10).read_bytes())
    struct.pack_into("<II", data, data.index(b"strh") + 28, scale, rate)
    (tmp_path / "rate.avi").write_bytes(data)
    with pytest.raises(VideoError, match="rate.avi: has no timestamps and declares .* frames per second; remux it"):
        index_of(tmp_path / "rate.avi")


def test_a_program_stream_has_times_for_some_frames_only(tmp_path, caplog):
    reader = VIDEO_READERS.build({"name": "pyav"})
    assert shows(reader, clips.write_clip(tmp_path / "clip.mpg", codec="mpeg2video"), list(range(60)))
    assert not caplog.text


@pytest.mark.parametrize("far", [1 << 42, 1 << 60])
def test_an_absurd_clock_is_refused(tmp_path, far):
    source = clips.write_clip(tmp_path / "clip.nut", num_frames=5, bframes=0, gop=1)
    path = clips.remux(source, tmp_path / "far.nut", pts=lambda i, pts: pts + far * (i == 4))
    with pytest.raises(VideoError, match=r"far.nut: its timestamps span [0-9,]+ s; they are damaged"):
        index_of(path)


@pytest.mark.parametrize("start", [0, 420, 50_000])
@pytest.mark.parametrize("cut", [0, 3])  # frames of the second half before its first key frame
def test_both_halves_of_a_clock_that_jumps_back_are_read(reader, tmp_path, caplog, start, cut):
    first = clips.write_clip(tmp_path / "a.ts", num_frames=40, times=[start + 40 * i for i in range(40)])
    second = clips.write_clip(tmp_path / "b.ts", num_frames=20)
    data = second.read_bytes()
    if cut:
        with av.open(str(second)) as container:
            data = data[[packet.pos for packet in container.demux(video=0) if packet.size][cut] :]
    (tmp_path / "joined.ts").write_bytes(first.read_bytes() + data)
    later = list(range(12, 20)) if cut else list(range(20))
    assert shows(reader, tmp_path / "joined.ts", [*range(40), *later])
    times = reader.times(tmp_path / "joined.ts")
    np.testing.assert_allclose(np.diff(times), 0.04, atol=1e-3)
    assert "joined.ts: its clock jumps back at frame 40, as in joined files" in caplog.text
    assert "frames are missing" not in caplog.text


def test_a_clock_that_is_reordered_does_not_jump(tmp_path, caplog):
    for name in ("clip.ts", "clip.mkv", "clip.flv", "clip.mpg"):
        codec = "mpeg2video" if name == "clip.mpg" else "libx264"
        assert index_of(clips.write_clip(tmp_path / name, num_frames=30, codec=codec)).restarts == ()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- colors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG"), ("bt709", "")])
def test_hdr_is_named_once(tmp_path, caplog, transfer, name):
    encoder = {"x264-params": f"transfer={transfer}:colorprim=bt2020"}
    path = clips.write_clip(tmp_path / "clip.mp4", num_frames=3, encoder=encoder)
    for _ in range(2):
        index_module._scan.cache_clear()
        index_of(path)
    assert caplog.text.count(f"clip.mp4: is HDR video ({name}), which is not tone-mapped") == bool(name)


# --- several streams --------------------------------------------------------------------------------------------


def write_streams(path, *counts, default=None, cover=None):
    """Write a file with several video streams; frame i of stream k shows the number 100 k + i."""
    from av.stream import Disposition

    with av.open(str(path), "w") as out:
        streams = []
        for k, count in enumerate(counts):
            stream = out.add_stream("mjpeg" if count == 1 else "libx264", rate=25)
            stream.width, stream.height = clips.WIDTH, clips.HEIGHT
            stream.pix_fmt = "yuvj420p" if count == 1 else "yuv420p"
            stream.disposition = Disposition.default if k == default else Disposition.attached_pic if k == cover else 0
            streams.append(stream)
        for k, (stream, count) in enumerate(zip(streams, counts, strict=True)):
            for i in range(count):
                frame = av.VideoFrame.from_ndarray(clips.numbered_frame(100 * k + i), format="rgb24")
                frame.pts = i
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "wmv"])
@pytest.mark.parametrize("options", [{}, {"default": 0}, {"cover": 0}])
def test_a_cover_picture_is_not_the_video(reader, tmp_path, suffix, options):
    path = write_streams(tmp_path / f"song.{suffix}", 1, 10, **options)
    assert shows(reader, path, list(range(100, 110)))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("default", [0, 1])
def test_every_reader_reads_the_stream_of_the_index(reader, tmp_path, suffix, default):
    path = write_streams(tmp_path / f"two.{suffix}", 10, 12, default=default)
    first = 100 * index_of(path).stream
    assert shows(reader, path, list(range(first, first + (12 if first else 10))))


def test_sound_that_the_header_does_not_declare(tmp_path):
    reader = VIDEO_READERS.build({"name": "pyav"})
    data = clips.write_clip(tmp_path / "clip.flv", num_frames=300, audio=True, gop=250).read_bytes()
    tags, position = {8: b"", 9: b"", 18: b""}, 13
    while position < len(data):
        end = position + 15 + int.from_bytes(data[position + 1 : position + 4], "big")
        tags[data[position]] += data[position:end]
        position = end
    (tmp_path / "late.flv").write_bytes(data[:4] + b"\1" + data[5:13] + tags[18] + tags[9] + tags[8])
    assert reader.probe(tmp_path / "late.flv").num_frames == 300
    assert clips.frame_numbers(reader.read(tmp_path / "late.flv", [0, 299]).frames) == [0, 299]


def write_jpegs(path, *, orientation):
    """Write a video of JPEG files with EXIF data, as cameras do."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Model] = orientation, "camera"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = clips.WIDTH, clips.HEIGHT, "yuvj420p"
        for i in range(5):
            data = io.BytesIO()
            Image.fromarray(clips.numbered_frame(i)).save(data, "jpeg", exif=exif)
            packet = av.Packet(data.getvalue())
            packet.pts = packet.dts = i
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            out.mux(packet)
    return path


EXIF = {1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True)}


@pytest.mark.parametrize("suffix", ["avi", "mov", "mkv"])
def test_frames_with_exif_data_are_read(tmp_path, suffix):
    reader = VIDEO_READERS.build({"name": "pyav"})
    assert shows(reader, write_jpegs(tmp_path / f"camera.{suffix}", orientation=1), list(range(5)))


@pytest.mark.parametrize("orientation", EXIF)
def test_the_orientation_of_exif_data_is_applied(tmp_path, orientation):
    index = index_of(write_jpegs(tmp_path / "camera.avi", orientation=orientation))
    assert (index.rotation, index.mirrored) == EXIF[orientation]


def test_a_photo_in_tiles_is_refused(tmp_path):
    data = clips.write_clip(tmp_path / "clip.mp4", num_frames=1).read_bytes()
    (tmp_path / "photo.heic").write_bytes(data.replace(b"ftypisom", b"ftypheic"))
    with pytest.raises(VideoError, match="photo.heic: is a HEIF photo, which is stored in tiles; convert it to JPEG"):
        index_of(tmp_path / "photo.heic")


def test_the_name_of_a_file_is_not_a_pattern(tmp_path):
    for name, color in (("p%d.tiff", 250), ("p0.tiff", 0), ("p1.tiff", 0)):
        Image.new("RGB", (16, 16), (color, 0, 0)).save(tmp_path / name)
    reader = VIDEO_READERS.build({"name": "pyav"})
    assert (
        reader.read(tmp_path / "p%d.tiff", range(reader.probe(tmp_path / "p%d.tiff").num_frames)).frames.min(0)[0, 0, 0]
        == 250
    )


# --- limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "verb"), [("mp4", "declares 10 frames, more than 9"), ("mkv", "has more than 9")])
def test_the_number_of_frames_is_limited(tmp_path, monkeypatch, suffix, verb):
    monkeypatch.setattr(packets_module, "MAX_FRAMES", 9)
    with pytest.raises(VideoError, match=rf"many.{suffix}: {verb}"):
        index_of(clips.write_clip(tmp_path / f"many.{suffix}", num_frames=10))


@pytest.mark.parametrize("fragments", [False, True])
def test_an_mp4_with_more_frames_than_bytes_is_refused_unopened(tmp_path, monkeypatch, fragments):
    muxer = {"movflags": "frag_keyframe+empty_moov"} if fragments else {}
    data = bytearray(clips.write_clip(tmp_path / "clip.mp4", num_frames=10, muxer=muxer).read_bytes())
    box, place = (b"trun", 8) if fragments else (b"stsz", 12)
    struct.pack_into(">I", data, data.index(box) + place, 20_000_000)
    (tmp_path / "bomb.mp4").write_bytes(data)
    monkeypatch.setattr(index_module, "open_container", None)
    with pytest.raises(VideoError, match=r"bomb.mp4: lists 20,000,000 frames, but has [0-9,]+ bytes"):
        index_of(tmp_path / "bomb.mp4")


@pytest.mark.parametrize(
    "data", [b"", b"ftyp", bytes(99), b"\0\0\0\1moov" * 9, b"\0\0\0\0moov" * 9, b"\0\0\0\x08free" * 99]
)
def test_damaged_boxes_end_the_search(tmp_path, data):
    path = tmp_path / "boxes.mp4"
    path.write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0" + data)
    packets_module.refuse_more_frames_than_bytes(str(path))


@pytest.mark.parametrize("call", ["probe", "times", "read"])
def test_an_unknown_error_is_an_error_of_the_file(reader, tmp_path, monkeypatch, call):
    path = clips.write_clip(tmp_path / "clip.mp4", num_frames=3)

    def surprise(*args, **kwargs):
        raise IndexError("list index out of range")

    if call == "read":
        monkeypatch.setattr(type(reader), "decode", surprise)
    else:
        monkeypatch.setattr(index_module, "collect", surprise)
    with pytest.raises(VideoError, match=r"clip.mp4: IndexError: list index out of range; the file is damaged"):
        getattr(reader, call)(path, *([[0]] if call == "read" else []))
