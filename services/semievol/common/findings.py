"""What is found out about a part: of a machine by the command line, of the services and the store by the controller."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warning", "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """How a part is: what was found, what to do about it. `status`: OK, WARN or FAIL; `exit_code` (semievol.common.errors) stands for a
    failure, else 0."""

    name: str
    status: str
    message: str
    advice: str = ""
    seconds: float = 0.0
    exit_code: int = 0
