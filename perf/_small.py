"""Small random models, clips and samples that the scripts share. Nothing here is measured."""

from pathlib import Path
from typing import Any


def language_model(config: dict[str, int]) -> Any:
    """Return a random Qwen2 with head dimension 64."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    heads = config["hidden_size"] // 64
    groups = {"num_attention_heads": heads, "num_key_value_heads": heads // 2}
    return Qwen2ForCausalLM(Qwen2Config(**config, **groups, tie_word_embeddings=True))


def connector_for(llm: Any, *, dim: int, num_patches: int, queries: int, depth: int) -> Any:
    """Return a group connector between a tower and an LLM."""
    from tinyvid.registry import CONNECTORS
    from tinyvid.types import FeatureSpec

    options = {"name": "group", "num_queries": queries, "num_groups": 8, "depth": depth}
    spec = FeatureSpec(dim=dim, num_patches=num_patches, grid=None)
    return CONNECTORS.build(options, features=spec, llm_dim=llm.config.hidden_size)


def tokenizer_for(end: str) -> Any:
    """Return a tokenizer with one token per byte, plus one that ends a reply."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    bytewise = Tokenizer(
        models.BPE({byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token=end, pad_token=end)


def processor_for(image: Any, connector: Any, *, num_frames: int) -> Any:
    """Return a Processor with the default reader and template, and a tokenizer of one token per byte."""
    from tinyvid import compose
    from tinyvid.processing.processor import Processor
    from tinyvid.registry import SAMPLERS, TEMPLATES, VIDEO_READERS

    groups = compose(["template=qwen2_base", f"sampler.num_frames={num_frames}"])
    return Processor(
        tokenizer=tokenizer_for(groups.template.end),
        template=TEMPLATES.build(groups.template),
        sampler=SAMPLERS.build(groups.sampler),
        reader=VIDEO_READERS.build(groups.video_reader),
        image=image,
        tokens=connector.tokens,
        max_length=4096,
    )


def sample(path: Path) -> Any:
    """Return a sample about a clip; most of its text comes from the template."""
    from tinyvid import Message, Sample

    messages = [Message("user", "What moves, and where to?"), Message("assistant", "The camera pans. " * 3)]
    return Sample(messages, video=path, id=path.name)


def write_clips(folder: Path, name: str, count: int, video: tuple[int, int, int]) -> list[Path]:
    """Write H.264 clips (width and height in pixels, seconds at 25 fps): each pans over a different texture."""
    import av
    import numpy as np

    width, height, seconds = video
    paths = [folder / f"{name}_{number}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        chance = np.random.default_rng(number)
        texture = chance.integers(0, 256, (height // 8 + 16, width // 8 + 16, 3), dtype=np.uint8)
        texture = texture.repeat(8, axis=0).repeat(8, axis=1)
        with av.open(str(path), "w") as out:
            stream = out.add_stream("libx264", rate=25, options={"preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for i in range(seconds * 25):
                x, y = int(60 + 60 * np.sin(i / 20)), int(60 + 60 * np.cos(i / 25))
                picture = np.ascontiguousarray(texture[y : y + height, x : x + width])
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = i
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
    return paths
