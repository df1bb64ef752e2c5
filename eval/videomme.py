"""Video-MME: 2,700 four-way questions about 900 videos of three lengths, with and without subtitles (arXiv:2405.21075).

744 of the videos have subtitles, as SRT files. A prompt includes those at the sampled frames, as published scores do,
or all of them; a video without an SRT file gets the prompt without subtitles.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tinyvid import (
    BENCHMARKS,
    ConfigError,
    DataError,
    Item,
    Message,
    Outcome,
    Sample,
    by_group,
    lettered,
    micro,
    require,
)

from .prompts import LETTER_PROMPT, conversation
from .rows import Row, below, first_of, read_rows
from .subtitles import shown_at, srt_cues

ANNOTATION = "videomme/test-00000-of-00001.parquet"
MEDIA = ("data", "video")  # folders of the videos, in the layouts of lmms-eval and VLMEvalKit
SUFFIXES = (".mp4", ".MP4", ".mkv")
SELECT = (
    "Select the best answer to the following multiple-choice question based on {}. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
BEST = "The best answer is:"
LISTED = "This video's subtitles are listed below:"
_OPTION = re.compile(r"\s*([A-Z])[.)]\s*(.*)", re.DOTALL)


@BENCHMARKS.register("videomme")
class VideoMME:
    """Ask the questions of Video-MME.

    Args:
        root: Folder with ``videomme/``, ``data/`` and, for subtitles, ``subtitle/``.
        duration: Duration class of the videos to ask about.
        subtitles: ``none``; ``frames`` for those at the sampled frames; ``all`` for those of the whole video.
        prompt_style: ``official``, or the prompts of TinyLLaVA-Video (which has no subtitles) or lmms-eval.

    Raises:
        DataError: The annotation or the folder of subtitles is missing, or a row is malformed.
        ConfigError: Subtitles are combined with TinyLLaVA-Video's prompt.
    """

    name = "videomme"
    source = "https://huggingface.co/datasets/lmms-lab/Video-MME (videos_chunked_*.zip into data/, subtitle.zip)"

    def __init__(
        self,
        *,
        root: str,
        duration: Literal["all", "short", "medium", "long"] = "all",
        subtitles: Literal["none", "frames", "all"] = "none",
        prompt_style: Literal["official", "tinyllava_video", "lmms_eval"] = "official",
    ) -> None:
        if subtitles != "none" and prompt_style == "tinyllava_video":
            raise ConfigError(
                f"benchmark.subtitles={subtitles}, but the prompt of TinyLLaVA-Video has no subtitles; "
                "choose benchmark.prompt_style=official or lmms_eval"
            )
        self.folder = require(root, [ANNOTATION, *(["subtitle"] if subtitles != "none" else [])], source=self.source)
        self.subtitles, self.prompt_style = subtitles, prompt_style
        rows = read_rows(self.folder / ANNOTATION)
        self.rows = [row for row in rows if duration in ("all", row.text("duration"))]
        self.items = [self._item(row) for row in self.rows]
        self.index = {item.id: number for number, item in enumerate(self.items)}
        if subtitles != "none":  # fail on a broken file before decoding any video
            for number in range(len(self.rows)):
                srt_cues(self._subtitle_path(number))
        if subtitles == "frames":
            self.sample = self._of_frames  # makes this a ReadsTimes; otherwise frame times are not computed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        """Return a question."""
        item = self.items[index]
        if self.subtitles != "all":
            return item
        texts = [cue.text for cue in srt_cues(self._subtitle_path(index))]
        return replace(item, sample=replace(item.sample, messages=self._prompt(self.rows[index], texts)))

    def summary(self, outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """Return the accuracy over all questions and over each duration class, in percent."""
        parts = by_group(outcomes, "duration")
        lengths = {name.capitalize(): 100 * micro(parts[name]) for name in ("short", "medium", "long") if name in parts}
        return {**lengths, "Overall": 100 * micro(outcomes)}

    def files(self, outcomes: Sequence[Outcome]) -> Mapping[str, str]:
        """Return the file that the official scorer reads: the questions of each video, with responses."""
        videos: dict[str, dict[str, Any]] = {}
        for outcome in outcomes:
            row = self.rows[self.index[outcome.id]]
            about = {key: row.text(key) for key in ("video_id", "duration", "domain", "sub_category")}
            asked = {key: row.values[key] for key in ("question_id", "task_type", "question", "options", "answer")}
            video = videos.setdefault(row.text("videoID"), about | {"questions": []})
            video["questions"].append(asked | {"response": outcome.reply or ""})
        return {"videomme_results.json": json.dumps(list(videos.values()), ensure_ascii=False, indent=1)}

    def _item(self, row: Row) -> Item:
        options = _options(row)
        stem = below(row.text("videoID"), where=row.where)
        groups = {"duration": "duration", "domain": "domain", "sub_category": "sub_category", "task": "task_type"}
        return Item(
            id=row.text("question_id"),
            sample=Sample(
                self._prompt(row, []),
                first_of(self.folder, [f"{media}/{stem}{suffix}" for media in MEDIA for suffix in SUFFIXES]),
                id=row.text("question_id"),
            ),
            answer=row.letter("answer", options),
            options=options,
            groups={kind: row.text(key) for kind, key in groups.items()},
            question=row.text("question"),
        )

    def _prompt(self, row: Row, subtitles: Sequence[str]) -> list[Message]:
        asked = f"{row.text('question')}\n" + "\n".join(row.texts("options"))
        if self.prompt_style == "tinyllava_video":
            return conversation(f"{asked}\n{LETTER_PROMPT}")
        both, seen = SELECT.format("the video and the subtitles"), SELECT.format("the video")
        if self.prompt_style == "lmms_eval":  # mentions subtitles even if it includes none
            if self.subtitles == "none":
                return conversation(f"{both}\n{asked}\n\n{LETTER_PROMPT}")
            listed = "\n".join(subtitles) or "No subtitles available"
            return conversation(f"{LISTED} \n{listed}\n{both}\n{asked}\n{BEST}")
        if subtitles:
            return conversation("\n".join([LISTED, *subtitles, both, asked, BEST]))
        return conversation(f"{seen}\n{asked}\n{BEST}")

    def _subtitle_path(self, index: int) -> Path:
        row = self.rows[index]
        return Path(first_of(self.folder, [f"subtitle/{below(row.text('videoID'), where=row.where)}.srt"]))

    def _of_frames(self, item: Item, times: Sequence[float]) -> Sample:
        """Return the sample with the subtitles at its frames."""
        index = self.index[item.id]
        shown = shown_at(srt_cues(self._subtitle_path(index)), times)
        return replace(item.sample, messages=self._prompt(self.rows[index], shown))


def _options(row: Row) -> dict[str, str]:
    """Return the options by letter; rows write them as ``A. text``."""
    parts = [_OPTION.fullmatch(text) for text in row.texts("options")]
    options = lettered([part[2] if part else "" for part in parts])
    if None in parts or [part[1] for part in parts if part] != list(options):
        raise DataError(
            f"{row.where}: 'options' must be 'A. ...', 'B. ...' in order, got {row.texts('options')!r:.200}"
        )
    return options
