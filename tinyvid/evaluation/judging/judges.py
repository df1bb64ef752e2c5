"""Judges: a rule, a local model, or an endpoint with OpenAI's API. All of them decode greedily."""

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch

from tinyvid.build import DTYPES, resolve_device, resolve_dtype
from tinyvid.errors import ConfigError
from tinyvid.evaluation.items import Verdict
from tinyvid.evaluation.judging.judge import Case, by_chat
from tinyvid.evaluation.judging.rubrics import Rubric
from tinyvid.evaluation.scoring.replies import wording
from tinyvid.protocols import LanguageModel
from tinyvid.registry import JUDGES, LLMS, PositiveFloat, PositiveInt

logger = logging.getLogger(__name__)

LARGEST = 1 << 20  # largest response, in bytes
LONGEST_WAIT = 30.0  # longest delay before a retry, in seconds
AGAIN = {408, 409, 425, 429}  # statuses, besides 5xx, after which a request is retried


@JUDGES.register("exact")
class ExactJudge:
    """Judge a reply as correct if it equals the answer, ignoring case, outer punctuation and a leading article.

    It gives only yes or no. Its accuracy is a lower bound of the accuracy that a model would report.
    """

    identity: Mapping[str, Any] = {"name": "exact"}

    def supports(self, rubric: Rubric) -> bool:
        """Return whether the rubric has a yes-or-no mark."""
        return rubric.decides is not None

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        """Return a verdict on each case from comparing the reply with the answer."""
        return [Verdict(float(wording(case.reply) == wording(case.answer))) for case in cases]


class _ModelJudge:
    """Base of the judges that are models."""

    attempts: int

    def supports(self, rubric: Rubric) -> bool:
        """Return ``True``; a model can give any marks."""
        return True

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        """Return the verdicts on cases. Malformed verdicts are requested again."""
        return by_chat(self.chat, cases, attempts=self.attempts)

    def chat(self, talks: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
        """Return the replies to conversations."""
        raise NotImplementedError


@JUDGES.register("local")
class LocalJudge(_ModelJudge):
    """Judge with a local instruction-tuned LLM, which is loaded with the first case.

    Args:
        path: Directory or hub id of a causal LM whose tokenizer has a chat template.
        revision: Commit, branch or tag on the hub.
        device: See ``Assistant.from_config``.
        dtype: See ``Assistant.from_config``.
        quant: Quantization: ``none``, ``nf4`` or ``int8``.
        batch_size: Cases per batch.
        max_length: Longest case with its verdict, in tokens; a longer case stops the run.
        max_new_tokens: Longest verdict, in tokens.
        attempts: Most attempts per case.
    """

    def __init__(
        self,
        *,
        path: str,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        quant: str = "none",
        batch_size: PositiveInt = 8,
        max_length: PositiveInt = 2048,
        max_new_tokens: PositiveInt = 128,
        attempts: PositiveInt = 2,
    ) -> None:
        self.path, self.revision, self.quant = path, revision, quant
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self.batch_size, self.max_new_tokens, self.attempts = batch_size, max_new_tokens, attempts
        self.max_length = max_length
        name = next(name for name, value in DTYPES.items() if value == self.dtype)
        self.identity = {
            "name": "local", "path": path, "revision": revision, "dtype": name, "quant": quant,
            "max_new_tokens": max_new_tokens, "attempts": attempts,
        }  # fmt: skip
        self._llm: LanguageModel | None = None

    def chat(self, talks: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
        """Return the greedy replies to conversations.

        Raises:
            ConfigError: The tokenizer has no chat template.
        """
        replies = []
        for first in range(0, len(talks), self.batch_size):
            replies += self._generate(talks[first : first + self.batch_size])
        return replies

    @torch.inference_mode()
    def _generate(self, talks: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
        llm = self._load()
        tokenizer, model = llm.tokenizer, llm.model
        prompts = [tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) for talk in talks]
        inputs = tokenizer(
            prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        ).to(model.device)
        length = inputs["input_ids"].shape[1] + self.max_new_tokens
        if length > self.max_length:
            raise ConfigError(
                f"a case of {length:,} tokens, including the verdict, exceeds judge.max_length={self.max_length:,}; "
                "increase it"
            )
        ids = model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        return tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def _load(self) -> LanguageModel:
        if self._llm is None:
            options = {"name": "auto", "path": self.path, "revision": self.revision, "max_length": self.max_length}
            llm = LLMS.build(options, key="judge", dtype=self.dtype, quant=self.quant, device=self.device)
            if not llm.tokenizer.chat_template:
                raise ConfigError(
                    f"judge.path={self.path!r}: the tokenizer has no chat template; use an instruct model"
                )
            if llm.tokenizer.pad_token is None:
                llm.tokenizer.pad_token = llm.tokenizer.eos_token
            self._llm = llm
        return self._llm


@JUDGES.register("openai")
@dataclass(kw_only=True)
class OpenAIJudge(_ModelJudge):
    """Judge with an endpoint that has ``/chat/completions``: vLLM, llama.cpp, Ollama, or a service.

    Args:
        url: URL up to the version, such as ``http://localhost:8000/v1``.
        model: Name of the model at the endpoint.
        key_env: Environment variable with the API key, which is sent only if the variable is set.
        timeout: Timeout of a response, in seconds.
        attempts: Most attempts per case, and per request.
        backoff: Seconds before the first retry of a request, doubled for each further retry.
        parallel: Number of concurrent requests.
        max_new_tokens: Longest verdict, in tokens.
    """

    url: str
    model: str
    key_env: str = "OPENAI_API_KEY"
    timeout: PositiveFloat = 60.0
    attempts: PositiveInt = 4
    backoff: PositiveFloat = 1.0
    parallel: PositiveInt = 4
    max_new_tokens: PositiveInt = 128

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"judge.url={self.url!r} must begin with http:// or https://")
        self.url = self.url.rstrip("/")

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings that its verdicts depend on."""
        settings = ("url", "model", "max_new_tokens", "attempts")
        return {"name": "openai", **{name: getattr(self, name) for name in settings}}

    def chat(self, talks: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
        """Return the replies to conversations, with ``parallel`` concurrent requests.

        Raises:
            ConfigError: The endpoint rejects a request, or does not respond in ``attempts`` attempts.
        """
        with ThreadPoolExecutor(self.parallel) as pool:
            waiting = [pool.submit(self._ask, talk) for talk in talks]
            try:
                return [future.result() for future in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, talk: Sequence[Mapping[str, str]]) -> str:
        """Return the reply to one conversation, with retries after transient failures."""
        failure = ""
        for attempt in range(self.attempts):
            try:
                content = self._post(talk)
            except _Transient as error:
                failure = str(error)
                logger.warning("The judge at %s failed: %s", self.url, failure)
                if attempt + 1 < self.attempts:
                    time.sleep(min(LONGEST_WAIT, max(error.wait, self.backoff * 2**attempt)))
            else:
                return content
        raise ConfigError(
            f"judge.url={self.url!r} did not respond in {self.attempts} attempts; the last failure was: {failure}. "
            "Replies and verdicts so far are saved; run the same command again when the endpoint works"
        )

    def _post(self, talk: Sequence[Mapping[str, str]]) -> str:
        status, content, headers = self._request(talk)
        shown = content[:200].decode("utf-8", "replace")
        if status in AGAIN or status >= 500:
            raise _Transient(f"HTTP {status}: {shown}", _seconds(headers.get("Retry-After")))
        if status != 200:
            raise ConfigError(f"judge.url={self.url!r} rejected the request with HTTP {status}: {shown}")
        try:
            reply = json.loads(content)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise _Transient(f"the response is not a chat completion: {shown!r}") from error
        return reply if isinstance(reply, str) else ""

    def _request(self, talk: Sequence[Mapping[str, str]]) -> tuple[int, bytes, Any]:
        """Return the status, body and headers of the endpoint's response."""
        body = {"model": self.model, "messages": list(talk), "temperature": 0, "max_tokens": self.max_new_tokens}
        headers = {"Content-Type": "application/json"}
        if os.environ.get(self.key_env):
            headers["Authorization"] = f"Bearer {os.environ[self.key_env]}"
        request = Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        try:
            try:
                response = urlopen(request, timeout=self.timeout)
            except HTTPError as error:  # any status except 2xx; the body explains it
                response = error
            with response:
                return response.status, self._body(response), response.headers
        except (OSError, HTTPException) as error:
            raise _Transient(f"{type(error).__name__}: {error}") from error

    def _body(self, response: Any) -> bytes:
        """Read a response of at most ``LARGEST`` bytes within ``timeout``."""
        content = b""
        deadline = time.monotonic() + self.timeout
        while chunk := response.read1(1 << 16):
            content += chunk
            if len(content) > LARGEST:
                raise _Transient(f"the response is larger than {LARGEST:,} bytes")
            if time.monotonic() > deadline:
                raise _Transient(f"the response took longer than judge.timeout={self.timeout:g} s")
        if response.length:
            raise _Transient(f"the response was cut off, {response.length:,} bytes before its end")
        return content


class _Transient(Exception):
    """A failure after which to retry, after ``wait`` seconds if the server specifies them."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def _seconds(header: str | None) -> float:
    """Return the seconds of a Retry-After header; 0 if it is not a number."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
