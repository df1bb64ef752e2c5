"""Random command lines of every program end with an answer or with one line, and run no code that they name."""

import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.goldens import TINYLLAVA_VIDEO
from tests.runs import load_program
from tests.test_command_line import options
from tests.test_eval_script import load_script
from tinyvid.command_line import run_hydra
from tinyvid.config import CONF_DIR, _groups

EXAMPLES = int(os.environ.get("TINYVID_FUZZ", "8"))  # 300 takes minutes
CKPT = TINYLLAVA_VIDEO / "group_qwen2"
TINY = ["debug=one_batch", "recipe.max_steps=1", "run_dir=run"]
# Valid command lines, which random arguments change.
BASES = {
    "check_data": [*TINY, "workers=0", "out=out"],
    "compare": ["runs=run", "out=out"],
    "estimate": TINY,
    "eval": ["ckpt=default", "question=Q?", "device=cpu", "max_new_tokens=1"],
    "export": [f"ckpt={CKPT}", "out=out"],
    "export_vlmevalkit": ["run=run", "name=a", "out=out"],
    "make_world": ["out=out", "clips=1", "seconds=[1.0]"],
    "train": TINY,
}
FORBIDDEN = "canary"
HOSTILE = [
    *("", "null", "true", "-1", "0", "3", "1e400", "nan", "[]", "{}", "[1,2]", "{a: 1}", "???", "~", "/", ".", "a,b"),
    *("${x}", "${oc.env:HOME}", "${oc.env:HOME", "${now:%Y}", "${choices:eval}", "'", '"', "\\", "[[", "{{", "a=b"),
    *("default", "uniform", "mlp", "shapes", "custom", "cpu", "x.mp4", "\x1b[2J", "\udcff", "1" * 400, "é 数据"),
    f"{{_target_: pathlib.Path.touch, self: {FORBIDDEN}}}",
    f"{{name: {{_target_: os.mkdir, path: {FORBIDDEN}}}}}",
    f"{{name: os.mkdir, path: {FORBIDDEN}}}",
]
VALUES = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(exclude_characters="\x00", codec=None), max_size=9),
    st.integers(-5, 40).map(str),
)


def keys(name):
    """Return the keys of a program and of the options of its groups, without those that only take time."""
    files = [
        CONF_DIR / f"{name}.yaml",
        *(file for group in _groups(name) for file in (CONF_DIR / group).glob("*.yaml")),
    ]
    found = {key for file in files for key, _ in options(file)} | {
        *_groups(name),
        *(b.split("=")[0] for b in BASES[name]),
    }
    return sorted(
        key for key in found if not key.startswith(("hydra", "defaults", "debug.", "experiment.", "benchmark"))
    )


def overrides(name):
    key = st.sampled_from([*keys(name), "a", "a.b", "sampler@a", "/", ":", "++a", ""])
    sign = st.sampled_from(["", "", "", "", "", "+", "++", "~"])
    return st.lists(st.builds("{}{}={}".format, sign, key, VALUES), min_size=1, max_size=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BASES))
def test_no_command_line_ends_with_a_traceback(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = load_script() if name == "eval" else load_program(name)
    main = program.run if name == "eval" else program.main

    @settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=-(-EXAMPLES // len(BASES)))
    @given(given_arguments=overrides(name))
    def check(given_arguments):
        own = {re.sub(r"^[+~]*|=.*", "", argument) for argument in given_arguments}
        base = [argument for argument in BASES[name] if argument.partition("=")[0] not in own]
        sys.argv = [f"{name}.py", *base, *given_arguments]
        status = 0
        try:
            run_hydra(main, config=name)
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr().err
        assert status in ((0, 1, 2) if name == "check_data" else (0, 2)), printed
        assert "Traceback" not in printed
        assert "This is a bug" not in printed
        assert not [path for path in Path().rglob("*") if path.name == FORBIDDEN]

    monkeypatch.setattr(sys, "argv", [])
    check()
