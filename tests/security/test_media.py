"""Images, videos and files of rows: documented formats only, and no pipes, devices or other files."""

import os

import pytest
from PIL import Image

from tests.security.layouts import watched
from tinyvid.data.rows import open_rows
from tinyvid.errors import DataError, VideoError
from tinyvid.registry import VIDEO_READERS
from tinyvid.types import Video
from tinyvid.video.open_video import open_video

pytestmark = pytest.mark.slow


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """The file that appears when a program called ``gs`` is started."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # Pillow remembers what it found
    return tmp_path / "started"


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\n%%EOF\n"


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.bmp"])
def test_postscript_is_not_an_image(name, ghostscript, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / name).write_bytes(EPS)
    for video in (Video(str(folder / name)), Video(str(folder), fps=1.0)):
        with watched() as events, pytest.raises(VideoError, match="its content is not PNG, JPEG, WEBP, BMP"):
            open_video(video, VIDEO_READERS.build({"name": "pyav"})).read([0])
        assert not [event for event in events if event[0] == "subprocess.Popen"]
    assert not ghostscript.exists()


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "ICO", "PCX", "TGA", "SGI", "JPEG2000", "DDS", "PDF"])
def test_only_documented_formats_are_images(kind, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png", format=kind)
    with pytest.raises(VideoError, match="cannot be read as an image"):
        open_video(Video(str(tmp_path / "x.png")), VIDEO_READERS.build({"name": "pyav"}))


@pytest.mark.parametrize("name", ["x.mp4", "x.png", "x.mkv", "x"])
def test_a_pipe_or_device_is_not_a_video(name, tmp_path):
    os.mkfifo(tmp_path / name)
    for path in (tmp_path / name, "/dev/zero"):
        with pytest.raises(VideoError, match="is not a regular file"):
            open_video(Video(str(path)), VIDEO_READERS.build({"name": "auto"}))
    with pytest.raises(VideoError):
        open_video(Video(str(tmp_path), fps=1.0), VIDEO_READERS.build({"name": "auto"}))


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile 'pipe.mp4'\n",
        "\n\nffconcat version 1.0\nfile 'pipe.mp4'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\npipe.ts\n#EXT-X-ENDLIST\n",
    ],
)
@pytest.mark.parametrize("name", ["x.mp4", "x.m3u8", "x.ffconcat"])
def test_a_playlist_opens_no_other_file(text, name, tmp_path):
    for segment in ("pipe.mp4", "pipe.ts"):
        os.mkfifo(tmp_path / segment)
    (tmp_path / name).write_text(text)
    with pytest.raises(VideoError):
        open_video(Video(str(tmp_path / name)), VIDEO_READERS.build({"name": "pyav"}))


def test_a_pipe_is_not_a_file_of_rows(tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="is not a regular file"):
        open_rows(tmp_path / "rows.jsonl")
