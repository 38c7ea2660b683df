"""What addresses the configured names stand for at the moment: one of an engine, or, of a headless Service, one of each of its pods."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

from semievol.common import errors
from semievol.common.security import is_address

log = logging.getLogger(__name__)

_ANSWER_S = 2.0  # longest that a look waits for a name server
_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*):(\d+)")
_NOBODY = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""A host's IP addresses. Raises NotFound (it has none now), Unavailable (nobody can tell)."""


async def resolve(host: str) -> list[str]:
    """By this machine's resolver. Of one family, or a pod that has an address of each would count as two."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _NOBODY:
            raise errors.NotFound(f"{host} has no address; is anything behind it ready?") from error
        raise errors.Unavailable(f"{host} cannot be looked up ({error.strerror}).") from error
    except (OSError, UnicodeError) as error:
        raise errors.Unavailable(f"{host} cannot be looked up ({errors.first_line(error)}).") from error
    for family in (socket.AF_INET, socket.AF_INET6):
        addresses = sorted({str(at[0]) for kind, _, _, _, at in found if kind is family})
        if addresses:
            return addresses
    raise errors.NotFound(f"{host} has no address; is anything behind it ready?")


def host_of(name: str) -> str:
    """The host of a NAME:PORT; empty for what need not be looked up."""
    match = _NAME.fullmatch(name)
    return match[1] if match and not is_address(match[1]) else ""


class Names:
    """The configured names, HOST:PORT. `faults`: by name, what was wrong when it was looked up last. A name whose addresses nobody can tell
    keeps those that it had; one of which the name server says that it has none has none. All methods belong to one event loop."""

    def __init__(self, names: Sequence[str], resolve: Resolve) -> None:
        self._names = names
        self._resolve = resolve
        self._asked: dict[str, asyncio.Future[Sequence[str]]] = {}
        self._known: dict[str, tuple[str, ...]] = {}
        self.faults: dict[str, str] = {}

    async def look(self) -> Mapping[str, tuple[str, ...]]:
        """name -> addresses, HOST:PORT, for all names in order."""
        await asyncio.gather(*(self._look(name) for name in self._names))
        return {name: self._known.get(name, ()) for name in self._names}

    def close(self) -> None:
        for asked in self._asked.values():
            asked.cancel()

    async def _look(self, name: str) -> None:
        host = host_of(name)
        if not host:
            self._known[name] = (name,)
            return
        if name not in self._asked:  # else it was asked before and there is no answer yet
            self._asked[name] = asyncio.ensure_future(self._resolve(host))
        await asyncio.wait({self._asked[name]}, timeout=_ANSWER_S)
        if not self._asked[name].done():
            self._failed(name, f"the name server says nothing about {host}")
            return
        try:
            found = self._asked.pop(name).result()
        except errors.NotFound as error:
            self._known[name] = ()
            self._failed(name, error.message)
        except errors.SemiEvolError as error:
            self._failed(name, error.message)
        else:
            port = name.rpartition(":")[2]
            self._known[name] = tuple(f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in found)
            self.faults.pop(name, None)

    def _failed(self, name: str, fault: str) -> None:
        if name not in self.faults:
            log.warning("Engines at %s: %s", name, fault)
        self.faults[name] = fault
