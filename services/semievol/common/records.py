"""Small JSON objects in the store that nothing else could make anew: runs, events, models, aliases."""

from __future__ import annotations

import json
from typing import Any

from semievol.common import errors
from semievol.ports import ObjectStore


def read_record(store: ObjectStore, path: str) -> dict[str, Any]:
    """Raises NotFound, Corrupt."""
    with store.open(path) as stream:
        data = stream.read()
    try:
        body = json.loads(data)
    except ValueError as error:
        raise damaged(path) from error
    if not isinstance(body, dict):
        raise damaged(path)
    return body


def damaged(path: str) -> errors.Corrupt:
    return errors.Corrupt(f"{path} in the artifact store is damaged; run its run file again, which writes it anew if it can.")
