"""The public names and the modules that define them; ``__init__.py`` reads this list."""

from tinyvid.assistant import Assistant as Assistant
from tinyvid.config import compose as compose
from tinyvid.data.options import CHOICE_PROMPT as CHOICE_PROMPT, LETTERS as LETTERS
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
from tinyvid.video.thumbnail import thumbnail as thumbnail

__version__: str
