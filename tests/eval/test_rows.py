"""Media of benchmarks: links may bring in a folder of media, but no file from elsewhere."""

import pytest

from eval.rows import first_of
from tinyvid import DataError


@pytest.fixture
def root(tmp_path):
    for name in ("elsewhere/a.mp4", "root/video/b.mp4", "root/video/more/b.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for link, target in {
        "root/data": "elsewhere",
        "root/video/a.mp4": "elsewhere/a.mp4",
        "root/a.mp4": "elsewhere/a.mp4",
    }.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    (tmp_path / "elsewhere/out.mp4").symlink_to(tmp_path / "root/video/b.mp4")
    (tmp_path / "elsewhere/passwd").symlink_to("/etc/passwd")
    return tmp_path / "root"


@pytest.mark.parametrize(
    "names", [["video/b.mp4"], ["x", "video/more/b.mp4"], ["data/a.mp4"], ["data/out.mp4"], ["no", "x"]]
)
def test_media_below_the_folder(root, names):
    assert first_of(root, names) == str(root / ("no" if names[0] == "no" else names[-1]))


@pytest.mark.parametrize("name", ["video/a.mp4", "a.mp4", "data/passwd"])
def test_a_link_that_leaves_the_folder_is_refused(root, name):
    with pytest.raises(DataError, match=r"leads through a link to /.*, outside the benchmark's folder; copy the file"):
        first_of(root, [name])


def test_a_name_that_no_file_has(root):
    assert first_of(root, ["x" * 5_000])
