"""Damage that the container reveals is an error if the file is cut, and a warning with the frames otherwise."""

import contextlib
import re

import av
import pytest

from tests import clips
from tinyvid.errors import VideoError
from tinyvid.video.readers import index as index_module, integrity
from tinyvid.video.readers.index import index_of
from tinyvid.video.readers.integrity import MOST, find_damage

FIXED = {"sc_threshold": "0"}  # key frames at multiples of 12
FAST = {"deadline": "realtime", "cpu-used": "8"}
CODECS = {"webm": "libvpx", "ogv": "libvpx", "gif": "gif", "wmv": "wmv2", "avi": "mpeg4"}
SUFFIXES = ["mp4", "mkv", "webm", "ogv", "gif", "wmv", "avi", "flv", "ts", "m2ts"]


@pytest.fixture(scope="module", params=SUFFIXES)
def clip(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / f"whole.{request.param}"
    codec = CODECS.get(request.param, "libx264")
    pix_fmt = "bgr8" if codec == "gif" else "yuv420p"
    encoder = FAST if codec == "libvpx" else {}
    return clips.write_clip(path, num_frames=30, codec=codec, bframes=0, pix_fmt=pix_fmt, encoder=encoder)


@pytest.fixture(autouse=True)
def _forget():
    index_module._scan.cache_clear()


def changed(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path = path.with_name(f"changed{path.suffix}")
    path.write_bytes(data)
    return path


def remuxed(path, target, dropped):
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None and number not in dropped:
                packet.stream = stream
                out.mux(packet)
    return target


def test_an_intact_file_has_no_damage(clip, caplog):
    assert index_of(clip).meta.num_frames == 30
    assert not caplog.records


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_truncated_file_is_refused_or_reported(clip, share, tmp_path, caplog):
    cut = clips.truncate(clip, tmp_path / f"cut{clip.suffix}", share)
    if clip.suffix in (".ts", ".m2ts"):  # recordings begin and end anywhere
        index_of(cut)
        assert f"{cut}: is damaged (it ends in the middle of a packet)" in caplog.text
    else:
        with pytest.raises(VideoError, match=re.escape(str(cut))):
            index_of(cut)


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mkv", "libx264"), pytest.param("ogv", "libvpx", marks=pytest.mark.slow)]
)
def test_a_wrong_checksum_names_the_frames(suffix, codec, tmp_path, caplog):
    encoder = FAST if codec == "libvpx" else {}
    whole = clips.write_clip(tmp_path / f"whole.{suffix}", num_frames=30, codec=codec, bframes=0, encoder=encoder)

    def flip(data):
        data[len(data) * 2 // 3] ^= 4

    index_of(changed(whole, flip))
    assert "is damaged (a checksum is wrong" in caplog.text
    first, last = re.findall(r"frames (\d+) to (\d+)", caplog.text)[0]
    assert 0 <= int(first) < int(last) <= 29


def test_a_missing_transport_packet_names_the_frames(tmp_path, caplog):
    whole = clips.write_clip(tmp_path / "whole.ts", encoder=FIXED)
    with av.open(str(whole)) as file:
        at = [packet.pos for packet in file.demux(video=0) if packet.pts is not None][30]

    def lose(data):
        del data[at : at + 188]

    index_of(changed(whole, lose))
    assert "is damaged (packets are missing" in caplog.text
    first, last = map(int, re.findall(r"frames (\d+) to (\d+)", caplog.text)[0])
    assert (first, last) == (28, 34)  # one frame is gone, and the next key frame was number 36


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_a_gap_in_a_constant_rate_is_reported(suffix, tmp_path, caplog):
    whole = clips.write_clip(tmp_path / f"whole.{suffix}", codec="mpeg4", bframes=0)
    index_of(remuxed(whole, tmp_path / f"gap.{suffix}", {20, 21}))
    assert "has a constant rate, except after frame 19:" in caplog.text


def test_one_wrong_time_in_a_constant_rate_is_reported(tmp_path, caplog):
    times = [40 * i + 12 * (i == 20) for i in range(40)]
    index_of(clips.write_clip(tmp_path / "a.mkv", num_frames=40, times=times, bframes=0))
    assert "has a constant rate, except after frame 19" in caplog.text


@pytest.mark.parametrize("suffix", ["avi", "mp4", "nut"])
def test_checksums_of_ffv1_are_compared(suffix, tmp_path, caplog):
    whole = clips.write_clip(tmp_path / f"whole.{suffix}", num_frames=10, codec="ffv1")
    index_of(whole)
    assert not caplog.records

    with av.open(str(whole)) as file:
        at = [packet.pos for packet in file.demux(video=0)][5] + 100

    def flip(data):
        data[at] ^= 4

    index_of(changed(whole, flip))
    assert "is damaged (a packet is damaged): frames" in caplog.text


def test_frames_before_the_first_key_frame_are_reported(tmp_path, caplog):
    whole = clips.write_clip(tmp_path / "whole.mkv", bframes=0, encoder=FIXED)
    index = index_of(remuxed(whole, tmp_path / "late.mkv", {0}))
    assert index.meta.num_frames == 48
    assert "11 frames that come before a key frame" in caplog.text


def test_a_variable_rate_has_no_gaps(tmp_path, caplog):
    times = [40 * i + 7 * (i % 3) + 200 * (i > 20) for i in range(40)]
    index_of(clips.write_clip(tmp_path / "phone.mkv", num_frames=40, times=times))
    assert not caplog.records


@pytest.mark.parametrize("container", ["mp4", "matroska", "ogg", "mpegts", "gif", "avi", "flv", "asf"])
def test_noise_ends_every_check(container, clip, tmp_path):
    whole, noise = clip.read_bytes(), bytes(range(256)) * 40
    for place in (0, 8, 40, len(whole) // 2):
        path = tmp_path / "noise"
        path.write_bytes(whole[:place] + noise + whole[place:])
        with contextlib.suppress(VideoError):
            assert len(find_damage(str(path), container, 256)) <= MOST


def test_a_header_that_declares_a_longer_video_is_reported(tmp_path, caplog):
    whole = clips.write_clip(tmp_path / "whole.nut", bframes=0)

    def cut(data):  # all frames of the last second, but not the index behind them
        with av.open(str(whole)) as file:
            places = [packet.pos for packet in file.demux(video=0) if packet.size]
        del data[places[40] : places[59]]

    index_of(changed(whole, cut))
    assert "its header declares 2.36 s of video" in caplog.text


def test_a_broken_picture_of_a_gif_names_the_frame(tmp_path, caplog):
    whole = clips.write_clip(tmp_path / "a.gif", num_frames=9, codec="gif", pix_fmt="bgr8")
    with av.open(str(whole)) as file:
        at = [packet.pos for packet in file.demux(video=0) if packet.size][5] + 400

    def lose(data):
        del data[at]

    index_of(changed(whole, lose))
    assert "is damaged (a picture is broken" in caplog.text or "its structure is broken" in caplog.text


@pytest.mark.parametrize("width", [8, 4096])
def test_pictures_that_do_not_fit_the_canvas_are_reported(width, tmp_path, caplog):
    whole = clips.write_clip(tmp_path / "a.gif", num_frames=3, codec="gif", pix_fmt="bgr8")

    def shrink(data):
        data[6:8] = width.to_bytes(2, "little")

    index_of(changed(whole, shrink))
    assert f"its pictures fill 160x96 of {width}x96 pixels" in caplog.text


def test_a_frame_that_an_avi_lists_but_lacks_is_reported(tmp_path, caplog):
    whole = clips.write_clip(tmp_path / "whole.avi", codec="mjpeg", pix_fmt="yuvj420p", bframes=0)
    with av.open(str(whole)) as file:
        at = [packet.pos for packet in file.demux(video=0)][20]

    def blank(data):
        data[at - 8 : at + 8] = bytes(16)

    index_of(changed(whole, blank))
    assert "its index lists 60 frames, but it has 59" in caplog.text


def test_a_file_of_many_small_parts_is_not_checked_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(integrity, "MAX_STEPS", 1000)
    path = tmp_path / "a.gif"
    for parts in (500, 2000):
        path.write_bytes(b"GIF89a" + bytes(7) + b"!\xfe" + b"\x01a" * parts)  # the comment has no end
        with pytest.raises(VideoError, match="its last block") if parts == 500 else contextlib.nullcontext():
            find_damage(str(path), "gif", 0)


def test_a_matroska_header_of_absurd_size_ends_the_check(tmp_path):
    path = tmp_path / "a.mkv"
    path.write_bytes(b"\x1a\x45\xdf\xa3\x01" + b"\xfe" * 100)
    assert find_damage(str(path), "matroska", 0) == []


@pytest.mark.parametrize("left", [9, 100])
def test_a_fragment_that_is_cut_in_its_header_is_noticed(tmp_path, left):
    whole = clips.write_clip(tmp_path / "whole.mp4", bframes=0, muxer={"movflags": "frag_keyframe+empty_moov"})

    def cut(data):
        del data[data.rindex(b"moof") - 4 + left :]

    with pytest.raises(VideoError, match="is truncated: its last fragment is incomplete"):
        index_of(changed(whole, cut))


def test_fragments_behind_a_hole_are_missed(tmp_path, caplog):
    whole = clips.write_clip(tmp_path / "whole.mp4", bframes=0, muxer={"movflags": "frag_keyframe+empty_moov"})

    def blank(data):
        at = data.rindex(b"moof") - 4
        data[at:] = bytes(len(data) - at)

    index_of(changed(whole, blank))
    assert "is damaged (its structure is broken): frames" in caplog.text
