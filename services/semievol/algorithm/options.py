"""Which of a row's options a text names, by letter or by its own words.

Options may be prefixes of one another (`New York City`), differ in case alone (`Rr`, `rr`), or be letters or numbers themselves, so
the nearest spelling wins, and where two readings remain there is no answer. An echo of several options names none of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from semievol.algorithm.folding import OUTER, fold, spaced

_OPEN = r"[\s\"'`*_(\[{<>$\\#\u201c\u2018-]*"
_CLOSE = r"[\s.,;:!?\"'`*_)\]}>$\\\u201d\u2019]*"
_LETTER = rf"{_OPEN}(?:(?:option|choice|letter)\s+{_OPEN})?([A-Z])"
_LONE_LETTER = re.compile(rf"{_LETTER}{_CLOSE}", re.IGNORECASE)
_LABEL = re.compile(rf"{_LETTER}(?![A-Z0-9'\u2019])([\W_]*)(.*)", re.IGNORECASE)
_MARK = re.compile(
    r"[\"'`*_]*[).:,;\]}][\"'`*_)\]}(\[\s]+|[\"'`*_]*[):\]}]|[*_`\s]+[-\u2013\u2014=(\[]\s*"
)  # `) `, `.** `, ` - `; not `+`, `/`, `-level`
_REASON = re.compile(
    r"(?:is|because|since|as)\b", re.IGNORECASE
)  # what may follow a letter without a mark: `A` may be an article
_WORDS_END = re.compile(r"[.,;:!?\"'`*_)\]}>\u201d\u2019]*(?:\s|$)|\s*[/|\u2013\u2014(]")
_LIST = re.compile(r"[\s\"'`*_)\]}]*(?:[,/;|&]|\b(?:and|or)\b)[\W_]*(?:(?:and|or)\b[\W_]*)?", re.IGNORECASE)
_LISTED_LETTER = re.compile(rf"(?:(?:and|or)\s+)?{_OPEN}([A-Z])(?:[).:,;/\]]|\s*$|\s+(?:and|or)\b)")


def letter_of(index: int) -> str:
    return chr(ord("A") + index)


def named_option(value: str, options: Sequence[str]) -> str | None:
    """The letter of the option whose words `value` is: verbatim if one is, else by ever looser spelling; None if that fits two."""
    spellings: tuple[Callable[[str], str], ...] = (
        spaced,
        lambda text: spaced(text).strip(OUTER),
        lambda text: spaced(text).casefold(),
        fold,
    )
    for spelling in spellings:
        wanted = spelling(value)
        found = [index for index, option in enumerate(options) if wanted and spelling(option) == wanted]
        if found:
            return letter_of(found[0]) if len(found) == 1 else None
    return None


def letter_in_file(value: str, options: Sequence[str]) -> str | None:
    """The letter that the answer column of a data file means. A lone letter is a label even where an option reads `C` (ARC has such
    rows); a number that is no option's words counts the options from 1."""
    letter = _lone_letter(value, options) or named_option(value, options)
    if letter is None and value.strip() in {str(position) for position in range(1, len(options) + 1)}:
        return letter_of(int(value) - 1)
    return letter


def stated_choice(stated: str, options: Sequence[str], *, letters_first: bool) -> str | None:
    """The letter of the option that stands at the beginning of what follows `Answer:`; an explanation may follow.

    `letters_first`: the model was asked for a letter, so `C` is the third option and not the one that reads `C`.
    """
    whole = _exact(stated, options, letters_first)
    if whole or not stated:
        return whole
    first, *others = re.split(r"\n\s*\n", stated)[0].splitlines()
    letter = _read(first, options, letters_first, strict=False)
    return letter if all(_read(line, options, letters_first, strict=True) in (None, letter) for line in others) else None


def only_choice(text: str, options: Sequence[str], *, letters_first: bool) -> str | None:
    """The letter of the option that a response without `Answer:` consists of or opens with (`B`, `(B) Rome`, `Rome. It was ...`)."""
    first, *others = [line for line in text.splitlines() if line.strip()]
    letter = _exact(text, options, letters_first) or _read(first, options, letters_first, strict=True)
    return letter if all(_read(line, options, letters_first, strict=True) in (None, letter) for line in others) else None


def _exact(value: str, options: Sequence[str], letters_first: bool) -> str | None:
    letter, words = _lone_letter(value, options), named_option(value, options)
    return letter or words if letters_first else words or letter


def _lone_letter(value: str, options: Sequence[str]) -> str | None:
    match = _LONE_LETTER.fullmatch(unicodedata.normalize("NFKC", value))
    return _in_range(match[1], options) if match else None


def _in_range(letter: str, options: Sequence[str]) -> str | None:
    letter = letter.upper()
    return letter if len(letter) == 1 and 0 <= ord(letter) - ord("A") < len(options) else None


def _read(line: str, options: Sequence[str], letters_first: bool, *, strict: bool) -> str | None:
    """The option that a line is or begins with. `strict`: no `Answer:` stands before it, so only a label with its option's words, or
    an option that is a sentence of its own, is taken for an answer."""
    line = " ".join(unicodedata.normalize("NFKC", line).split())
    exact = _exact(line, options, letters_first)
    if exact:
        return exact
    return _begins_with_words(line, options, strict) or _begins_with_letter(line, options, letters_first, strict)


def _begins_with_words(line: str, options: Sequence[str], strict: bool) -> str | None:
    begun = {letter_of(index): rest for index, option in enumerate(options) if (rest := _after(line, option)) is not None}
    if not begun:
        return None
    rest = min(begun.values(), key=len)  # of `New York` and `New York City` the longer one is meant
    letter, *same = [letter for letter, after in begun.items() if after == rest]
    if same:  # `rR` where the options are `Rr` and `rr`
        return None
    listed = _LIST.match(rest)
    if (strict and not rest.startswith(". ")) or (listed and _begins_another(rest[listed.end() :], letter, options)):
        return None
    return letter


def _begins_with_letter(line: str, options: Sequence[str], letters_first: bool, strict: bool) -> str | None:
    label = _LABEL.match(line)
    letter = _in_range(label[1], options) if label else None
    if not label or not letter or _labels_another(line, letter, options):
        return None
    mark, rest = label[2], label[3]
    if _after(rest, options[ord(letter) - ord("A")]) is not None or fold(rest) == fold(options[ord(letter) - ord("A")]):
        return letter
    if strict:
        spoken = bool(re.fullmatch(r"[*_`]*[.)][*_`]*\s", mark)) and rest[:1].isupper()
    else:
        spoken = bool(_REASON.match(rest) if mark.isspace() else _MARK.fullmatch(mark))
    if not spoken or _begins_another(rest, letter, options):
        return None
    return letter if letters_first else named_option(label[1], options) or letter


def _after(text: str, option: str) -> str | None:
    """What follows the option's words where `text` begins with them, else None. One character or a number has to stand alone: `25` may
    be the start of `25 000`."""
    words, begun = fold(option), text.lstrip(OUTER)
    if len(words) < 2 or words[-1].isdigit() or not begun.casefold().startswith(words):
        return None
    rest = begun[len(words) :]
    return rest if _WORDS_END.match(rest) else None


def _begins_another(rest: str, letter: str, options: Sequence[str]) -> bool:
    """Whether `rest` goes on with another option than `letter`, as an echo of the options does."""
    listed = _LISTED_LETTER.match(rest)
    if listed and _in_range(listed[1], options) not in (None, letter):
        return True
    return any(
        letter_of(index) != letter and (fold(option) == fold(rest) or _after(rest, option) is not None)
        for index, option in enumerate(options)
    )


def _labels_another(line: str, letter: str, options: Sequence[str]) -> bool:
    """Whether a line holds the label and words of another option: `A. Rome B. Paris`."""
    line = line.casefold()
    return any(
        f"{letter_of(index)}{mark} {spaced(option)}".casefold() in line
        for index, option in enumerate(options)
        for mark in (".", ")", ":")
        if letter_of(index) != letter
    )
