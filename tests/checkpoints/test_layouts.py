"""Folders whose layout is unknown are refused with what their configuration states."""

import json

import pytest

from tinyvid import CheckpointError
from tinyvid.checkpoints.layouts import reader_of


@pytest.mark.parametrize("kind", ["qwen2_vl", ["internvl"], {}, None, 3])
def test_an_unknown_type_of_model_is_named(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(CheckpointError) as error:
        reader_of(tmp_path)
    assert f"its config.json has model_type={kind!r}, which is not one of the models" in str(error.value)
