"""Any OpenAI-compatible endpoint, by `/v1/models` and `/v1/chat/completions` with the official client: it answers, the rest stays here.

seeds       one call per seed, so that a sample is the same whatever else is asked for; how exactly a server repeats is its own affair
limit       `max_tokens`, which every server knows; `max_completion_tokens` from the moment that a server asks for it
sampling    from the model's own distribution: servers cut and bend it by default (llama.cpp's by top_k 40 and min_p 0.05, vLLM's by
            whatever the model's generation_config.json says), so all of that is switched off, except where a server refuses to hear of it
logprobs    of the chosen tokens, taken as raw: before temperature and top_p. vLLM (unless started with another `logprobs_mode`) and
            llama.cpp's server mean that; OpenAI does not say. Tokens of a stop string and the end-of-turn token, which vLLM lists,
            are left out, as everywhere in the suite
raw text    is not continued: chat completions know messages alone
scores      of a given response: no endpoint offers them in a common way, so `score` is not supported
adapters    of ours, none: an engine of ours beside this one holds those (`split.py`). Models that the endpoint trained itself (`trainer: openai`)
            are loaded by name: from then on requests for it ask for the endpoint's own model
identity    the endpoint's name of the model, and whom it says it belongs to; its weights cannot be fingerprinted. Owner and URL are
            part of `ModelInfo.engine`, so what another endpoint answered is never taken for this one's
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from semievol.common import errors, openai_client
from semievol.common.artifacts import Artifacts
from semievol.common.endpoints import check_url
from semievol.common.keys import content_key
from semievol.generation import core
from semievol.generation.backends.listed_tokens import Token, covering, listed
from semievol.generation.tuned import TunedModel, TunedModels
from semievol.ports import (
    BASE_MODEL,
    NEVER,
    NO_LIMIT,
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
    TopLogprobs,
)

if TYPE_CHECKING:
    import openai

FIELD = "engine"  # the run file's key for the endpoint

_PLAIN = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}  # no part of OpenAI's API, and of most others
_POLL_S = 0.1  # how soon a cancellation is noticed
_CHECK_S = 10.0  # a server that takes longer to list its models does not work
_LISTED_MODELS = 10
_CONTEXT_WORDS = ("context length", "context size", "context window", "context_length")


class OpenAIEngine:
    """Looks for the model when constructed. Calls from several threads share `parallel_calls` connections. `artifacts`: where models that
    the endpoint has trained are published.

    Raises NotSupported (the client is missing), InvalidInput (no such server), NotFound (the model, with the names of those that are served),
    NotAllowed, Busy, Unavailable, DeadlineExceeded.
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        artifacts: Artifacts | None = None,
        api_key: SecretStr | None = None,
        timeout_s: float = 120.0,
        max_retries: int = 3,
        parallel_calls: int = 8,
    ) -> None:
        self._url = check_url(endpoint, field=FIELD)
        self._model = model
        self._timeout_s = timeout_s
        self._client = openai_client.connect(self._url, api_key, timeout_s=timeout_s, max_retries=max_retries, field=FIELD)
        self._calls = ThreadPoolExecutor(parallel_calls, thread_name_prefix="endpoint")
        self._limit_name = "max_tokens"
        self._tells_usage = True  # whether a stream is asked for its token counts
        self._knows_plain = True  # whether the server takes _PLAIN
        self._offered = ""  # what it serves, in words
        self._base = self._look_up(self._client)
        self._tuned = TunedModels(artifacts, self._url, model)
        self._loading = threading.Lock()

    # ------------------------------------------------------------ Generator

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        core.check_prompts(prompts, sampling)
        served = self._served(model)
        for i, prompt in enumerate(prompts):
            self._check_chat_prompt(prompt, f"prompts[{i}].text")
        core.check_cancel(cancel)
        futures = [
            [
                self._calls.submit(
                    self._answer, served, prompt, sampling, seed, 1 if prompt.seeds else sampling.n, f"prompts[{i}]"
                )
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
        served = self._served(model)
        self._check_chat_prompt(prompt, "prompt.text")
        core.check_cancel(cancel)
        seed = prompt.seeds[0] if prompt.seeds else None
        text, sent, tokens = "", 0, list[Token]()
        reason, prompt_tokens = None, 0
        with self._errors(prompt, "prompt"), self._create(served, prompt, sampling, seed, 1, stream=True) as stream:
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
                    yield _delta(piece, tokens[sent:ready], sampling)
                    sent = max(sent, ready)
        if reason is None:
            raise errors.Unavailable(f"The endpoint at {self._url} ended a stream before its end.", field=FIELD)
        rest = tokens[sent : covering(tokens, text)]
        yield _delta("", rest, sampling, _finish(reason), prompt_tokens)

    def _answer(
        self, served: str, prompt: Prompt, sampling: Sampling, seed: int | None, n: int, field: str
    ) -> tuple[list[Completion], int]:
        """[n] completions and the prompt's tokens."""
        with self._errors(prompt, field):
            response = self._create(served, prompt, sampling, seed, n)
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
            text,
            tuple(one.text for one in kept),
            tuple(one.logprob for one in kept),
            _finish(choice.finish_reason),
            _tops(kept, sampling),
        )

    def _listed(self, choice: Any, text: str, sampling: Sampling) -> list[Token]:
        found = listed(choice)
        if found is None and text and not sampling.stop:  # with the stop string llama.cpp drops the token that it begins in
            raise self._no_logprobs()
        return found or []

    # ------------------------------------------------------------ Scorer, AdapterHost

    def score(self, model: str, requests: Sequence[ScoreRequest], *, cancel: Cancel = NEVER) -> list[Score]:
        core.check_score(requests)
        core.find_model(self.models(), model)
        core.check_cancel(cancel)
        if not requests:
            return []
        raise errors.NotSupported(
            f"The endpoint at {self._url} cannot score a given response; set entropy_source: generated in the run file, which "
            "takes the log-probabilities seen while answering.",
            field="entropy_source",
        )

    def models(self) -> list[ModelInfo]:
        return [self._base, *map(self._info, self._tuned.all())]

    def load_adapter(self, name: str, uri: str) -> ModelInfo:
        with self._loading:
            tuned = self._tuned.open(name, uri)
            if tuned.model not in self._listed_models(self._client):
                raise errors.Unavailable(
                    f"The endpoint at {self._url} does not serve {tuned.model}, which it trained: either not yet, then try again in some "
                    "minutes, or no more, then train it again (`semievol retry RUN --from STEP`).",
                    field="uri",
                )
            self._tuned.add(tuned)
        return self._info(tuned)

    def unload_adapter(self, name: str) -> None:
        with self._loading:
            self._tuned.remove(name)

    def _info(self, tuned: TunedModel) -> ModelInfo:
        return replace(self._base, name=tuned.name, adapter=tuned.uri, adapter_sha256=tuned.sha256)

    def _served(self, model: str) -> str:
        """What the endpoint calls it. Raises NotFound."""
        tuned = self._tuned.get(model)
        if tuned is None:
            core.find_model(self.models(), model)
        return tuned.model if tuned else self._model

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
        served = self._listed_models(client, timeout_s)
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

    def _listed_models(self, client: openai.OpenAI, timeout_s: float = 0.0) -> dict[str, Any]:
        """By name."""
        with self._errors(None, FIELD, timeout_s):
            listing: Any = client.models.list()
            return {one.id: one for one in listing.data}

    # ------------------------------------------------------------ calls

    def _create(self, served: str, prompt: Prompt, sampling: Sampling, seed: int | None, n: int, *, stream: bool = False) -> Any:
        """The client's response or stream; once more where the server wants a parameter put otherwise."""
        import openai

        while True:
            arguments: dict[str, Any] = {
                "model": served,
                "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "logprobs": True,
            }
            # Left out where they say nothing: not every server knows them.
            arguments |= {self._limit_name: sampling.max_tokens} if self._limits(sampling) else {}
            arguments |= {"top_logprobs": sampling.top_logprobs} if sampling.top_logprobs else {}
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
        words = openai_client.words(error)
        if "max_tokens" in arguments and error.param == "max_tokens" and "max_completion_tokens" in words:
            self._limit_name = "max_completion_tokens"
        elif "stream_options" in arguments and "stream_options" in words:
            self._tells_usage = False
        elif "extra_body" in arguments and any(name in words for name in _PLAIN):
            self._knows_plain = False
        else:
            return False
        return True

    def _errors(self, prompt: Prompt | None, field: str, timeout_s: float = 0.0) -> AbstractContextManager[None]:
        """Turns the client's errors into ours, naming the prompt; without one, models are listed."""
        return openai_client.translated(
            self._url,
            field=FIELD,
            timeout_s=timeout_s or self._timeout_s,
            refused=lambda error: self._refused(error, prompt, field),
            malformed=lambda: self._malformed(prompt),
        )

    def _malformed(self, prompt: Prompt | None) -> errors.SemiEvolError:
        if prompt is None:
            return errors.InvalidInput(
                f"There is no OpenAI-compatible endpoint at {self._url}: /models lists nothing. Its URL ends in /v1 as a rule.",
                field=FIELD,
            )
        return errors.Unavailable(
            f"What the endpoint at {self._url} answers to prompt {prompt.id!r} is no chat completion; is a proxy in between?",
            field=FIELD,
        )

    def _refused(self, error: openai.APIStatusError, prompt: Prompt | None, field: str) -> errors.SemiEvolError:
        words, where = openai_client.words(error), f"The endpoint at {self._url}"
        if error.status_code == 404:
            return errors.NotFound(f"{where} has no such path or model ({words}); its URL ends in /v1 as a rule.", field=FIELD)
        if "logprobs" in words:
            return self._no_logprobs()
        if prompt and any(one in f"{words} {error.code}".lower() for one in _CONTEXT_WORDS):
            return errors.InvalidInput(
                f"Prompt {prompt.id!r} is too long for {self._model}: {words}.",
                field=f"{field}.messages",
                details={"reason": core.CONTEXT_LENGTH},
            )
        asked = f"prompt {prompt.id!r}" if prompt else "to list its models"
        return errors.InvalidInput(f"{where} refuses {asked}: {words}.", field=field)

    def _check_chat_prompt(self, prompt: Prompt, field: str) -> None:
        if prompt.text is not None:
            raise errors.NotSupported(
                f"The endpoint at {self._url} is asked by chat completions, which take no raw text (prompt {prompt.id!r}); send messages.",
                field=field,
            )

    def _limits(self, sampling: Sampling) -> bool:
        """Whether the limit says anything: vLLM refuses one that the prompt leaves no room for, and takes none for the room that there is."""
        return sampling.max_tokens < (self._base.max_model_tokens or NO_LIMIT)

    def _no_logprobs(self) -> errors.NotSupported:
        return errors.NotSupported(
            f"The endpoint at {self._url} gives no log-probabilities with its answers, and entropies are computed from them; "
            "serve the model with a server that does, such as vLLM.",
            field=FIELD,
        )


def _result(future: Future[tuple[list[Completion], int]], cancel: Cancel) -> tuple[list[Completion], int]:
    while not wait([future], timeout=_POLL_S).done:
        core.check_cancel(cancel)
    return future.result()


def _delta(
    text: str, tokens: Sequence[Token], sampling: Sampling, reason: FinishReason | None = None, prompt_tokens: int = 0
) -> ChatDelta:
    texts, logprobs = tuple(one.text for one in tokens), tuple(one.logprob for one in tokens)
    return ChatDelta(text, texts, logprobs, reason, prompt_tokens, _tops(tokens, sampling))


def _tops(tokens: Sequence[Token], sampling: Sampling) -> TopLogprobs:
    """vLLM adds the chosen token to the likeliest where it is none of them."""
    return tuple(one.top[: sampling.top_logprobs] for one in tokens) if sampling.top_logprobs else ()


def _finish(reason: str | None) -> FinishReason:
    """Whatever else ends a reply (a content filter, a tool call, nothing) leaves it unfinished."""
    return FinishReason.STOP if reason == "stop" else FinishReason.LENGTH
