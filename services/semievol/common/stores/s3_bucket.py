"""One S3 bucket: where it is, calls that are tried again, and what its failures mean in our errors. All of the minio client that we use,
its private methods included, is in here."""

from __future__ import annotations

import itertools
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit
from xml.etree.ElementTree import ParseError

import certifi
import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import AWSConfigProvider, EnvAWSProvider, Provider
from minio.datatypes import Object, Part
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, ReadTimeoutError, SSLError

from semievol.common import endpoints, errors
from semievol.common.endpoints import secret

T = TypeVar("T")

ENDPOINT_VARIABLE, REGION_VARIABLE = "SEMIEVOL_S3_ENDPOINT", "SEMIEVOL_S3_REGION"
_TIMEOUT_VARIABLE = "SEMIEVOL_S3_TIMEOUT_S"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_AWS = "https://s3.amazonaws.com"
_USUAL_REGION = "us-east-1"  # what servers other than AWS answer to unless they are told otherwise
_CONNECT_S, _ANSWER_S = 10.0, 60.0  # to a connection; to the next bytes of an answer
_HANGING_ANSWERS = 2  # as long as so many answers may take, one that hangs is asked for again
LIST_PAGE = 1000  # what servers send at once
_CONNECTIONS = 32  # kept open: more than a probe's writers and an upload's parts
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 4.0
ATTEMPTS = 6  # about six seconds of pauses: as long as a server takes to start again

_BUSY = {408, 409, 429, 500, 502, 503, 504}  # 409: another conditional write of the same object is under way
_GARBLED = {"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"}  # the request did not arrive whole
_WRONG_CREDENTIALS = {
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}
_FULL = {"EntityTooLarge", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"}
FAILURES = (MinioException, HTTPError, ParseError)


@dataclass(frozen=True, slots=True)
class Location:
    """`s3://bucket[/prefix][?endpoint=URL&region=NAME]`; where it names no endpoint or region, the environment's counts, else AWS."""

    bucket: str
    prefix: str
    endpoint: str
    region: str

    @staticmethod
    def parse(uri: str) -> Location:
        """Raises InvalidInput(field=store)."""
        parts = urlsplit(uri)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        prefix = parts.path.strip("/")
        if "@" in parts.netloc:
            raise errors.InvalidInput(
                "An S3 store's address holds no credentials; give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
                field="store",
            )
        clean = not prefix or not {"", ".", ".."} & set(prefix.split("/"))
        good = parts.scheme == "s3" and _BUCKET.fullmatch(parts.netloc) and not parts.fragment
        if not good or not clean or query.keys() - {"endpoint", "region"}:
            raise errors.InvalidInput(f"{uri!r} is not an S3 store; expected s3://BUCKET[/PREFIX].", field="store")
        endpoint = query.get("endpoint") or os.environ.get(ENDPOINT_VARIABLE) or _AWS
        _check_endpoint(endpoint)
        return Location(parts.netloc, prefix, endpoint.rstrip("/"), query.get("region") or os.environ.get(REGION_VARIABLE) or "")

    def in_this_environment(self) -> Location:
        """The same bucket behind the endpoint and region that the environment names, where it names any. Raises InvalidInput."""
        endpoint = os.environ.get(ENDPOINT_VARIABLE) or self.endpoint
        _check_endpoint(endpoint)
        return replace(self, endpoint=endpoint.rstrip("/"), region=os.environ.get(REGION_VARIABLE) or self.region)

    @property
    def uri(self) -> str:
        """Names the same store whatever the environment says later; for humans and jobs alike."""
        known = {} if self.endpoint == _AWS else {"endpoint": self.endpoint}
        known |= {"region": self.region} if self.region else {}
        path = f"/{self.prefix}" if self.prefix else ""
        return f"s3://{self.bucket}{path}" + (f"?{urlencode(known, safe=':/')}" if known else "")


def _check_endpoint(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise errors.InvalidInput(
            f"{endpoint.rpartition('@')[2]!r} is not an S3 endpoint; {ENDPOINT_VARIABLE} is http://HOST:PORT or https://HOST[:PORT].",
            field="store",
        )


def _answer_s() -> float:
    """Raises InvalidInput."""
    given = os.environ.get(_TIMEOUT_VARIABLE, "")
    try:
        seconds = float(given or _ANSWER_S)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise errors.InvalidInput(f"{_TIMEOUT_VARIABLE} is {given!r}; it has to be seconds, above 0.", field="store")
    return seconds


class _SuiteCredentials(Provider):
    """Read anew for every request, since mounted secrets change: the environment, files that it names, the shared credentials file."""

    def retrieve(self) -> Credentials:
        """Raises NotAllowed (there are none), InvalidInput (a file that is named cannot be used)."""
        key, hidden, token = (secret(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"))
        if key and hidden:
            return Credentials(key.get_secret_value(), hidden.get_secret_value(), token.get_secret_value() if token else None)
        for provider in (EnvAWSProvider, AWSConfigProvider):
            try:
                return provider().retrieve()
            except (ValueError, OSError):
                continue
        raise errors.NotAllowed(
            "There are no credentials for the S3 store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or these names with _FILE, "
            "for files that hold them), or make a shared credentials file (~/.aws/credentials)."
        )


class Bucket:
    """Requests to one bucket. Those that go through `call` are tried again; names are whole keys, prefix included."""

    def __init__(self, location: Location, *, attempts: int = ATTEMPTS) -> None:
        self.location = location
        self.attempts = attempts
        self._answer_s = _answer_s()
        endpoint = urlsplit(location.endpoint)
        pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=self._answer_s),
            maxsize=_CONNECTIONS,
            retries=False,  # `call` does that: it knows what may be sent twice
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        )
        try:
            self._client = Minio(
                endpoint.netloc,
                secure=endpoint.scheme == "https",
                region=location.region or (None if location.endpoint == _AWS else _USUAL_REGION),
                credentials=_SuiteCredentials(),
                http_client=pool,
            )
        except ValueError as error:
            raise errors.InvalidInput(f"{location.endpoint} cannot be an S3 endpoint: {error}.", field="store") from error

    def call(self, action: str, request: Callable[[], T]) -> T:
        """Sends a request that may be sent twice, again after a pause where that can help. Raises what `translated` says."""
        end = time.monotonic() + _HANGING_ANSWERS * self._answer_s
        for attempt in range(1, self.attempts + 1):
            try:
                return request()
            except FAILURES as error:
                if attempt == self.attempts or time.monotonic() > end or not _is_transient(error):
                    raise self.translated(action, error) from error
            pause(attempt)
        raise AssertionError

    # -------------------------------------------------------------- requests: sent once, as they are

    def make(self) -> None:
        """Makes the bucket; one that is ours already stays as it is."""
        try:
            self._client.make_bucket(self.location.bucket)
        except S3Error as error:
            if error.code != "BucketAlreadyOwnedByYou":
                raise

    def put(self, name: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._client._put_object(self.location.bucket, name, data, dict(headers or {}))

    def get(self, name: str, start: int = 0, etag: str = "") -> urllib3.BaseHTTPResponse:
        """The object's bytes from `start` on, of the version `etag` if that is given; not read yet."""
        headers = {"If-Match": f'"{etag}"'} if etag else {}
        return self._client.get_object(self.location.bucket, name, offset=start, request_headers=dict(headers))

    def stat(self, name: str) -> Object | None:
        try:
            return self._client.stat_object(self.location.bucket, name)
        except S3Error as error:
            if status_of(error) == 404:
                return None
            raise

    def names(self, prefix: str, after: str) -> list[Object]:
        """The first LIST_PAGE objects whose names begin with `prefix` and come after `after`, in order."""
        found = self._client.list_objects(self.location.bucket, prefix=prefix, recursive=True, start_after=after or None)
        return list(itertools.islice(found, LIST_PAGE))

    def server(self) -> str:
        """The `Server` of its answers, which most give, and the address."""
        product = self._client._execute("HEAD", self.location.bucket).headers.get("server", "an S3 server without a name")
        return f"{product} at {self.location.endpoint}"

    def delete(self, name: str) -> None:
        self._client.remove_object(self.location.bucket, name)

    def pending_uploads(self, name: str) -> list[str]:
        """Ids of the unfinished uploads of exactly this object."""
        listed = self._client._list_multipart_uploads(self.location.bucket, prefix=name)
        return [one.upload_id for one in listed.uploads if one.object_name == name and one.upload_id]

    def begin_upload(self, name: str) -> str:
        return self._client._create_multipart_upload(self.location.bucket, name, {})

    def parts(self, name: str, upload: str) -> list[Part]:
        found: list[Part] = []
        while True:
            marker = str(found[-1].part_number) if found else None
            listed = self._client._list_parts(self.location.bucket, name, upload, part_number_marker=marker)
            found += listed.parts
            if not listed.is_truncated or not listed.parts:
                return found

    def put_part(self, name: str, upload: str, number: int, data: bytes) -> str:
        """Its ETag."""
        return self._client._upload_part(self.location.bucket, name, data, None, upload, number)

    def finish_upload(self, name: str, upload: str, parts: list[Part]) -> str:
        """The object's ETag; empty where the server began to answer well and then failed."""
        return self._client._complete_multipart_upload(self.location.bucket, name, upload, parts).etag or ""

    # -------------------------------------------------------------- failures

    def translated(self, action: str, error: Exception) -> errors.SemiEvolError:
        """Our error for one of the client's, with words that say what to do. Never NotFound but for an object that is not there."""
        where, bucket = self.location.endpoint, self.location.bucket
        code, status = getattr(error, "code", "") or "", status_of(error)
        if _is_distrust(error):
            return errors.Unavailable(
                f"The S3 server at {where} has no certificate that is trusted here: {errors.first_line(error)}."
            )
        if isinstance(error, ReadTimeoutError):
            return errors.Unavailable(
                f"Cannot {action}: the S3 server at {where} did not answer within {self._answer_s:g} seconds; {_TIMEOUT_VARIABLE} is how long "
                "it may take."
            )
        if isinstance(error, HTTPError):
            return errors.Unavailable(
                f"Cannot {action}: the S3 server at {where} cannot be reached ({_reason(error)}); is it up, and {ENDPOINT_VARIABLE} right?"
            )
        if code == "NoSuchBucket":
            return errors.StorageError(f"There is no bucket {bucket} at {where}; make it, or name another with --store.")
        if code == "NoSuchKey":
            return errors.NotFound(f"Cannot {action}: there is no such object in {self.location.uri}.")
        if code in _WRONG_CREDENTIALS:
            return errors.NotAllowed(
                f"The S3 server at {where} does not accept the credentials ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
                f"{REGION_VARIABLE}."
            )
        if status in (401, 403):
            return errors.NotAllowed(
                f"Cannot {action}: the S3 server at {where} does not allow it in the bucket {bucket} ({code or status}); "
                "the credentials need to list, read, write and delete there."
            )
        if code in _FULL or status == 507:
            return errors.StorageError(f"Cannot {action}: the S3 store {self.location.uri} is full ({code}); make room in it.")
        if status == 501:
            return errors.NotSupported(f"Cannot {action}: the S3 server at {where} cannot do that ({code}); use another.")
        said = f"{code}: {getattr(error, 'message', '')}" if code else errors.first_line(error)
        again = f" after {self.attempts} attempts" if _is_transient(error) else ""
        return errors.StorageError(f"Cannot {action}: the S3 server at {where} answers {status or 'nonsense'} ({said}){again}.")


def pause(attempt: int) -> None:
    """Before attempt + 1."""
    endpoints.pause(attempt, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)


def status_of(error: Exception) -> int:
    """HTTP status; 0 where there was no answer."""
    if isinstance(error, S3Error):
        return error.response.status
    if isinstance(error, ServerError):
        return error.status_code
    return int(getattr(error, "_code", 0)) if isinstance(error, InvalidResponseError) else 0


def _is_transient(error: Exception) -> bool:
    if isinstance(error, S3Error | ServerError | InvalidResponseError):
        code = getattr(error, "code", "")
        return code in _GARBLED or (status_of(error) in _BUSY and code not in _FULL)
    return not _is_distrust(error)


def _is_distrust(error: Exception) -> bool:
    """Of a certificate; other failures of TLS are broken connections."""
    return isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)


def _reason(error: HTTPError) -> str:
    """`NewConnectionError: ... Connection refused` in few words."""
    return errors.system_reason(error) or errors.first_line(error).partition(": ")[2] or type(error).__name__
