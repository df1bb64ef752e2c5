"""Composition: precedence, and the error messages of wrong overrides."""

import inspect
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from hydra import initialize_config_dir

from tinyvid import Assistant, ConfigError, compose
from tinyvid.build import REGISTRIES, check
from tinyvid.config import CONF_DIR, choices
from tinyvid.training import TrainOptions, read_recipe

OPTION_FILES = sorted(path for kind in REGISTRIES for path in (CONF_DIR / kind).glob("*.yaml"))
PRESETS = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml"))
MARKED = sorted(path for path in CONF_DIR.rglob("*.yaml") if "# (expert) " in path.read_text())
RECIPES = sorted(path for path in (CONF_DIR / "recipe").glob("*.yaml") if path.stem != "default")
EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))


def test_command_line_overrides_model_preset():
    config = compose(["connector=mlp", "model=tinyvid_3_3b_phi"])
    assert (config.llm.name, config.connector.name) == ("phi2", "mlp")


def test_model_preset_overrides_defaults_and_experiment_overrides_both():
    assert compose(["model=tinyvid_2b"]).llm.path == "Qwen/Qwen2.5-1.5B"
    config = compose(["experiment=frames_per_second"])
    assert (config.llm.path, config.sampler.name) == ("Qwen/Qwen2.5-3B", "fps")
    config = compose(["experiment=frames_per_second", "sampler=uniform", "sampler.num_frames=8"])
    assert (config.sampler.name, config.sampler.num_frames) == ("uniform", 8)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train", "estimate", "check_data"])
def test_an_experiment_overrides_the_defaults_of_a_program(program):
    config = compose(["experiment=qlora_12gb"], config=program)
    assert (config.quant, config.dtype, config.recipe.optimizer) == ("nf4", "bfloat16", "paged_adamw_8bit")
    assert compose(["experiment=qlora_12gb", "quant=int8"], config=program).quant == "int8"
    assert compose(["experiment=lora_24gb"], config=program).dtype == "bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["connector=grup"], r"connector=grup: unknown option. Did you mean 'group'\? Available: .*mlp"),
        (["connector.num_querys=3"], r"unknown key 'connector.num_querys'. Did you mean 'num_queries'\?"),
        (["conector=group"], r"Did you mean 'connector'\?"),
        (["modle=tinyvid_2b"], r"unknown key 'modle'. Did you mean 'model'\?"),
        (["benchmrk=shapes"], r"unknown key 'benchmrk'. Did you mean 'benchmark'\?"),
        (["max_new_token=3"], r"unknown key 'max_new_token'. Did you mean 'max_new_tokens'\?"),
        (["connector.group.x=3"], "connector.group"),
        (["connector=mlp", "connector.num_queries=3"], "unknown key 'connector.num_queries'. Available: "),
        (["connector="], r"^connector=: unknown option. Available: .*mlp"),
        (["reducer={name: drop}"], "^reducer= takes one name, such as reducer=drop; set options by reducer.KEY=VALUE"),
        (["a b"], "cannot be composed"),
        (["connector=null"], "cannot be composed: Config group override must be a string"),
    ],
)
def test_a_wrong_override_names_the_key_and_the_closest_name(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose(overrides)


@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_an_option_file_lists_every_option_with_its_default(path):
    """Users read the YAML to find options; a file with the name of its entry shows the entry's defaults."""
    registry = REGISTRIES[path.parent.name]
    config = yaml.safe_load(path.read_text())
    config.pop("defaults", None)  # other groups that an option adds
    parameters = {**inspect.signature(registry.get(config["name"])).parameters, **registry.outer_options()}
    options = [name for name in parameters if name not in registry.runtime]
    assert (next(iter(config)), sorted(config)) == ("name", sorted(["name", *options]))
    registry.check({key: "x" if value == "???" else value for key, value in config.items()})
    if path.stem == config["name"]:
        for name in options:
            default = parameters[name].default
            default = [*default] if isinstance(default, tuple) else default
            assert config[name] == ("???" if default is inspect.Parameter.empty else default), name


@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_an_option_file_comments_every_option(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert sum(line.startswith("#") for line in lines) >= 2


@pytest.mark.parametrize("path", MARKED, ids=lambda p: str(p.relative_to(CONF_DIR)))
def test_options_for_experts_are_marked_and_come_last(path):
    """The comment of such an option begins with the mark; ``hydra`` configures Hydra, not the program."""
    lines = path.read_text().partition("\nhydra:")[0].splitlines()
    first = [line for before, line in zip(["", *lines], lines, strict=False) if not before.startswith("#")]
    comments = [line for line in first[1:] if line.startswith("# ")]
    marked = [line.startswith("# (expert) ") for line in comments]
    assert marked == sorted(marked), "an everyday option stands behind one for experts"
    assert sum("(expert)" in line for line in lines if "Comments that begin" not in line) == sum(marked)


def test_the_default_recipe_lists_every_option_with_its_default():
    """Other recipes list only their changes, so only this file must match the signature."""
    config = yaml.safe_load((CONF_DIR / "recipe" / "default.yaml").read_text())
    options, parts = read_recipe(config)
    assert set(config) == {*parts, *(option.name for option in fields(TrainOptions))}
    assert replace(options, report_to=()) == TrainOptions()
    assert {part: config[part]["train"] for part in parts if config[part]["train"] != "frozen"} == {"connector": "full"}


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_lists_only_its_changes(path):
    default, recipe = (yaml.safe_load((path.with_stem(stem)).read_text()) for stem in ("default", path.stem))
    assert recipe.pop("defaults") == ["default", "_self_"]
    for key, value in recipe.items():
        assert {**default[key], **value} != default[key] if isinstance(value, dict) else value != default[key], key
    read_recipe(compose([f"recipe={path.stem}"], config="train").recipe)


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_registered_name_has_an_option_file(kind):
    names = {yaml.safe_load(path.read_text())["name"] for path in OPTION_FILES if path.parent.name == kind}
    assert names == set(REGISTRIES[kind].names())


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_model_presets_compose_and_set_no_values(name):
    check(compose([f"model={name}"]))
    content = yaml.safe_load((CONF_DIR / "model" / f"{name}.yaml").read_text())
    assert content.keys() <= {"defaults", "ckpt"}, "a value set by a preset would leak into another choice of the group"


@pytest.mark.slow
def test_the_default_is_the_default_model():
    config = compose()
    assert config == compose(["model=tinyvid_shapes"])
    assert config.ckpt == "default"
    loaded = Assistant.from_pretrained(device="meta")
    assert check(config) == loaded.config
    assert Assistant.from_config(config, device="meta").config == loaded.config


@pytest.mark.slow
@pytest.mark.parametrize("own", ["connector=mlp", "connector.num_queries=256", "llm.path=DIR", "+text_decoder=bert"])
def test_choosing_a_part_composes_a_new_model(own):
    """The weights of the default model would not fit other parts."""
    config = compose([own])
    assert (config.ckpt, config.vision_tower.path) == (None, "google/siglip-base-patch16-224")


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["sampler.num_frames=4", "template=plain", "video_reader=pyav", "llm.max_length=512"])
def test_an_option_that_a_checkpoint_does_not_fix_keeps_the_default_model(kept):
    assert compose([kept]).ckpt == "default"


@pytest.mark.slow
def test_the_configuration_of_a_checkpoint_is_loaded_and_other_parts_are_refused():
    config = compose(["model=tinyvid_shapes", "sampler.num_frames=4", "llm.max_length=900"])
    assistant = Assistant.from_config(config, device="cpu")
    shipped = Assistant.from_pretrained(device="cpu").model.connector.state_dict()
    assert all(torch.equal(value, shipped[key]) for key, value in assistant.model.connector.state_dict().items())
    assert assistant.config["sampler"]["num_frames"] == 4
    assert assistant.processor.max_length == 900
    with pytest.raises(ConfigError, match="connector differs from the one in ckpt='default'"):
        Assistant.from_config(compose(["model=tinyvid_shapes", "connector=mlp"]), device="meta")


def listed(program: str) -> dict[str, list[str]]:
    with initialize_config_dir(config_dir=str(CONF_DIR), version_base="1.3"):
        lines = choices(program).splitlines()
    return {group: options.split(", ") for group, _, options in (line.partition(": ") for line in lines)}


@pytest.mark.slow
@pytest.mark.parametrize("program", ["eval", "train", "check_data", "estimate"])
def test_help_lists_only_the_groups_of_a_program(program):
    found = listed(program)
    parts = {"llm", "vision_tower", "motion", "connector", "text_decoder", "reducer"}
    parts |= {"sampler", "template", "video_reader"}
    own = {"judge"} if program == "eval" else {"data", "peft", "recipe", "debug"}
    assert set(found) == parts | {"model", "experiment", "benchmark"} | own
    for group in {"judge", "data", "peft", "recipe"} - set(found):
        with pytest.raises(ConfigError, match=f"unknown key '{group}'"):
            compose([f"{group}=x"], config=program)


@pytest.mark.slow
def test_help_lists_the_experiments_of_a_program():
    assert listed("eval")["experiment"] == ["frames_per_second"]
    found = listed("train")["experiment"]
    assert [name for name in found if "/" not in name] == EXPERIMENTS
    assert "connectors/mlp" in found


@pytest.mark.slow
@pytest.mark.parametrize("program", ["compare", "export", "export_vlmevalkit"])
def test_a_program_without_groups_lists_none(program):
    assert not {path.name for path in CONF_DIR.iterdir() if path.is_dir()} & set(compose(config=program))
    text = (CONF_DIR / f"{program}.yaml").read_text()
    assert "choices:" not in text
    assert "APP_CONFIG_GROUPS" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_compose(name):
    check(compose([f"experiment={name}"], config="train"))


@pytest.mark.slow
def test_debugging_overrides_an_experiment():
    config = compose(["debug=two_steps", "experiment=qlora_12gb", "data.path=x"], config="train")
    assert (config.recipe.max_steps, config.recipe.accumulate, config.quant) == (2, 1, "nf4")
    assert compose(["debug=two_steps", "recipe.max_steps=3"], config="train").recipe.max_steps == 3


def test_an_experiment_of_another_program_is_refused():
    with pytest.raises(ConfigError, match="experiment=lora_24gb sets 'recipe', which this program does not have"):
        compose(["experiment=lora_24gb"])


def test_conf_is_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(CONF_DIR).is_absolute()
    assert compose(["connector=group"]).connector.name == "group"
