"""Token ids -> replies: texts, where they end, and the pieces of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from semievol.common.chat_format import end_of_turn_id
from semievol.generation.backends.sampling import Likely
from semievol.generation.core import cut_at_stop
from semievol.ports import ChatDelta, Completion, FinishReason, TokenLogprob, TopLogprobs

_PARTIAL = "\ufffd"  # what a piece of a character decodes to


class Reader:
    """Reads token ids with a tokenizer. `end_ids` end a reply."""

    def __init__(self, tokenizer: Any, end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.end_ids = frozenset(end_ids)
        self._texts: dict[int, str] = {}

    def text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Each token's own text; pieces of one character are U+FFFD."""
        for one in ids:
            if one not in self._texts:
                self._texts[one] = str(self._tokenizer.decode([one], clean_up_tokenization_spaces=False))
        return tuple(self._texts[one] for one in ids)

    def likeliest(self, tops: Sequence[Likely]) -> TopLogprobs:
        """[L] places -> the texts of the tokens that were possible there."""
        return tuple(tuple(TokenLogprob(self.texts([token])[0], logprob) for token, logprob in top) for top in tops)

    def completion(
        self, ids: Sequence[int], logprobs: Sequence[float], stop: Sequence[str], tops: Sequence[Likely] = ()
    ) -> Completion:
        """What was written up to the first end token or stop string; without either it was cut off."""
        end = next((k for k, one in enumerate(ids) if one in self.end_ids), None)
        kept = list(ids if end is None else ids[:end])
        text = self.text(kept)
        at = cut_at_stop(text, stop)
        if at is not None:
            text = text[:at]
            kept = kept[: self.tokens_before(kept, at)]
        reason = FinishReason.LENGTH if end is None and at is None else FinishReason.STOP
        return Completion(text, self.texts(kept), tuple(logprobs[: len(kept)]), reason, self.likeliest(tops[: len(kept)]))

    def tokens_before(self, ids: Sequence[int], at: int) -> int:
        """How many of the tokens begin before character `at` of their text."""
        return next((k for k in range(len(ids)) if len(self.text(ids[:k])) >= at), len(ids))


class StreamReader:
    """Turns tokens, as they come, into deltas that add up to the completion. Text that may turn out to be part of a stop string, and
    pieces of a character, wait for what follows."""

    def __init__(self, reader: Reader, stop: Sequence[str]) -> None:
        self._reader = reader
        self._stop = stop
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._tops: list[Likely] = []
        self._sent_text = 0
        self._sent_tokens = 0

    def add(self, token: int, logprob: float, top: Likely) -> ChatDelta | None:
        """The next piece, if there is one already."""
        if token in self._reader.end_ids:
            return None
        self._ids.append(token)
        self._logprobs.append(logprob)
        self._tops += [top] if top else []
        text = self._reader.text(self._ids)
        safe = len(text.rstrip(_PARTIAL))
        at = cut_at_stop(text, self._stop)
        safe = min(safe, self._held_back(text) if at is None else at)
        if safe <= self._sent_text:
            return None
        return self._delta(text[:safe], self._reader.tokens_before(self._ids, safe), None, 0)

    def end(self, reply: Completion, prompt_tokens: int) -> ChatDelta:
        """The rest, with the reason."""
        return self._delta(reply.text, len(reply.tokens), reply.finish_reason, prompt_tokens)

    def _delta(self, text: str, tokens: int, reason: FinishReason | None, prompt_tokens: int) -> ChatDelta:
        piece, new = text[self._sent_text :], slice(self._sent_tokens, tokens)
        self._sent_text, self._sent_tokens = len(text), tokens
        texts, tops = self._reader.texts(self._ids[new]), self._reader.likeliest(self._tops[new])
        return ChatDelta(piece, texts, tuple(self._logprobs[new]), reason, prompt_tokens, tops)

    def _held_back(self, text: str) -> int:
        """Length of the text without its longest ending that begins a stop string."""
        longest = max((len(one) for one in self._stop), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(one.startswith(text[-size:]) for one in self._stop):
                return len(text) - size
        return len(text)


def end_ids(generation_config: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a reply: the tokenizer's and whatever else the model's own generation configuration names."""
    named = generation_config.eos_token_id
    others = named if isinstance(named, list) else [] if named is None else [named]
    return list(dict.fromkeys([end_of_turn_id(tokenizer), *others]))
