"""The columns of a data file that we know, and the map from their names to the file's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from semievol.common import errors

COLUMNS = ("question", "options", "answer", "id", "category")
CHAT_COLUMNS = ("messages", "prompt", "completion")  # read as a question and an answer
MAPPABLE = (*COLUMNS, *CHAT_COLUMNS)

NO_MAP: Mapping[str, str] = {}


def check_map(names: Mapping[str, str]) -> None:
    """Our name -> theirs. Raises InvalidInput for a name on the left that is none of ours, and for none on the right."""
    for ours, theirs in names.items():
        if ours not in MAPPABLE:
            near = difflib.get_close_matches(ours, MAPPABLE, n=1)
            if theirs in MAPPABLE and not near:
                hint = f"our name stands on the left: {theirs}={ours}"
            else:
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(MAPPABLE)}"
            raise errors.InvalidInput(f"The map names a column {ours!r} that we do not have; {hint}")
        if not theirs:
            raise errors.InvalidInput(f"The map names no column for {ours!r}")
