"""Write tiny media files for ``readers.py``: every frame shows its own number and which way is up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT = 80, 64
COLUMNS, ROWS = 5, 4  # cells of a frame
BITS = 7  # each bit is shown by one cell and denied by another; the other cells show the orientation
MARKS = (True, True, False, True, False)
FPS = 25
DARK, LIGHT = 50, 205
PIXELS = {"prores_ks": "yuv422p10le", "gif": "bgr8", "png": "rgb24", "qtrle": "rgb24", "mjpeg": "yuvj420p"}
PIXELS |= {"svq1": "yuv410p", "jpeg2000": "rgb24", "zmbv": "bgr0", "flashsv": "bgr24", "apng": "rgb24"}
QUIET = {"libx265": {"x265-params": "log-level=none"}}


def draw(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Draw frame ``number``, uint8 (height, width, 3): cells over a faint texture that moves."""
    bits = [bool(number >> bit & 1) for bit in range(BITS)]
    cells = np.array([*MARKS, *bits, *(not bit for bit in bits), False]).reshape(ROWS, COLUMNS)
    rows, columns = np.arange(height) * ROWS // height, np.arange(width) * COLUMNS // width
    picture = np.where(cells[rows][:, columns], LIGHT, DARK)
    y, x = np.mgrid[:height, :width]
    picture = picture + 8 * np.sin((x + 2 * number) / 3) + 8 * np.cos((y - number) / 2)
    picture = np.repeat(picture[..., None], 3, axis=2)
    picture[rows == ROWS - 1][:, columns == COLUMNS - 1] = DARK
    return np.clip(picture, 0, 255).astype(np.uint8)


def shown_number(picture: np.ndarray) -> int | None:
    """Return the number that an upright decoded frame shows, or ``None`` if its cells contradict each other."""
    height, width, _ = picture.shape
    if height < 2 * ROWS or width < 2 * COLUMNS:
        return None
    cells = []
    for row in range(ROWS):
        for column in range(COLUMNS):
            y, x = (2 * row + 1) * height // (2 * ROWS), (2 * column + 1) * width // (2 * COLUMNS)
            dy, dx = max(1, height // (4 * ROWS)), max(1, width // (4 * COLUMNS))
            cells.append(bool(picture[y - dy : y + dy, x - dx : x + dx].mean() > (DARK + LIGHT) / 2))
    marks, bits, denied = cells[: len(MARKS)], cells[len(MARKS) : len(MARKS) + BITS], cells[len(MARKS) + BITS : -1]
    if marks != list(MARKS) or any(a == b for a, b in zip(bits, denied, strict=True)) or cells[-1]:
        return None
    return sum(bit << place for place, bit in enumerate(bits))


@dataclass(frozen=True, slots=True, kw_only=True)
class Orientation:
    """How a player must turn the coded picture: ``turns`` quarters counterclockwise, then the flips."""

    turns: int = 0
    hflip: bool = False
    vflip: bool = False

    def coded(self, upright: np.ndarray) -> np.ndarray:
        """Return the picture that a player shows as ``upright``."""
        if self.vflip:
            upright = upright[::-1]
        if self.hflip:
            upright = upright[:, ::-1]
        return np.ascontiguousarray(np.rot90(upright, -self.turns))


UPRIGHT = Orientation()


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedClip:
    """What to write.

    Attributes:
        codec: Encoder.
        container: Muxer; chosen by the suffix if ``None``.
        frames: Number of frames, numbered from 0.
        times: Time of each frame in milliseconds; constant frame rate if ``None``.
        start: Number of frames by which all times are shifted.
        audio: ``first`` or ``last`` stream, or none; ``early`` starts half a second before the video.
    """

    codec: str = "libx264"
    container: str | None = None
    frames: int = 24
    fps: Fraction | int = FPS
    times: Sequence[int] | None = None
    start: int = 0
    width: int = WIDTH
    height: int = HEIGHT
    pix_fmt: str = "yuv420p"
    gop: int = 12
    bframes: int = 0
    encoder: dict[str, str] = field(default_factory=dict)
    muxer: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    orientation: Orientation = UPRIGHT
    audio: str = ""
    before: Callable[[Any], Any] | None = None  # adds streams in front of the video
    context: dict[str, Any] = field(default_factory=dict)  # attributes of the codec context


def clip_for(codec: str, **options: Any) -> GeneratedClip:
    """Return the description of a clip with the pixel format and the quiet options of its codec."""
    encoder = {**QUIET.get(codec, {}), **options.pop("encoder", {})}
    pix_fmt = options.pop("pix_fmt", PIXELS.get(codec, "yuv420p"))
    return GeneratedClip(codec=codec, encoder=encoder, pix_fmt=pix_fmt, **options)


def write(path: Path, clip: GeneratedClip) -> Path:
    """Write a clip. Raises an error of PyAV if this build cannot."""
    with av.open(str(path), "w", format=clip.container, options=clip.muxer) as out:
        first = _add_audio(out) if clip.audio == "first" else None
        extra = clip.before(out) if clip.before else None
        stream = _add_video(out, clip)
        sound = first or (_add_audio(out) if clip.audio else None)
        if extra is not None:
            extra(out)
        if sound is not None:
            _write_sound(out, sound, clip.frames / float(clip.fps))
        for packet in encoded(stream, clip):
            out.mux(packet)
    return path


def encoded(stream: Any, clip: GeneratedClip) -> list[Any]:
    """Encode the frames of a clip."""
    packets = []
    for number in range(clip.frames):
        picture = clip.orientation.coded(draw(number, clip.width, clip.height))
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=clip.pix_fmt)
        if clip.times is None:
            frame.pts, frame.time_base = number + clip.start, 1 / Fraction(clip.fps)
        else:
            frame.pts, frame.time_base = clip.times[number], Fraction(1, 1000)
        packets += stream.encode(frame)
    return packets + stream.encode()


def remux(source: Path, target: Path, edit: Callable[[int, Any], Any], **options: Any) -> Path:
    """Copy the streams of a file; ``edit`` gets each video packet and its number, and returns it or ``None``."""
    with av.open(str(source)) as given, av.open(str(target), "w", **options) as out:
        copies = {stream.index: out.add_stream_from_template(stream, opaque=True) for stream in given.streams}
        number = 0
        for packet in given.demux():
            if packet.dts is None:
                continue
            copy = copies[packet.stream.index]
            if packet.stream.type == "video":
                packet, number = edit(number, packet), number + 1
            if packet is not None:
                packet.stream = copy
                out.mux(packet)
    return target


def reference(path: Path) -> np.ndarray:
    """Decode an intact file with plain PyAV and return its frames, uint8 (N, H, W, 3), in order of their numbers."""
    with av.open(str(path)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    numbers = [shown_number(frame) for frame in frames]
    if numbers != list(range(len(frames))):
        raise ValueError(f"{path.name}: plain decoding shows the frames {numbers}")
    return np.stack(frames)


def _add_video(out: Any, clip: GeneratedClip) -> Any:
    stream = out.add_stream(clip.codec, rate=clip.fps, options={"bf": str(clip.bframes), **clip.encoder})
    turned = clip.orientation.turns % 2
    stream.width, stream.height = (clip.height, clip.width) if turned else (clip.width, clip.height)
    stream.pix_fmt = clip.pix_fmt
    stream.codec_context.gop_size = clip.gop
    stream.codec_context.thread_count = 1
    for name, value in clip.context.items():
        setattr(stream.codec_context, name, value)
    if clip.times is not None:
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
    if clip.orientation != UPRIGHT:
        how = clip.orientation
        stream.set_display_rotation(90 * how.turns, hflip=how.hflip, vflip=how.vflip)
    out.metadata.update({name: value for name, value in clip.tags.items() if name.startswith("file:")})
    stream.metadata.update({name: value for name, value in clip.tags.items() if not name.startswith("file:")})
    return stream


def _add_audio(out: Any) -> Any:
    codec = {"webm": "libopus", "ogg": "libopus", "asf": "mp2", "mpeg": "mp2"}
    return out.add_stream(codec.get(out.format.name, "aac"), rate=48000)


def _write_sound(out: Any, stream: Any, seconds: float) -> None:
    layout = stream.codec_context.layout.name
    kind = stream.codec_context.format.name
    width = 2 if layout == "stereo" else 1
    samples = np.zeros(
        (width, 1024) if kind.endswith("p") else (1, 1024 * width), np.int16 if "s16" in kind else np.float32
    )
    for i in range(int(seconds * 48000 / 1024)):
        frame = av.AudioFrame.from_ndarray(samples, format=kind, layout=layout)
        frame.sample_rate, frame.pts = 48000, 1024 * i
        out.mux(stream.encode(frame))
    out.mux(stream.encode())
