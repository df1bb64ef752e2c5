"""Write the files of ``readers.py`` that need more than one stream, a changed stream, or a changed header."""

from pathlib import Path

import av
import numpy as np
from _media import GeneratedClip, Orientation, clip_for, draw, encoded, remux, write
from av.stream import Disposition
from PIL import Image


def with_message(path: Path, way: Orientation) -> None:
    """Write H.264 with a display orientation message in the stream instead of a matrix in the container."""
    bits = f"0{way.hflip:b}{way.vflip:b}{way.turns << 14:016b}01001"
    message = b"\0\0\0\1\x06\x2f\x03" + int(bits, 2).to_bytes(3, "big") + b"\x80"
    clip = clip_for("libx264", orientation=way)
    turned = way.turns % 2
    with av.open(str(path), "w") as out:
        stream = out.add_stream(clip.codec, rate=clip.fps, options={"bf": "0", "g": "12"})
        stream.width, stream.height = (clip.height, clip.width) if turned else (clip.width, clip.height)
        stream.pix_fmt = clip.pix_fmt
        for packet in encoded(stream, clip):
            told = av.Packet(message + bytes(packet) if packet.is_keyframe else bytes(packet))
            told.stream, told.pts, told.dts, told.time_base = stream, packet.pts, packet.dts, packet.time_base
            told.is_keyframe = packet.is_keyframe
            out.mux(told)


def without_first_key(path: Path, clip: GeneratedClip) -> None:
    """Write a file that lacks its first key frame, as cutting without decoding does."""
    whole = write(path.with_name(f"whole_{path.name}"), clip)
    remux(whole, path, lambda number, packet: packet if number else None)
    whole.unlink()


def two_streams(path: Path, first: bool) -> None:
    """Write two video streams; the one with the default flag shows the numbers."""
    with av.open(str(path), "w") as out:
        pairs = []
        for wanted in (first, not first):
            clip = clip_for("libx264") if wanted else clip_for("libx264", width=48, height=48)
            stream = out.add_stream("libx264", rate=clip.fps, options={"bf": "0"})
            stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
            stream.disposition = Disposition.default if wanted else Disposition(0)
            pairs.append((stream, clip))
        for packets in zip(*(encoded(stream, clip) for stream, clip in pairs), strict=True):
            out.mux(packets)


def cover(path: Path, flagged: bool) -> None:
    """Write a picture as the first video stream, with or without the flag that calls it a cover."""
    with av.open(str(path), "w") as out:
        cover, clip = out.add_stream("mjpeg", rate=1), clip_for("mpeg4")
        cover.width, cover.height, cover.pix_fmt = 96, 96, "yuvj420p"
        if flagged:
            cover.disposition = Disposition.attached_pic
        stream = out.add_stream(clip.codec, rate=clip.fps)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, clip.pix_fmt
        picture = av.VideoFrame.from_ndarray(np.full((96, 96, 3), 90, np.uint8), format="rgb24").reformat(
            format="yuvj420p"
        )
        picture.pts = 0
        out.mux([*cover.encode(picture), *cover.encode()])
        out.mux(encoded(stream, clip))


def resized(path: Path) -> None:
    """Write a file whose picture size changes in the middle."""
    with av.open(str(path), "w") as out:
        target = None
        for part, (width, height) in enumerate(((80, 64), (64, 48))):
            clip = clip_for("libx264", width=width, height=height, start=24 * part)
            piece = write(path.with_name(f"piece_{path.name}.ts"), clip)
            with av.open(str(piece)) as given:
                target = target or out.add_stream_from_template(given.streams.video[0])
                for packet in given.demux(video=0):
                    if packet.dts is not None:
                        packet.stream = target
                        out.mux(packet)
            piece.unlink()


def tilted(path: Path, clip: GeneratedClip, angle: int) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream(clip.codec, rate=clip.fps)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, clip.pix_fmt
        stream.set_display_rotation(angle)
        out.mux(encoded(stream, clip))


def deep_picture(path: Path) -> None:
    Image.fromarray(draw(7)[..., 0].astype(np.uint16) * 257).save(path)
