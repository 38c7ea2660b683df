"""Any OpenAI-compatible endpoint, by `/v1/models` and `/v1/chat/completions` with the official client: it answers, the rest stays here.

seeds       one call per seed, so that a sample is the same whatever else is asked for; how exactly a server repeats is its own affair
limit       `max_tokens`, which every server knows; `max_completion_tokens` from the moment that a server asks for it
sampling    from the model's own distribution: servers cut and bend it by default (llama.cpp's by top_k 40 and min_p 0.05, vLLM's by
            whatever the model's generation_config.json says), so all of that is switched off, except where a server refuses to hear of it
logprobs    of the chosen tokens, taken as raw: before temperature and top_p. vLLM (unless started with another `logprobs_mode`) and
            llama.cpp's server mean that; OpenAI does not say. Tokens of a stop string and the end-of-turn token, which vLLM lists,
            are left out, as everywhere in the suite
scores      of a given response: no endpoint offers them in a common way, so `score` is not supported
adapters    none of ours: whoever needs a warm or evolved model asks another engine (`split.py`)
identity    the endpoint's name of the model, and whom it says it belongs to; its weights cannot be fingerprinted. Owner and URL are
            part of `ModelInfo.engine`, so what another endpoint answered is never taken for this one's
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from semievol.common import errors
from semievol.common.endpoints import check_url, retry_after_s
from semievol.common.keys import content_key
from semievol.generation import core
from semievol.generation.adapters import check_name
from semievol.generation.backends.listed_tokens import Token, covering, listed
from semievol.ports import (
    BASE_MODEL,
    NEVER,
    Cancel,
    ChatDelta,
    Completion,
    FinishReason,
    Generation,
    ModelInfo,
    Prompt,
    Sampling,
    Score,
    ScoreRequest,
)

if TYPE_CHECKING:
    import openai

FIELD = "engine"  # the run file's key for the endpoint
KEY_NAME = "SEMIEVOL_OPENAI_API_KEY"

_PLAIN = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}  # no part of OpenAI's API, and of most others
_POLL_S = 0.1  # how soon a cancellation is noticed
_CHECK_S = 10.0  # a server that takes longer to list its models does not work
_LISTED_MODELS = 10
_CONTEXT_WORDS = ("context length", "context size", "context window", "context_length")
_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


class OpenAIEngine:
    """Looks for the model when constructed. Calls from several threads share `parallel_calls` connections.

    Raises NotSupported (the client is missing), InvalidInput (no such server), NotFound (the model, with the names of those that are served),
    NotAllowed, Busy, Unavailable, DeadlineExceeded.
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        api_key: SecretStr | None = None,
        timeout_s: float = 120.0,
        max_retries: int = 3,
        parallel_calls: int = 8,
    ) -> None:
        self._url = check_url(endpoint, field=FIELD)
        self._model = model
        self._timeout_s = timeout_s
        self._client = _client(self._url, api_key, timeout_s, max_retries)
        self._calls = ThreadPoolExecutor(parallel_calls, thread_name_prefix="endpoint")
        self._limit_name = "max_tokens"
        self._tells_usage = True  # whether a stream is asked for its token counts
        self._knows_plain = True  # whether the server takes _PLAIN
        self._offered = ""  # what it serves, in words
        self._base = self._look_up(self._client)

    # ------------------------------------------------------------ Generator

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        core.check_prompts(prompts, sampling)
        core.find_model([self._base], model)
        core.check_cancel(cancel)
        futures = [
            [
                self._calls.submit(self._answer, prompt, sampling, seed, 1 if prompt.seeds else sampling.n, f"prompts[{i}]")
                for seed in prompt.seeds or (None,)
            ]
            for i, prompt in enumerate(prompts)
        ]
        try:
            found = []
            for prompt, mine in zip(prompts, futures, strict=True):
                answers = [_result(future, cancel) for future in mine]
                completions = tuple(completion for answer, _ in answers for completion in answer)
                found.append(Generation(prompt.id, completions, answers[0][1]))
            return found
        finally:
            for future in (one for mine in futures for one in mine):
                future.cancel()  # those at work end by themselves; nobody waits for them

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        core.check_chat(prompt, sampling)
        core.find_model([self._base], model)
        core.check_cancel(cancel)
        seed = prompt.seeds[0] if prompt.seeds else None
        text, sent, tokens = "", 0, list[Token]()
        reason, prompt_tokens = None, 0
        with self._errors(prompt, "prompt"), self._create(prompt, sampling, seed, 1, stream=True) as stream:
            for chunk in stream:
                core.check_cancel(cancel)
                prompt_tokens = chunk.usage.prompt_tokens if chunk.usage else prompt_tokens
                if not chunk.choices:
                    continue
                choice = chunk.choices[0]
                piece = choice.delta.content or ""
                text += piece
                tokens += self._listed(choice, piece, sampling)
                reason = choice.finish_reason or reason
                if piece:  # a token without text is a piece of a character, or none of the reply
                    ready = covering(tokens, text)
                    yield _delta(piece, tokens[sent:ready])
                    sent = max(sent, ready)
        if reason is None:
            raise errors.Unavailable(f"The endpoint at {self._url} ended a stream before its end.", field=FIELD)
        rest = tokens[sent : covering(tokens, text)]
        yield _delta("", rest, _finish(reason), prompt_tokens)

    def _answer(self, prompt: Prompt, sampling: Sampling, seed: int | None, n: int, field: str) -> tuple[list[Completion], int]:
        """[n] completions and the prompt's tokens."""
        with self._errors(prompt, field):
            response = self._create(prompt, sampling, seed, n)
            choices = sorted(response.choices, key=lambda choice: choice.index)
            completions = [self._completion(choice, sampling) for choice in choices]
            prompt_tokens = response.usage.prompt_tokens if response.usage else 0
        if len(completions) != n:
            raise errors.NotSupported(
                f"The endpoint at {self._url} was asked for {n} samples and gave {len(completions)}; give each a seed.",
                field=FIELD,
            )
        return completions, prompt_tokens

    def _completion(self, choice: Any, sampling: Sampling) -> Completion:
        text = choice.message.content or ""
        tokens = self._listed(choice, text, sampling)
        if text and not tokens and not sampling.stop:
            raise self._no_logprobs()
        kept = tokens[: covering(tokens, text)]
        return Completion(
            text, tuple(one.text for one in kept), tuple(one.logprob for one in kept), _finish(choice.finish_reason)
        )

    def _listed(self, choice: Any, text: str, sampling: Sampling) -> list[Token]:
        found = listed(choice)
        if found is None and text and not sampling.stop:  # with the stop string llama.cpp drops the token that it begins in
            raise self._no_logprobs()
        return found or []

    # ------------------------------------------------------------ Scorer, AdapterHost

    def score(self, model: str, requests: Sequence[ScoreRequest], *, cancel: Cancel = NEVER) -> list[Score]:
        core.check_score(requests)
        core.find_model([self._base], model)
        core.check_cancel(cancel)
        if not requests:
            return []
        raise errors.NotSupported(
            f"The endpoint at {self._url} cannot score a given response; set entropy_source: generated in the run file, which "
            "takes the log-probabilities seen while answering.",
            field="entropy_source",
        )

    def models(self) -> list[ModelInfo]:
        return [self._base]

    def load_adapter(self, name: str, uri: str) -> ModelInfo:
        check_name(name)
        raise errors.NotSupported(
            f"The endpoint at {self._url} takes no adapters of ours; start the services with the default engine, transformers.",
            field=FIELD,
        )

    def unload_adapter(self, name: str) -> None:
        check_name(name)  # none is ever loaded

    # ------------------------------------------------------------ life

    def server(self) -> str:
        """The models that it listed last; the first ones of many."""
        return f"serves {self._offered}"

    def check(self) -> None:
        """R12: raises Unavailable, DeadlineExceeded or NotFound where the endpoint no longer serves the model."""
        self._look_up(self._client.with_options(timeout=_CHECK_S, max_retries=0), _CHECK_S)

    def close(self) -> None:
        self._calls.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _look_up(self, client: openai.OpenAI, timeout_s: float = 0.0) -> ModelInfo:
        with self._errors(None, FIELD, timeout_s):
            listing: Any = client.models.list()
            served = {one.id: one for one in listing.data}
        more = ", ..." if len(served) > _LISTED_MODELS else ""
        self._offered = (", ".join(list(served)[:_LISTED_MODELS]) or "nothing") + more
        if self._model not in served:
            raise errors.NotFound(
                f"The endpoint at {self._url} does not serve {self._model}; it serves {self._offered}. `model` must be its name there.",
                field="model",
            )
        found = served[self._model]
        owner = re.sub(r"[^\w.-]", "-", str(getattr(found, "owned_by", None) or ""))
        sha256 = content_key({"endpoint model": found.id, "owned by": owner})
        length = getattr(found, "max_model_len", None)  # vLLM tells
        return ModelInfo(BASE_MODEL, self._model, sha256, max_model_tokens=int(length or 0), engine=f"openai/{owner}@{self._url}")

    # ------------------------------------------------------------ calls

    def _create(self, prompt: Prompt, sampling: Sampling, seed: int | None, n: int, *, stream: bool = False) -> Any:
        """The client's response or stream; once more where the server wants a parameter put otherwise."""
        import openai

        while True:
            arguments: dict[str, Any] = {
                "model": self._model,
                "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "logprobs": True,
                self._limit_name: sampling.max_tokens,
            }
            # Left out where they say nothing: not every server knows them.
            arguments |= {"seed": seed} if seed is not None else {}
            arguments |= {"n": n} if n > 1 else {}
            arguments |= {"stop": list(sampling.stop)} if sampling.stop else {}
            arguments |= {"stream": True} if stream else {}
            arguments |= {"stream_options": {"include_usage": True}} if stream and self._tells_usage else {}
            arguments |= {"extra_body": _PLAIN} if self._knows_plain else {}
            try:
                return self._client.chat.completions.create(**arguments)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if not self._adapt(arguments, error):
                    raise

    def _adapt(self, arguments: dict[str, Any], error: openai.APIStatusError) -> bool:
        """Whether the server wants one of these arguments put otherwise; from now on it is."""
        words = _words(error)
        if "max_tokens" in arguments and error.param == "max_tokens" and "max_completion_tokens" in words:
            self._limit_name = "max_completion_tokens"
        elif "stream_options" in arguments and "stream_options" in words:
            self._tells_usage = False
        elif "extra_body" in arguments and any(name in words for name in _PLAIN):
            self._knows_plain = False
        else:
            return False
        return True

    @contextmanager
    def _errors(self, prompt: Prompt | None, field: str, timeout_s: float = 0.0) -> Iterator[None]:
        """Turns the client's errors into ours, naming the prompt; without one, models are listed."""
        import httpx2
        import openai

        try:
            yield
        except (openai.APITimeoutError, httpx2.TimeoutException) as error:
            raise errors.DeadlineExceeded(
                f"The endpoint at {self._url} did not answer within {timeout_s or self._timeout_s:g} seconds.", field=FIELD
            ) from error
        except openai.APIStatusError as error:
            raise self._of_status(error, prompt, field) from error
        except (openai.APIError, httpx2.HTTPError) as error:
            cause = errors.first_line(error.__cause__ or error)
            raise errors.Unavailable(
                f"The endpoint at {self._url} cannot be reached ({cause}); is it running? Start it, and continue.", field=FIELD
            ) from error
        except _MALFORMED as error:  # the client checks nothing: a page of HTML comes as text, a missing part as None
            if prompt is None:
                raise errors.InvalidInput(
                    f"There is no OpenAI-compatible endpoint at {self._url}: /models lists nothing. Its URL ends in /v1 as a rule.",
                    field=FIELD,
                ) from error
            raise errors.Unavailable(
                f"What the endpoint at {self._url} answers to prompt {prompt.id!r} is no chat completion; is a proxy in between?",
                field=FIELD,
            ) from error

    def _of_status(self, error: openai.APIStatusError, prompt: Prompt | None, field: str) -> errors.SemiEvolError:
        status, words = error.status_code, _words(error)
        where = f"The endpoint at {self._url}"
        if status in (401, 403):
            return errors.NotAllowed(f"{where} wants a key, or another one: set {KEY_NAME}, or {KEY_NAME}_FILE.", field=FIELD)
        if status == 404:
            return errors.NotFound(f"{where} has no such path or model ({words}); its URL ends in /v1 as a rule.", field=FIELD)
        if 300 <= status < 400:
            target = error.response.headers.get("location", "elsewhere")
            return errors.InvalidInput(f"{where} redirects to {target}; give that URL, redirects are not followed.", field=FIELD)
        if status == 429:
            hint_s = retry_after_s(error.response.headers)
            return errors.Busy(f"{where} is overloaded: {words}.", retry_after_s=1.0 if hint_s is None else hint_s, field=FIELD)
        if status not in (400, 413, 422):
            return errors.Unavailable(f"{where} failed ({status}: {words}); its log says why.", field=FIELD)
        if "logprobs" in words:
            return self._no_logprobs()
        if prompt and any(one in f"{words} {error.code}".lower() for one in _CONTEXT_WORDS):
            return errors.InvalidInput(f"Prompt {prompt.id!r} is too long for {self._model}: {words}.", field=f"{field}.messages")
        asked = f"prompt {prompt.id!r}" if prompt else "to list its models"
        return errors.InvalidInput(f"{where} refuses {asked}: {words}.", field=field)

    def _no_logprobs(self) -> errors.NotSupported:
        return errors.NotSupported(
            f"The endpoint at {self._url} gives no log-probabilities with its answers, and entropies are computed from them; "
            "serve the model with a server that does, such as vLLM.",
            field=FIELD,
        )


def _client(url: str, api_key: SecretStr | None, timeout_s: float, max_retries: int) -> openai.OpenAI:
    try:
        import openai
    except ImportError as error:
        raise errors.NotSupported("An endpoint needs the openai client: pip install 'semievol[remote]'.", field=FIELD) from error
    for name in ("httpx2", "openai"):
        logging.getLogger(name).setLevel(logging.WARNING)  # or every call is a line
    return openai.OpenAI(
        base_url=url,
        api_key=api_key.get_secret_value() if api_key else "none",  # the client insists on one
        timeout=timeout_s,
        max_retries=max_retries,  # with growing, jittered pauses, or Retry-After; of timeouts, 408, 409, 429 and 5xx
        http_client=openai.DefaultHttpxClient(follow_redirects=False),
    )


def _result(future: Future[tuple[list[Completion], int]], cancel: Cancel) -> tuple[list[Completion], int]:
    while not wait([future], timeout=_POLL_S).done:
        core.check_cancel(cancel)
    return future.result()


def _delta(text: str, tokens: Sequence[Token], reason: FinishReason | None = None, prompt_tokens: int = 0) -> ChatDelta:
    return ChatDelta(text, tuple(one.text for one in tokens), tuple(one.logprob for one in tokens), reason, prompt_tokens)


def _finish(reason: str | None) -> FinishReason:
    """Whatever else ends a reply (a content filter, a tool call, nothing) leaves it unfinished."""
    return FinishReason.STOP if reason == "stop" else FinishReason.LENGTH


def _words(error: openai.APIStatusError) -> str:
    """The server's own words: the bodies of the common servers differ in everything but `message`."""
    body: Any = error.body
    for key in ("message", "detail"):
        if isinstance(body, dict) and body.get(key):
            return errors.first_line(body[key])[:300].rstrip(".")
    kind = error.response.headers.get("content-type", "nothing").partition(";")[0]
    return errors.first_line(body)[:300] if isinstance(body, str) and body.strip() and kind == "text/plain" else kind
