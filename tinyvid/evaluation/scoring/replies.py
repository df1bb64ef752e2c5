"""Extract the final part of a reply: its text without thinking, answer tags, boxes and markup."""

import re
import unicodedata

LONGEST = 200_000  # most characters of a reply that are read, from its end
_OPEN_THINK = re.compile(r"<(?:think|thinking|thought|reasoning|scratchpad)>", re.IGNORECASE)
_CLOSE_THINK = re.compile(r"</(?:think|thinking|thought|reasoning|scratchpad)>", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_END = re.compile(r"</answer>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,40}>")
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}")
_HEADING = re.compile(r"^(?:#+|>)\s*")
_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=\S)")


def final_part(reply: str) -> str:
    """Return a reply without thinking, or the content of its last answer tag or box if it has one.

    If the thinking never ends, nothing of it is left.
    """
    text = unicodedata.normalize("NFKC", reply[-LONGEST:])
    text = _without_thinking(text)
    tagged = _ANSWER_END.split(_ANSWER.split(text)[-1])[0] if _ANSWER.search(text) else ""
    if tagged.strip():
        text = tagged
    boxed = _last_box(text)
    return text if boxed is None or not boxed.strip() else boxed


def plain(text: str) -> str:
    """Return a text without markup (emphasis, headings, code, formulas, HTML tags) and repeated white space."""
    text = _TEXT.sub(r"\1", text.replace("\\(", "").replace("\\)", "").replace("’", "'"))
    lines = [_HEADING.sub("", " ".join(line.split())) for line in _TAG.sub("", text).splitlines()]
    text = re.sub(r"[*`$~]+", "", "\n".join(line for line in lines if line))
    return re.sub(r"(?<![^\W_])_+|_+(?![^\W_])", "", text).strip()


def wording(text: str) -> str:
    """Normalize a text for comparison: lower case, single spaces, no outer punctuation, no leading article."""
    text = " ".join(plain(unicodedata.normalize("NFKC", text)).casefold().split())
    first = next((i for i, sign in enumerate(text) if sign.isalnum() or sign in "+-%"), len(text))
    last = next((i for i in range(len(text), first, -1) if text[i - 1].isalnum() or text[i - 1] == "%"), first)
    return _ARTICLE.sub("", text[first:last])


def _without_thinking(text: str) -> str:
    opens = [match.start() for match in _OPEN_THINK.finditer(text)]
    closes = [match.end() for match in _CLOSE_THINK.finditer(text)]
    if not closes:
        return text[: opens[0]] if opens else text
    before = text[: opens[0]] if opens and opens[0] < closes[-1] else ""
    after = text[closes[-1] :]
    again = _OPEN_THINK.search(after)
    return f"{before}\n{after[: again.start()] if again else after}"


def _last_box(text: str) -> str | None:
    r"""Return the content of the last ``\boxed{...}``, which may contain braces."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for end in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : end]
    return text[start + len("\\boxed{") :]
