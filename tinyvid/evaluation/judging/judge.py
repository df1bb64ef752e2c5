"""Judge open answers with a strict verdict format, a limited number of attempts, and a cache of verdicts.

A verdict is one JSON object with exactly the marks of the rubric. The judge is asked again, up to ``attempts`` times,
if a verdict does not have this format; then a parse error is reported, never a guess. Verdicts are cached under a hash
of everything that they depend on: the judge, the rubric's text, the question, the answer and the reply. Backends are in
``tinyvid.evaluation.judging.judges``.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from tinyvid.evaluation.items import Verdict
from tinyvid.evaluation.judging.rubrics import RUBRICS, Rubric

logger = logging.getLogger(__name__)

CHUNK = 32  # cases per write to the cache
_FENCE = re.compile(r"^```(?:json)?\s*\n(.*)\n?```$", re.DOTALL)
Chat = Callable[[Sequence[Sequence[Mapping[str, str]]]], list[str]]


@dataclass(frozen=True, slots=True)
class Case:
    """A reply to judge. ``rubric`` is a key of ``RUBRICS``."""

    question: str
    answer: str
    reply: str
    rubric: str


class Judge(Protocol):
    """Judges cases; registered in ``registry.JUDGES``."""

    identity: Mapping[str, Any]  # everything that its verdicts depend on, for records and cache keys

    def supports(self, rubric: Rubric) -> bool:
        """Return whether it can give the marks of a rubric."""

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        """Return the verdicts on cases, in order.

        Raises:
            ConfigError: The judge cannot be reached or loaded. A malformed verdict is not an error.
        """


def judge_cases(judge: Judge, cases: Sequence[Case], cache: Path) -> list[Verdict]:
    """Return the verdicts on cases, from the cache if possible. Valid new verdicts are added to the cache."""
    known = read_verdicts(cache)
    keys = [key_of(judge, case) for case in cases]
    new = {key: case for key, case in zip(keys, cases, strict=True) if key not in known}
    waiting = list(new)
    for first in range(0, len(waiting), CHUNK):
        portion = waiting[first : first + CHUNK]
        verdicts = dict(zip(portion, judge([new[key] for key in portion]), strict=True))
        known |= verdicts
        _append(cache, {key: verdict for key, verdict in verdicts.items() if not verdict.error})
    return [known[key] for key in keys]


def key_of(judge: Judge, case: Case) -> str:
    """Return the hash of everything that a verdict depends on."""
    rubric = RUBRICS[case.rubric]
    prompt = rubric.prompt(question=case.question, answer=case.answer, reply=case.reply)
    text = json.dumps([dict(judge.identity), prompt], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def read_verdicts(cache: Path) -> dict[str, Verdict]:
    """Return the verdicts of a cache by key. Lines truncated by a kill are skipped."""
    verdicts = {}
    for line in cache.read_text(encoding="utf-8", errors="replace").splitlines() if cache.is_file() else []:
        try:
            row = json.loads(line)
            key = str(row.pop("key"))
            verdicts[key] = Verdict(**row)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    return verdicts


def _append(cache: Path, verdicts: Mapping[str, Verdict]) -> None:
    """Append verdicts, each in one write that starts with a newline, so processes can share the file."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(cache, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        for key, verdict in verdicts.items():
            os.write(file, f"\n{json.dumps({'key': key, **asdict(verdict)})}\n".encode())
    finally:
        os.close(file)


def by_chat(chat: Chat, cases: Sequence[Case], *, attempts: int) -> list[Verdict]:
    """Judge cases with a chat model, and ask again if a verdict does not have the required format."""
    talks: list[list[Mapping[str, str]]] = [[{"role": "user", "content": _prompt(case)}] for case in cases]
    verdicts: list[Verdict] = [Verdict(None, error="not judged")] * len(cases)
    waiting = list(range(len(cases)))
    for _ in range(attempts):
        for number, reply in zip(waiting, chat([talks[number] for number in waiting]), strict=True):
            verdicts[number] = parse_verdict(reply, RUBRICS[cases[number].rubric])
            talks[number] += [
                {"role": "assistant", "content": reply[:2000]},
                {"role": "user", "content": f"{verdicts[number].error} Reply with the JSON object and nothing else."},
            ]
        waiting = [number for number in waiting if verdicts[number].error]
        if not waiting:
            break
    return verdicts


def _prompt(case: Case) -> str:
    return RUBRICS[case.rubric].prompt(question=case.question, answer=case.answer, reply=case.reply)


def parse_verdict(text: str, rubric: Rubric) -> Verdict:
    """Parse a verdict: one JSON object with exactly the marks of the rubric, optionally in a code fence."""
    fenced = _FENCE.match(text.strip())
    try:
        marks = json.loads(fenced[1] if fenced else text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        return Verdict(None, error=f"parse_error: no JSON object ({str(error)[:60]}) in {text[:120]!r}.")
    if not isinstance(marks, dict) or marks.keys() != rubric.marks.keys():
        return Verdict(None, error=f"parse_error: the marks must be {list(rubric.marks)}, got {text[:120]!r}.")
    for name, allowed in rubric.marks.items():
        if type(marks[name]) is not (int if isinstance(allowed, range) else str) or marks[name] not in allowed:
            return Verdict(None, error=f"parse_error: {name}={marks[name]!r:.60} is none of {[*allowed]}.")
    points = {name: float(marks[name]) for name, allowed in rubric.marks.items() if isinstance(allowed, range)}
    return Verdict(rubric.value(marks), points)
