"""``recipes/estimate.py``: counts match a real model, and the advice makes a run fit."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from tests.factories import tiny_overrides
from tests.goldens import FAMILIES, TINYLLAVA_VIDEO
from tests.llamavid import save_tokenizer
from tests.runs import load_program, python
from tests.towers import TOWERS, save_siglip
from tinyvid import Assistant, CheckpointError, ConfigError, compose
from tinyvid.command_line import CommandLine
from tinyvid.config import CHANGEABLE, CONF_DIR, PARTS as GROUPS
from tinyvid.diagnostics.estimate import advise, changed, estimate
from tinyvid.diagnostics.memory import activation_bytes, logits_bytes, optimizer_bytes, weight_bytes
from tinyvid.models.video_llm import PARTS
from tinyvid.training import read_recipe
from tinyvid.training.trainable import PartOptions, PeftOptions, apply

pytestmark = pytest.mark.slow

program = load_program("estimate")
UNCHANGED = dict.fromkeys((*CHANGEABLE, *GROUPS))  # of a checkpoint


def settings(*overrides):
    return OmegaConf.to_container(compose(list(overrides), config="estimate"), resolve=True)


def tiny(models, *overrides, **kwargs):
    return settings(*tiny_overrides(models, **kwargs), "peft.rank=4", "dtype=float32", *overrides)


def really(models, *overrides, quant="none", **kwargs):
    """Build and prepare the same model with weights."""
    config = tiny(models, *overrides, **kwargs)
    options, parts = read_recipe(config["recipe"])
    assistant = Assistant.from_config(config, device="cpu", dtype=config["dtype"], quant=quant)
    return assistant.model, apply(assistant.model, parts, PeftOptions(**config["peft"]), lr=options.lr)


RUNS = {
    "lora": [],
    "dora of everything": ["peft.use_dora=true", "recipe.vision_tower.train=lora", "recipe.connector.train=lora"],
    "targets": ["peft.targets=[q_proj,v_proj]"],
    "full": ["recipe=finetune"],
    "align": ["recipe=align", "connector=mlp", "~connector.num_queries", "~connector.num_groups"],
    "from a layer": ["recipe=finetune", "recipe.llm.from_layer=1", "recipe.vision_tower.train=full"],
    "bfloat16": ["dtype=bfloat16"],
}


@pytest.mark.slow
@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("family", ["qwen2", "phi"])
def test_counts_and_bytes_equal_those_of_a_real_model(models, overrides, family):
    connector = "mlp" if "connector=mlp" in overrides else "group"
    overrides = [override for override in overrides if "connector." not in override or "recipe" in override]
    model, reports = really(models, *overrides, family=family, connector=connector)
    found = estimate(tiny(models, *overrides, family=family, connector=connector))
    assert found.parts == reports
    for part in PARTS:
        assert found.memory.weights[part] == sum(p.nbytes for p in model.get_submodule(part).parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    assert found.memory.gradients == sum(p.grad.nbytes for p in trained)
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    moments = [s[key] for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert found.memory.optimizer == sum(moment.nbytes for moment in moments)


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_quantized_weights_are_counted_to_the_byte(models, quant):
    model, reports = really(models, quant=quant)
    found = estimate(tiny(models, f"quant={quant}"))
    assert found.parts[0].trainable == reports[0].trainable
    assert found.parts[0].how == "qlora"
    total = 0
    for parameter in model.llm.parameters():
        total += parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            nested = state.state2
            tables = (state.absmax, state.code, state.offset, nested.absmax, nested.code)
            total += sum(table.nbytes for table in tables)
        if getattr(parameter, "SCB", None) is not None:
            total += parameter.SCB.nbytes
    assert found.memory.weights["llm"] == total


@pytest.mark.parametrize("tower", TOWERS)
def test_every_kind_of_tower_is_measured_without_weights(models, tmp_path, tower):
    parts = [x for x in tiny_overrides(models) if not x.startswith("vision_tower")]
    option = {
        "siglip": "siglip_base_224",
        "clip": "clip_vit_b16_224",
        "internvit": "internvit_300m_448",
        "timm": "timm_siglip_base_224",
        "open_clip": "open_clip_siglip_base_224",
    }
    path = TOWERS[tower](tmp_path / tower)
    config = settings(*parts, f"vision_tower={option[tower]}", f"vision_tower.path={path}", "dtype=float32")
    real = Assistant.from_config(config, device="cpu").model.vision_tower
    assert estimate(config).parts[1].parameters == sum(p.numel() for p in real.parameters())


SIZES = {  # parameters according to the models' cards and papers
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b_instruct": 1_543_714_304,
    "qwen2_5_3b": 3_085_938_688,
    "phi2": 2_779_683_840,
    "qwen3_0_6b": 596_049_920,
    "qwen3_4b_instruct_2507": 4_022_468_096,
    "smollm2_135m_instruct": 134_515_008,
    "smollm3_3b": 3_075_098_624,
    "llama3_2_3b_instruct": 3_212_749_824,
    "gemma3_270m_it": 268_098_176,
    "phi4_mini_instruct": 3_836_021_760,
    "lfm2_350m": 354_483_968,
    "siglip_base_224": 92_884_224,
    "siglip_so400m_384": 428_225_600,
}


@pytest.mark.slow
@pytest.mark.parametrize("group", ["llm", "vision_tower"])
def test_every_shipped_option_is_known_offline(group):
    for file in sorted((CONF_DIR / group).glob("*.yaml")):
        if file.stem != "auto" and "tiny" not in file.stem:  # the default model's parts are included in tinyvid
            found = estimate(settings(f"{group}={file.stem}", "recipe=align"))
            number = found.parts[PARTS.index(group)].parameters
            assert number == SIZES.get(file.stem, number), file.stem
            assert number > 3_000_000, file.stem


def test_an_unknown_model_of_the_hub_is_an_error():
    with pytest.raises(CheckpointError, match="nobody/nothing"):
        estimate(settings("llm=auto", "llm.path=nobody/nothing"))


@pytest.mark.slow
def test_numbers_of_the_model_on_one_gpu():
    found = estimate(settings("model=tinyvid_3_6b", "dtype=bfloat16"))
    assert (found.tokens.frames, found.tokens.video, found.tokens.length) == (16, 512, 662)
    assert found.parts[0].trainable == 29_933_568
    assert found.memory.weights["vision_tower"] / 1e9 == pytest.approx(0.86, abs=0.01)
    quantized = estimate(settings("model=tinyvid_3_6b", "dtype=bfloat16", "quant=nf4"))
    adapter = found.parts[0].trainable * 4
    assert (found.memory.weights["llm"] - adapter) / 1e9 == pytest.approx(6.17, abs=0.01)
    assert (quantized.memory.weights["llm"] - adapter) / 1e9 == pytest.approx(2.05, abs=0.02)


@pytest.mark.parametrize(
    ("overrides", "frames", "video"),
    [
        (["sampler=uniform", "sampler.num_frames=8"], 8, 512),
        (["sampler=fps", "sampler.fps=2"], 20, 512),
        (["sampler=fps", "sampler.fps=2", "connector=mlp", "vision_tower=siglip_base_224"], 20, 20 * 196),
    ],
)
def test_tokens_follow_sampler_and_connector(overrides, frames, video):
    tokens = estimate(settings(*overrides, "duration=10", "recipe=align", "text_tokens=100")).tokens
    assert (tokens.frames, tokens.video, tokens.length) == (frames, video, video + 100)


def test_logits_are_three_tensors_of_the_head():
    positions, vocabulary = 60, 151_936
    assert logits_bytes(positions, vocabulary) == 3 * torch.empty(positions, vocabulary, device="meta").nbytes
    found = estimate(settings("recipe.batch_size=4"))
    assert found.memory.logits == logits_bytes(4 * 60, vocabulary)
    assert found.logits_full == logits_bytes(4 * 662, vocabulary)


def test_adam_in_8_bits_is_counted_to_the_byte():
    from bitsandbytes.optim import AdamW8bit

    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in ((100,), (64, 64), (300, 77))]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = AdamW8bit(weights)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for name, value in state.items() if "qmap" not in name]
    total = sum(value.nbytes for value in kept if torch.is_tensor(value))  # the code tables are shared by all
    assert optimizer_bytes([weight.numel() for weight in weights], "paged_adamw_8bit") == total


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing():
    one, four = (estimate(settings(f"recipe.batch_size={size}")) for size in (1, 4))
    assert four.activations_kept == 4 * one.activations_kept
    assert one.activations_checkpointed < one.activations_kept / 2
    assert one.memory.activations == one.activations_checkpointed
    assert estimate(settings("recipe.gradient_checkpointing=false")).memory.activations == one.activations_kept


def test_activations_of_a_layer_follow_the_documented_rule(models):
    """With a trained connector, a frozen LLM keeps the outputs of linear layers, and norm inputs in float32."""
    model, _ = really(models, "recipe=align")
    frozen = {part: PartOptions() for part in PARTS} | {"llm": PartOptions(train="full", from_layer=1)}
    apply(model, frozen, PeftOptions(), lr=1e-3)  # one layer trains, and nothing below it
    linear = 64 + 32 + 32 + 64 + 128 + 128 + 64 + (4 * 64 + 64 + 64 + 64 + 128 - 64)  # outputs, then inputs
    expected = 2 * 10 * (4 * linear + 4 * 2 * 64)
    found = activation_bytes(model, batch_size=1, length=10, frames=4, dtype=torch.float32, checkpointing=False)
    assert found == expected


def test_weights_of_an_adapted_llm_quantize_the_layers_beneath(models):
    model, _ = really(models)
    plain, quantized = weight_bytes(model.llm, "none"), weight_bytes(model.llm, "int8")
    layers = [m for n, m in model.llm.named_modules() if n.endswith("base_layer")]
    assert plain - quantized == sum(3 * m.weight.numel() - 4 * m.out_features for m in layers)


def test_a_checkpoint_is_estimated_as_its_parts():
    found = estimate(settings("dtype=float32") | UNCHANGED | {"ckpt": str(TINYLLAVA_VIDEO / "group_qwen2")})
    real = Assistant.from_pretrained(TINYLLAVA_VIDEO / "group_qwen2", device="cpu", dtype="float32").model
    assert [p.parameters - p.trainable for p in found.parts[:2]] == [
        sum(p.numel() for p in part.parameters()) for part in (real.llm, real.vision_tower)
    ]


@pytest.mark.parametrize(("name", "video"), [("merge", 305), ("guided", 4 * 16), ("prune", 4 * 16)])
def test_a_reducer_on_a_checkpoint_is_estimated(models, tmp_path, name, video):
    save_tokenizer(save_siglip(tmp_path / "tower", whole=True, vocab_size=80))
    overrides = [*tiny_overrides(models, connector="mlp"), f"vision_tower.path={tmp_path / 'tower'}"]
    Assistant.from_config(compose(overrides), device="cpu").save_pretrained(tmp_path / "ckpt")
    options = ["reducer.keep=3"] if name == "prune" else []
    chosen = settings("dtype=float32", "sampler.num_frames=4", f"reducer={name}", *options)
    groups = UNCHANGED | {kind: chosen[kind] for kind in ("sampler", "reducer")}
    assert estimate(chosen | groups | {"ckpt": str(tmp_path / "ckpt")}).tokens.video == video


@pytest.mark.parametrize(("changes", "frames", "limit"), [
    ([], 51, 2048),
    (["sampler.max_frames=12", "llm.max_length=512"], 12, 512),
])  # fmt: skip
def test_a_checkpoint_keeps_its_sampler_and_its_length(changes, frames, limit, capsys):
    line = CommandLine.parse([f"ckpt={FAMILIES / 'smolvlm' / 'hf'}", "json=true", "card_gb=1", *changes])
    program.main(compose(line.overrides, config="estimate"), line)
    tokens = json.loads(capsys.readouterr().out)["tokens"]
    assert (tokens["frames"], tokens["limit"]) == (frames, limit)


@pytest.mark.slow
def test_motion_widens_the_connector_and_keeps_activations_for_a_trained_tower(models):
    moving, trained = ["motion=correlation", "motion.radius=1"], ["recipe.vision_tower.train=full"]
    runs = [[*motion, *how] for how in ([], trained) for motion in ([], moving)]
    plain, wide, plain_trained, wide_trained = (
        estimate(tiny(models, "recipe=finetune", *overrides, connector="mlp")) for overrides in runs
    )
    index = PARTS.index("connector")
    assert wide.parts[index].parameters - plain.parts[index].parameters == 2 * 2 * 9 * 64
    for_connector = wide.activations_kept - plain.activations_kept
    assert 0 < for_connector < wide_trained.activations_kept - plain_trained.activations_kept


def test_a_run_that_fits_needs_no_change():
    advice = advise(settings("quant=nf4"), 24 * 10**9)
    assert advice.fits
    assert advice.changes == {}


@pytest.mark.parametrize(
    ("overrides", "card_gb", "expected"),
    [
        (["recipe.batch_size=8"], 3, {"recipe.batch_size": 1, "recipe.accumulate": 128}),
        (["model=tinyvid_3_6b"], 8, {"quant": "nf4"}),
        (["model=tinyvid_3_6b", "recipe=finetune"], 22, {"recipe.llm.train": "lora", "recipe.llm.from_layer": None}),
        (
            ["llm=qwen2_5_3b_instruct", "recipe.optimizer=adamw_8bit"],
            4.5,
            {"quant": "nf4", "llm": "qwen2_5_1_5b_instruct"},
        ),
    ],
)
def test_advice_is_the_smallest_change_that_fits(overrides, card_gb, expected):
    config = settings(*overrides, "dtype=bfloat16")
    assert estimate(config).memory.total > card_gb * 10**9
    advice = advise(config, int(card_gb * 10**9))
    assert advice.fits
    assert advice.total <= card_gb * 10**9
    assert estimate(changed(config, advice.changes)).memory.total == advice.total
    assert advice.changes == expected


def test_a_run_that_never_fits_is_reported():
    advice = advise(settings("model=tinyvid_3_6b"), 10**9)
    assert not advice.fits
    assert advice.changes["llm"] == "qwen2_5_0_5b"
    assert "does not fit 1 GB" in program.verdict(advice, 1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("duration=0", "duration=0 must be a positive number"),
        ("text_tokens=many", "text_tokens='many' must be a positive number"),
        ("label_tokens=200", "label_tokens=200 exceeds text_tokens=150"),
        ("card_gb=-1", "card_gb=-1 must be a positive number"),
    ],
)
def test_an_impossible_sample_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        program.check_sample(settings(override))


def test_the_text_has_the_main_numbers():
    config = settings("text_tokens=4000", "card_gb=24")
    result = estimate(config)
    text = program.as_text(result, config, advise(config, 24 * 10**9))
    for words in ("trainable", "512 video + 4,000 text", "too long: llm.max_length=3,072", "(estimate)", "fits 24 GB"):
        assert words in text, words


def test_the_command_prints_only_json():
    overrides = ("quant=nf4", "peft.rank=16", "recipe=lora", "card_gb=24", "json=true")
    done = python("recipes/estimate.py", "model=tinyvid_3_6b", *overrides)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tokens"]["length"] == 662
    assert found["advice"]["fits"]
    assert 5e9 < found["memory"]["total"] < 9e9


def test_help_shows_examples():
    done = python("recipes/estimate.py", "--help")
    assert done.returncode == 0, done.stderr
    assert "python recipes/estimate.py model=tinyvid_3_6b" in done.stdout
