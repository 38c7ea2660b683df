"""A double of an endpoint that fine-tunes: OpenAI's files and fine-tuning jobs, by the public API reference, beside its chat.

A job goes one state further every time that somebody looks at it: validating_files, queued, running (an event with metrics a look), then
what it was told to become. What it "trains" is a lookup: the model answers as the training example whose question has most words in
common with the one that is asked, so that a whole run learns something. A model is served under `ft:BASE:tests:SUFFIX:N`.
"""

from __future__ import annotations

import email
import email.policy
import json
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from semievol.algorithm.types import Message
from semievol.common.keys import derive_seed
from semievol.generation.backends.fake import FakeEngine, Script
from semievol.generation.core import Engine

from tests.servers.openai_api import OpenAIDouble
from tests.servers.web import Answer, Call

FILES, JOBS = "/v1/files", "/v1/fine_tuning/jobs"
_LEAST_EXAMPLES = 10
_ENDLESS = 1000  # epochs that nobody waits for
_ENDED = ("succeeded", "failed", "cancelled")
EXPIRED = {"code": "file_not_found", "message": "The training file has expired.", "param": "training_file"}
_FORGOTTEN = Answer(404, {"error": {"message": "No such object.", "type": "invalid_request_error", "param": "id", "code": None}})


@dataclass
class TunedJob:
    """A job: its body as the API shows it, its events, oldest first, and what it will end as (an error, or None)."""

    body: dict[str, Any]
    error: dict[str, Any] | None
    events: list[dict[str, Any]] = field(default_factory=list)


class TuningDouble(OpenAIDouble):
    """Faults, beside those of every double:

    errors          with which the next jobs fail; None for one that succeeds
    hold            jobs go no further than running
    lost_answers    jobs that are created without a word about it
    lost_files      uploads that are forgotten at once
    late_listings   how often models are listed before one that was trained is among them
    keeps_metadata  false forgets it, as smaller servers do
    trains          the models that it trains
    """

    def __init__(self, engine: Engine, *, updates: int = 3, max_epochs: int = 50, **options: Any) -> None:
        super().__init__(engine, **options)
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, TunedJob] = {}
        self.errors: deque[dict[str, Any] | None] = deque()
        self.hold = False
        self.lost_answers = 0
        self.lost_files = 0
        self.keeps_metadata = True
        self.late_listings = 0
        self.uploads = 0
        self.trains = list(self.names)
        self._updates = updates
        self._max_epochs = max_epochs
        self._tuned: dict[str, Engine] = {}
        self._late: dict[str, int] = {}  # models that are not listed yet, and for how often

    def engine_of(self, name: str) -> Engine:
        return self._tuned.get(name, self.engine)

    @property
    def created(self) -> int:
        """Jobs that were ever created."""
        return len(self.jobs)

    def forget(self, model: str) -> None:
        """As if somebody had deleted it."""
        self.names.remove(model)

    def answer(self, call: Call) -> Answer:
        parts = urlsplit(call.path)
        if not parts.path.startswith((FILES, JOBS)):
            self._list_more_models(call)
            return super().answer(call)
        if self.api_key and call.headers.get("authorization") != f"Bearer {self.api_key}":
            return refusal(401, "Incorrect API key provided.", "invalid_api_key")
        if parts.path == FILES:
            return self._upload(call)
        if parts.path.startswith(FILES):
            return self._show_file(parts.path.rpartition("/")[2])
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == JOBS:
            return self._create(call.json()) if call.method == "POST" else self._page([*reversed(self._bodies())], query)
        return self._of_job(call.method, *parts.path.removeprefix(f"{JOBS}/").partition("/")[::2], query)

    # ------------------------------------------------------------ files

    def _upload(self, call: Call) -> Answer:
        head = f"Content-Type: {call.headers['content-type']}\r\n\r\n".encode()
        form = email.message_from_bytes(head + call.body, policy=email.policy.HTTP)
        fields = {part.get_param("name", header="content-disposition"): part for part in form.iter_parts()}  # type: ignore[attr-defined]
        if fields["purpose"].get_content().strip() != "fine-tune":
            return refusal(400, "Invalid purpose.", "invalid_value", "purpose")
        self.uploads += 1
        name = f"file-{self.uploads}"
        self.files[name] = fields["file"].get_payload(decode=True)
        answer = self._show_file(name)
        if self.lost_files:
            self.lost_files -= 1
            del self.files[name]
        return answer

    def _show_file(self, name: str) -> Answer:
        if name not in self.files:
            return _FORGOTTEN
        shown = {"id": name, "object": "file", "bytes": len(self.files[name]), "created_at": 1, "filename": "train.jsonl"}
        return Answer(body=shown | {"purpose": "fine-tune", "status": "processed", "expires_at": None})

    # ------------------------------------------------------------ jobs

    def _create(self, request: dict[str, Any]) -> Answer:
        if request["model"] not in self.trains:
            words = f"Model {request['model']} is not available for fine-tuning or does not exist."
            return refusal(400, words, "model_not_available")
        if request["training_file"] not in self.files:
            return refusal(400, f"invalid training_file: {request['training_file']}", None, "training_file")
        hyperparameters = request["method"]["supervised"]["hyperparameters"]
        if hyperparameters["n_epochs"] > self._max_epochs:
            words = f"{hyperparameters['n_epochs']} is greater than the maximum of {self._max_epochs}"
            return refusal(400, words, "integer_above_max_value", "hyperparameters.n_epochs")
        job = self._new_job(request, hyperparameters)
        if self.lost_answers:
            self.lost_answers -= 1
            return Answer(hang_up=True)
        return Answer(body=job.body)

    def _new_job(self, request: dict[str, Any], hyperparameters: dict[str, Any]) -> TunedJob:
        name = f"ftjob-{len(self.jobs) + 1}"
        body = {
            "id": name,
            "object": "fine_tuning.job",
            "created_at": 1,
            "error": None,
            "fine_tuned_model": None,
            "finished_at": None,
            "hyperparameters": hyperparameters,
            "model": request["model"],
            "organization_id": "org-tests",
            "result_files": [],
            "seed": request["seed"],
            "status": "validating_files",
            "trained_tokens": None,
            "training_file": request["training_file"],
            "metadata": request.get("metadata") if self.keeps_metadata else None,
            "suffix": request.get("suffix"),
        }
        self.jobs[name] = TunedJob(body, self.errors.popleft() if self.errors else None)
        return self.jobs[name]

    def _of_job(self, method: str, name: str, what: str, query: dict[str, str]) -> Answer:
        job = self.jobs.get(name)
        if job is None:
            return _FORGOTTEN
        if what == "events":
            return self._page([*reversed(job.events)], query)
        if what == "cancel":
            if job.body["status"] in _ENDED:
                return refusal(400, f"Job {name} has ended already.", "invalid_status")
            job.body["status"] = "cancelled"
            return Answer(body=job.body)
        self._go_on(job)
        return Answer(body=job.body)

    def _go_on(self, job: TunedJob) -> None:
        """One state, or one update, further."""
        body = job.body
        if body["status"] in _ENDED:
            return
        if body["status"] == "validating_files":
            if job.error == EXPIRED:
                del self.files[body["training_file"]]
            wrong = job.error or self._wrong_with(body["training_file"])
            body |= {"status": "failed", "error": wrong} if wrong else {"status": "queued"}
        elif body["status"] == "queued":
            body["status"] = "running"
        elif self.hold or body["hyperparameters"]["n_epochs"] > _ENDLESS:
            pass
        elif len(job.events) < self._updates:
            job.events.append(self._event(body["id"], len(job.events) + 1))
        else:
            self._finish(body)

    def _wrong_with(self, file: str) -> dict[str, Any] | None:
        about = {"param": "training_file"}
        if file not in self.files:
            return EXPIRED
        try:
            chats = _chats(self.files[file])
        except (ValueError, KeyError) as error:
            return about | {
                "code": "invalid_training_file",
                "message": f"The job failed due to an invalid training file: {error}",
            }
        if len(chats) < _LEAST_EXAMPLES:
            words = f"Training file has {len(chats)} example(s), but must have at least {_LEAST_EXAMPLES} examples"
            return about | {"code": "invalid_n_examples", "message": words}
        return None

    def _event(self, job: str, step: int) -> dict[str, Any]:
        data = {"step": step, "total_steps": self._updates, "train_loss": 1.0 / step}
        message = f"Step {step}/{self._updates}: training loss={1.0 / step:.2f}"
        shown = {"id": f"{job}-event-{step}", "object": "fine_tuning.job.event", "created_at": step, "level": "info"}
        return shown | {"message": message, "type": "metrics", "data": data}

    def _finish(self, body: dict[str, Any]) -> None:
        model = f"ft:{body['model']}:tests:{body['suffix']}:{body['id'].rpartition('-')[2]}"
        self._tuned[model] = FakeEngine(learned(_chats(self.files[body["training_file"]])), base=model)
        self._late[model] = self.late_listings
        body |= {"status": "succeeded", "fine_tuned_model": model, "finished_at": int(time.time()), "trained_tokens": 100}
        self._list_trained()

    def _list_more_models(self, call: Call) -> None:
        if (call.method, call.path) == ("GET", "/v1/models"):
            self._late = {name: left - 1 for name, left in self._late.items()}
            self._list_trained()

    def _list_trained(self) -> None:
        for name in [name for name, left in self._late.items() if left <= 0]:
            del self._late[name]
            self.names.append(name)

    def _bodies(self) -> list[dict[str, Any]]:
        return [job.body for job in self.jobs.values()]

    def _page(self, newest_first: Sequence[dict[str, Any]], query: dict[str, str]) -> Answer:
        names = [one["id"] for one in newest_first]
        start = names.index(query["after"]) + 1 if "after" in query else 0
        end = start + int(query.get("limit", 20))
        return Answer(body={"object": "list", "data": newest_first[start:end], "has_more": end < len(names)})


def refusal(status: int, words: str, code: str | None = None, param: str | None = None, **headers: str) -> Answer:
    """An error in OpenAI's shape."""
    error = {"message": words, "type": "invalid_request_error", "param": param, "code": code}
    return Answer(status, {"error": error}, {name.replace("_", "-"): value for name, value in headers.items()})


def learned(chats: Sequence[tuple[str, str]]) -> Script:
    """(question, answer) pairs -> the nearest question's answer; one sample in five gives the nearest other one."""

    def reply(model: str, messages: Sequence[Message], seed: int) -> str:
        asked = _words(_question(messages[-1].content))
        nearest = sorted(chats, key=lambda chat: (-len(asked & _words(chat[0])) / len(asked | _words(chat[0])), chat))
        answers = list(dict.fromkeys(answer for _, answer in nearest))
        wrong = bool(seed) and len(answers) > 1 and derive_seed(*sorted(asked), seed) % 5 == 0
        return answers[wrong]

    return reply


def _chats(data: bytes) -> list[tuple[str, str]]:
    """(question, answer) of every line. Raises ValueError, KeyError for what is no chat that ends with a response."""
    found = []
    for line in data.splitlines():
        messages = json.loads(line)["messages"]
        if [message["role"] for message in messages[-2:]] != ["user", "assistant"] or not messages[-1]["content"]:
            raise ValueError("a chat must end with a response")
        found.append((_question(messages[-2]["content"]), messages[-1]["content"]))
    return found


def _question(text: str) -> str:
    return text.rpartition("Question: ")[2].splitlines()[0]


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))
