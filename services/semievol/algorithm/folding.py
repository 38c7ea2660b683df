"""What two texts are compared by."""

from __future__ import annotations

import unicodedata

OUTER = " \t\r\n.,;:!?\"'`*_()[]{}<>\u201c\u201d\u2018\u2019"


def spaced(text: str) -> str:
    """One space for any white space, one code point sequence for any spelling of a character."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def fold(text: str) -> str:
    """Case, width, white space and outer punctuation folded."""
    cased = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(cased.split()).strip(OUTER)
