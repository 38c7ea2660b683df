"""`python -m semievol.common.healthcheck HOST:PORT`: ends with 0 where the gRPC server there works (R12), else with 69 and a word of why.

For platforms that ask by running a command in the container, as Compose does; Kubernetes asks by itself.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from semievol.common import errors
from semievol.common.grpc_client import open_channel
from semievol.common.security import access

_DEADLINE_S = 5.0


def check(address: str, *, deadline_s: float = _DEADLINE_S) -> None:
    """Raises Unavailable where nothing answers, or where what answers does not work."""
    with open_channel(address, access()) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=deadline_s)
        except grpc.RpcError as error:
            raise errors.Unavailable(f"The health of {address} cannot be asked for: {error.code().name}.") from error
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise errors.Unavailable(f"The server at {address} is {status}.")


if __name__ == "__main__":
    try:
        check(sys.argv[1])
    except errors.SemiEvolError as problem:
        print(problem.message, file=sys.stderr)
        sys.exit(problem.exit_code)
