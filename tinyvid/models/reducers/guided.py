"""Show the frames that match the question in full, and the others with few tokens."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvid.errors import ConfigError
from tinyvid.models.llms.loading import load_tokenizer
from tinyvid.models.reducers.grids import read_grid, to_grid
from tinyvid.models.weights import load_pretrained, read_config
from tinyvid.protocols import VisionTower
from tinyvid.registry import REDUCERS, PositiveInt
from tinyvid.text.questions import QuestionReader
from tinyvid.types import FeatureSpec, Question, TokenBudget, VideoTokens


@REDUCERS.register("guided")
class Guided(nn.Module):
    """Show the ``frames`` frames that are nearest to the question in full, and pool all others to a small grid.

    Frames stay in the order of time. The distance is the cosine between SigLIP's embeddings of the frame and of the
    question, so the vision tower must be SigLIP. Its text half is loaded from the same path, is never trained and is
    not saved with a checkpoint. Source: Han et al., Free Video-LLM, arXiv:2410.10441, without its choice of patches:
    patch features of SigLIP cannot be compared with text.

    Args:
        frames: Frames in full.
        grid: Rows and columns of the tokens of every other frame.
        path: SigLIP with both halves, a directory or hub id; ``None`` for the path of the vision tower.

    Raises:
        ConfigError: ``grid`` is malformed or larger than the tower's.
    """

    causal = False
    positions = "closed"
    weightless = True
    reads_question = True
    reads_times = False

    def __init__(
        self, *, features: FeatureSpec, frames: PositiveInt = 3, grid: str = "4x4", path: str | None = None
    ) -> None:
        super().__init__()
        self.grid, self.target = features.grid, read_grid(grid, features, "reducer 'guided': reducer.grid")
        small = self.target[0] * self.target[1]
        self.frames = frames
        self.path = path
        self.budget = TokenBudget(fixed=frames * (features.num_patches - small), per_frame=small)
        self.matching: Matching | None = None

    def attach(self, tower: VisionTower, group: Mapping[str, Any]) -> None:
        """Load the text half of a vision tower; ``group`` is the configuration of the tower.

        Raises:
            ConfigError: The tower cannot embed frames, or ``path`` has no text half that belongs to it.
            CheckpointError: ``path`` cannot be read, or its weights do not match.
        """
        revision = group.get("revision") if self.path is None else None
        self.matching = Matching(tower, self.path or str(group.get("path")), revision)

    def forward(
        self, features: Tensor, state: Any = None, *, times: Tensor | None = None, question: Question | None = None
    ) -> tuple[VideoTokens, Any]:
        """Map the features (T, P, Dv) of a whole clip to tokens, frame by frame."""
        assert self.matching is not None  # attached
        assert question is not None  # reads_question
        nearest = self.matching(features, question.text).argsort(descending=True, stable=True)[: self.frames].tolist()
        pooled = to_grid(features, self.grid, self.target)  # (T, Q, Dv)
        shown = [features[t] if t in nearest else pooled[t] for t in range(len(features))]
        x = torch.cat(shown)  # (K, Dv)
        frame = torch.arange(len(shown)).repeat_interleave(torch.tensor([len(part) for part in shown]))
        return VideoTokens(x, frame.to(x.device), torch.arange(len(x), device=x.device)), None


class Matching:
    """Compare frames with a text by the embeddings of SigLIP.

    It is not a module: the text half is frozen, and neither moves, trains nor is saved with the reducer.

    Args:
        tower: Embeds the frames.
        path: SigLIP with both halves, a directory or hub id.
        revision: Commit, branch or tag on the hub.

    Raises:
        ConfigError: The tower cannot embed frames, or ``path`` has no text half that belongs to it.
        CheckpointError: ``path`` cannot be read, or its weights do not match.
    """

    def __init__(self, tower: VisionTower, path: str, revision: str | None) -> None:
        from transformers import SiglipTextConfig, SiglipTextModel

        if tower.embed is None:
            raise ConfigError(
                "reducer 'guided' compares frames with the question by SigLIP, but this vision tower has no text half; "
                "use vision_tower=siglip_base_224 with vision_tower.select=all, or another reducer such as views"
            )
        stored = read_config("reducer", path, revision=revision)
        if stored.get("model_type") != "siglip":
            raise ConfigError(
                f"reducer 'guided': {path!r} contains a model of type {stored.get('model_type')!r}, not SigLIP with "
                "both halves; set reducer.path to the SigLIP model of the vision tower"
            )
        config = SiglipTextConfig(**stored.get("text_config", {}))
        if config.projection_size != tower.features.dim:
            raise ConfigError(
                f"reducer 'guided': texts of {path!r} have embeddings of width {config.projection_size}, but frames of "
                f"the vision tower have width {tower.features.dim}; set reducer.path to the SigLIP model of the tower"
            )
        unread = {"_keys_to_ignore_on_load_unexpected": [r"^vision_model\.", r"^logit_(scale|bias)$", r"position_ids$"]}
        text_half = type(SiglipTextModel.__name__, (SiglipTextModel,), unread)
        self.embed = tower.embed
        self.width = tower.features.dim
        self.length = config.max_position_embeddings
        tokenizer = load_tokenizer(path, revision=revision)
        self.reader = QuestionReader(tokenizer, max_length=self.length, special_tokens=True, part="reducer")
        self.pad_id = tokenizer.pad_token_id
        self.text = load_pretrained("reducer", path, text_half, config=config, revision=revision, dtype=tower.dtype)

    @torch.no_grad()
    def __call__(self, features: Tensor, text: str) -> Tensor:
        """Return the cosine of each frame of a clip, features (T, P, Dv), with a text: float32 (T,)."""
        ids = torch.tensor(self.reader(text), device=features.device)
        ids = F.pad(ids, (0, self.length - len(ids)), value=self.pad_id)  # as in SigLIP's training
        with torch.autocast(features.device.type, enabled=False):
            wanted = self.text.to(features.device)(input_ids=ids[None]).pooler_output  # (1, Dv)
            plain = features[..., : self.width]  # without channels of motion
            return F.cosine_similarity(self.embed(plain).float(), wanted.float())
