"""Encode frames as video files with PyAV, in chunks and reproducible byte for byte."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np

from tinyvid.errors import ConfigError, suggest

# Codec: encoder, container.
CODECS = {"h264": ("libx264", "mp4"), "mpeg4": ("mpeg4", "mp4"), "vp9": ("libvpx-vp9", "webm")}
# ITU-R BT.601-7, section 2.5: luma and the two color differences for RGB levels from 0 to 255, in 1 / 65536.
BT601 = ((16829, 33039, 6416), (-9714, -19070, 28784), (28784, -24103, -4681))


def check_codecs(codecs: list[str]) -> None:
    """Check that PyAV has an encoder for each codec.

    Raises:
        ConfigError: A codec is unknown, PyAV has no encoder for it, or PyAV is missing.
    """
    av = _av()
    if not codecs:
        raise ConfigError(f"codecs is empty. {suggest('', CODECS)}")
    for codec in codecs:
        if codec not in CODECS:
            raise ConfigError(f"codecs: {codec!r} is unknown. {suggest(str(codec), CODECS)}")
        try:
            av.codec.Codec(CODECS[codec][0], "w")
        except av.codec.UnknownCodecError as error:
            raise ConfigError(
                f"codecs: {codec!r} needs the encoder {CODECS[codec][0]!r}, which this PyAV lacks; pip install av"
            ) from error


def encode_frames(
    chunks: Iterable[np.ndarray], *, width: int, height: int, fps: float, codec: str = "h264", crf: int = 23
) -> bytes:
    """Return the bytes of a video file: yuv420p, frame i at i / fps seconds.

    Args:
        chunks: RGB frames, uint8 (N, height, width, 3) each, in order.
        width: Pixels, an even number.
        height: Pixels, an even number.
        fps: Frames per second.
        codec: ``h264``, ``mpeg4`` or ``vp9``.
        crf: Constant rate factor, lower is better; ``mpeg4`` ignores it and uses a fixed high quality.
    """
    av = _av()
    encoder, container = CODECS[codec]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options={"fflags": "+bitexact"}) as out:
        stream = out.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # makes the bytes independent of the machine
        if codec == "mpeg4":
            stream.codec_context.qmin, stream.codec_context.qmax = 2, 4
        else:
            stream.options = {"crf": str(crf), **_speed(codec)}
        for frames in chunks:
            for planes in to_yuv420(frames):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        out.mux(stream.encode())
    return buffer.getvalue()


def _speed(codec: str) -> dict[str, str]:
    """Return encoder options that are fast and reproducible."""
    if codec == "h264":
        return {"preset": "veryfast", "x264-params": "cpu-independent=1"}
    return {"b:v": "0", "deadline": "realtime", "cpu-used": "8"}


def to_yuv420(frames: np.ndarray) -> np.ndarray:
    """Convert RGB frames (T, H, W, 3) to BT.601 planes in limited range, uint8 (T, 3 / 2 * H, W).

    FFmpeg converts faster, but its result varies between machines; integer arithmetic does not.
    """
    count, height, width, _ = frames.shape
    red, green, blue = (frames[..., channel].astype(np.int32) for channel in range(3))
    luma = ((BT601[0][0] * red + BT601[0][1] * green + BT601[0][2] * blue + (1 << 15)) >> 16) + 16
    planes = [luma.reshape(count, -1)]
    red, green, blue = (_halved(channel) for channel in (red, green, blue))  # sums of four
    for of_red, of_green, of_blue in BT601[1:]:
        difference = ((of_red * red + of_green * green + of_blue * blue + (1 << 17)) >> 18) + 128
        planes.append(difference.reshape(count, -1))
    return np.concatenate(planes, 1).astype(np.uint8).reshape(count, height * 3 // 2, width)


def _halved(channel: np.ndarray) -> np.ndarray:
    """Return the sums over 2 x 2 blocks of pixels."""
    rows = channel[:, ::2] + channel[:, 1::2]
    return rows[..., ::2] + rows[..., 1::2]


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ConfigError("writing video files needs PyAV: pip install av") from error
    return av
