"""The intact files of ``readers.py``: what a reader must return exactly, or refuse for a good reason."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from _media import GeneratedClip, Orientation, clip_for, draw, write
from _special import cover, deep_picture, resized, tilted, two_streams, with_message, without_first_key
from PIL import Image

CODECS = {
    "mp4": "libx264 libx265 mpeg4 mpeg2video mpeg1video libvpx-vp9 libsvtav1 ffv1 mjpeg png jpeg2000",
    "mov": "libx264 libx265 mpeg4 mpeg2video mjpeg prores_ks png qtrle msmpeg4 gif svq1 magicyuv jpeg2000",
    "mkv": "libx264 libx265 mpeg4 mpeg2video libvpx libvpx-vp9 libsvtav1 ffv1 mjpeg prores_ks rawvideo msmpeg4 snow",
    "webm": "libvpx libvpx-vp9 libsvtav1",
    "avi": "libx264 mpeg4 mpeg2video libvpx ffv1 mjpeg utvideo rawvideo png wmv2 msmpeg4 flv h263p svq1 magicyuv "
    "ffvhuff zmbv flashsv",
    "ts": "libx264 libx265 mpeg4 mpeg2video mpeg1video",
    "m2ts": "libx264 libx265 mpeg2video",
    "mpg": "libx264 libx265 mpeg4 mpeg2video mpeg1video",
    "vob": "mpeg2video",
    "flv": "libx264 libx265 libvpx-vp9 libsvtav1 flv flashsv",
    "nut": "libx264 libx265 mpeg4 libvpx libvpx-vp9 libsvtav1 ffv1 mjpeg utvideo png msmpeg4 ffvhuff",
    "ogv": "libvpx",
    "gif": "gif",
    "wmv": "libx264 mpeg4 libvpx ffv1 mjpeg wmv1 wmv2 msmpeg4",
    "3gp": "libx264 mpeg4",
    "mxf": "libx264 mpeg2video ffv1 prores_ks",
    "ivf": "libvpx libvpx-vp9 libsvtav1",
    "h264": "libx264",
    "m4v": "mpeg4",
    "apng": "apng",
    "y4m": "rawvideo",
    "rm": "rv10",
    "swf": "mjpeg flv",
}
REFUSED: list[int] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusFile:
    """A file of the corpus.

    Attributes:
        name: File name.
        kind: Row of the table.
        make: Writes the file.
        numbers: The frames that a reader must return, by the numbers that they show; empty if it must refuse the file,
            ``None`` if it may do either, within the limits.
        times: Their times in seconds after the first one, if they matter.
        damaged: Whether the file is damaged, so a typed error is right, too.
        source: Name of the intact file, for the comparison of damaged frames.
    """

    name: str
    kind: str
    make: Callable[[Path], Any]
    numbers: Sequence[int] | None
    times: Sequence[float] | None = None
    damaged: bool = False
    source: str | None = None


def case(name: str, kind: str, clip: GeneratedClip, numbers: Sequence[int] | None = None) -> CorpusFile:
    """Return the case of a clip that is written as it is described."""
    shown = list(range(clip.frames)) if numbers is None else list(numbers)
    if clip.times is None:
        times = [i / float(clip.fps) for i in range(len(shown))]
    else:
        times = [(clip.times[i] - clip.times[shown[0]]) / 1000 for i in shown]
    return CorpusFile(name=name, kind=kind, make=partial(write, clip=clip), numbers=shown, times=times)


def intact() -> list[CorpusFile]:
    """Return all intact files."""
    parts = (codecs(), groups(), rates(), pixels(), orientations(), starts(), streams(), layouts(), odd(), images())
    return [one for part in parts for one in part]


def codecs() -> Iterator[CorpusFile]:
    """Every codec in every container that can hold it."""
    for suffix, names in CODECS.items():
        for codec in names.split():
            yield case(f"codec_{codec}.{suffix}", "codec and container", clip_for(codec))


def groups() -> Iterator[CorpusFile]:
    """B-frames, distances between key frames, open groups and recovery points."""
    shapes: dict[str, tuple[int, int, dict[str, str]]] = {"b3": (12, 3, {}), "gop1": (1, 0, {}), "gop100": (100, 2, {})}
    for suffix in ("mp4", "mov", "mkv", "avi", "ts", "mpg", "flv", "nut"):
        for name, (gop, bframes, options) in shapes.items():
            yield case(
                f"{name}.{suffix}", "B-frames and GOPs", clip_for("libx264", gop=gop, bframes=bframes, encoder=options)
            )
    open_gop = {
        "x264": ("libx264", {"x264-params": "open-gop=1:keyint=8:bframes=3"}),
        "x265": ("libx265", {"x265-params": "open-gop=1:keyint=8:min-keyint=8:bframes=3:log-level=none"}),
        "recovery": ("libx264", {"x264-params": "intra-refresh=1:keyint=8"}),
    }
    for name, (codec, options) in open_gop.items():
        for suffix in ("mp4", "mkv", "ts", "flv"):
            yield case(f"open_{name}.{suffix}", "B-frames and GOPs", clip_for(codec, frames=40, encoder=options))
    for codec, suffix in (
        ("mpeg2video", "ts"),
        ("mpeg2video", "mpg"),
        ("mpeg4", "mp4"),
        ("mpeg4", "avi"),
        ("mpeg2video", "mkv"),
    ):
        yield case(f"b2_{codec}.{suffix}", "B-frames and GOPs", clip_for(codec, bframes=2))
    for suffix in ("mp4", "mkv", "webm", "ivf"):
        clip = clip_for("libvpx-vp9", frames=40, encoder={"auto-alt-ref": "1", "lag-in-frames": "16"}, gop=20)
        yield case(f"alt_ref.{suffix}", "B-frames and GOPs", clip)
    for frames in (1, 2, 3, 120):
        for suffix in ("mp4", "mkv", "avi", "ts", "flv", "webm", "gif"):
            codec = {"webm": "libvpx-vp9", "gif": "gif"}.get(suffix, "libx264")
            yield case(f"frames{frames}.{suffix}", "few and many frames", clip_for(codec, frames=frames))


def rates() -> Iterator[CorpusFile]:
    """Frame rates, constant and variable."""
    steps = {
        "jitter": (40, 33, 47),
        "phone": (33, 33, 34, 67),
        "screen": (40, 900, 20, 300),
        "halving": (20,) * 12 + (40,) * 12,
    }
    for name, step in steps.items():
        times = list(accumulate((step * 24)[:23], initial=0))
        for suffix in ("mp4", "mov", "mkv", "webm", "nut", "flv", "wmv", "ts"):
            codec = {"webm": "libvpx-vp9", "wmv": "mpeg4"}.get(suffix, "libx264")
            bframes = 0 if suffix == "wmv" else 2
            yield case(f"{name}.{suffix}", "variable rate", clip_for(codec, times=times, bframes=bframes))
    for fps in (Fraction(24000, 1001), Fraction(30000, 1001), 15, 60, 120, 1, Fraction(1, 2)):
        for suffix in ("mp4", "mkv", "avi", "ts", "flv"):
            name = f"fps_{float(fps):.3g}.{suffix}"
            yield case(name, "constant rate", clip_for("libx264", fps=fps))


def pixels() -> Iterator[CorpusFile]:
    """Ten bits, other pixel formats, odd sizes."""
    formats = [("libx264", p) for p in ("yuv420p10le", "yuv422p", "yuv444p", "yuvj420p", "gray", "nv12")]
    formats += [("libx265", p) for p in ("yuv420p10le", "yuv422p10le", "yuv444p", "yuv420p12le", "gray")]
    formats += [("libvpx-vp9", p) for p in ("yuv444p", "yuv422p")] + [("libsvtav1", "yuv420p10le")]
    formats += [("ffv1", p) for p in ("yuv420p10le", "rgb48le", "gray16le", "bgra", "yuv444p16le")]
    for codec, pix_fmt in formats:
        for suffix in ("mp4", "mkv"):
            yield case(f"{codec}_{pix_fmt}.{suffix}", "pixel formats", clip_for(codec, pix_fmt=pix_fmt))
    for width, height in ((81, 65), (83, 64), (80, 67), (142, 70), (320, 16)):
        for codec, pix_fmt, suffix in (
            ("libx264", "yuv444p", "mp4"),
            ("libvpx-vp9", "yuv420p", "webm"),
            ("ffv1", "yuv420p", "mkv"),
            ("mpeg4", "yuv420p", "avi"),
            ("mjpeg", "yuvj420p", "mov"),
            ("gif", "bgr8", "gif"),
        ):
            clip = clip_for(codec, width=width, height=height, pix_fmt=pix_fmt)
            yield case(f"{width}x{height}_{codec}.{suffix}", "odd sizes", clip)


def orientations() -> Iterator[CorpusFile]:
    """All rotations and mirrors, in the container and in the stream."""
    ways = [
        Orientation(turns=t, hflip=h, vflip=v)
        for h, v in ((False, False), (True, False), (False, True))
        for t in range(4)
    ][1:]
    for way in ways:
        name = f"turn{way.turns}{'_hflip' * way.hflip}{'_vflip' * way.vflip}"
        for codec, suffix in (
            ("libx264", "mp4"),
            ("libx264", "mov"),
            ("libx264", "mkv"),
            ("libvpx-vp9", "webm"),
            ("libx265", "mp4"),
            ("libsvtav1", "mkv"),
            ("mjpeg", "mov"),
        ):
            yield case(f"{name}_{codec}.{suffix}", "rotation and mirroring", clip_for(codec, orientation=way))
    quarters = {f"turn{turns}": Orientation(turns=turns) for turns in (1, 2, 3)}
    for name, way in {**quarters, "hflip": Orientation(hflip=True), "vflip": Orientation(vflip=True)}.items():
        for suffix in ("mp4", "mkv", "ts", "avi", "flv", "nut", "h264"):
            made = case(f"sei_{name}.{suffix}", "rotation and mirroring", clip_for("libx264"))
            yield replace(made, make=partial(with_message, way=way))


def starts() -> Iterator[CorpusFile]:
    """Clips whose first frame is not at time 0."""
    keep = {"avoid_negative_ts": "disabled"}
    for start in (-3, 5, 60, 25 * 3600):
        for suffix in ("mp4", "mov", "mkv", "webm", "ts", "flv", "nut", "mpg"):
            codec = {"webm": "libvpx-vp9", "mpg": "mpeg2video"}.get(suffix, "libx264")
            muxer = keep if start < 0 or suffix in ("mkv", "webm", "nut") else {}
            clip = clip_for(codec, start=start, muxer=muxer, bframes=0 if suffix in ("webm", "mpg") else 2)
            if start < 0 and suffix in ("flv", "nut"):
                continue  # these cannot state a negative time
            cut = range(-start, 24) if start < 0 and suffix in ("mp4", "mov") else None  # the edit list hides frames
            yield case(f"start{start}.{suffix}", "late and negative start", clip, cut)
            if start > 0 and suffix != "nut":
                yield case(f"start{start}_audio.{suffix}", "late and negative start", replace(clip, audio="last"))
    for suffix in ("mp4", "mkv", "ts", "flv"):
        clip = clip_for("libx264", encoder={"sc_threshold": "0"})
        made = case(f"no_first_key.{suffix}", "late and negative start", clip, range(12, 24))
        yield replace(made, make=partial(without_first_key, clip=clip))


def streams() -> Iterator[CorpusFile]:
    """Audio before or after the video, several video streams, cover pictures."""
    for suffix in ("mp4", "mov", "mkv", "webm", "avi", "ts", "mpg", "flv", "wmv"):
        codec = {"webm": "libvpx-vp9", "mpg": "mpeg2video", "wmv": "wmv2"}.get(suffix, "libx264")
        for place in ("first", "last"):
            clip = clip_for(codec, audio=place, frames=50)
            yield case(f"audio_{place}.{suffix}", "audio and several streams", clip)
    for suffix in ("mp4", "mov", "mkv", "ts", "avi", "nut"):
        for first in (True, False):
            made = case(
                f"default_{'first' if first else 'second'}.{suffix}", "audio and several streams", clip_for("libx264")
            )
            yield replace(made, make=partial(two_streams, first=first))
    for suffix in ("mp4", "mov", "mkv", "wmv", "avi", "nut"):
        for flagged in (True, False):
            made = case(f"cover_{'flagged' if flagged else 'plain'}.{suffix}", "cover picture", clip_for("libx264"))
            yield replace(made, make=partial(cover, flagged=flagged))


def layouts() -> Iterator[CorpusFile]:
    """Options of containers."""
    options = {
        "fragments.mp4": {"movflags": "frag_keyframe+empty_moov"},
        "fragment_each.mp4": {"movflags": "frag_every_frame+empty_moov+default_base_moof"},
        "faststart.mp4": {"movflags": "faststart"},
        "negative_offsets.mp4": {"movflags": "negative_cts_offsets"},
        "no_edit_list.mp4": {"use_editlist": "0"},
        "timescale.mp4": {"video_track_timescale": "1000"},
        "fragments.mov": {"movflags": "frag_keyframe+empty_moov"},
        "live.mkv": {"live": "1"},
        "clusters.mkv": {"cluster_time_limit": "40"},
        "cues.mkv": {"reserve_index_space": "2000"},
        "no_checksum.mkv": {"write_crc32": "0"},
        "no_metadata.flv": {"flvflags": "no_metadata"},
        "no_duration.flv": {"flvflags": "no_duration_filesize"},
        "latm.ts": {"mpegts_flags": "latm"},
        "pat.ts": {"mpegts_flags": "resend_headers"},
        "m2ts.ts": {"mpegts_m2ts_mode": "1"},
        "no_pcr.ts": {"pcr_period": "20"},
        "no_index.nut": {"write_index": "0"},
        "small_packets.wmv": {"packet_size": "500"},
    }
    for name, muxer in options.items():
        codec = "mpeg4" if name.endswith("wmv") else "libx264"
        bframes = 0 if name.endswith("wmv") else 2
        yield case(f"layout_{name}", "container options", clip_for(codec, bframes=bframes, muxer=muxer))
    times = {
        "empty": "",
        "words": "soon",
        "nan": "nan",
        "number": "12",
        "two": "00:01",
        "many": "1:2:3:4:5",
        "big": "9e99:00:00",
    }
    for name, value in times.items():
        for suffix in ("mkv", "ogv", "nut", "mp4"):
            codec = "libvpx" if suffix == "ogv" else "mpeg4"
            clip = clip_for(codec, tags={"DURATION": value, "r_frame_rate": value, "FRAMERATE": value})
            yield case(f"tag_{name}.{suffix}", "odd tags", clip)


def odd() -> Iterator[CorpusFile]:
    """Files that a reader refuses for a good reason: changes of size, sound alone, text, playlists."""
    for suffix in ("ts", "mkv", "h264", "nut"):
        yield CorpusFile(name=f"resized.{suffix}", kind="not supported", make=resized, numbers=REFUSED)
    for angle in (45, 10):
        clip = clip_for("libx264")
        yield CorpusFile(
            name=f"angle{angle}.mp4",
            kind="not supported",
            make=partial(tilted, clip=clip, angle=angle),
            numbers=REFUSED,
        )
    for name in ("a.mp4", "a.txt", "a.avi"):
        text = "#EXTM3U\n#EXTINF:1,\ncodec_libx264.mp4\n" if name != "a.txt" else "Hello, this is not a video.\n" * 99
        make = partial(Path.write_text, data=text)
        yield CorpusFile(name=f"text_{name}", kind="not supported", make=make, numbers=REFUSED)


def images() -> Iterator[CorpusFile]:
    """Still pictures."""
    options: dict[str, dict[str, Any]] = {"png": {}, "jpg": {"quality": 95}, "webp": {"lossless": True}, "bmp": {}}
    for suffix, how in options.items():
        yield CorpusFile(
            name=f"image.{suffix}",
            kind="images",
            make=partial(Image.fromarray(draw(7)).save, **how),
            numbers=[7],
        )
    yield CorpusFile(name="image_16bit.png", kind="images", numbers=[7], make=deep_picture)
