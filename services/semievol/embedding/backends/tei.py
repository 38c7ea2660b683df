"""A text-embeddings-inference server (1.x; what 1.9.3 does), by its HTTP API: `GET /info`, `GET /health`, `POST /embed`.

What the server promises and what we make of it:

    limits     at most `max_client_batch_size` inputs a call (else 422, before 1.9 413); bodies up to a limit that `/info` does not tell
               (2 MB unless it was started with another: 413). A call that is too large all the same is cut in half. `max_batch_tokens`
               bounds what the server computes at once, not what it takes: its queue fills batches by itself.
    overload   429, and 424 or 5xx where the model failed: a few attempts with growing, jittered pauses, or Retry-After where given.
    vectors    `truncate` and `normalize` are in every call. Count, dimension, numbers and norm are checked: a norm off by more than
               0.1 % is refused, since the server does something else than it was asked for; below that rows get norm 1 in float32.
    identity   weights cannot be read over HTTP; `model_sha` is only what the server was started with as `--revision`, and `/info` tells no
               default prompt. So the digest is of model, revision, number format and pooling, and of a canary: the signs of a fixed text's
               vector, which rounding leaves alone and other weights do not. `/info` is read again after every call, the canary every minute,
               after every error and on every new connection, so that vectors of two models are never mixed.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import SecretStr

from semievol.common import errors
from semievol.common.endpoints import check_url, retry_after_s
from semievol.common.keys import content_key
from semievol.embedding import core
from semievol.embedding.backends.references import FIELD
from semievol.ports import NEVER, Cancel, EmbedderInfo, FloatMatrix

if TYPE_CHECKING:
    import httpx

KEY_NAME = "SEMIEVOL_TEI_API_KEY"

_ATTEMPTS = 5
_CONNECT_S = 10.0
_CHECK_S = 10.0  # a server that takes longer to say how it is does not work
_LONGEST_PAUSE_S = 30.0  # whatever Retry-After says
_TRANSIENT = {424, 429, 500, 502, 503, 504}
_REFUSED = {413, 422}
_BODY_BYTES = 1_000_000  # half of the server's default limit
_TEXT_BYTES = 200_000  # a model reads some thousand tokens of a text, all of them at its beginning
_NORM_TOLERANCE = 1e-3
_CANARY = "Which office should look after the broken street lamp, and how soon?"
_SAME_COSINE = 0.999  # float16 and another batch change the fourth digit, other weights the first
_CANARY_EVERY_S = 60.0


class _Refused(Exception):
    """The server does not take this call's inputs."""


@dataclass(frozen=True, slots=True)
class _Served:
    """What `/info` says."""

    model: str
    revision: str
    dtype: str
    pooling: str
    max_tokens: int
    max_batch_count: int
    version: str  # of the server: another one may serve the same model

    @property
    def identity(self) -> tuple[str, str, str, str]:
        return (self.model, self.revision, self.dtype, self.pooling)


class TeiEmbedder:
    """Looks at the server when constructed. Calls from several threads run side by side. `backoff_s`: pause before the second attempt;
    it doubles.

    Raises NotSupported (httpx is missing), InvalidInput (no such server, or it serves no embedding model), NotAllowed, Unavailable,
    DeadlineExceeded, all with field `embedding`; from `embed` Conflict too, where the server has got another model.
    """

    def __init__(self, url: str, *, api_key: SecretStr | None = None, timeout_s: float = 120.0, backoff_s: float = 0.25) -> None:
        self._url = check_url(url, field=FIELD)
        self._client = _client(self._url, api_key)
        self._timeout_s = timeout_s
        self._backoff_s = backoff_s
        self._lock = threading.Lock()
        self._in_doubt = False  # whether the canary must be compared: something went wrong, or a connection is new
        self._served = self._read_info(NEVER)
        self._dimension = 0
        self._canary = self._canary_vector(NEVER)
        self._dimension = len(self._canary)
        signs = np.packbits(self._canary > 0).tobytes().hex()
        sha256 = content_key({"tei": list(self._served.identity), "canary": signs, "dimension": self._dimension})
        self._in_doubt, self._compared_at = False, time.monotonic()
        self._info = EmbedderInfo(url, sha256, self._dimension, self._served.max_tokens)

    def info(self) -> EmbedderInfo:
        return replace(self._info, server=f"text-embeddings-inference {self._served.version}")

    def embed(self, texts: Sequence[str], *, cancel: Cancel = NEVER) -> FloatMatrix:
        core.check_texts(texts)
        matrix = np.empty((len(texts), self._dimension), dtype=np.float32)
        for batch in _batches(texts, self._served.max_batch_count):
            if cancel.is_set():
                raise errors.Cancelled("Embedding was cancelled.")
            matrix[batch] = self._embed(texts, batch, cancel)
        if texts:
            self._check_unchanged(cancel)
        return matrix

    def check(self) -> None:
        """R12: raises Unavailable, DeadlineExceeded or Conflict where the server is not what it was when this was constructed."""
        self._request("GET", "/health", NEVER, attempts=1, timeout_s=_CHECK_S)
        self._check_unchanged(NEVER)

    def close(self) -> None:
        self._client.close()

    # -------------------------------------------------------------- vectors

    def _embed(self, texts: Sequence[str], batch: list[int], cancel: Cancel) -> FloatMatrix:
        """Rows of `batch`, in its order; in halves where the server takes no more."""
        try:
            return self._call([_cut(texts[i]) for i in batch], cancel)
        except _Refused as refusal:
            if len(batch) == 1:
                raise errors.InvalidInput(
                    f"The embedding server at {self._url} refuses texts[{batch[0]}]: {refusal}.", field=f"texts[{batch[0]}]"
                ) from None
        half = len(batch) // 2
        return np.concatenate([self._embed(texts, part, cancel) for part in (batch[:half], batch[half:])])

    def _call(self, inputs: list[str], cancel: Cancel) -> FloatMatrix:
        """[n >= 1] texts -> [n, d], checked. Raises _Refused."""
        body = json.dumps({"inputs": inputs, "truncate": True, "normalize": True}, ensure_ascii=False).encode()
        response = self._request("POST", "/embed", cancel, body)
        try:
            matrix = np.array(response.json(), dtype=np.float32)  # null, which is how JSON says NaN, becomes NaN
        except (ValueError, TypeError) as error:
            raise self._broken(f"answers /embed with {_kind(response)}, not with vectors") from error
        if matrix.ndim != 2 or len(matrix) != len(inputs):
            raise self._broken(f"answers {len(inputs)} texts with an array of shape {matrix.shape}")
        if self._dimension and matrix.shape[1] != self._dimension:
            raise self._changed(f"its vectors have {matrix.shape[1]} numbers, before they had {self._dimension}")
        if not np.isfinite(matrix).all():
            raise self._broken("answers with numbers that are not finite; serve the model with --dtype float32")
        norms = np.linalg.norm(matrix, axis=1)
        if np.abs(norms - 1).max() > _NORM_TOLERANCE:
            raise errors.NotSupported(
                f"The embedding server at {self._url} was asked for vectors of norm 1 and gives norm {norms[0]:.4g}; "
                "is it a text-embeddings-inference server?",
                field=FIELD,
            )
        return core.unit_rows(matrix)

    # -------------------------------------------------------------- identity

    def _read_info(self, cancel: Cancel) -> _Served:
        response = self._request("GET", "/info", cancel)
        try:
            body = response.json()
            kind = body["model_type"]
            pooling = kind["embedding"]["pooling"] if isinstance(kind, dict) and "embedding" in kind else ""
            found = _Served(
                str(body["model_id"]),
                str(body.get("model_sha") or ""),
                str(body["model_dtype"]),
                str(pooling),
                int(body["max_input_length"]),
                int(body["max_client_batch_size"]),
                str(body.get("version") or "of unknown version"),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.InvalidInput(
                f"There is no text-embeddings-inference server at {self._url}: /info answers {_kind(response)} "
                "without what such a server says of itself.",
                field=FIELD,
            ) from error
        if found.pooling in ("", "splade") or found.max_batch_count < 1:
            raise errors.InvalidInput(
                f"The server at {self._url} serves {found.model}, which gives no dense vectors; serve an embedding model.",
                field=FIELD,
            )
        return found

    def _canary_vector(self, cancel: Cancel) -> FloatMatrix:
        """[d], computed alone: the same bits each time."""
        try:
            vector: FloatMatrix = self._call([_CANARY], cancel)[0]
        except _Refused as refusal:
            raise errors.InvalidInput(
                f"The embedding server at {self._url} refuses an ordinary text: {refusal}.", field=FIELD
            ) from None
        return vector

    def _check_unchanged(self, cancel: Cancel) -> None:
        """Raises Conflict where the server has got another model."""
        served = self._read_info(cancel)
        if served.identity != self._served.identity:
            raise self._changed(
                f"it serves {' '.join(filter(None, served.identity))}, before {' '.join(filter(None, self._served.identity))}"
            )
        with self._lock:
            self._served = served  # its limits may have changed
            in_doubt = self._in_doubt or time.monotonic() - self._compared_at > _CANARY_EVERY_S
        if not in_doubt:
            return
        if float(self._canary_vector(cancel) @ self._canary) < _SAME_COSINE:
            raise self._changed("the same text has another vector than before")
        with self._lock:
            self._in_doubt, self._compared_at = False, time.monotonic()

    def _changed(self, how: str) -> errors.Conflict:
        return errors.Conflict(
            f"The embedding server at {self._url} has got another model: {how}. Serve the old one, or restart the services "
            "and the run, which then embeds everything anew.",
            field=FIELD,
        )

    def _broken(self, how: str) -> errors.Unavailable:
        self._in_doubt = True
        return errors.Unavailable(f"The embedding server at {self._url} {how}.", field=FIELD)

    # -------------------------------------------------------------- HTTP

    def _request(
        self,
        method: str,
        path: str,
        cancel: Cancel,
        body: bytes | None = None,
        *,
        attempts: int = _ATTEMPTS,
        timeout_s: float = 0.0,
    ) -> httpx.Response:
        """A good answer, after some attempts if need be. Raises _Refused, and what the class says. `timeout_s` 0: the usual."""
        import httpx

        timeout_s = timeout_s or self._timeout_s
        more: dict[str, Any] = {"timeout": _timeout(timeout_s), "extensions": {"trace": self._trace}}
        for attempt in range(attempts):
            last, hint_s = attempt == attempts - 1, None
            try:
                response = self._client.request(method, path, content=body, **more)
            except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
                self._in_doubt = True
                raise errors.DeadlineExceeded(
                    f"The embedding server at {self._url} did not answer {path} within {timeout_s:g} seconds.", field=FIELD
                ) from error
            except httpx.RequestError as error:
                failure = self._broken(f"cannot be reached ({errors.first_line(error)}); is it running? Start it, and continue")
                if last:
                    raise failure from error
            else:
                if response.status_code not in _TRANSIENT:
                    return self._accepted(response, path)
                hint_s = retry_after_s(response.headers)
                if last:
                    raise self._overworked(response, hint_s)
            _pause((hint_s or self._backoff_s * 2**attempt) * random.uniform(1, 1.5), cancel)
        raise AssertionError("unreachable")

    def _trace(self, event: str, _: Any) -> None:
        """Who answers a new connection may be another than who answered the last."""
        if event == "connection.connect_tcp.complete":
            self._in_doubt = True

    def _accepted(self, response: httpx.Response, path: str) -> httpx.Response:
        """The response, where it is one of success."""
        status = response.status_code
        if 200 <= status < 300:
            return response
        if status in _REFUSED and path == "/embed":
            raise _Refused(_reason(response))
        if status in (401, 403):
            raise errors.NotAllowed(
                f"The embedding server at {self._url} wants a key, or another one ({status}): set {KEY_NAME}, or {KEY_NAME}_FILE "
                "to the file that holds it.",
                field=FIELD,
            )
        if 300 <= status < 400:
            target = response.headers.get("location", "elsewhere")
            raise errors.InvalidInput(
                f"{self._url} redirects {path} to {target}; give the server's own URL, since redirects are not followed.",
                field=FIELD,
            )
        if status in (404, 405):
            raise errors.NotFound(
                f"{self._url} has no {path} ({status}): is this the URL of a text-embeddings-inference server, without a path?",
                field=FIELD,
            )
        raise self._broken(f"answers {path} with {status}: {_reason(response)}")

    def _overworked(self, response: httpx.Response, hint_s: float | None) -> errors.SemiEvolError:
        status, reason = response.status_code, _reason(response)
        if status == 429:
            return errors.Busy(
                f"The embedding server at {self._url} is overloaded after {_ATTEMPTS} attempts: {reason}.",
                retry_after_s=hint_s or 1.0,
                field=FIELD,
            )
        return self._broken(f"failed ({status}: {reason}), {_ATTEMPTS} times in a row; its log says why")


def _client(url: str, api_key: SecretStr | None) -> httpx.Client:
    try:
        import httpx
    except ImportError as error:
        raise errors.NotSupported("An embedding server needs httpx: pip install 'semievol[remote]'.", field=FIELD) from error
    logging.getLogger("httpx").setLevel(logging.WARNING)  # or every call is a line
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key.get_secret_value()}"
    limits = httpx.Limits(keepalive_expiry=_CANARY_EVERY_S)
    return httpx.Client(base_url=url, headers=headers, limits=limits)


def _timeout(seconds: float) -> httpx.Timeout:
    import httpx

    return httpx.Timeout(seconds, connect=min(_CONNECT_S, seconds))


def _batches(texts: Sequence[str], max_count: int) -> Iterator[list[int]]:
    """Indices, longest texts first, in calls that keep within the count and the size of a body."""
    batch: list[int] = []
    size = 0
    for index in core.longest_first(texts):
        bytes_ = min(len(texts[index].encode()), _TEXT_BYTES)
        if batch and (len(batch) >= max_count or size + bytes_ > _BODY_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(index)
        size += bytes_
    if batch:
        yield batch


def _cut(text: str) -> str:
    data = text.encode()
    return text if len(data) <= _TEXT_BYTES else data[:_TEXT_BYTES].decode(errors="ignore")


def _pause(seconds: float, cancel: Cancel) -> None:
    end = time.monotonic() + min(seconds, _LONGEST_PAUSE_S)
    while (left := end - time.monotonic()) > 0:
        if cancel.is_set():
            raise errors.Cancelled("Embedding was cancelled.")
        time.sleep(min(left, 0.1))


def _reason(response: httpx.Response) -> str:
    """The server's own words where there are any: `{"error": ..., "error_type": ...}`, or a line of plain text."""
    try:
        body: Any = response.json()
        return f"{str(body['error']).rstrip('.')} ({body['error_type']})"
    except (ValueError, KeyError, TypeError):
        pass
    plain = response.headers.get("content-type", "").startswith("text/plain")
    return (
        errors.first_line(response.text)[:200].rstrip(".")
        if plain and response.text.strip()
        else f"{_kind(response)}, no reason given"
    )


def _kind(response: httpx.Response) -> str:
    kind = response.headers.get("content-type", "").partition(";")[0]
    return kind or "nothing"
