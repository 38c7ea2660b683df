"""What is on record of the jobs that an endpoint does for a key (R11), numbered from 1:

    training/<key>/remote-<n>.json        the training file there; written before the job is asked for
    training/<key>/remote-<n>.job.json    the job's id, as soon as it is known
    training/<key>/remote-<n>.end.json    that it came to nothing, and why; what is asked for next is another job

By conditional create, like all records: of two that write one, one counts.
"""

from __future__ import annotations

import json
from typing import Any

from semievol.common import errors
from semievol.common.keys import canonical_json
from semievol.ports import ObjectStore


class RemoteRecords:
    """The records of one key."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self._prefix = f"training/{key}/remote-"

    def last(self) -> int:
        """The number of the job that counts; 0: none was ever wanted."""
        numbers = [info.path.removeprefix(self._prefix).partition(".")[0] for info in self._store.list(self._prefix)]
        return max(map(int, numbers), default=0)

    def file(self, number: int) -> str | None:
        """The training file of a job that was wanted; None: it was not."""
        body = self._read(f"{number}.json")
        return str(body["file"]) if body else None

    def want(self, number: int, file: str) -> bool:
        """False: somebody else wants it already."""
        return self._store.create(f"{self._prefix}{number}.json", canonical_json({"file": file}))

    def job(self, number: int) -> str | None:
        body = self._read(f"{number}.job.json")
        return str(body["job"]) if body else None

    def found(self, number: int, job: str) -> str:
        """The job that counts: this one, or the one that somebody else found first."""
        if self._store.create(f"{self._prefix}{number}.job.json", canonical_json({"job": job})):
            return job
        return self.job(number) or job

    def ended(self, number: int) -> bool:
        return self._read(f"{number}.end.json") is not None

    def end(self, number: int, why: str) -> None:
        """The first word counts."""
        self._store.create(f"{self._prefix}{number}.end.json", canonical_json({"why": why}))

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            with self._store.open(f"{self._prefix}{name}") as stream:
                return dict(json.loads(stream.read()))
        except errors.NotFound:
            return None
        except (ValueError, TypeError) as error:
            raise errors.Corrupt(
                f"The record {self._prefix}{name} is damaged; delete it, and the endpoint's jobs are searched."
            ) from error
