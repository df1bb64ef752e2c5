"""Arguments of programs: what Hydra sees, what a checkpoint fixes, and how user errors are reported."""

import io
import itertools
import os
import re
import subprocess
import sys
import textwrap
from functools import partial
from inspect import signature
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

from tests.runs import python
from tinyvid import ConfigError, DataError, compose
from tinyvid.command_line import FOLDERS, PATHS, PROMPTS, TEXTS, CommandLine, readable_errors
from tinyvid.config import CONF_DIR
from tinyvid.text.templates import TurnTemplate

ROOT = Path(__file__).parents[1]
AWKWARD = "it's a, b=c (1) [2] {3} #4 é 数据 ~x ${y} \\${z} \\' \\ \"q\" \n\t~"
PROGRAMS = {path.stem for path in CONF_DIR.glob("*.yaml")} - {"estimate", "train"}  # check_data includes their keys


def test_arguments_are_split():
    arguments = [
        "question=is it (a), b=c?",
        "sampler.num_frames=4",
        "--cfg",
        "job",
        "--config-dir=mine",
        "+x=1",
        "ckpt=a=b",
    ]
    line = CommandLine.parse(arguments)
    assert line.text == {"question": "is it (a), b=c?", "ckpt": "a=b"}
    assert line.overrides == ["question='is it (a), b=c?'", "++sampler.num_frames=4", "++x=1", "ckpt='a=b'"]
    assert line.flags == ["--cfg", "job", "--config-dir=mine"]


def options(path):
    """Yield the keys of a file in ``conf/`` as they are on the command line, with their comments."""
    comment, parents = "", []
    for line in path.read_text().splitlines():
        indent, name, key = re.fullmatch(r"( *)(?:([\w-]+):.*|.*)", line).group(1, 2), "", ""
        if line.strip().startswith("#"):
            comment += line.strip("# ") + " "
            continue
        if indent[1]:
            name = indent[1]
            parents = [*parents[: len(indent[0]) // 2], name]
            key = ".".join(parents if path.parent.name in ("conf", "world") else [path.parent.name, *parents])
            yield key, comment
        comment = ""


def test_every_key_of_a_file_or_a_folder_takes_text():
    """A new option that names a file must be in ``PATHS``, or in this list of options that only mention files."""
    other = {"fps", "cache.max_gib", "benchmark.name", "benchmark.split", "benchmark.bounds", "data.name", "llm.name"}
    other |= {"cache", "defaults", "video_reader.name", "video_reader.isolate"}
    other |= {f"{group}{key}" for group in ("", "benchmark.") for key in ("held_out", "group_folders", "on_error")}
    found = {}
    for path in CONF_DIR.rglob("*.yaml"):
        for key, comment in options(path):
            if key.split(".")[0] != "hydra" and re.search(r"\b(files?|folders?|director(y|ies)|URL)\b", comment):
                found[key] = path
    assert {"ckpt", "data.path", "run_dir", "benchmark.root", "vision_tower.path"} <= found.keys()
    assert not [
        f"{key} of {path}" for key, path in found.items() if key not in (*PATHS, *TEXTS, *FOLDERS) and key not in other
    ]


GROUPS = ["benchmark=custom", "judge=local", "connector=llamavid", "text_decoder=bert"]


@pytest.mark.parametrize("config", sorted(PROGRAMS))
def test_text_reaches_every_program_unchanged(config):
    known = compose(config=config)
    groups = (
        [group for group in GROUPS if group.partition("=")[0] in known or config == "eval"] if "llm" in known else []
    )
    known = compose(groups, config=config)
    keys = [key for key in (*PATHS, *TEXTS) if OmegaConf.select(known, key, default="absent") != "absent"]
    signs = itertools.cycle(["", "+", "++"])
    line = CommandLine.parse([*groups, *(f"{sign}{key}={AWKWARD}" for sign, key in zip(signs, keys, strict=False))])
    composed = compose(line.overrides, config=config)
    assert {key: OmegaConf.select(composed, key) for key in keys} == dict.fromkeys(keys, AWKWARD)


@pytest.mark.parametrize(
    ("value", "folders"),
    [
        ("[]", []),
        ("/a,b", ["/a,b"]),
        ("[/数据, ~/x ,/é (1)#'=[2]]", ["/数据", "/home/me/x", "/é (1)#'=[2]"]),
        ("""["/a,b",'/c, d']""", ["/a,b", "/c, d"]),
        ("[${now:}]", ["${now:}"]),
    ],
)
def test_lists_of_folders(monkeypatch, value, folders):
    monkeypatch.setenv("HOME", "/home/me")
    for sign in ("", "++"):
        line = CommandLine.parse([f"{sign}data.allowed_roots={value}"])
        composed = compose(line.overrides, config="train").data.allowed_roots
        assert OmegaConf.to_container(composed, resolve=True) == folders


def test_home_and_null(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    line = CommandLine.parse(["ckpt=~/a", "video=null", "question=null", "eval_path=~nobody-has-this-name/a"])
    expected = {"ckpt": "/home/me/a", "video": None, "question": "null", "eval_path": "~nobody-has-this-name/a"}
    assert line.text == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["~ckpt"], "~ckpt: only benchmark, debug, experiment, judge, model, motion, reducer can be removed; set"),
        (["~seed=0"], "~seed=0: only benchmark"),
        (["-m", "reducer=null,drop"], "reducer=null,drop: a sweep cannot include null; run reducer=null separately"),
        (["+max_new_token=4"], "unknown key 'max_new_token'. Did you mean 'max_new_tokens'"),
        (["++vidoe=a"], "unknown key 'vidoe'. Did you mean 'video'"),
        (["sampler=[a,"], "cannot be composed"),
    ],
)
def test_what_is_not_understood_is_questioned(arguments, message):
    with pytest.raises(ConfigError, match=message):
        compose(CommandLine.parse(arguments).overrides)


def test_the_last_of_several_values_counts():
    first = ["sampler=fps", "sampler.num_frames=4", "question=a", "ckpt=a", "+debug=one_batch"]
    line = CommandLine.parse([*first, "sampler=uniform", "sampler.num_frames=8", "+question=b", "~debug", "ckpt=b"])
    composed = compose(line.overrides[:3])
    assert (composed.sampler.name, composed.sampler.num_frames, composed.question) == ("uniform", 8, "b")
    assert (line.text, line.overrides[3:]) == ({"question": "b", "ckpt": "b"}, ["~debug", "ckpt='b'"])


def test_keys_that_choose_a_group():
    line = CommandLine.parse(["sampler=fps", "+sampler.fps=2", "+sampler.x=3", "samplers.y=1", "connector.depth=1"])
    assert line.chosen("sampler") == ["sampler", "sampler.fps", "sampler.x"]
    assert line.chosen("connector") == ["connector.depth"]
    assert line.chosen("llm") == []


def test_changes_to_a_checkpoint():
    line = CommandLine.parse(["sampler=uniform", "sampler.num_frames=4", "video_reader.threads=1"])
    config = compose(line.overrides)
    assert line.checkpoint_groups(config) == {
        "sampler": {"name": "uniform", "num_frames": 4, "unique": False},
        "video_reader": {"threads": 1},
    }


def test_only_the_limit_of_a_checkpoints_llm_can_change():
    line = CommandLine.parse(["llm.max_length=4096", "sampler.num_frames=4"])
    groups = line.checkpoint_groups(compose(line.overrides))
    assert groups == {"llm": {"max_length": 4096}, "sampler": {"num_frames": 4}}
    with pytest.raises(ConfigError, match="llm.rope_factor is fixed by the checkpoint"):
        CommandLine.parse(["llm.rope_factor=4"]).refuse_parts()


@pytest.mark.parametrize("override", ["llm=phi2", "connector.depth=1", "model=tinyvid_2b", "experiment=x"])
def test_what_a_checkpoint_fixes_is_refused(override):
    line = CommandLine.parse([override, "ckpt=DIR"])
    key = override.partition("=")[0]
    with pytest.raises(
        ConfigError, match=rf"{key} is fixed by ckpt='DIR'; only sampler, template, video_reader, reducer and llm"
    ):
        line.refuse_parts()
    line.refuse_parts(allow=[key.partition(".")[0]])


def test_a_preset_can_set_the_checkpoint_which_fixes_its_parts():
    line = CommandLine.parse(["model=tinyvid_shapes", "sampler.num_frames=4"])
    config = compose(line.overrides)
    assert config.ckpt == "default"
    assert line.checkpoint_groups(config) == {"sampler": {"num_frames": 4}}
    line = CommandLine.parse(["model=tinyvid_shapes", "connector=mlp"])
    with pytest.raises(ConfigError, match="connector is fixed by the checkpoint of the model preset; only sampler"):
        line.refuse_parts()


def test_the_texts_of_a_template_are_literal():
    texts = {option for option, value in signature(TurnTemplate).parameters.items() if value.annotation is str}
    assert {f"template.{option}" for option in texts} == {*PROMPTS}
    frame, system = r"Frame {i}: {video}, it's {subtitle}\n", "Be brief, [yes] ${no}."
    line = CommandLine.parse([f"template.frame={frame}", f"template.system={system}", "template.heading="])
    template = compose(line.overrides).template
    assert (template.frame, template.system, template.heading) == (frame.replace(r"\n", "\n"), system, "")
    assert CommandLine.parse(["template.system=null"]).overrides == ["template.system=null"]


def test_options_of_a_sampler_that_only_the_checkpoint_names():
    line = CommandLine.parse(["ckpt=DIR", "sampler.max_frames=4", "template.system=x"])
    groups = line.checkpoint_groups(compose(line.overrides))
    assert groups == {"sampler": {"max_frames": 4}, "template": {"system": "x"}}
    with pytest.raises(ConfigError, match=r"unknown key 'sampler.max_frames'"):
        compose(CommandLine.parse(["ckpt=DIR", "sampler=uniform", "sampler.max_frames=4"]).overrides)


def test_the_configuration_shown_with_a_checkpoint():
    """Parts that the checkpoint determines are not shown, because their values have no effect."""
    arguments = ["ckpt=it's a, b", "sampler.num_frames=4", "template=plain", "llm.max_length=99", "device=cpu"]
    config = compose(CommandLine.parse(arguments).shown())
    assert not {"vision_tower", "connector", "text_decoder", "video_reader"} & set(config)
    assert (config.llm, config.sampler) == ({"max_length": 99}, {"num_frames": 4})
    assert (config.ckpt, config.device, config.template.name) == ("it's a, b", "cpu", "turns")
    config = compose(CommandLine.parse(["ckpt=DIR", "experiment=lora_24gb"]).shown(), config="train")
    assert not {"vision_tower", "llm", "connector"} & set(config)
    assert config.sampler.name == "uniform"
    with pytest.raises(ConfigError, match="connector is fixed by ckpt='DIR'"):
        CommandLine.parse(["ckpt=DIR", "connector=mlp"]).shown()


def test_an_unknown_interpolation_is_a_user_error():
    line = CommandLine.parse(["sampler.num_frames='${nope}'"])
    with pytest.raises(ConfigError, match="sampler: Interpolation key 'nope' not found"):
        line.checkpoint_groups(compose(line.overrides))


def test_a_bare_word_is_refused_and_a_flag_keeps_its_value():
    with pytest.raises(ConfigError, match="argument 'question' has no '='; write key=value"):
        CommandLine.parse(["sampler=fps", "question"])
    line = CommandLine.parse(["--config-dir", "mine", "connector=own"])
    assert (line.flags, line.overrides) == (["--config-dir", "mine"], ["connector=own"])


def test_errors_of_tinyvid_print_one_line(capsys):
    with pytest.raises(SystemExit) as end, readable_errors():
        raise DataError("rows.jsonl:3: what is wrong")
    assert (end.value.code, capsys.readouterr().err) == (2, "DataError: rows.jsonl:3: what is wrong\n")


def test_ctrl_c_prints_one_word(capsys):
    with pytest.raises(SystemExit) as end, readable_errors():
        raise KeyboardInterrupt
    assert (end.value.code, capsys.readouterr().err) == (130, "Interrupted.\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/a"), "PermissionError: '/a': Permission denied; check its perm"),
        (OSError(28, "No space left on device"), "OSError: No space left on device; free some space"),
        (OSError(36, "File name too long", "xx"), "OSError: 'xx': File name too long; choose a shorter path"),
        (IsADirectoryError(21, "Is a directory", "\x1b[2J"), r"IsADirectoryError: '\x1b[2J': Is a directory; give a"),
        (FileExistsError(17, "File exists", "runs/a"), "FileExistsError: 'runs/a': File exists; choose another path"),
        (OSError("cannot load a file\nsecond line"), "OSError: cannot load a file; TINYVID_DEBUG=1 shows"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "OutOfMemoryError: CUDA out of memory. Tried; lower"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you"), "OutOfMemoryError: DefaultCPUAllocator: not en"),
        (MemoryError(), "OutOfMemoryError: no message; lower batch_size="),
        (RecursionError("maximum recursion depth"), "RecursionError: maximum recursion depth; a file is damaged"),
        (ModuleNotFoundError("No module named 'wandb'"), "ModuleNotFoundError: No module named 'wandb'; install"),
        (InterpolationKeyError("Interpolation key 'x' not found"), "ConfigError: Interpolation key 'x' not found"),
        (
            DataError("Caught it.\nOriginal Traceback (most recent call last):\n  x\nDataError: row 3"),
            "DataError: row 3",
        ),
    ],
)
def test_what_a_user_can_change_is_one_line_and_status_2(error, line, capsys):
    with pytest.raises(SystemExit) as end, readable_errors():
        raise error
    printed = capsys.readouterr().err
    assert (end.value.code, printed.count("\n")) == (2, 1)
    assert printed.startswith(line)


def test_an_error_in_a_library_is_no_bug_of_tinyvid(capsys, tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(SystemExit) as end, readable_errors():
        OmegaConf.load(tmp_path / "broken.yaml")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("ParserError in omegaconf: while parsing a flow node; ")


def test_a_bug_is_one_line_and_status_1_and_has_a_traceback_on_request(capsys, monkeypatch):
    with pytest.raises(SystemExit) as end, readable_errors():
        1 / 0  # noqa: B018
    printed = capsys.readouterr().err
    assert (end.value.code, printed.count("\n")) == (1, 1)
    assert printed.startswith("ZeroDivisionError: division by zero. This is a bug: please report it with the traceback")
    monkeypatch.setenv("TINYVID_DEBUG", "1")
    with pytest.raises(SystemExit), readable_errors():
        1 / 0  # noqa: B018
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.fixture
def program(tmp_path):
    """Write a minimal program to an empty folder."""
    path = tmp_path / "program.py"
    path.write_text(
        textwrap.dedent("""
        from hydra.core.hydra_config import HydraConfig
        from tinyvid.command_line import run_hydra

        def task(config, line):
            print(HydraConfig.get().job.name, config.connector.name, config.max_new_tokens, config.question)

        run_hydra(task, config="eval")
        """)
    )

    return partial(python, path, cwd=tmp_path)


@pytest.mark.slow
def test_a_program_runs_once_and_under_its_own_name(program):
    done = program("connector=mlp", "question=a, (b) = c")
    assert done.stdout == "program mlp 128 a, (b) = c\n", done.stderr


@pytest.mark.slow
def test_a_sweep_runs_once_per_combination(program, tmp_path):
    done = program("-m", "connector=group,naive", "max_new_tokens=1,2", f"hydra.sweep.dir={tmp_path}/sweep")
    lines = [line for line in done.stdout.splitlines() if line.startswith("program")]
    assert [line.split()[1:3] for line in lines] == [["group", "1"], ["group", "2"], ["naive", "1"], ["naive", "2"]]


@pytest.mark.slow
def test_text_survives_a_sweep(program, tmp_path):
    done = program("-m", f"run_dir={tmp_path}/{AWKWARD}", "question=choice(1,2)", f"video={AWKWARD}", "seed=1,2")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("program")]
    assert [line.split()[-1] for line in lines] == ["1", "1", "2", "2"]
    assert (tmp_path / AWKWARD.replace("/", "") / "3").is_dir()


@pytest.mark.slow
def test_configurations_of_a_user_are_found(program, tmp_path):
    (tmp_path / "mine" / "connector").mkdir(parents=True)
    (tmp_path / "mine" / "connector" / "own.yaml").write_text("name: group\nnum_queries: 8\n")
    done = program("--config-dir", "mine", "connector=own")
    assert done.stdout.startswith("program group"), done.stderr


def test_a_user_error_is_reported_before_hydra_runs(program):
    done = program("connector=grup")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ConfigError: connector=grup: unknown option. Did you mean 'group'?")


def test_an_experiment_changes_a_checkpoint():
    line = CommandLine.parse(["experiment=frames_per_second"])
    groups = line.checkpoint_groups(compose(line.overrides), allow=("experiment",))
    assert set(groups) == {"sampler", "template", "video_reader"}
    assert groups["sampler"]["name"] == "fps"


@pytest.mark.slow
def test_a_program_destroys_its_process_group(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(
        textwrap.dedent("""
        from torch import distributed
        from tinyvid.command_line import run_hydra

        def task(config, line):
            distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)

        run_hydra(task, config="eval")
        print(distributed.is_initialized())
        """)
    )
    done = python(path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


@pytest.mark.slow
def test_a_program_hides_only_messages_of_libraries(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(
        textwrap.dedent("""
        import logging, warnings
        from tinyvid.command_line import run_hydra

        def task(config, line):
            logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
            logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "no")
            logger.warning("something else")
            warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed in v6.", FutureWarning)
            warnings.warn("another thing", FutureWarning)

        run_hydra(task, config="eval")
        """)
    )
    done = subprocess.run([sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "gemm_4bit" not in done.stderr
    assert "is_gradient_checkpointing" not in done.stderr
    assert "something else\n" in done.stderr
    assert "FutureWarning: another thing" in done.stderr


@pytest.mark.slow
def test_a_closed_pipe_ends_help_without_a_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, ROOT / "eval.py", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120
    )
    os.close(writer)
    assert done.stderr == ""


def test_characters_that_a_terminal_lacks_are_replaced(monkeypatch):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="cp1252"))
    with readable_errors():
        sys.stdout.write("é 数据\n")
    assert output.getvalue() == "é ??\n".encode("cp1252")


@pytest.mark.slow
def test_a_closed_pipe_ends_a_program_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    code = "from tinyvid.command_line import readable_errors\nwith readable_errors():\n    print('a' * 100_000)"
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
