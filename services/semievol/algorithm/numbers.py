"""Numbers in answers: one canonical decimal, compared within the tolerance of App. B.2.

A percent sign and a currency are dropped, not applied: `12.5%` is 12.5. Words that scale (`million`) are not read.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

NUMBER_TOLERANCE = 1e-2  # App. B.2; D9: relative, absolute below 1

_CURRENCY = r"[$\u20ac\u00a3\u00a5]"
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(rf"(?<![A-Za-z_])(?:(?<!\w)(?<!\))[-+])?(?<!\d)(?<!\d[.,])(?:{_DIGITS})(?:[eE][-+]?\d+)?")
_FRACTION = re.compile(r"([-+]?\d+)\s*/\s*(\d+)")
# What makes a number only a part of something: a range, a sum, a date, a list, a decimal comma
_GOES_ON = re.compile(rf"\s*(?:[-+*/^\u00d7\u00f7\u2013:,.]|\b(?:x|to|or|and)\b)?\s*{_CURRENCY}?\d")
_LEAD = re.compile(
    rf"(?:[\s*_`\"'(\[\\~\u2248]|{_CURRENCY})*(?:(?:about|approximately|approx\.?|roughly)\s+)?{_CURRENCY}?\s*", re.IGNORECASE
)
_TRAIL = re.compile(r"[\s%*_`\"')\].,!$\\]*")
_REWRITES = (  # one spelling for each sign before anything is matched
    (re.compile("[\u2212\u2013](?=\\s?[\\d.$\u20ac\u00a3\u00a5])"), "-"),
    (re.compile(r"[\u00a0\u202f\u2009](?=\d{3}(?!\d))|\{,\}"), ","),  # thousands set apart by a narrow space or in LaTeX
    (re.compile(rf"([-+])\s*\\?{_CURRENCY}\s*"), r"\1"),
    (re.compile(r"(^|[\s=(*])([-+])\s+(?=[\d.])"), r"\1\2"),
    (re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}"), r"\1/\2"),
    (re.compile(r"(?<=\d)\s*(?:\\times|\\cdot|[x\u00d7*])\s*10\s*(?:\^|\*\*)\s*\{?([-+]?\d+)\}?"), r"e\1"),
)


def canonical_number(text: str, *, alone: bool = False) -> str | None:
    """The shortest decimal of the number that `text` states (`$1,234.50` -> `1234.5`, `1/4` -> `0.25`); None where it is not clear.

    Of an equation the right side counts (`3 + 4 = 7`). A text that does not begin with its number may hold only one. `alone`: nothing
    but the number may stand there.
    """
    for pattern, spelling in _REWRITES:
        text = pattern.sub(spelling, text)
    text = text.rpartition("=")[2].strip()
    lead = _LEAD.match(text)
    assert lead is not None  # it can be empty
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    start = found[0].start()
    if start != lead.end() and len({_value(match[0]) for match in found}) > 1:
        return None
    fraction = _FRACTION.match(text, start)
    value, rest = (_quotient(fraction), text[fraction.end() :]) if fraction else (_value(found[0][0]), text[found[0].end() :])
    if value is None or _GOES_ON.match(rest) or (alone and (start != lead.end() or not _TRAIL.fullmatch(rest))):
        return None
    return _shortest(value)


def _value(digits: str) -> Decimal | None:
    number = Decimal(digits.replace(",", ""))
    return number if math.isfinite(float(number)) else None


def _quotient(fraction: re.Match[str]) -> Decimal | None:
    numerator, denominator = Decimal(fraction[1]), Decimal(fraction[2])
    return (
        Decimal(f"{float(numerator / denominator):.6g}") if denominator else None
    )  # six digits say 1/3 well within the tolerance


def _shortest(number: Decimal) -> str:
    if not float(number):
        return "0"
    normal = number.normalize()
    return format(normal, "f") if Decimal("1e-12") <= abs(number) < Decimal("1e15") else str(normal)


def equal_numbers(a: str, b: str) -> bool:
    """|a - b| <= 1e-2 max(1, |b|), for canonical numbers."""
    x, y = float(a), float(b)
    return abs(x - y) <= NUMBER_TOLERANCE * max(1.0, abs(y))
