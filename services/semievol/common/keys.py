"""Canonical JSON, sha256 and seeds: whatever must come out the same for the same inputs (R2, R5)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys, no white space, no NaN, ending in a newline: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Lower-case hex digest of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def content_key(value: Any) -> str:
    """R2: the key of work is the hash of everything that its result depends on."""
    return sha256_hex(canonical_json(value))


def derive_seed(*parts: str | int) -> int:
    """A seed in [0, 2**63) that depends on every part and on nothing else (R5), such as (run seed, row id, collaborator, sample)."""
    return int.from_bytes(hashlib.sha256(canonical_json(list(parts))).digest()[:8], "big") >> 1


def adapter_name(sha256: str) -> str:
    """R9: carries the content hash, so that a name never means other weights."""
    return f"adapter-{sha256[:16]}"
