from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, SiglipModel

from tests.llamavid import save_tokenizer
from tests.towers import save_siglip, save_timm
from tinyvid import ConfigError, Question
from tinyvid.models.reducers.guided import Guided
from tinyvid.registry import VISION_TOWERS
from tinyvid.types import FeatureSpec

TEXT = "what moves?"
PIXELS = torch.randn(7, 3, 56, 56, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a SigLIP with both halves and a tokenizer."""
    return save_tokenizer(save_siglip(tmp_path_factory.mktemp("siglip"), whole=True, vocab_size=80))


def tower_of(folder: Path, **options):
    return VISION_TOWERS.build({"name": "siglip", "path": str(folder), **options}, dtype=torch.float32).eval()


def attached(tower, folder, **options):
    reducer = Guided(features=tower.features, **options)
    reducer.attach(tower, {"path": str(folder)})
    return reducer


def ask(text=TEXT):
    return Question(text, torch.zeros(0, dtype=torch.long))


@torch.no_grad()
@pytest.mark.parametrize(("layer", "final_norm"), [(-1, False), (-2, False), (-3, False), (-1, True)])
def test_embeddings_of_frames_are_those_of_siglip(whole, layer, final_norm):
    tower = tower_of(whole, layer=layer, final_norm=final_norm)
    expected = SiglipModel.from_pretrained(whole).vision_model(PIXELS).pooler_output
    assert torch.equal(tower.embed(tower(PIXELS)), expected)


@torch.no_grad()
def test_frames_and_questions_are_compared_as_siglip_does(whole):
    tower, model = tower_of(whole), SiglipModel.from_pretrained(whole).eval()
    found = attached(tower, whole).matching(tower(PIXELS), TEXT)
    padded = AutoTokenizer.from_pretrained(whole)(TEXT, padding="max_length", max_length=64, return_tensors="pt")
    logits = model(input_ids=padded.input_ids, pixel_values=PIXELS).logits_per_image[:, 0]
    torch.testing.assert_close(found * model.logit_scale.exp() + model.logit_bias, logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_nearest_frames_are_shown_in_full_in_the_order_of_time(whole):
    tower = tower_of(whole)
    features = tower(PIXELS)
    reducer = attached(tower, whole, frames=2, grid="1x2")
    tokens, _ = reducer(features, question=ask())
    nearest = reducer.matching(features, TEXT).topk(2).indices.tolist()
    assert len(tokens.x) == reducer.budget(7) == 2 * 16 + 5 * 2
    assert tokens.frame.bincount().tolist() == [16 if t in nearest else 2 for t in range(7)]
    assert (tokens.frame.diff() >= 0).all()
    for t in range(7):
        halves = features[t].unflatten(0, (4, 2, 2)).mean((0, 2))  # (2, Dv)
        expected = features[t] if t in nearest else halves
        torch.testing.assert_close(tokens.x[tokens.frame == t], expected)


@torch.no_grad()
def test_other_questions_choose_other_frames(whole):
    tower = tower_of(whole)
    reducer, features = attached(tower, whole, frames=1, grid="1x1"), tower(PIXELS)
    chosen = {reducer(features, question=ask(text))[0].frame.bincount().argmax().item() for text in ("who", "a b", "x")}
    assert len(chosen) > 1


@torch.no_grad()
def test_the_text_half_is_not_part_of_the_reducer(whole):
    reducer = attached(tower_of(whole), whole)
    assert list(reducer.parameters()) == []
    assert reducer.state_dict() == {}


def test_a_long_question_loses_its_beginning(whole, caplog):
    tower = tower_of(whole)
    matching, features = attached(tower, whole).matching, tower(PIXELS[:2])
    end = "a b " * 30 + "c?"  # with two special tokens, all that fits
    assert torch.equal(matching(features, "x y " * 9 + end), matching(features, end))
    assert "exceeds the 64 tokens that the reducer reads" in caplog.text


def test_towers_without_a_text_half_are_refused(whole, tmp_path):
    timm = VISION_TOWERS.build({"name": "timm", "path": str(save_timm(tmp_path / "timm"))}, dtype=torch.float32)
    for tower in (timm, tower_of(whole, select="patch")):
        with pytest.raises(ConfigError, match=r"has no text half; use vision_tower=siglip_base_224"):
            Guided(features=FeatureSpec(24, 16, (4, 4))).attach(tower, {"path": str(whole)})


def test_a_folder_without_a_text_half_is_refused(whole, tmp_path):
    folder = save_siglip(tmp_path / "vision")
    with pytest.raises(ConfigError, match=r"'siglip_vision_model', not SigLIP with both halves; set reducer.path"):
        attached(tower_of(folder), folder)
    assert attached(tower_of(folder), folder, path=str(whole)).matching is not None


def test_a_text_half_of_another_width_is_refused(whole, tmp_path):
    tower = tower_of(whole)
    tower.features = FeatureSpec(dim=32, num_patches=16, grid=(4, 4))
    with pytest.raises(ConfigError, match=r"have embeddings of width 24, but frames of the vision tower have width 32"):
        attached(tower, whole)
