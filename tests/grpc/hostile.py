"""Requests that no honest client sends, made from the protos' descriptors: one field at a time takes every value it should not."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from semievol.controller.v1 import controller_service_pb2 as controller
from semievol.embedding.v1 import embedding_service_pb2 as embedding
from semievol.generation.v1 import generation_service_pb2 as generation
from semievol.judging.v1 import judging_service_pb2 as judging
from semievol.retrieval.v1 import retrieval_service_pb2 as retrieval
from semievol.training.v1 import training_service_pb2 as training

ROOMS = {
    "embedding": embedding,
    "retrieval": retrieval,
    "generation": generation,
    "judging": judging,
    "training": training,
    "controller": controller,
    "router": generation,
}
ENORMOUS = "x" * 1_000_000
DEADLINE_S = 20.0
_STRINGS = ("", " ", "\0", "../../etc/passwd", "a/b\\c", "\u202e\U0001f4a5\ufeff", "artifact:" + "0" * 64, "nan", "-1", ENORMOUS)
_FLOATS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e300)
_BYTES = (b"", b"abc", struct.pack("<2f", math.nan, math.inf), bytes(8), b"\xff" * 1_000_000)
_INTEGERS = {32: (0, 1, -1, 2**31 - 1, -(2**31)), 64: (0, 1, -1, 2**63 - 1, -(2**63))}
_ENUMS = (0, 99, -1, 2**31 - 1)
_REPEATS = 2000

KEY = "a" * 64
_CHAT = [{"role": "user", "content": "Which colour is red?"}]
_ROW = {"id": "r1", "question": "Which colour is red?", "options": ["red", "green"]}
_RUN_SPEC = {
    "name": "hostile",
    "model": "fake",
    "embedding": "fake",
    "data": {"labeled": f"data:{KEY}/labeled.csv", "unlabeled": f"data:{KEY}/unlabeled.csv"},
    "task": {"type": 1, "options": ["red", "green"]},
    "collaborators": [{"model": "base", "references": 0}],
    "train": {"epochs": 1.0},
}
_VECTOR = struct.pack("<2f", 1.0, 0.0)
# A request that is answered, or refused only for what it names: the place from which one field at a time goes wrong.
GOOD: dict[str, list[dict[str, Any]]] = {
    "Embed": [{"texts": ["red", "green"]}],
    "EmbedStream": [{"texts": ["red"]}],
    "CreateCollection": [{"collection": {"name": "hostile", "dimension": 2, "text_search": True}}],
    "Upsert": [{"collection": "ready", "records": [{"id": "a", "vector": _VECTOR, "text": "red"}]}],
    "Search": [
        {"collection": "ready", "queries": [{"vector": _VECTOR}], "limit": 1},
        {"collection": "ready", "queries": [{"text": "red", "exclude_id": "b"}], "limit": 1},
    ],
    "Describe": [{"collection": "ready"}],
    "Drop": [{"collection": "nothing"}],
    "Generate": [{"prompts": [{"id": "p", "messages": _CHAT}], "sampling": {"max_tokens": 4, "stop": ["."]}}],
    "Chat": [{"prompt": {"id": "p", "messages": _CHAT}, "sampling": {"max_tokens": 4, "temperature": 1.0, "top_p": 0.5}}],
    "Score": [{"items": [{"id": "p", "messages": _CHAT, "response": "Answer: A"}]}],
    "LoadAdapter": [{"name": "adapter-1", "uri": "artifact:" + KEY}],
    "UnloadAdapter": [{"name": "adapter-1"}],
    "Judge": [
        {
            "task": {"type": 1},
            "items": [{"row": _ROW, "candidates": [{"collaborator": "c", "text": "A", "answer": "A", "token_logprobs": [-1.0]}]}],
        }
    ],
    "Select": [{"rows": [{"row_id": "a", "entropy": 0.5}, {"row_id": "b"}], "theta": 50.0, "threshold_entropies": [0.1, 0.9]}],
    "CreateRun": [
        {"key": KEY, "spec": {"base_model": "fake", "dataset_uri": f"artifact:{KEY}/train.jsonl", "warmup_ratio": 0.1}}
    ],
    "CancelRun": [{"key": KEY}],
    "UploadData": [{"name": "labeled.csv"}],
    "PlanRun": [{"spec": _RUN_SPEC}],
    "SubmitRun": [{"spec": _RUN_SPEC}],
    "PromoteModel": [{"model": "none", "alias": "best"}],
}


@dataclass(frozen=True)
class Method:
    """One method of one room."""

    room: str
    descriptor: MethodDescriptor

    @property
    def path(self) -> str:
        return f"/{self.descriptor.containing_service.full_name}/{self.descriptor.name}"

    @property
    def name(self) -> str:
        return str(self.descriptor.name)

    def good(self) -> list[Message]:
        made: type[Message] = GetMessageClass(self.descriptor.input_type)
        known = set(self.descriptor.input_type.fields_by_name)
        bodies = [body for body in GOOD.get(self.name, [{}]) if set(body) <= known]
        return [made(**body) for body in bodies or [{}]]

    def call(self, channel: grpc.Channel, data: bytes, **options: Any) -> grpc.Call:
        """Starts the call with these bytes, whatever its shape."""
        streams = (self.descriptor.client_streaming, self.descriptor.server_streaming)
        if streams == (False, False):
            return channel.unary_unary(self.path).future(data, **options)
        if streams == (True, False):
            return channel.stream_unary(self.path).future(iter([data]), **options)
        if streams == (False, True):
            return channel.unary_stream(self.path)(data, **options)
        return channel.stream_stream(self.path)(iter([data]), **options)

    def answer(
        self, channel: grpc.Channel, data: bytes, *, timeout: float = DEADLINE_S, **options: Any
    ) -> tuple[grpc.StatusCode, grpc.Call]:
        """The status of the whole call."""
        call: Any = self.call(channel, data, timeout=timeout, **options)
        try:
            if self.descriptor.server_streaming:
                for number, _ in enumerate(call):
                    if number >= 100:
                        call.cancel()
            else:
                call.result()
        except (grpc.RpcError, grpc.FutureCancelledError):
            pass
        return call.code(), call


METHODS = [
    Method(room, method)
    for room, module in ROOMS.items()
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def mutations(message: Message, path: str = "") -> Iterator[tuple[str, Message]]:
    """(field path, the message with one field gone wrong), over every field at every depth."""
    for field in message.DESCRIPTOR.fields:
        where = f"{path}.{field.name}" if path else field.name
        for change in _changes(message, field):
            mutant = type(message)()
            mutant.CopyFrom(message)
            try:
                change(mutant)
            except (ValueError, OverflowError):  # a value that no client can send either
                continue
            yield where, mutant
        if field.message_type is not None and field.message_type.full_name.startswith("semievol") and not _is_map(field):
            yield from _inside(message, field, where)


def _inside(message: Message, field: FieldDescriptor, where: str) -> Iterator[tuple[str, Message]]:
    """Mutations of a submessage, or of the first of several."""
    held = getattr(message, field.name)
    if field.is_repeated and not len(held):
        return
    for inner, changed in mutations(held[0] if field.is_repeated else held, f"{where}[0]" if field.is_repeated else where):
        mutant = type(message)()
        mutant.CopyFrom(message)
        target = getattr(mutant, field.name)
        (target[0] if field.is_repeated else target).CopyFrom(changed)
        yield inner, mutant


def _changes(message: Message, field: FieldDescriptor) -> Iterator[Callable[[Message], object]]:
    name = field.name
    yield lambda mutant: mutant.ClearField(name)
    if _is_map(field):
        for value in _STRINGS:
            yield lambda mutant, value=value: getattr(mutant, name).update({value: "x"})  # type: ignore[misc]
            yield lambda mutant, value=value: getattr(mutant, name).update({"answer": value})  # type: ignore[misc]
        yield lambda mutant: getattr(mutant, name).update({str(number): "x" for number in range(_REPEATS)})
    elif field.is_repeated:
        yield lambda mutant: getattr(mutant, name).extend(list(getattr(mutant, name))[:1] * _REPEATS)
        if field.message_type is None:
            for value in _values(field):
                yield lambda mutant, value=value: getattr(mutant, name).append(value)  # type: ignore[misc]
        else:
            yield lambda mutant: getattr(mutant, name).add()
    elif field.message_type is None:
        for value in _values(field):
            yield lambda mutant, value=value: setattr(mutant, name, value)  # type: ignore[misc]


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _values(field: FieldDescriptor) -> tuple[Any, ...]:
    kinds = {
        FieldDescriptor.TYPE_STRING: _STRINGS,
        FieldDescriptor.TYPE_BYTES: _BYTES,
        FieldDescriptor.TYPE_DOUBLE: _FLOATS,
        FieldDescriptor.TYPE_FLOAT: _FLOATS,
        FieldDescriptor.TYPE_INT32: _INTEGERS[32],
        FieldDescriptor.TYPE_INT64: _INTEGERS[64],
        FieldDescriptor.TYPE_ENUM: _ENUMS,
        FieldDescriptor.TYPE_BOOL: (True, False),
    }
    return kinds[field.type]


def junk(seed: int = 0) -> list[bytes]:
    """Bytes that are no message, or one of another method: cut varints, wrong lengths, text that is no UTF-8, noise."""
    chance = random.Random(seed)
    fixed = [
        b"\xff\xff\xff",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\x02\xc3\x28",
        b"\x08",
        b"\x0a\x05abc",
        b"\x0b" * 200,
        b"\x12\x02\xff\xfe",
    ]
    return [*fixed, *(chance.randbytes(chance.randrange(1, 300)) for _ in range(10))]
