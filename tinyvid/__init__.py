"""tinyvid: compose, fine-tune, evaluate and run your own small video-language model.

Everything that users and plugin authors need can be imported from here; submodules are internal and may move. Names
are loaded on first use, so ``import tinyvid`` alone is cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyvid.assistant import Assistant as Assistant
    from tinyvid.config import compose as compose
    from tinyvid.data.parsing import CHOICE_PROMPT as CHOICE_PROMPT, LETTERS as LETTERS
    from tinyvid.errors import (
        CheckpointError as CheckpointError,
        ConfigError as ConfigError,
        DataError as DataError,
        PluginError as PluginError,
        TinyvidError as TinyvidError,
        VideoError as VideoError,
        suggest as suggest,
    )
    from tinyvid.evaluation.annotations import (
        build_benchmark as build_benchmark,
        letter_of as letter_of,
        lettered as lettered,
        require as require,
    )
    from tinyvid.evaluation.items import (
        Benchmark as Benchmark,
        Item as Item,
        Outcome as Outcome,
        ReadsTimes as ReadsTimes,
        Rule as Rule,
        Verdict as Verdict,
        WritesFiles as WritesFiles,
    )
    from tinyvid.evaluation.judging.judge import Case as Case, Judge as Judge
    from tinyvid.evaluation.judging.rubrics import RUBRICS as RUBRICS, Rubric as Rubric
    from tinyvid.evaluation.reporting.compare import compare_runs as compare_runs, load_runs as load_runs
    from tinyvid.evaluation.reporting.predictions import read_outcomes as read_outcomes
    from tinyvid.evaluation.reporting.report import Report as Report
    from tinyvid.evaluation.running.runner import EvaluationOptions as EvaluationOptions, evaluate as evaluate
    from tinyvid.evaluation.scoring.averages import (
        by_group as by_group,
        graded as graded,
        macro as macro,
        micro as micro,
    )
    from tinyvid.models.video_llm import VideoLLM as VideoLLM
    from tinyvid.processing.batch import (
        Batch as Batch,
        Example as Example,
        Output as Output,
        VideoInput as VideoInput,
    )
    from tinyvid.processing.processor import Processor as Processor
    from tinyvid.protocols import (
        ChatTemplate as ChatTemplate,
        Connector as Connector,
        Dataset as Dataset,
        FrameSampler as FrameSampler,
        LanguageModel as LanguageModel,
        LLMBuilder as LLMBuilder,
        LookingSampler as LookingSampler,
        TextDecoder as TextDecoder,
        VideoReader as VideoReader,
        VisionTower as VisionTower,
    )
    from tinyvid.registry import (
        BENCHMARKS as BENCHMARKS,
        CONNECTORS as CONNECTORS,
        DATASETS as DATASETS,
        JUDGES as JUDGES,
        LLMS as LLMS,
        SAMPLERS as SAMPLERS,
        TEMPLATES as TEMPLATES,
        TEXT_DECODERS as TEXT_DECODERS,
        VIDEO_READERS as VIDEO_READERS,
        VISION_TOWERS as VISION_TOWERS,
        AtLeast as AtLeast,
        AtMost as AtMost,
        PositiveFloat as PositiveFloat,
        PositiveInt as PositiveInt,
    )
    from tinyvid.types import (
        Choice as Choice,
        Cue as Cue,
        FeatureSpec as FeatureSpec,
        Frames as Frames,
        ImageSpec as ImageSpec,
        Message as Message,
        Question as Question,
        Sample as Sample,
        Segment as Segment,
        TokenBudget as TokenBudget,
        TokenSpec as TokenSpec,
        Video as Video,
        VideoMeta as VideoMeta,
        VideoTokens as VideoTokens,
    )

__version__ = "0.1.0"

_PUBLIC = (  # modules and their public names
    # Compose, load, ask
    ("assistant", "Assistant"),
    ("config", "compose"),
    ("models.video_llm", "VideoLLM"),
    ("processing.processor", "Processor"),
    ("types", "Cue Message Sample Video"),
    # Run a benchmark, and compare runs
    ("evaluation.annotations", "build_benchmark"),
    ("evaluation.reporting.compare", "compare_runs load_runs"),
    ("evaluation.reporting.predictions", "read_outcomes"),
    ("evaluation.reporting.report", "Report"),
    ("evaluation.running.runner", "EvaluationOptions evaluate"),
    # Write a benchmark
    ("data.parsing", "CHOICE_PROMPT LETTERS"),
    ("evaluation.annotations", "letter_of lettered require"),
    ("evaluation.items", "Benchmark Item Outcome ReadsTimes Rule Verdict WritesFiles"),
    ("evaluation.scoring.averages", "by_group graded macro micro"),
    # Write a part: its registry, its contract and its inputs
    ("registry", "BENCHMARKS CONNECTORS DATASETS JUDGES LLMS SAMPLERS TEMPLATES"),
    ("registry", "TEXT_DECODERS VIDEO_READERS VISION_TOWERS"),
    ("registry", "AtLeast AtMost PositiveFloat PositiveInt"),
    ("protocols", "ChatTemplate Connector Dataset FrameSampler LanguageModel LLMBuilder"),
    ("protocols", "LookingSampler TextDecoder VideoReader VisionTower"),
    ("evaluation.judging.judge", "Case Judge"),
    ("evaluation.judging.rubrics", "RUBRICS Rubric"),
    ("types", "Choice FeatureSpec Frames ImageSpec Question Segment TokenBudget TokenSpec VideoMeta VideoTokens"),
    ("processing.batch", "Batch Example Output VideoInput"),
    # Errors
    ("errors", "CheckpointError ConfigError DataError PluginError TinyvidError VideoError suggest"),
)
_HOMES = {name: f"tinyvid.{module}" for module, names in _PUBLIC for name in names.split()}
__all__ = ["__version__", *_HOMES]


if not TYPE_CHECKING:  # with it, type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Load a public name from the module that defines it (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module 'tinyvid' has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return __all__
