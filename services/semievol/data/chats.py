"""Chats as rows: `messages`, or `prompt` with `completion` (texts, or lists of messages), as trainers read them. A message has `role` and
`content`, or ShareGPT's `from` and `value`.

The user's message is the question, the assistant's after it the answer. A chat of several turns is refused: its last question cannot
be asked without the turns before it, and dropping them would make it another question. System text is metadata (`system`): what every
prompt begins with is the run's task.instruction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MEANINGS = {"messages": "question and answer", "prompt": "question", "completion": "answer"}
GIVES = {"messages": ("question", "answer"), "prompt": ("question",), "completion": ("answer",)}

_ROLES = ("system", "user", "assistant")
_OTHER_ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}  # of ShareGPT; OpenAI's newer name
# What a reply ends with where it was written as our prompts ask for it; the words before are how it came about.
_LAST_LINE = re.compile(r"(?:^|\n)[ \t*_]*answer[ \t*_]*:[ \t]*(\S[^\n]*)\s*\Z", re.IGNORECASE)


class BadRecordError(Exception):
    """Carries the reason, in words that fit behind `file:line: `."""


@dataclass(frozen=True, slots=True)
class Chat:
    """`values`: question, and answer where there is one. `metadata`: the system text, and a reply that says more than its answer."""

    values: dict[str, str]
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Message:
    role: str
    content: str


def form(found: Mapping[str, str]) -> dict[str, str]:
    """Of the chat columns that are there, those that are read: messages alone, or a prompt with its completion."""
    if "messages" in found:
        return {"messages": found["messages"]}
    return {name: found[name] for name in ("prompt", "completion") if name in found} if "prompt" in found else {}


def read(cells: Mapping[str, Any]) -> Chat:
    """Raises BadRecordError."""
    if "messages" in cells:
        messages = _messages("messages", cells["messages"], None)
    else:
        messages = _messages("prompt", cells["prompt"], "user")
        if messages and messages[-1].role == "assistant":
            raise BadRecordError("the prompt ends with an assistant message; the answer belongs into the completion")
        messages += _messages("completion", cells.get("completion"), "assistant")
    return _single_turn(messages)


def _single_turn(messages: list[_Message]) -> Chat:
    system = "\n".join(message.content for message in messages if message.role == "system")
    turns = [message for message in messages if message.role != "system"]
    asked = sum(message.role == "user" for message in turns)
    if not asked:
        raise BadRecordError("there is no user message, so there is no question")
    if asked > 1:
        raise BadRecordError(f"the chat has {asked} user messages; only chats of one question and one answer are read")
    if turns[0].role != "user":
        raise BadRecordError("the assistant speaks before the user")
    if len(turns) > 2:
        raise BadRecordError(
            f"the chat has {len(turns) - 1} assistant messages; only chats of one question and one answer are read"
        )
    values, metadata = {"question": turns[0].content}, {"system": system} if system else {}
    if len(turns) == 2:
        reply = turns[1].content
        stated = _LAST_LINE.search(reply)
        values["answer"] = stated[1].strip().rstrip("*_ ") if stated else reply
        if stated and reply[: stated.start()].strip():
            metadata["assistant"] = reply
    return Chat(values, metadata)


def _messages(name: str, value: Any, role: str | None) -> list[_Message]:
    """A cell's messages. `role`: what a plain text is said by; None where a plain text is no chat."""
    if value is None or value == "" or value == []:
        if name == "completion":
            return []
        raise BadRecordError(f"{name!r} is empty")
    if isinstance(value, str):
        listed = _json_list(value)
        if listed is None and role is not None:
            return [_Message(role, value)]
        value = listed
    if not isinstance(value, list):
        raise BadRecordError(f"{name!r} is no list of messages")
    return [_message(name, number, item) for number, item in enumerate(value, 1)]


def _json_list(text: str) -> list[Any] | None:
    """The messages that a text cell (CSV) holds as JSON."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) and all(isinstance(item, dict) for item in value) else None


def _message(name: str, number: int, value: Any) -> _Message:
    where = f"message {number} of {name!r}"
    keys = ("from", "value") if isinstance(value, Mapping) and "role" not in value else ("role", "content")
    if not isinstance(value, Mapping) or not set(keys) <= set(value):
        raise BadRecordError(f"{where} is not an object with 'role' and 'content'")
    role, content = (value[key] for key in keys)
    role = _OTHER_ROLES.get(str(role), role)
    if role not in _ROLES:
        raise BadRecordError(f"{where} has the role {str(role)[:40]!r}; it is one of {', '.join(_ROLES)}")
    if isinstance(content, list):
        content = _joined(content)
    if not isinstance(content, str):
        raise BadRecordError(f"{where} has no text")
    if not content.strip() and role != "assistant":  # an empty reply is a missing answer, which an unlabeled row may have
        raise BadRecordError(f"{where} is empty")
    return _Message(str(role), content)


def _joined(parts: list[Any]) -> str | None:
    """The text of a content in parts, as some APIs have it; None where a part is something else."""
    texts = [str(part.get("text", "")) for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
    return "\n".join(texts) if len(texts) == len(parts) else None
