"""Servers elsewhere that a run file names by URL, and the keys that open them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from pydantic import SecretStr

from semievol.common import errors

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@runtime_checkable
class Remote(Protocol):
    """A backend whose work is done by a server elsewhere. `check` raises while that does not work as it did (R12)."""

    def check(self) -> None: ...

    def close(self) -> None: ...


def is_url(reference: str) -> bool:
    return reference.lower().startswith(("http://", "https://"))


def check_url(url: str, *, field: str) -> str:
    """The URL without a slash at its end. Raises InvalidInput(field=); what a URL holds is printed and recorded, so it must hold no secret."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise errors.InvalidInput(f"{url} is no URL: {error}.", field=field) from error
    if parts.username or parts.password:
        raise errors.InvalidInput(
            f"The URL of {host} carries a password; leave it out, and give a key by environment variable or file.", field=field
        )
    if not host or parts.query or parts.fragment or any(letter.isspace() for letter in url):
        raise errors.InvalidInput(f"{url} is not of the form http://host:port or https://host:port/path.", field=field)
    return url.rstrip("/")


def is_private(url: str) -> bool:
    """Whether nobody on the way can read what is sent there."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in _LOOPBACK


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What an answer's Retry-After asks for, in seconds; None where it is missing or a date."""
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def pause(attempt: int, first_s: float, longest_s: float, *, asked_s: float = 0.0) -> None:
    """Before attempt + 1: longer each time, at least what was asked for, and never the same for two processes."""
    time.sleep(min(max(first_s * 2 ** (attempt - 1), asked_s), longest_s) * random.uniform(0.5, 1.0))


def secret(name: str) -> SecretStr | None:
    """The environment variable NAME, else what the file holds that NAME_FILE names; None where neither is set. Raises
    InvalidInput: what is set cannot be used."""
    value, file = os.environ.get(name, ""), os.environ.get(f"{name}_FILE", "")
    if not value and file:
        try:
            value = Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise errors.InvalidInput(f"The file of {name}_FILE, {file}, cannot be read: {errors.first_line(error)}.") from error
        if not value.strip():
            raise errors.InvalidInput(f"The file of {name}_FILE, {file}, is empty.")
    value = value.strip()
    if not value:
        return None
    if not value.isascii() or not value.isprintable():
        raise errors.InvalidInput(f"{name} holds characters that no key has (line breaks, letters beyond ASCII).")
    return SecretStr(value)
