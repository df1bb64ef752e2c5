import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests import clips, permissions
from tinyvid.errors import VideoError
from tinyvid.registry import VIDEO_READERS
from tinyvid.types import Video
from tinyvid.video import images
from tinyvid.video.open_video import open_video
from tinyvid.video.samplers import Fps

READER = VIDEO_READERS.build({"name": "pyav"})
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """100 frames at 25 frames/s."""
    return clips.write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", num_frames=100)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Ten frames 1 s apart, then fifty 0.1 s apart: frame 10 is shown at 10 s, frame 59 at 14.9 s."""
    times = [1000 * i for i in range(10)] + [10_000 + 100 * i for i in range(50)]
    return clips.write_clip(tmp_path_factory.mktemp("clips") / "uneven.mp4", times=times)


def opened(source, **options):
    return open_video(Video(source, **options), READER)


def save(path, color=RED, size=(8, 6), **options):
    Image.new("RGB", size, color).save(path, **options)
    return path


def write_folder(folder, count=12, suffix=".png"):
    for i in range(count):
        save(folder / f"frame{i}{suffix}", color=(i, i, i))
    return folder


# --- a video file -----------------------------------------------------------------------------------------------


def test_a_file_is_opened_and_then_read(clip):
    video = opened(str(clip))
    assert video.meta == READER.probe(clip)
    assert clips.frame_numbers(video.read([0, 50, 99]).frames) == [0, 50, 99]


def test_frames_are_read_in_any_order(clip):
    read = opened(clip, start=0.4).read([50, 89, 0, 50, 7])
    assert clips.frame_numbers(read.frames) == [60, 99, 10, 60, 17]
    assert np.allclose(read.times, [2.4, 3.96, 0.4, 2.4, 0.68])


@pytest.mark.parametrize(
    ("start", "end"), [(1.0, 3.0), (0.33, 2.21), (None, 1.0), (3.5, None), (0.0, 99.0), (1.0, 1.01)]
)
def test_a_clip_agrees_with_mvbench_to_half_a_frame(clip, start, end):
    video = opened(clip, start=start, end=end)
    first, last = round((start or 0) * 25), min(round((end or 4) * 25), 99)
    assert video.meta.num_frames == last - first + 1
    assert video.meta.fps == 25
    assert video.meta.duration == pytest.approx(min(end or 4, 4) - (start or 0))
    got = video.read([0, video.meta.num_frames - 1])
    assert clips.frame_numbers(got.frames) == [first, last]
    np.testing.assert_allclose(got.times, [first / 25, last / 25], rtol=1e-6)  # from the beginning of the file


def test_a_clip_with_a_variable_rate_uses_the_actual_times(uneven):
    video = opened(uneven, start=8.0, end=12.0)
    assert video.meta.num_frames == 23  # 8, 9, and 10.0 to 12.0
    assert video.meta.fps == pytest.approx(22 / 4)
    assert clips.frame_numbers(video.read([0, 2, 22]).frames) == [8, 10, 30]
    np.testing.assert_allclose(video.read([0, 2, 22]).times, [8, 10, 12], rtol=1e-6)
    slow = opened(uneven, start=0.0, end=5.0)
    assert (slow.meta.num_frames, slow.meta.fps) == (6, 1.0)


def test_a_sampler_sees_the_times_of_a_variable_rate(clip, uneven):
    assert opened(clip).meta.times is None
    assert opened(clip, start=1.0).meta.times is None
    np.testing.assert_allclose(opened(uneven).meta.times[[0, 9, 59]], [0, 9, 14.9])
    np.testing.assert_allclose(opened(uneven, start=8.0, end=12.0).meta.times[[0, 1, 2, 22]], [0, 1, 2, 4], atol=1e-6)
    assert Fps(fps=1.0)(opened(uneven, start=8.0, end=12.0).meta) == [0, 1, 2, 12]


def test_the_last_moment_is_the_last_frame(clip):
    video = opened(clip, start=3.999)
    assert video.meta.num_frames == 1
    assert clips.frame_numbers(video.read([0]).frames) == [99]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (-1.0, None, "start=-1 is negative"),
        (4.0, None, r"start=4 s is past the end of the video, at 4\.000 s"),
        (9.0, 12.0, "start=9 s is past the end"),
        (2.0, 1.0, "end=1 s must come after start=2 s"),
        (2.0, 2.0, "end=2 s must come after start=2 s"),
        (None, 0.0, "end=0 s must come after start=0 s"),
        (None, -3.0, "end=-3 s must come after start=0 s"),
        (float("nan"), None, "must be numbers, in seconds"),
        (0.0, float("nan"), "must be numbers, in seconds"),
    ],
)
def test_an_impossible_clip_is_an_error_with_its_numbers(clip, start, end, message):
    with pytest.raises(VideoError, match=message) as error:
        opened(clip, start=start, end=end)
    assert str(clip) in str(error.value)


@pytest.mark.parametrize("indices", [[], [-1], [0, 51]])
def test_indices_stay_within_the_clip(clip, indices):
    with pytest.raises(VideoError, match="choose frames from 0 to 50"):
        opened(clip, start=1.0, end=3.0).read(indices)


def test_a_file_has_its_own_rate(clip, tmp_path):
    with pytest.raises(VideoError, match="fps=5 applies only to folders and arrays"):
        opened(clip, fps=5.0)
    with pytest.raises(VideoError, match="applies only to folders and arrays"):
        opened(save(tmp_path / "a.png"), fps=5.0)


@pytest.mark.parametrize("name", ["gone.mp4", "x" * 400, "nul\0.mp4"])
def test_a_missing_file(tmp_path, name):
    with pytest.raises(VideoError, match="no such file or folder"):
        opened(str(tmp_path / name))


def test_a_source_of_another_type():
    with pytest.raises(VideoError, match=r"path or a uint8 numpy array \(T, H, W, 3\), got list"):
        opened([1, 2])


def test_an_empty_path_is_not_the_working_directory():
    with pytest.raises(VideoError, match="the path of a video is empty"):
        opened("")


@pytest.mark.parametrize("options", [{"start": "abc"}, {"start": True}, {"end": "2"}, {"fps": "fast"}])
def test_bounds_and_rates_are_numbers(options):
    ((name, value),) = options.items()
    with pytest.raises(VideoError, match=f"a.mp4: {name}={value!r} must be a number"):
        Video("a.mp4", **options)


@pytest.mark.parametrize("name", ["~clip.mp4", "~", "~root", "²1.mp4", "a#b,c=d.mp4"])
def test_a_plain_name_is_a_name(clip, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(clip.read_bytes())
    assert opened(name if name != "~" else "./~").meta.num_frames == 100


@pytest.mark.parametrize("name", ["~nosuchuser/x.mp4", "~nosuchuser", "~\0x"])
def test_a_user_that_does_not_exist(name):
    with pytest.raises(VideoError, match="no such file or folder"):
        opened(name)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a.mp4",
        "file:///a.mp4",
        "s3://bucket/a.mp4",
        "rtsp://camera",
        "data:video/mp4;base64,AAAA" + "A" * 9000,
        "/data/videos/https:/example.org/a.mp4",  # joined to the media folder
    ],
)
def test_a_url_is_not_opened(url):
    with pytest.raises(VideoError, match="is a URL, and only files are opened; download it and give its path") as error:
        opened(url)
    assert len(str(error.value)) < 400


@pytest.fixture
def public():
    with permissions.public_folder() as folder:
        yield folder


@pytest.mark.parametrize("name", ["clip.mp4", "image.png", "frames", "closed/clip.mp4", "closed/frames"])
def test_missing_permissions_are_named(clip, public, name):
    (public / "closed" / "frames").mkdir(parents=True)
    (public / "frames").mkdir()
    for file in ("clip.mp4", "closed/clip.mp4"):
        (public / file).write_bytes(clip.read_bytes())
    for folder in ("", "frames", "closed/frames"):
        save(public / folder / "image.png")
    for entry in ("clip.mp4", "image.png", "frames", "closed"):
        (public / entry).chmod(0)
    with (
        permissions.unprivileged(),
        pytest.raises(VideoError, match="check (its|the) permissions"),
    ):
        opened(public / name, fps=1.0 if name.endswith("frames") else None)
    for entry in ("frames", "closed"):
        (public / entry).chmod(0o700)


class Surprise:
    """A reader that fails in ways that nobody foresaw."""

    name = "surprise"

    def __init__(self, fails):
        self.fails = fails

    def _call(self, name):
        if name == self.fails:
            raise IndexError("list index out of range\n(second line)")

    def probe(self, path):
        self._call("probe")
        return READER.probe(path)

    def times(self, path):
        self._call("times")
        return READER.times(path)

    def read(self, path, indices):
        self._call("read")
        return READER.read(path, indices)


@pytest.mark.parametrize("fails", ["probe", "times", "read"])
def test_an_unknown_error_is_an_error_of_the_video(clip, fails):
    message = r"clip.mp4: IndexError: list index out of range; the file is damaged or not supported; leave it out"
    with pytest.raises(VideoError, match=message):
        open_video(Video(clip, start=1.0 if fails == "times" else None), Surprise(fails)).read([0])


def test_a_tilde_is_the_home_directory(clip, monkeypatch):
    monkeypatch.setenv("HOME", str(clip.parent))
    assert opened(f"~/{clip.name}").meta.num_frames == 100


# --- an image ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp", ".bmp"])
def test_an_image_is_a_clip_of_one_frame(tmp_path, suffix):
    video = opened(save(tmp_path / f"photo{suffix}", size=(32, 24)))
    assert (video.meta.num_frames, video.meta.width, video.meta.height) == (1, 32, 24)
    got = video.read([0, 0])
    assert got.frames.shape == (2, 24, 32, 3)
    np.testing.assert_allclose(got.frames[0, 5, 5], RED, atol=12)
    assert got.times.tolist() == [0, 0]


def test_an_image_is_rotated_by_its_exif_data(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    video = opened(save(tmp_path / "photo.jpg", size=(32, 24), exif=exif))
    assert (video.meta.width, video.meta.height) == (24, 32)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA", "CMYK"])
def test_an_image_of_any_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.new("RGB", (8, 6), (255, 255, 255)).convert("L" if mode == "LA" else mode).convert(mode).save(path)
    assert (opened(path).read([0]).frames == 255).all()


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_broken_image(tmp_path, content):
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(VideoError, match=r"image.png: cannot be read as an image"):
        opened(tmp_path / "image.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_image(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    clips.truncate(path, path, 0.5)
    with pytest.raises(VideoError, match="cannot be read as an image"):
        opened(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [100, 300])  # PIL itself raises an error beyond twice its limit
def test_a_decompression_bomb(tmp_path, monkeypatch, limit):
    path = save(tmp_path / "bomb.png", size=(20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(VideoError, match=r"bomb.png: .*(pixels exceed the limit of 300|decompression bomb)"):
        opened(path)


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_an_animation_is_a_video(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 6), (50 * i, 0, 0)) for i in range(5)]
    shown = [100, 300, 100, 200, 100]  # milliseconds
    options = {"lossless": True} if suffix == ".webp" else {}
    path = tmp_path / f"moving{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=shown, **options)
    video = opened(path)
    assert (video.meta.num_frames, video.meta.duration, video.meta.fps) == (5, pytest.approx(0.8), pytest.approx(6.25))
    got = video.read([0, 3, 3, 4])
    assert got.frames[:, 0, 0, 0].tolist() == [0, 150, 150, 200]
    np.testing.assert_allclose(got.times, [0, 0.5, 0.5, 0.7], rtol=1e-6)
    assert opened(path, start=0.4, end=0.8).meta.num_frames == 3
    with pytest.raises(VideoError, match="is an animation, not a frame of a video"):
        opened(tmp_path, fps=1.0)


def test_the_picture_before_an_animation_is_not_part_of_it(tmp_path):
    frames = [Image.new("RGB", (8, 6), (50 * i, 0, 0)) for i in range(4)]
    options = {"save_all": True, "append_images": frames[1:], "default_image": True, "duration": 200}
    frames[0].save(tmp_path / "moving.png", **options)
    video = opened(tmp_path / "moving.png")
    assert (video.meta.num_frames, video.meta.duration) == (3, pytest.approx(0.6))
    assert video.read([0, 2]).frames[:, 0, 0, 0].tolist() == [50, 150]


def test_an_animation_has_a_limit(tmp_path, monkeypatch):
    frames = [Image.new("RGB", (8, 6), color) for color in (RED, BLUE)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    monkeypatch.setattr(images, "MAX_ANIMATION", 95)
    with pytest.raises(VideoError, match="its 2 frames of 8x6 pixels exceed the limit of 95 pixels"):
        opened(tmp_path / "moving.webp")


def test_a_grey_image_of_16_bits_is_scaled(tmp_path):
    depth = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    np.testing.assert_array_equal(
        opened(tmp_path / "depth.png").read([0]).frames[0], (depth >> 8)[..., None].repeat(3, 2)
    )


@pytest.mark.parametrize("orientation", range(9))
def test_every_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    picture.save(tmp_path / "photo.png", exif=exif)
    with Image.open(tmp_path / "photo.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(opened(tmp_path / "photo.png").read([0]).frames[0], expected)


@pytest.mark.parametrize(
    "broken",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\xff\0\0\0\0\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0",
        b"Exif\0\0junk" + bytes(range(256)),
    ],
)
def test_broken_exif_data_do_not_hide_the_picture(tmp_path, broken):
    save(tmp_path / "photo.jpg", size=(32, 24))
    data = (tmp_path / "photo.jpg").read_bytes()
    segment = b"\xff\xe1" + (len(broken) + 2).to_bytes(2, "big") + broken
    (tmp_path / "photo.jpg").write_bytes(data[:2] + segment + data[2:])
    video = opened(tmp_path / "photo.jpg")
    assert (video.meta.width, video.meta.height) == (32, 24)
    np.testing.assert_allclose(video.read([0]).frames[0, 5, 5], RED, atol=12)


def test_exif_data_that_raise_an_error_are_logged(tmp_path, monkeypatch, caplog):
    def broken(image):
        raise struct.error("unpack requires a buffer of 4 bytes")

    monkeypatch.setattr(Image.Image, "getexif", broken)
    opened(save(tmp_path / "photo.jpg"))
    assert (
        "photo.jpg: its EXIF data cannot be read (unpack requires a buffer of 4 bytes); the orientation is"
        in caplog.text
    )


# --- a folder of images -----------------------------------------------------------------------------------------


def test_a_folder_is_read_in_natural_order(tmp_path):
    write_folder(tmp_path)
    (tmp_path / ".DS_Store").touch()
    video = opened(tmp_path, fps=3.0)
    assert (video.meta.num_frames, video.meta.fps, video.meta.duration) == (12, 3.0, 4.0)
    got = video.read([0, 2, 2, 11])
    assert got.frames[:, 0, 0, 0].tolist() == [0, 2, 2, 11]
    np.testing.assert_allclose(got.times, np.array([0, 2, 2, 11]) / 3, rtol=1e-6)


def test_a_clip_of_a_folder(tmp_path):
    video = opened(write_folder(tmp_path), fps=3.0, start=1.0, end=2.0)
    assert video.meta.num_frames == 4
    assert video.read([0, 3]).frames[:, 0, 0, 0].tolist() == [3, 6]


def test_only_the_requested_frames_are_opened(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "frame5.png").write_bytes(b"broken")
    video = opened(tmp_path, fps=3.0)
    video.read([0, 4, 6])
    with pytest.raises(VideoError, match=r"frame5.png: cannot be read as an image"):
        video.read([5])


def test_frames_of_a_folder_must_have_one_size(tmp_path):
    write_folder(tmp_path)
    save(tmp_path / "frame7.png", size=(9, 6))
    with pytest.raises(VideoError, match=r"frame7.png: is 9x6 pixels, but the first frame frame0.png is 8x6"):
        opened(tmp_path, fps=3.0).read([7])


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf"), 1e-320, 1e300])
def test_a_rate_must_be_possible(fps):
    with pytest.raises(VideoError, match="must be a positive number of frames per second, from 1e-6 to 1e6"):
        opened(np.zeros((2, 6, 8, 3), dtype=np.uint8), fps=fps)


@pytest.mark.parametrize("bounds", [{"start": 10**400}, {"end": 10**5000}])
def test_bounds_of_many_digits(clip, bounds):
    with pytest.raises(VideoError, match="too large to convert to float; give start and end in seconds"):
        opened(clip, **bounds)


def test_a_folder_needs_a_rate(tmp_path):
    with pytest.raises(VideoError, match="a folder of frames has no frame rate; set fps"):
        opened(write_folder(tmp_path))
    with pytest.raises(VideoError, match="fps=0 must be a positive number"):
        opened(tmp_path, fps=0.0)


def test_names_in_any_digits_are_sorted(tmp_path):
    for name in ("²1.png", "10.png", "2.png", "٣.png", "9" * 200 + ".png"):
        save(tmp_path / name)
    assert opened(tmp_path, fps=1.0).meta.num_frames == 5


def test_a_folder_of_frames_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_FILES", 11)
    with pytest.raises(VideoError, match="contains more than 11 files; make a video file of them"):
        opened(write_folder(tmp_path), fps=1.0)


def test_a_folder_without_images(tmp_path):
    for name in (None, "notes.txt"):
        if name is not None:
            (tmp_path / name).touch()
        with pytest.raises(VideoError, match="the folder contains no videos and no images"):
            opened(tmp_path, fps=3.0)


def test_a_folder_with_other_files(tmp_path):
    (write_folder(tmp_path) / "notes.txt").touch()
    with pytest.raises(VideoError, match=r"'notes.txt' is not an image \(1 of 13 entries are not\)"):
        opened(tmp_path, fps=3.0)


# --- frames in memory -------------------------------------------------------------------------------------------


def test_an_array_is_a_video():
    frames = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(6, 1).repeat(8, 2).repeat(3, 3)
    video = opened(frames, fps=5.0, start=1.0)
    assert (video.meta.num_frames, video.meta.width, video.meta.height) == (5, 8, 6)
    got = video.read([0, 4])
    assert got.frames[:, 0, 0, 0].tolist() == [5, 9]
    np.testing.assert_allclose(got.times, [1.0, 1.8], rtol=1e-6)


def test_an_array_without_a_rate_counts_as_one_frame_per_second():
    meta = opened(np.zeros((10, 6, 8, 3), dtype=np.uint8)).meta
    assert (meta.fps, meta.duration) == (1.0, 10.0)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 6, 8, 3), dtype=np.float32),
        np.zeros((6, 8, 3), dtype=np.uint8),
        np.zeros((4, 3, 6, 8), dtype=np.uint8),
        np.zeros((4, 6, 8, 4), dtype=np.uint8),
    ],
)
def test_an_array_of_another_shape_or_dtype(array):
    with pytest.raises(VideoError, match=r"an array must be uint8 \(T, H, W, 3\), got"):
        opened(array)


def test_an_array_without_frames():
    with pytest.raises(VideoError, match="the array is empty; give at least one frame"):
        opened(np.zeros((0, 6, 8, 3), dtype=np.uint8))
