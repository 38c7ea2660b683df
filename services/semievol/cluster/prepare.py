"""Waits for servers that start together with the suite: `python -m semievol.cluster.prepare [--make-bucket URI] [--milvus URI]`.

The chart runs it before the containers that could not start without them, where store and Milvus come with the release. A server that is
somebody else's is not waited for: what is wrong with it is said at once, by who needs it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence

from semievol.common import errors
from semievol.common.endpoints import secret

log = logging.getLogger(__name__)

_PAUSE_S = 1.0
_PASSING = (errors.Unavailable, errors.StorageError, errors.Busy, errors.DeadlineExceeded)  # a server that is starting


def make_bucket(uri: str) -> None:
    """Makes the bucket of an S3 store; one that is there is no error. Raises as the store."""
    from semievol.common.stores.s3_bucket import Bucket, Location

    bucket = Bucket(Location.parse(uri), attempts=1)
    bucket.call(f"make the bucket {bucket.location.bucket}", bucket.make)


def reach_milvus(uri: str) -> None:
    """Raises Unavailable, NotAllowed."""
    from semievol.retrieval.backends.milvus_connection import TOKEN_NAME, connect

    token = secret(TOKEN_NAME)
    connect(uri, token.get_secret_value() if token else "").close()


def until(what: str, attempt: Callable[[], None], timeout_s: float, *, pause_s: float = _PAUSE_S) -> None:
    """Tries until it succeeds. Raises what the last attempt raised when the time is over, and at once what no waiting mends."""
    end = time.monotonic() + timeout_s
    said = ""
    while True:
        try:
            attempt()
        except _PASSING as error:
            if time.monotonic() >= end:
                raise
            if error.message != said:
                log.info("Waiting for %s: %s", what, error.message)
            said = error.message
            time.sleep(pause_s)
        else:
            log.info("%s is ready", what)
            return


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m semievol.cluster.prepare", description="Waits for servers that are starting."
    )
    parser.add_argument("--make-bucket", metavar="URI", help="S3 store whose bucket is made where it is missing")
    parser.add_argument("--milvus", metavar="URI", help="Milvus server that is waited for")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=600.0, help="longest wait for each")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        if asked.make_bucket:
            until("the object store", lambda: make_bucket(asked.make_bucket), asked.timeout)
        if asked.milvus:
            until("Milvus", lambda: reach_milvus(asked.milvus), asked.timeout)
    except errors.SemiEvolError as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
