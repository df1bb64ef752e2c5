"""Charades-STA: when a sentence happens in a video of half a minute (arXiv:1705.02101).

``prompt_style=captions`` is the protocol of LLM4VG (arXiv:2312.14206): the model sees no video, but a caption for every
second of it, which ``recipes/caption_seconds.py`` wrote before. It measures what of a video its captions keep.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tinyvid import BENCHMARKS, ConfigError, DataError, Item, Message, Sample, require
from tinyvid.data.formats import Moment, read_moments
from tinyvid.data.timed_questions import bare, when
from tinyvid.data.timed_sentences import read_captions
from tinyvid.errors import listed
from tinyvid.evaluation.scoring.spans import write_spans

from .prompts import conversation
from .rows import below, digest, first_of, numbered, read_rows
from .timed import SUFFIXES, TimedItems, length_of

FOLDERS = ("Charades_v1_480", "Charades_v1", "videos/charades", "videos")
FILES = {"official": "charades_sta_test.txt", "timelens": "charades-timelens.json"}
LMMS_EVAL = (
    "Please find the visual event described by a sentence in the video, determining its starting and ending times. The "
    "format should be: 'The event happens in the start time - end time'. For example, The event 'person turn a light "
    "on' happens in the 24.3 - 30.4 seonds. Now I will give you the textual sentence: {sentence}. Please return its "
    "start time and end time."
)
OF_TIMELENS = (
    "Please find the visual event described by the sentence '{sentence}', determining its starting and ending times. "
    "The format should be: 'The event happens in <start time> - <end time> seconds'."
)
SECONDS = "Each line below describes one second of a video.\n{lines}\n"
CONFIDENCE = (
    "First judge in one sentence whether these descriptions are good enough to find the event, and how certain you "
    "are. Then give the answer.\n"
)
SPAN = 'When does this happen: "{sentence}"? End with the start and the end, as in: from 3 to 8 seconds.'


@BENCHMARKS.register("charades_sta")
class CharadesSTA(TimedItems):
    """Ask when each sentence of Charades-STA happens.

    Args:
        root: Folder with an annotation file and the videos, in ``Charades_v1_480/``, ``Charades_v1/``,
            ``videos/charades/`` or ``videos/``.
        annotation: ``official``, or ``timelens``: the refined annotation of the test videos (arXiv:2512.14698).
            Official windows count as published; one in seven ends up to 1.5 s after its video.
        prompt_style: ``official`` asks in the words of the training rows by ``recipes/convert.py``, because the data
            set has no prompt; ``lmms_eval`` and ``timelens`` ask in theirs; ``captions`` shows captions instead of the
            video.
        captions: File of ``recipes/caption_seconds.py``, relative to ``root``, for ``prompt_style=captions``.
        confidence: Ask the model to judge the captions before it answers, for ``prompt_style=captions``.

    Raises:
        ConfigError: ``confidence`` needs captions.
        DataError: Files are missing or malformed, or a video has no captions.
    """

    name = "charades_sta"
    source = (
        "https://github.com/jiyanggao/TALL (annotation), https://prior.allenai.org/projects/charades (videos), "
        "https://huggingface.co/datasets/TencentARC/TimeLens-Bench (refined annotation)"
    )

    def __init__(
        self,
        *,
        root: str,
        annotation: Literal["official", "timelens"] = "official",
        prompt_style: Literal["official", "lmms_eval", "timelens", "captions"] = "official",
        captions: str = "captions.jsonl",
        confidence: bool = False,
    ) -> None:
        if confidence and prompt_style != "captions":
            raise ConfigError("benchmark.confidence=true needs benchmark.prompt_style=captions")
        file = FILES[annotation]
        shows_captions = prompt_style == "captions"
        self.folder = require(root, [file], source=self.source)
        if shows_captions:
            require(root, [captions], source="recipes/caption_seconds.py, which writes them for a folder of videos")
        self.prompt_style, self.confidence = prompt_style, confidence
        moments = (read_captions if annotation == "timelens" else read_moments)(self.folder / file)
        known = read_seconds(self.folder / captions, {moment.code for moment in moments}) if shows_captions else None
        names = numbered([f"{moment.code}/{digest(moment.sentence, moment.start, moment.end)}" for moment in moments])
        self.items = [self._item(name, moment, known) for name, moment in zip(names, moments, strict=True)]

    def _item(self, name: str, moment: Moment, captions: Mapping[str, Sequence[str]] | None) -> Item:
        code = below(moment.code, where=moment.where)
        paths = [f"{folder}/{code}{suffix}" for folder in FOLDERS for suffix in SUFFIXES]
        shown = first_of(self.folder, paths) if captions is None else None
        return Item(
            id=name,
            sample=Sample(self._prompt(moment, captions), shown, id=name),
            rule="span",
            answer=write_spans([(moment.start, moment.end)]),
            groups={"length": length_of(moment)},
            question=moment.sentence,
        )

    def _prompt(self, moment: Moment, captions: Mapping[str, Sequence[str]] | None) -> list[Message]:
        sentence = bare(moment.sentence)
        if captions is not None:
            lines = "\n".join(
                f"{second} to {second + 1} s: {text}" for second, text in enumerate(captions[moment.code])
            )
            asked = (CONFIDENCE if self.confidence else "") + SPAN
            return conversation(SECONDS.format(lines=lines) + asked.format(sentence=sentence))
        forms = {"lmms_eval": LMMS_EVAL, "timelens": OF_TIMELENS}
        if self.prompt_style in forms:
            return conversation(forms[self.prompt_style].format(sentence=sentence))
        return conversation(when(moment.sentence))


def read_seconds(path: Path, codes: set[str]) -> dict[str, list[str]]:
    """Return the captions of each second of each video, by the name of its file without suffix.

    Raises:
        DataError: A row is malformed, two rows are about one video, or a video of ``codes`` has no captions.
    """
    found: dict[str, list[str]] = {}
    for row in read_rows(path):
        code = Path(row.text("video")).stem
        if code in found:
            raise DataError(f"{row.where}: the video {code!r} has captions above; keep one of the rows")
        found[code] = [" ".join(text.split()) for text in row.texts("captions")]
        if not found[code]:
            raise DataError(f"{row.where}: 'captions' must have a text for each second of {code!r}")
    missing = sorted(codes - found.keys())
    if missing:
        raise DataError(
            f"{path} has no captions of {len(missing)} of {len(codes)} videos: {listed(missing)}; write them with "
            f"recipes/caption_seconds.py out={path}"
        )
    return found
