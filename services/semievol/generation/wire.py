"""Plain values <-> messages of semievol.generation.v1; used by the servicer and the client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from semievol.algorithm.selection import entropy
from semievol.algorithm.types import Message
from semievol.common.v1 import chat_pb2
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.ports import (
    BASE_MODEL,
    GREEDY_BELOW,
    ChatDelta,
    Completion,
    FinishReason,
    Generation,
    ModelInfo,
    Prompt,
    Sampling,
    Score,
    ScoreRequest,
    TokenLogprob,
    TopLogprobs,
)

_FINISH = {FinishReason.STOP: pb.FINISH_REASON_STOP, FinishReason.LENGTH: pb.FINISH_REASON_LENGTH}
_FINISH_BACK = {number: reason for reason, number in _FINISH.items()}
_LEAST_TOP_P = 1e-6  # takes the likeliest token already; as float32, less may become 0, which means the default


def model_name(name: str) -> str:
    return name or BASE_MODEL


def sampling(message: pb.Sampling) -> Sampling:
    """Fields that are zero take their documented defaults; wrong ones stay, for the core to refuse."""
    default = Sampling()
    return Sampling(
        n=message.sample_count or default.n,
        temperature=message.temperature,
        top_p=message.top_p or default.top_p,
        max_tokens=message.max_tokens or default.max_tokens,
        stop=tuple(message.stop),
        top_logprobs=message.top_logprobs,
    )


def sampling_message(value: Sampling) -> pb.Sampling:
    return pb.Sampling(
        sample_count=value.n,
        temperature=0 if 0 < value.temperature < GREEDY_BELOW else value.temperature,
        top_p=max(value.top_p, _LEAST_TOP_P),
        max_tokens=value.max_tokens,
        stop=value.stop,
        top_logprobs=value.top_logprobs,
    )


def prompt(message: pb.Prompt) -> Prompt:
    return Prompt(message.id, _messages(message.messages), tuple(message.seeds), message.text or None)


def prompt_message(value: Prompt) -> pb.Prompt:
    return pb.Prompt(id=value.id, messages=_message_list(value.messages), seeds=value.seeds, text=value.text or "")


def generation(message: pb.Generation) -> Generation:
    completions = tuple(
        Completion(one.text, _texts(one.tokens), _logprobs(one.tokens), _FINISH_BACK[one.finish_reason], _tops(one.tokens))
        for one in message.completions
    )
    return Generation(message.id, completions, message.prompt_token_count)


def generation_message(value: Generation) -> pb.Generation:
    completions = []
    for one in value.completions:
        tokens = _tokens(one.tokens, one.token_logprobs, one.top_logprobs)
        reason = _FINISH[one.finish_reason]
        completions.append(
            pb.Completion(text=one.text, tokens=tokens, finish_reason=reason, mean_nll=_mean_nll(_logprobs(tokens)))
        )
    return pb.Generation(id=value.id, completions=completions, prompt_token_count=value.prompt_tokens)


def score_request(message: pb.ScoreItem) -> ScoreRequest:
    return ScoreRequest(message.id, _messages(message.messages), message.response)


def score_item(value: ScoreRequest) -> pb.ScoreItem:
    return pb.ScoreItem(id=value.id, messages=_message_list(value.messages), response=value.response)


def score(message: pb.ScoreResult) -> Score:
    return Score(message.id, _texts(message.tokens), _logprobs(message.tokens))


def score_message(value: Score) -> pb.ScoreResult:
    return pb.ScoreResult(id=value.id, tokens=_tokens(value.tokens, value.token_logprobs))


def delta(message: pb.ChatResponse) -> ChatDelta:
    return ChatDelta(
        text=message.text,
        tokens=_texts(message.tokens),
        token_logprobs=_logprobs(message.tokens),
        finish_reason=_FINISH_BACK.get(message.finish_reason),
        prompt_tokens=message.prompt_token_count,
        top_logprobs=_tops(message.tokens),
    )


def delta_message(value: ChatDelta, model: ModelInfo, logprobs: list[float]) -> pb.ChatResponse:
    """`logprobs`: of the tokens so far, to which this piece's are added: the last piece has the mean of all."""
    tokens = _tokens(value.tokens, value.token_logprobs, value.top_logprobs)
    logprobs += _logprobs(tokens)
    return pb.ChatResponse(
        text=value.text,
        tokens=tokens,
        finish_reason=_FINISH[value.finish_reason] if value.finish_reason else pb.FINISH_REASON_UNSPECIFIED,
        model=identity(model),
        prompt_token_count=value.prompt_tokens,
        mean_nll=_mean_nll(logprobs) if value.finish_reason else None,
    )


def identity(model: ModelInfo) -> chat_pb2.ModelIdentity:
    return chat_pb2.ModelIdentity(
        name=model.name,
        base=model.base,
        base_sha256=model.base_sha256,
        adapter=model.adapter,
        adapter_sha256=model.adapter_sha256,
        max_model_tokens=model.max_model_tokens,
        engine=model.engine,
        alias=model.alias,
        engine_starts=model.engine_starts,
        weight_swaps=model.weight_swaps,
    )


def model_info(message: chat_pb2.ModelIdentity) -> ModelInfo:
    return ModelInfo(
        message.name,
        message.base,
        message.base_sha256,
        message.adapter,
        message.adapter_sha256,
        message.max_model_tokens,
        message.engine,
        message.alias,
        message.engine_starts,
        message.weight_swaps,
    )


def _messages(messages: Iterable[chat_pb2.Message]) -> tuple[Message, ...]:
    return tuple(Message(one.role, one.content) for one in messages)


def _message_list(messages: Iterable[Message]) -> list[chat_pb2.Message]:
    return [chat_pb2.Message(role=one.role, content=one.content) for one in messages]


def _tokens(texts: Sequence[str], logprobs: Sequence[float], tops: TopLogprobs = ()) -> list[pb.Token]:
    tokens = [pb.Token(text=text, logprob=logprob) for text, logprob in zip(texts, logprobs, strict=True)]
    for token, top in zip(tokens, tops, strict=True) if tops else ():
        token.top.extend(pb.PossibleToken(text=one.text, logprob=one.logprob) for one in top)
    return tokens


def _texts(tokens: Iterable[pb.Token]) -> tuple[str, ...]:
    return tuple(token.text for token in tokens)


def _logprobs(tokens: Iterable[pb.Token]) -> tuple[float, ...]:
    return tuple(token.logprob for token in tokens)


def _tops(tokens: Sequence[pb.Token]) -> TopLogprobs:
    """Empty unless they were asked for: every place has a likeliest token."""
    if not tokens or not tokens[0].top:
        return ()
    return tuple(tuple(TokenLogprob(one.text, one.logprob) for one in token.top) for token in tokens)


def _mean_nll(logprobs: Sequence[float]) -> float | None:
    """H of Eq. 6 from log-probabilities as they travel, so that every client finds the same; None for a reply without tokens."""
    return entropy(logprobs) if logprobs else None
