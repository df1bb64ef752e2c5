"""Composition: who beats whom, and what a mistyped override says."""

import inspect
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from tinyvid import ConfigError, compose
from tinyvid.build import REGISTRIES, check
from tinyvid.config import CONF_DIR
from tinyvid.training import TrainOptions, read_recipe

OPTION_FILES = sorted(path for kind in REGISTRIES for path in (CONF_DIR / kind).glob("*.yaml"))
PRESETS = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml"))
RECIPES = sorted(path for path in (CONF_DIR / "recipe").glob("*.yaml") if path.stem != "default")
EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))


def test_command_line_beats_model_preset():
    config = compose(["connector=mlp", "model=tinyvid_3_3b_phi"])
    assert (config.llm.name, config.connector.name) == ("phi2", "mlp")


def test_model_preset_beats_defaults_and_experiment_beats_both():
    assert compose(["model=tinyvid_2b"]).llm.path == "Qwen/Qwen2.5-1.5B"
    config = compose(["experiment=frames_per_second"])
    assert (config.llm.path, config.sampler.name) == ("Qwen/Qwen2.5-3B", "fps")
    config = compose(["experiment=frames_per_second", "sampler=uniform", "sampler.num_frames=8"])
    assert (config.sampler.name, config.sampler.num_frames) == ("uniform", 8)


@pytest.mark.parametrize("program", ["train", "estimate", "check_data"])
def test_what_an_experiment_sets_beats_what_a_program_takes_by_default(program):
    config = compose(["experiment=qlora_12gb"], config=program)
    assert (config.quant, config.dtype, config.recipe.optimizer) == ("nf4", "bfloat16", "paged_adamw_8bit")
    assert compose(["experiment=qlora_12gb", "quant=int8"], config=program).quant == "int8"
    assert compose(["experiment=lora_24gb"], config=program).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["connector=grup"], r"connector=grup: unknown option. Did you mean 'group'\? Available: .*mlp"),
        (["connector.num_querys=3"], r"unknown key 'connector.num_querys'. Did you mean 'num_queries'\?"),
        (["conector=group"], r"Did you mean 'connector'\?"),
        (["max_new_token=3"], r"unknown key 'max_new_token'. Did you mean 'max_new_tokens'\?"),
        (["connector.group.x=3"], "connector.group"),
        (["connector=mlp", "connector.num_queries=3"], "unknown key 'connector.num_queries'. Available: "),
        (["a b"], "cannot be composed"),
        (["connector=null"], "cannot be composed: Config group override must be a string"),
    ],
)
def test_a_wrong_override_names_the_key_and_the_nearest_name(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose(overrides)


@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_an_option_file_lists_every_option_with_its_default(path):
    """A user reads the YAML to learn the options; a file named like its entry shows the entry's own defaults."""
    registry = REGISTRIES[path.parent.name]
    config = yaml.safe_load(path.read_text())
    config.pop("defaults", None)  # of other groups, which a choice brings along
    parameters = inspect.signature(registry.get(config["name"])).parameters
    options = [name for name in parameters if name not in registry.runtime]
    assert list(config) == ["name", *options]
    registry.check({key: "x" if value == "???" else value for key, value in config.items()})
    if path.stem == config["name"]:
        for name in options:
            default = parameters[name].default
            assert config[name] == ("???" if default is inspect.Parameter.empty else default), name


@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_an_option_file_comments_every_option(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert sum(line.startswith("#") for line in lines) >= 2


def test_the_default_recipe_lists_every_option_with_its_default():
    """The other recipes are deltas, so that this file alone follows the signature."""
    config = yaml.safe_load((CONF_DIR / "recipe" / "default.yaml").read_text())
    options, parts = read_recipe(config)
    assert set(config) == {*parts, *(option.name for option in fields(TrainOptions))}
    assert replace(options, report_to=()) == TrainOptions()
    assert {part: config[part]["train"] for part in parts if config[part]["train"] != "frozen"} == {"connector": "full"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_states_what_it_changes_and_no_more(path):
    default, recipe = (yaml.safe_load((path.with_stem(stem)).read_text()) for stem in ("default", path.stem))
    assert recipe.pop("defaults") == ["default", "_self_"]
    for key, value in recipe.items():
        assert {**default[key], **value} != default[key] if isinstance(value, dict) else value != default[key], key
    read_recipe(compose([f"recipe={path.stem}"], config="train").recipe)


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_registered_name_has_an_option_file(kind):
    names = {yaml.safe_load(path.read_text())["name"] for path in OPTION_FILES if path.parent.name == kind}
    assert names == set(REGISTRIES[kind].names())


@pytest.mark.parametrize("name", PRESETS)
def test_model_presets_compose_and_set_no_values(name):
    check(compose([f"model={name}"]))
    content = yaml.safe_load((CONF_DIR / "model" / f"{name}.yaml").read_text())
    assert list(content) == ["defaults"], "a value set by a preset would leak into another choice of the group"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_compose(name):
    check(compose([f"experiment={name}"], config="train"))


def test_an_experiment_of_another_program_is_refused():
    with pytest.raises(ConfigError, match="experiment=lora_24gb sets 'recipe', which this program does not have"):
        compose(["experiment=lora_24gb"])


def test_conf_is_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(CONF_DIR).is_absolute()
    assert compose(["connector=group"]).connector.name == "group"
