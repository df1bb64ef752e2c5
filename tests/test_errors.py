import pytest
from torch import OutOfMemoryError

from tinyvid.errors import VideoError, listed, raised_as


class PanicException(BaseException):
    """As pyo3 raises it for a panic in Rust."""


@pytest.mark.parametrize("error", [ValueError("bad\nnews"), PanicException("bad"), MemoryError()])
def test_an_error_of_a_library_gets_the_type_of_the_file(error):
    message = rf"x\.mp4: {type(error).__name__}: (bad|no message); encode it again"
    with pytest.raises(VideoError, match=message), raised_as(VideoError, "x.mp4", "encode it again"):
        raise error


def test_a_long_message_of_a_library_is_shortened():
    with pytest.raises(VideoError) as caught, raised_as(VideoError, "x.mp4", "encode it again"):
        raise ValueError("known names are " + "name, " * 1000)
    assert len(str(caught.value)) < 500
    assert str(caught.value).endswith("...; encode it again")


@pytest.mark.parametrize("error", [VideoError("ours"), KeyboardInterrupt(), SystemExit(3), OutOfMemoryError()])
def test_our_errors_a_full_gpu_and_the_users_wish_to_stop_pass(error):
    with pytest.raises(type(error)) as caught, raised_as(VideoError, "x.mp4", "encode it again"):
        raise error
    assert caught.value is error


def test_a_message_lists_the_first_names_and_counts_the_others():
    assert listed([]) == ""
    assert listed(["a", "b"]) == "a, b"
    assert listed(range(12), 3) == "0, 1, 2 and 9 more"
