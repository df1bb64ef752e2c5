"""What ``drop`` keeps, and reducers on checkpoints and the command line."""

import pytest
import torch

from tests.factories import tiny_assistant
from tinyvid import Assistant, ConfigError, compose
from tinyvid.build import REGISTRIES
from tinyvid.types import FeatureSpec

FRAMES = torch.randint(0, 255, (6, 56, 56, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()
STILL = FRAMES[:1].repeat(6, 0)


@pytest.fixture
def assistant(models):
    return tiny_assistant(models, connector="mlp")


def reduced(models, *options):
    return tiny_assistant(models, "reducer=drop", *options, connector="mlp")


def test_a_static_clip_keeps_one_frame():
    features = torch.randn(1, 9, 8).expand(10, 9, 8)
    tokens, _ = REGISTRIES["reducer"].build({"name": "drop"}, features=FeatureSpec(8, 9, (3, 3)))(features)
    assert tokens.place.tolist() == list(range(9))


def test_only_the_most_changed_patches_are_kept():
    torch.manual_seed(0)
    features = torch.randn(5, 9, 8)
    reducer = REGISTRIES["reducer"].build({"name": "drop", "most": 20}, features=FeatureSpec(8, 9, (3, 3)))
    tokens, _ = reducer(features)
    assert len(tokens.x) == 20
    assert tokens.frame[:9].tolist() == [0] * 9
    everything, _ = REGISTRIES["reducer"].build({"name": "drop"}, features=FeatureSpec(8, 9, (3, 3)))(features)
    assert set(tokens.place.tolist()) < set(everything.place.tolist())
    assert not reducer.causal
    assert reducer.budget.bound(5) == 20


def test_a_reducer_is_put_on_a_checkpoint_changed_and_removed(models, assistant, tmp_path):
    assistant.save_pretrained(tmp_path / "plain")
    dropping = Assistant.from_pretrained(tmp_path / "plain", device="cpu", reducer={"name": "drop", "threshold": 0.5})
    dropping.save_pretrained(tmp_path / "dropping")
    again = Assistant.from_pretrained(tmp_path / "dropping", device="cpu")
    assert again.config["reducer"]["threshold"] == 0.5
    assert again.ask(STILL, "What?", max_new_tokens=4) == dropping.ask(STILL, "What?", max_new_tokens=4)
    assert again.model.kept == (1 / 4,)
    other = Assistant.from_pretrained(tmp_path / "dropping", device="cpu", reducer={"threshold": 1.1})
    plain = Assistant.from_pretrained(tmp_path / "dropping", device="cpu", reducer=None)
    assert "reducer" not in plain.config
    assert plain.model.kept is None
    assert plain.ask(STILL, "What?", max_new_tokens=4) == other.ask(STILL, "What?", max_new_tokens=4)


def test_connectors_that_need_full_frames_refuse_a_reducer(models):
    with pytest.raises(ConfigError, match="connector 'group' needs full frames; remove reducer, or use connector=mlp"):
        tiny_assistant(models, "reducer=drop")
    for option, message in (
        ("pool=2", "connector.pool=2 pools patches after the reducer"),
        ("pool_after=2", "connector.pool_after=2 pools patches after the reducer"),
        ("newline=true", "connector.newline=true adds a token after the last frame, .* connector.newline=false"),
    ):
        with pytest.raises(ConfigError, match=message):
            tiny_assistant(models, "reducer=drop", f"connector.{option}", connector="mlp")


def test_a_limit_lets_a_long_clip_into_the_context(models):
    options = ["sampler.num_frames=200", "llm.max_length=400"]
    long = FRAMES.repeat(40, 0)
    limited = reduced(models, *options, "reducer.most=100")
    assert limited.ask(long, "What?", max_new_tokens=2) is not None
    for refused in (["reducer.most=null"], ["reducer.most=100", "reducer.positions=kept"]):
        with pytest.raises(Exception, match=r"exceed the limit llm.max_length=400"):
            reduced(models, *options, *refused).ask(long, "What?", max_new_tokens=2)


def test_the_command_line_changes_the_reducer_of_a_checkpoint(tmp_path, assistant):
    from tinyvid.command_line import CommandLine

    for given, expected in ((["reducer=drop"], {"name": "drop"}), (["reducer=null"], None)):
        line = CommandLine.parse([f"ckpt={tmp_path}", *given])
        groups = line.checkpoint_groups(compose(line.overrides))
        assert (groups["reducer"] or {}).get("name") == (expected or {}).get("name")
    line = CommandLine.parse([f"ckpt={tmp_path}"])
    assert "reducer" not in line.checkpoint_groups(compose(line.overrides))
