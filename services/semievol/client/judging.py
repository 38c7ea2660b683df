"""The judging service as a `Judge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from semievol.algorithm.types import Selection, Task, Verdict
from semievol.client.paging import pages
from semievol.common import errors
from semievol.common.grpc_client import Caller
from semievol.common.limits import MAX_MESSAGE_BYTES, MAX_PAGE_ROWS
from semievol.judging import core, wire
from semievol.judging.v1 import judging_service_pb2 as pb
from semievol.judging.v1 import judging_service_pb2_grpc as pb_grpc
from semievol.ports import NEVER, Cancel, JudgeRequest


class JudgingClient:
    """Safe to share between threads. `close` it."""

    def __init__(self, address: str, *, deadline_s: float = 3600.0) -> None:  # as generation's: a page of verdicts is its work
        self._caller = Caller("judging", address, deadline_s=deadline_s)
        self._stub = pb_grpc.JudgingServiceStub(self._caller.channel)

    def judge(
        self,
        model: str,
        task: Task,
        requests: Sequence[JudgeRequest],
        *,
        judge_all: bool = False,
        max_tokens: int = core.DEFAULT_MAX_TOKENS,
        cancel: Cancel = NEVER,
    ) -> list[Verdict]:
        requests = core.checked(requests, task, max_tokens)  # so that an error names the place in the whole input
        verdicts: list[Verdict] = []
        for page in pages(requests, lambda request: wire.judge_item(request).ByteSize(), MAX_PAGE_ROWS):
            message = wire.judge_request(model, task, page, judge_all=judge_all, max_tokens=max_tokens)
            response: pb.JudgeResponse = self._caller.unary(self._stub.Judge, message, cancel=cancel)
            verdicts += wire.verdicts(response)
        return verdicts

    def select(
        self, entropies: Mapping[str, float | None], theta: float, *, threshold_entropies: Sequence[float] | None = None
    ) -> Selection:
        """One call, since a percentile is of all rows: some 500 000 of them fit. Raises InvalidInput for more."""
        message = wire.select_request(entropies, theta, threshold_entropies)
        if message.ByteSize() > MAX_MESSAGE_BYTES:
            raise errors.InvalidInput(f"{len(entropies)} rows are more than one call can carry.", field="rows")
        response: pb.SelectResponse = self._caller.unary(self._stub.Select, message)
        return wire.selection(response)

    def close(self) -> None:
        self._caller.close()
