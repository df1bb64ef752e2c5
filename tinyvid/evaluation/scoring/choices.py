"""Extract the letter from a reply to a multiple-choice question, by the same rules for every benchmark.

The first rule that applies decides. Only letters of the item's options count:

1. The reply, without thinking, is a letter and nothing else.
2. The reply states an answer ("the answer is C", "Answer: (C)", "C is correct", "答案是 C"), or its last line is a
   letter that does not end a list of letters. The last statement decides.
3. The reply begins with a marked letter (``C.``, ``C)``, ``(C)``, ``C:``, ``Option C, ...``), does not reject it, and
   does not just list the options.
4. The reply is the text of an option.

Any other reply is unparsed, which counts as wrong and is reported. Nothing is guessed.
"""

import re
from collections.abc import Mapping
from typing import cast

from tinyvid.evaluation.scoring.replies import final_part, plain, wording

_WORD = "A-Za-z\u00c0-\u024f0-9_'"  # characters that are not next to a separate letter
LETTER = rf"(?<![{_WORD}])([A-Za-z])(?![{_WORD}])"
_OPEN, _CLOSE = r"""[\s(\[{<"“]{0,4}""", r"""[)\]}>"”]{0,4}"""  # bounded, as all repetitions here, so time is linear

_IS = (
    r"(?:is|was|would\s+be|should\s+be|must\s+be|will\s+be|has\s+to\s+be|seems\s+to\s+be|appears\s+to\s+be)\b\s*:?"
    r"|:|=|->|→|[-–—](?=\s)"
)
_FILLER = (
    r"(?:(?:most\s+likely|likely|probably|definitely|clearly|indeed|obviously|therefore|thus|simply|just|the|correct|"
    r"best|right|option|choice|letter|answer)\b\s*:?\s*){0,6}"
)
_ENGLISH = (
    r"(?:\b(?:final\s+|correct\s+|best\s+|right\s+|my\s+|the\s+){0,4}(?:answer|ans)\b|"
    r"(?:^|(?<=[.\n])|\b(?:final|correct|best|right|chosen|selected|my|the)\b)[^\S\n]*(?:option|choice)\b)"
    r"""["'”)\]]*(?:\s+(?:to|for)\s+[^.:\n]{1,60}?)?\s*"""
)
_LATIN = (
    r"\b(?:respuesta|réponse|reponse|antwort|antwoord|resposta|risposta|cevap|yanıt|jawaban|đáp\s+án|svaret|svar|"
    r"odpowiedź|odpověď|ответ)\w{0,4}(?:\s+[^\W\d_]{2,15}){0,2}?\s*"
    r"(?:(?:es|est|ist|é|è|is|là|adalah|to|je|är|это)\b\s*:?|:|=|[-–—](?=\s))"
)
_OTHER = (
    r"(?:答案|选项|選項|选择|選擇|应选|應選|答え|正解|回答|정답|답|उत्तर|الإجابة|الجواب|תשובה|คำตอบ)"
    r"(?:\s*(?:应该是|應該是|是|为|為|は|が|은|는|है|هي|هو|היא|คือ|:|=))?"
)
STATEMENT = re.compile(
    rf"(?:{_ENGLISH}(?:{_IS})|{_LATIN}|{_OTHER}|(?<=[选選])(?=\s*[A-Z]))\s*{_FILLER}", re.IGNORECASE | re.MULTILINE
)
_PICK = re.compile(
    r"\b(?:choose|chose|pick|picked|select|selected|go\s+with|going\s+with|went\s+with|opt\s+for)\s+"
    rf"(?:(?:option|answer|choice|letter)\s+)?(?={_OPEN}{LETTER})",
    re.IGNORECASE,
)
_SO = re.compile(
    rf"\b(?:therefore|thus|hence|so|it's|it\s+is|it\s+must\s+be|conclusion)\b[,:]?\s*(?:option\s+|answer\s+)?"
    rf"(?={_OPEN}{LETTER}{_CLOSE}[.!]*\s*(?:$|\n))",
    re.IGNORECASE,
)
_CORRECT = re.compile(
    rf"(?:option\s+|answer\s+|choice\s+)?{_OPEN}{LETTER}{_CLOSE}\s*"
    r"(?:is|seems|appears|must\s+be)\s+(?:to\s+be\s+)?(?:the\s+)?(?:only\s+|most\s+|single\s+)?"
    r"(?:correct|right|best|accurate|appropriate|answer)\b",
    re.IGNORECASE,
)
_NAMED = re.compile(
    rf"^\W*(?:(?:the|final|correct|best|right|my|cevap|antwort)\s+){{0,4}}(?:answer|option|choice|cevap|antwort)\s+{_OPEN}"
    rf"{LETTER}\W*$",
    re.IGNORECASE,
)
# Words that negate a statement if they precede it in the same clause.
_DENIED = re.compile(
    r"\b(?:not|never|neither|nor|no|cannot|hardly|doubt|unlikely|whether|if|unless)\b|n't\b", re.IGNORECASE
)
_JOINED = re.compile(r"(?:\b(?:n?or|and)|[,/&])\s*$", re.IGNORECASE)
_NO_DOUBT = re.compile(r"\b(?:no|without(?:\s+a)?)\s+doubt\b", re.IGNORECASE)
_REASON = {"because", "since", "as", "for", "due", "based", "given", "which", "in", "according", "with", "from", "at"}
_ABOUT = {
    "is",
    "isn't",
    "was",
    "wasn't",
    "are",
    "could",
    "can",
    "cannot",
    "might",
    "may",
    "does",
    "seems",
    "would",
    "has",
}
_OPTION = re.compile(
    rf"(?:(?:the|my|final|correct|best|right)\s+){{0,3}}(?:option|choice|answer)\s+(?={_OPEN}{LETTER})", re.I
)
_MARK = re.compile(r"[(\[]?([A-Za-z])(?:[)\].:](?![A-Za-z0-9])|\s+[-–—]\s|[^\S\n]*\n)\s*")
_MARK_OF_OPTION = re.compile(rf"{_OPEN}{LETTER}{_CLOSE}\s*(?:[,.:;]\s|[-–—]\s|(?=(?:because|since|as)\b))\s*")
# Words that reject an option, or leave it open, after its letter.
_REJECTED = re.compile(
    r"\b(?:not|no|nope|never|neither|nor|cannot|wrong|incorrect|false|unlikely|impossible|excluded|eliminated|out|maybe|"
    r"perhaps|possibly|could|might|may)\b|n't\b|\?",
    re.IGNORECASE,
)
_BEGINNING = re.compile(r"^\s*[(\[]?([A-Za-z])(?:[)\].:](?=\s|$)|\s+[-–—]\s|[^\S\n]*$)", re.MULTILINE)
_UNCERTAIN = ""  # a statement with several letters, which makes the reply unparsed


def extract_choice(reply: str | None, options: Mapping[str, str]) -> str | None:
    """Return the letter that a reply chooses, or ``None`` if it cannot be parsed.

    Args:
        reply: The model's reply.
        options: The options of the item: letter to text.

    Example:
        >>> extract_choice("A is tempting, but the answer is (B).", {"A": "a cat", "B": "a dog"})
        'B'
    """
    text = plain(final_part(reply or ""))
    letters = {key.upper(): key for key in options if len(key) == 1}
    texts = _texts(options)
    whole = _only_letter(text)
    if whole is not None and whole.upper() in letters:
        return letters[whole.upper()]
    if _lists_letters(text):
        return None
    stated = _last_statement(text, letters, texts)
    if stated is not None:
        return letters.get(stated.upper())
    leading = _leading(text, letters, options)
    if leading is not None:
        return letters[leading.upper()]
    return texts.get(wording(text)) or _yes_or_no(text, texts)


def _texts(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options by their wording, without wordings that two options share."""
    wordings = [wording(text) for text in options.values()]
    return {words: key for key, words in zip(options, wordings, strict=True) if words and wordings.count(words) == 1}


def _only_letter(text: str) -> str | None:
    """Return the letter of a text that contains no other letter or digit."""
    found = [character for character in text if character.isalnum()][:2]
    return found[0] if len(found) == 1 and found[0].isascii() and found[0].isalpha() else None


def _lists_letters(text: str) -> bool:
    """Return whether a text consists of several letters, such as "A B C"."""
    words = re.findall(r"[^\W_]+", text)
    return len({word.upper() for word in words}) > 1 and all(len(word) == 1 and word.isalpha() for word in words)


def _last_statement(text: str, letters: Mapping[str, str], texts: Mapping[str, str]) -> str | None:
    """Return the letter of the last statement; empty if it contains several, ``None`` without a statement."""
    best: tuple[int, str] | None = None
    for pattern in (STATEMENT, _PICK, _SO, _CORRECT):
        for match in pattern.finditer(text):
            before = text[max(0, match.start() - 100) : match.start()]
            if _is_denied(before) or (pattern is _CORRECT and _JOINED.search(before)):
                continue
            stated = _letter_of_match(match, text, letters, texts)
            if stated is not None and (best is None or match.start() >= best[0]):
                best = match.start(), stated
    last = _last_line(text.splitlines(), letters, texts)
    return last if last is not None else best[1] if best is not None else None


def _last_line(lines: list[str], letters: Mapping[str, str], texts: Mapping[str, str]) -> str | None:
    """Return the letter of a last line that contains nothing else: ``C``, ``Option C``, or ``C. the dog``.

    It does not count if it ends a list: the line before is such a line, too, or begins with the letter before.
    """
    named = _NAMED.match(lines[-1]) if lines else None
    if len(lines) < 2:
        return named[1] if named and "?" not in lines[-1] else None
    letter = _letter_of_line(lines[-1], letters, texts)
    before = re.match(rf"\W{{0,2}}{LETTER}\W", lines[-2])
    other = _letter_of_line(lines[-2], letters, texts)
    ends_list = letter and (
        (other and other.upper() != letter.upper()) or (before and ord(letter.upper()) == ord(before[1].upper()) + 1)
    )
    return None if ends_list else letter


def _letter_of_line(line: str, letters: Mapping[str, str], texts: Mapping[str, str]) -> str | None:
    """Return the letter of a line that contains nothing else, except a word such as "Option" or the option's text."""
    named = _NAMED.match(line)
    if named:
        return named[1] if "?" not in line else None
    return _only_letter(line) or _letter_with_text(line, texts, letters)


def _letter_of_match(
    match: re.Match[str], text: str, letters: Mapping[str, str], texts: Mapping[str, str]
) -> str | None:
    if match.re is _CORRECT:
        letter = match[1]
        return letter if letter.isupper() or "(" in match[0] else None
    after = text[match.end() : match.end() + 400].lstrip()
    if _lists_letters(after):
        return _UNCERTAIN
    return _stated(after.partition("\n")[0], letters, texts)


def _is_denied(before: str) -> bool:
    clause = re.split(r"[.,;:!?\n]", before)[-1]
    return bool(_DENIED.search(_NO_DOUBT.sub("", clause)))


def _stated(content: str, letters: Mapping[str, str], texts: Mapping[str, str]) -> str | None:
    """Return the letter after "the answer is"; empty if there are several, ``None`` if there is no letter or option."""
    match = re.match(rf"({_OPEN}){LETTER}({_CLOSE})", content)
    if match:
        opening, letter, closing = match.groups()
        rest = content[match.end() :]
        if _goes_on_to_others(letter, rest, letters):
            return _UNCERTAIN
        if (opening.strip() and closing and closing != '"') or _ends(letter, rest):
            return None if _lists_options(content, letters, texts) or rest.lstrip().startswith("?") else letter
        if wording(rest) and texts.get(wording(rest)) == letters.get(letter.upper()):
            return letter
    for ending in (r"$", r"[.;!](?:\s|$)", r",\s|\s(?:because|since|as)\b"):
        words = wording(re.split(ending, content, maxsplit=1)[0])
        if words in texts:
            return texts[words] if len(texts[words]) == 1 else None
    return None


def _goes_on_to_others(letter: str, rest: str, letters: Mapping[str, str]) -> bool:
    """Return whether another letter of the options follows directly: "A or B", "A, C"."""
    match = re.match(
        rf"\s*(?:,?\s*(?:or|and|and/or)\b|[,/&|+]|或|和)\s*(?:option\s+)?([(\[]?){LETTER}(?!\s+[a-z])", rest
    )
    return bool(match and match[2].upper() in letters and match[2].upper() != letter.upper())


def _ends(letter: str, rest: str) -> bool:
    """Return whether a letter stands for an option, judging by what follows. The article "a" does not."""
    if not rest.strip() or re.match(r"\s*[)\].,;:!?\-–—](?![A-Za-z0-9])", rest) or rest.lstrip().startswith("\n"):
        return True
    following = re.match(r"\s+([^\W\d_][\w']*)", rest)
    if not following:
        return not rest[:1].isspace() or not rest.lstrip()[:1].isalnum()  # another script, or punctuation
    word = following[1].lower()
    if word in _ABOUT:
        return False
    return word in _REASON if letter in "aAiI" or letter.islower() else True


def _marked(text: str) -> list[tuple[str, int]]:
    """Return the letters that are marked like option letters, and the end of each mark."""
    found = re.finditer(r"(?:^|(?<=\s))(?:\(([A-Za-z])\)|([A-Za-z])[.):])(?=\s|$)", text)
    return [(match[1] or match[2], match.end()) for match in found]


def _lists_options(text: str, letters: Mapping[str, str], texts: Mapping[str, str]) -> bool:
    """Return whether a text repeats several options with their texts."""
    by_letter = {key: words for words, key in texts.items()}
    listed = set()
    for letter, end in _marked(text):
        words = by_letter.get(letters.get(letter.upper(), ""))
        if words and wording(text[end : end + len(words) + 20]).startswith(words):
            listed.add(letter.upper())
    return len(listed) > 1


def _leading(text: str, letters: Mapping[str, str], options: Mapping[str, str]) -> str | None:
    """Return the marked letter that a reply begins with, if the reply does not reject it or go on to another."""
    texts = _texts(options)
    named = _OPTION.match(text.lstrip())
    stripped = text.lstrip()[named.end() if named else 0 :]
    with_text = _letter_with_text(stripped, texts, letters)
    match = (named and _MARK_OF_OPTION.match(stripped)) or _MARK.match(stripped)
    loose = re.match(rf"[(\[]{LETTER}[)\]],\s", stripped)
    match = match or loose
    if not match:
        return with_text
    letter, rest = match[1], stripped[match.end() :]
    follows = re.match(r"([A-Za-z']+)", rest)
    if letter.upper() not in letters or (follows and follows[1].lower() in _ABOUT | {"and", "or"}):
        return None
    beginnings = {m[1].upper() for m in _BEGINNING.finditer(stripped)}
    own = {found.upper() for line in text.splitlines() if (found := _letter_of_line(line, letters, texts))}
    if len((beginnings | own) & letters.keys()) > 1 or _lists_options(stripped, letters, texts):
        return None
    return letter if _accepts(letter, rest, letters, texts, strict=bool(named or loose)) else None


def _accepts(letter: str, rest: str, letters: Mapping[str, str], texts: Mapping[str, str], *, strict: bool) -> bool:
    """Return whether the text after a leading letter leaves it the answer.

    It does if it begins with the text of this option, and not if it begins with that of another one, or rejects this
    one. If ``strict``, no word of the first sentence may reject it, and no other letter may follow.
    """
    key = letters[letter.upper()]
    others = {m[1] or m[2] for m in re.finditer(r"\(([A-Z])\)|(?<![\w'])([B-HJ-Z])(?![\w'])", rest)}
    if strict and (others & letters.keys()) - {letter.upper()}:
        return False
    for ending in (r"$", r"[.;!?\n](?:\s|$)", r"[,:]\s|\s(?:because|since|as)\b"):
        words = wording(re.split(ending, rest, maxsplit=1)[0])
        if words in texts:
            return texts[words] == key and not (strict and _REJECTED.search(rest[len(words) : len(words) + 60]))
    if strict:
        return not _REJECTED.search(re.split(r"[.!;\n](?:\s|$)", rest, maxsplit=1)[0])
    first = re.match(r"\W*(\w*)", rest.lower())
    text = next((words for words, other in texts.items() if other == key), "")
    return first is None or not _REJECTED.fullmatch(first[1]) or text.partition(" ")[0] == first[1]


def _letter_with_text(line: str, texts: Mapping[str, str], letters: Mapping[str, str]) -> str | None:
    """Return the letter of a line that is a letter and its own option's text, such as ``C the dog``."""
    match = re.match(rf"\W*{LETTER}\W+", line)
    if not match or letters.get(match[1].upper()) is None:
        return None
    return match[1] if texts.get(wording(line[match.end() :])) == letters[match[1].upper()] else None


def _yes_or_no(text: str, texts: Mapping[str, str]) -> str | None:
    """Return the option of a reply that begins with yes or no, if that is an option."""
    match = re.match(r"\s*(yes|no)\s*[,.;:!\n]", text, re.IGNORECASE)
    return texts.get(cast(str, match[1]).lower()) if match else None
