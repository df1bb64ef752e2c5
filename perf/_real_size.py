"""Full-size models with random weights, ready to train, and batches for ``gpu.py``."""

from dataclasses import replace
from typing import Any

FRAMES, VIDEO_TOKENS, TEXT_TOKENS, LABELS = 16, 512, 150, 60
QWEN, SIGLIP = "Qwen/Qwen2.5-3B", "google/siglip-so400m-patch14-384"
CONNECTOR = {"name": "group", "num_queries": VIDEO_TOKENS, "num_groups": 16, "depth": 3}
TINY: dict[str, dict[str, int]] = {
    "llm": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "tower": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 56,
        "patch_size": 14,
    },
    "connector": {"depth": 1},
}
METHODS = {"lora": ("none", 32), "qlora": ("nf4", 16)}  # weights of the LLM, rank


def model_sizes(*, tiny: bool) -> dict[str, dict[str, Any]]:
    """Return the configurations of the parts, as published on the hub."""
    from tinyvid.diagnostics.skeleton import KNOWN

    sizes = {"llm": KNOWN[QWEN] | {"max_position_embeddings": 32_768}, "tower": KNOWN[SIGLIP], "connector": CONNECTOR}
    return {part: values | (TINY[part] if tiny else {}) for part, values in sizes.items()}


def build(method: str, sizes: dict[str, Any], device: str) -> tuple[Any, Any]:
    """Return a model with adapters, ready to train, and the training options of its parts."""
    import torch
    from transformers import AutoConfig, SiglipVisionConfig, SiglipVisionModel

    from tinyvid.models.llms.loading import from_weights
    from tinyvid.models.video_llm import PARTS, VideoLLM
    from tinyvid.models.vision_towers.siglip import SiglipTower, default_image_spec
    from tinyvid.registry import CONNECTORS
    from tinyvid.training.trainable import PartOptions, PeftOptions, apply

    torch.manual_seed(0)
    quant, rank = METHODS[method]
    seen = SiglipVisionConfig(**sizes["tower"])
    with torch.device(device):
        tower = SiglipTower(SiglipVisionModel(seen).to(torch.bfloat16), default_image_spec(seen)).eval()
        connector = CONNECTORS.build(sizes["connector"], features=tower.features, llm_dim=sizes["llm"]["hidden_size"])
    config = AutoConfig.for_model(**sizes["llm"])
    llm = from_weights(
        config,
        path="random weights",
        state_dict=random_weights(config),
        tokenizer=None,
        attention="sdpa",
        max_length=2 * (VIDEO_TOKENS + TEXT_TOKENS),
        dtype=torch.bfloat16,
        quant=quant,
        device=device,
    )
    model = VideoLLM(llm.model, tower, connector)
    options = {"llm": PartOptions("lora"), "vision_tower": PartOptions("frozen"), "connector": PartOptions("full")}
    parts = {part: options[part] for part in PARTS}
    apply(model, parts, PeftOptions(rank=rank, alpha=2.0 * rank), lr=1e-4)
    model.llm.activation_checkpointing_enable()
    return model.train(), parts


def random_weights(config: Any) -> dict[str, Any]:
    """Return random weights for an LLM as views of one tensor, to save host memory."""
    import torch
    from transformers import Qwen2ForCausalLM

    with torch.device("meta"):
        shapes = {key: value.shape for key, value in Qwen2ForCausalLM(config).state_dict().items()}
    shapes.pop("lm_head.weight")  # tied to the embeddings
    noise = torch.empty(max(shape.numel() for shape in shapes.values()), dtype=torch.bfloat16).normal_(std=0.02)
    return {
        key: torch.ones(shape, dtype=noise.dtype) if key.endswith("norm.weight") else noise[: shape.numel()].view(shape)
        for key, shape in shapes.items()
    }


def optimizer_for(method: str, model: Any, parts: Any) -> Any:
    """Return the optimizer of the method's experiment; the 8-bit optimizer needs CUDA."""
    import torch

    from tinyvid.training.trainable import parameter_groups

    groups = parameter_groups(model, parts, lr=1e-4, weight_decay=0.0)
    if method == "lora" or model.device.type == "cpu":
        return torch.optim.AdamW(groups)
    import bitsandbytes

    return bitsandbytes.optim.PagedAdamW8bit(groups)


def make_batch(model: Any, sizes: dict[str, Any], batch_size: int, *, cached: bool) -> Any:
    """Return random samples: one clip each, then text that ends with labels."""
    import torch

    from tinyvid.processing.batch import Batch, VideoInput
    from tinyvid.types import IGNORE_INDEX, Slot

    length, tower, device = VIDEO_TOKENS + TEXT_TOKENS, model.vision_tower, model.device
    ids = torch.randint(sizes["llm"]["vocab_size"], (batch_size, length), device=device)
    places = torch.arange(length, device=device).expand_as(ids)
    clip = (FRAMES, tower.features.num_patches, tower.features.dim)
    frames = (FRAMES, 3, tower.image.size, tower.image.size)
    unseen = VideoInput(0.0, float(FRAMES), tuple(map(float, range(FRAMES))))
    return Batch(
        input_ids=ids,
        labels=torch.where(places >= length - LABELS, ids, IGNORE_INDEX),
        attention_mask=torch.ones_like(ids),
        video_mask=places < VIDEO_TOKENS,
        slots=tuple(Slot(number, "") for number in range(batch_size)),
        videos=tuple(
            replace(unseen, features=torch.randn(clip, device=device, dtype=torch.bfloat16))
            if cached
            else replace(unseen, pixels=torch.randn(frames, device=device))
            for _ in range(batch_size)
        ),
    )
