"""Messages of the controller as JSON values: what `--json` prints. Field names are the API's; states are words; times are RFC 3339."""

from __future__ import annotations

import json
import re
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.controller.wire import spec_from_wire


def message(value: Message) -> Any:
    """A message's fields; null for what is not set."""
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    return {field.name: _field(value, field) for field in value.DESCRIPTOR.fields}


def _field(value: Message, field: Any) -> Any:
    content = getattr(value, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(content)
    if field.is_repeated:
        return [_scalar(item, field) for item in content]
    if field.has_presence and not value.HasField(field.name):
        return None
    return _scalar(content, field)


def _scalar(content: Any, field: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return message(content)
    if field.type == FieldDescriptor.TYPE_ENUM:
        prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", field.enum_type.name).upper() + "_"
        return field.enum_type.values_by_number[content].name.removeprefix(prefix).lower()
    return content


def state(value: pb.State.ValueType) -> str:
    """`running`."""
    return pb.State.Name(value).removeprefix("STATE_").lower()


def run(value: pb.Run) -> dict[str, Any]:
    """`spec` has the run file's keys, `result` the documented shape or null."""
    body: dict[str, Any] = message(value)
    body["spec"] = spec_from_wire(value.spec).model_dump(mode="json")
    body["result"] = json.loads(value.result_json) if value.result_json else None
    del body["result_json"]
    return body


def event(value: pb.RunEvent) -> dict[str, Any]:
    """`event` says which; its fields stand beside it."""
    kind = value.WhichOneof("event") or ""
    fields = message(getattr(value, kind)) if kind else {}
    time = value.event_time.ToJsonString() if value.HasField("event_time") else None
    return {"number": value.number, "event_time": time, "event": kind, **fields}


def step_name(iteration: int, name: str) -> str:
    """`1/infer/warm-2`, as logs are asked for."""
    return f"{iteration}/{name}"
