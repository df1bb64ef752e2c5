"""File formats of published data sets: classes in names, moments in lines."""

import pytest

from tinyvid.data.formats import Moment, crime_of, read_moments
from tinyvid.errors import DataError


@pytest.mark.parametrize(
    ("stem", "label"),
    [
        ("Abuse028_x264", "Abuse"),
        ("RoadAccidents001_x264.mp4", "Road Accident"),
        ("Normal_Videos_003_x264", "Normal Video"),
        ("Normal_Videos307_x264", "Normal Video"),
        ("Vandalism015_x264.mp4", "Vandalism"),
    ],
)
def test_a_name_begins_with_its_class(stem, label):
    assert crime_of(stem, where="list") == label


def test_a_name_without_a_class_is_refused():
    with pytest.raises(
        DataError, match=r"list:3: 'Arsn048_x264' does not begin with a UCF-Crime class.* Did you mean 'Arson'"
    ):
        crime_of("Arsn048_x264", where="list:3")
    with pytest.raises(DataError, match="does not begin with a UCF-Crime class"):
        crime_of("048", where="list:3")


def test_moments_are_lines_with_times(tmp_path):
    (tmp_path / "train.txt").write_text(
        "\ufeffAAX 0.5 2##The owl sleeps.\n\nAAY 1 1.5 ## It  flies. \n", encoding="utf-8"
    )
    assert read_moments(tmp_path / "train.txt") == [
        Moment("AAX", 0.5, 2.0, "The owl sleeps."),
        Moment("AAY", 1.0, 1.5, "It  flies."),
    ]
    with pytest.raises(DataError, match="annotation file '.*' does not exist"):
        read_moments(tmp_path / "test.txt")
