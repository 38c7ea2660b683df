"""The official OpenAI client as every backend in front of such an endpoint uses it: its key, its connections, its errors as ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from semievol.common import errors
from semievol.common.endpoints import is_private, retry_after_s, secret

if TYPE_CHECKING:
    import openai

KEY_NAME = "SEMIEVOL_OPENAI_API_KEY"
OUT_OF_MONEY = ("insufficient_quota", "exceeded_quota", "billing_hard_limit_reached")  # codes of errors that no waiting mends

_WORDS = 300  # characters of what a server says
_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def api_key(url: str) -> SecretStr | None:
    """SEMIEVOL_OPENAI_API_KEY, or its file; else, where nobody on the way can read it, OPENAI_API_KEY. Raises as `endpoints.secret`."""
    return secret(KEY_NAME) or (secret("OPENAI_API_KEY") if is_private(url) else None)


def connect(url: str, key: SecretStr | None, *, timeout_s: float, max_retries: int, field: str) -> openai.OpenAI:
    """A client of the endpoint. Raises NotSupported (the package is missing)."""
    try:
        import openai
    except ImportError as error:
        raise errors.NotSupported("An endpoint needs the openai client: pip install 'semievol[remote]'.", field=field) from error
    for name in ("httpx2", "openai"):
        logging.getLogger(name).setLevel(logging.WARNING)  # or every call is a line
    return openai.OpenAI(
        base_url=url,
        api_key=key.get_secret_value() if key else "none",  # the client insists on one
        timeout=timeout_s,
        max_retries=max_retries,  # with growing, jittered pauses, or Retry-After; of timeouts, 408, 409, 429 and 5xx
        http_client=openai.DefaultHttpxClient(follow_redirects=False),
    )


@contextmanager
def translated(
    url: str,
    *,
    field: str,
    timeout_s: float,
    refused: Callable[[openai.APIStatusError], errors.SemiEvolError],
    malformed: Callable[[], errors.SemiEvolError],
) -> Iterator[None]:
    """Turns the client's errors into ours. `refused`: what a 400, 404, 413 or 422 means, which depends on what was asked for; `malformed`:
    what an answer means that is none, since the client checks nothing (a page of HTML comes as text, a missing part as None).

    Raises DeadlineExceeded, Unavailable, NotAllowed, Busy, InvalidInput (a redirect), and what the two give.
    """
    import httpx2
    import openai

    try:
        yield
    except (openai.APITimeoutError, httpx2.TimeoutException) as error:
        raise errors.DeadlineExceeded(
            f"The endpoint at {url} did not answer within {timeout_s:g} seconds.", field=field
        ) from error
    except openai.APIStatusError as error:
        raise (_of_status(error, url, field) or refused(error)) from error
    except (openai.APIError, httpx2.HTTPError) as error:
        cause = errors.first_line(error.__cause__ or error)
        raise errors.Unavailable(
            f"The endpoint at {url} cannot be reached ({cause}); is it running? Start it, and continue.", field=field
        ) from error
    except _MALFORMED as error:
        raise malformed() from error


def _of_status(error: openai.APIStatusError, url: str, field: str) -> errors.SemiEvolError | None:
    """What a status means whatever was asked for; None where that decides."""
    status, said = error.status_code, words(error)
    where = f"The endpoint at {url}"
    if status in (401, 403):
        return errors.NotAllowed(f"{where} wants a key, or another one: set {KEY_NAME}, or {KEY_NAME}_FILE.", field=field)
    if error.code in OUT_OF_MONEY:
        return errors.NotAllowed(f"{where} does no more for this key ({error.code}): {said}.", field=field)
    if 300 <= status < 400:
        target = error.response.headers.get("location", "elsewhere")
        return errors.InvalidInput(f"{where} redirects to {target}; give that URL, redirects are not followed.", field=field)
    if status == 429:
        hint_s = retry_after_s(error.response.headers)
        return errors.Busy(f"{where} is overloaded: {said}.", retry_after_s=1.0 if hint_s is None else hint_s, field=field)
    if status not in (400, 404, 413, 422):
        return errors.Unavailable(f"{where} failed ({status}: {said}); its log says why.", field=field)
    return None


def words(error: openai.APIStatusError) -> str:
    """The server's own words: the bodies of the common servers differ in everything but `message`."""
    body: Any = error.body
    for key in ("message", "detail"):
        if isinstance(body, dict) and body.get(key):
            return errors.first_line(body[key])[:_WORDS].rstrip(".")
    kind = error.response.headers.get("content-type", "nothing").partition(";")[0]
    return errors.first_line(body)[:_WORDS] if isinstance(body, str) and body.strip() and kind == "text/plain" else kind
