import pytest

from tests import clips
from tests.video.test_readers import why_not
from tinyvid.errors import VideoError
from tinyvid.registry import VIDEO_READERS
from tinyvid.types import VideoMeta
from tinyvid.video.readers import limits


@pytest.fixture(params=[name for name in VIDEO_READERS.names() if not why_not(name)])
def reader(request):
    return VIDEO_READERS.build({"name": request.param})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return clips.write_clip(tmp_path_factory.mktemp("limits") / "clip.mp4", num_frames=3)


def test_large_pictures_are_refused_before_decoding(reader, path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PIXELS", 15_000)
    path.touch()  # a new file for the cache of the index
    with pytest.raises(VideoError, match=r"160x96 = 15,360 pixels exceed the limit of 15,000"):
        reader.probe(path)


def test_too_many_frames_are_refused_before_decoding(reader, path):
    message = r"100,000 frames of 160x96 pixels take 4,608,000,000 bytes.*2,147,483,648; request at most 46,603 frames"
    with pytest.raises(VideoError, match=message):
        reader.read(path, [1] * 100_000)


def test_pictures_of_the_highest_levels_are_allowed():
    limits.check_picture("8k.mp4", 8192, 4352)
    with pytest.raises(VideoError, match=r"8192x8192 = 67,108,864 pixels exceed the limit of 35,651,584"):
        limits.check_picture("bomb.mp4", 8192, 8192)


@pytest.mark.parametrize(
    ("width", "height", "threads"), [(640, 360, 16), (1920, 1080, 8), (3840, 2160, 2), (7680, 4320, 1)]
)
def test_large_pictures_are_decoded_on_fewer_threads(width, height, threads):
    assert limits.affordable_threads(16, VideoMeta(10, 25.0, 0.4, width, height)) == threads
