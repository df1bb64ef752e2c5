"""Arguments of programs: what Hydra sees, what a checkpoint fixes, and how user errors are reported."""

import os
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest

from tests.runs import python
from tinyvid import ConfigError, DataError, compose
from tinyvid.command_line import CommandLine, readable_errors

ROOT = Path(__file__).parents[1]


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
    line = CommandLine.parse(arguments, free_text=("question", "ckpt"))
    assert line.text == {"question": "is it (a), b=c?", "ckpt": "a=b"}
    assert line.overrides == ["sampler.num_frames=4", "+x=1"]
    assert line.flags == ["--cfg", "job", "--config-dir=mine"]


def test_keys_that_choose_a_group():
    line = CommandLine.parse(["sampler=fps", "+sampler.fps=2", "~sampler.x", "samplers.y=1", "connector.depth=1"])
    assert line.chosen("sampler") == ["sampler", "sampler.fps"]
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
    line = CommandLine.parse([override, "ckpt=DIR"], free_text=("ckpt",))
    key = override.partition("=")[0]
    with pytest.raises(
        ConfigError, match=rf"{key} is fixed by ckpt='DIR'; only sampler, template, video_reader and llm"
    ):
        line.refuse_parts()
    line.refuse_parts(allow=[key.partition(".")[0]])


def test_a_preset_can_set_the_checkpoint_which_fixes_its_parts():
    line = CommandLine.parse(["model=tinyvid_shapes", "sampler.num_frames=4"])
    config = compose(line.overrides)
    assert line.checkpoint(config) == "default"
    assert line.checkpoint_groups(config) == {"sampler": {"num_frames": 4}}
    line = CommandLine.parse(["model=tinyvid_shapes", "connector=mlp"])
    with pytest.raises(ConfigError, match="connector is fixed by the checkpoint of the model preset; only sampler"):
        line.refuse_parts()
    assert CommandLine.parse(["ckpt=DIR"], free_text=("ckpt",)).checkpoint(config) == "DIR"


def test_the_configuration_shown_with_a_checkpoint():
    """Parts that the checkpoint determines are not shown, because their values have no effect."""
    arguments = ["ckpt=it's a, b", "sampler.num_frames=4", "template=plain", "llm.max_length=99", "device=cpu"]
    config = compose(CommandLine.parse(arguments, free_text=("ckpt",)).shown())
    assert not {"vision_tower", "connector", "text_decoder", "video_reader"} & set(config)
    assert (config.llm, config.sampler) == ({"max_length": 99}, {"num_frames": 4})
    assert (config.ckpt, config.device, config.template.name) == ("it's a, b", "cpu", "turns")
    config = compose(
        CommandLine.parse(["ckpt=DIR", "experiment=lora_24gb"], free_text=("ckpt",)).shown(), config="train"
    )
    assert not {"vision_tower", "llm", "connector"} & set(config)
    assert config.sampler.name == "uniform"
    with pytest.raises(ConfigError, match="connector is fixed by ckpt='DIR'"):
        CommandLine.parse(["ckpt=DIR", "connector=mlp"], free_text=("ckpt",)).shown()


def test_an_unknown_interpolation_is_a_user_error():
    line = CommandLine.parse(["template.system='${nope}'"])
    with pytest.raises(ConfigError, match="template: Interpolation key 'nope' not found"):
        line.checkpoint_groups(compose(line.overrides))


def test_a_bare_word_is_refused_and_a_flag_keeps_its_value():
    with pytest.raises(ConfigError, match="argument 'question' has no '='; write key=value"):
        CommandLine.parse(["sampler=fps", "question"], free_text=("question",))
    line = CommandLine.parse(["--config-dir", "mine", "connector=own"])
    assert (line.flags, line.overrides) == (["--config-dir", "mine"], ["connector=own"])


def test_errors_of_tinyvid_print_one_line(capsys):
    with pytest.raises(SystemExit) as end, readable_errors():
        raise DataError("rows.jsonl:3: what is wrong")
    assert (end.value.code, capsys.readouterr().err) == (2, "DataError: rows.jsonl:3: what is wrong\n")


def test_ctrl_c_prints_one_word(capsys):
    with pytest.raises(SystemExit) as end, readable_errors():
        raise KeyboardInterrupt
    assert (end.value.code, capsys.readouterr().err) == (130, "interrupted\n")


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), readable_errors():
        1 / 0  # noqa: B018


@pytest.fixture
def program(tmp_path):
    """Write a minimal program to an empty folder."""
    path = tmp_path / "program.py"
    path.write_text(
        textwrap.dedent("""
        from hydra.core.hydra_config import HydraConfig
        from tinyvid.command_line import run_hydra

        def task(config, line):
            print(HydraConfig.get().job.name, config.connector.name, config.get("max_new_tokens"), line.text)

        run_hydra(task, config="eval", free_text=("question",))
        """)
    )

    return partial(python, path, cwd=tmp_path)


@pytest.mark.slow
def test_a_program_runs_once_and_under_its_own_name(program):
    done = program("connector=mlp", "question=a, (b) = c")
    assert done.stdout == "program mlp 128 {'question': 'a, (b) = c'}\n", done.stderr


@pytest.mark.slow
def test_a_sweep_runs_once_per_combination(program, tmp_path):
    done = program("-m", "connector=group,naive", "max_new_tokens=1,2", f"hydra.sweep.dir={tmp_path}/sweep")
    lines = [line for line in done.stdout.splitlines() if line.startswith("program")]
    assert [line.split()[1:3] for line in lines] == [["group", "1"], ["group", "2"], ["naive", "1"], ["naive", "2"]]


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
