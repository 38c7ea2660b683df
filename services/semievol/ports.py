"""The Protocols that the algorithm, the steps and the controller stand on, with the plain values that cross them.

Every port has an embedded backend, a gRPC client (`semievol.client`) and a shipped fake; one contract suite (tests/contract)
runs over all of them. All methods block; callers that live on an event loop go through a worker thread
(`semievol.common.grpc_server.Workers`). All raise only errors of `semievol.common.errors`.

    n  inputs of a call        d  embedding dimension        L  tokens of a response
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from semievol.algorithm.types import Candidate, Message, Row, Selection, Task, Verdict

FloatMatrix = npt.NDArray[np.float32]
Vector = Sequence[float] | npt.NDArray[np.float32]


class Cancel(Protocol):
    """Cooperative cancellation; a `threading.Event` is one. Long calls look at it between batches."""

    def is_set(self) -> bool: ...


class NeverCancelled:
    """The default `Cancel`: nobody will ask."""

    def is_set(self) -> bool:
        return False


NEVER = NeverCancelled()


@runtime_checkable
class Fronted(Protocol):
    """A backend that a server elsewhere stands behind, or a client of the service around one. What is no part of its work: names, for humans."""

    def server(self) -> str:
        """Product and version, and what else it says of itself: `Milvus 2.3.5 at http://milvus:19530`. Empty where there is nothing to say.

        Raises Unavailable."""
        ...


# ---------------------------------------------------------------- embedding


@dataclass(frozen=True, slots=True)
class EmbedderInfo:
    """`model` as the user named it; `sha256` of its weights (hex); inputs longer than `max_tokens` are truncated.

    `server`: product and version of the server elsewhere that computes, for humans; empty where there is none."""

    model: str
    sha256: str
    dimension: int
    max_tokens: int
    server: str = ""


class Embedder(Protocol):
    """eps of Eq. 2: text -> unit vector."""

    def info(self) -> EmbedderInfo: ...

    def embed(self, texts: Sequence[str], *, cancel: Cancel = NEVER) -> FloatMatrix:
        """[n] texts -> [n, d] float32, rows of L2 norm 1, in input order; n may be 0. Raises InvalidInput (empty text), Unavailable, Cancelled."""
        ...


# ---------------------------------------------------------------- retrieval


class IndexType(StrEnum):
    FLAT = "flat"  # exact
    HNSW = "hnsw"  # approximate


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """`name`: ASCII letters, digits and underscores, at most 200, not starting with a digit. `text_search` adds a BM25 index over the records' text."""

    name: str
    dimension: int
    index: IndexType = IndexType.FLAT
    text_search: bool = False


@dataclass(frozen=True, slots=True)
class VectorRecord:
    """One labeled row in a collection: `vector` is [d] of norm 1; `text` serves BM25 only."""

    id: str
    vector: Vector
    text: str = ""


@dataclass(frozen=True, slots=True)
class VectorQuery:
    """Dense (`vector` set) or BM25 (`text` set): exactly one. Hits with `exclude_id` are left out (a row never retrieves itself)."""

    vector: Vector | None = None
    text: str | None = None
    exclude_id: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """`score`: cosine in [-1, 1], or BM25 (>= 0); higher is nearer."""

    id: str
    score: float


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    spec: CollectionSpec
    row_count: int


class VectorIndex(Protocol):
    """NN of Eq. 3 over named collections. What it holds is a cache: it can always be rebuilt from artifacts."""

    def create(self, spec: CollectionSpec) -> None:
        """The same spec again is a no-op; another spec under the same name raises AlreadyExists. Raises InvalidInput(field=)."""
        ...

    def upsert(self, name: str, records: Sequence[VectorRecord]) -> int:
        """Returns how many records were written; visible to the next search. Raises NotFound, InvalidInput (wrong dimension)."""
        ...

    def search(self, name: str, queries: Sequence[VectorQuery], limit: int) -> list[list[Hit]]:
        """[n] queries -> n lists of at most `limit` hits, best first, ties by id. FLAT is exact. Raises NotFound, InvalidInput, NotSupported."""
        ...

    def describe(self, name: str) -> CollectionInfo:
        """Raises NotFound."""
        ...

    def drop(self, name: str) -> None:
        """A collection that is not there is no error."""
        ...


# ---------------------------------------------------------------- generation


NO_LIMIT = 2**31 - 1  # `Sampling.max_tokens` of a reply that ends by itself, or with the room that the model has
MAX_SAMPLES = 64  # `Sampling.n` at most
GREEDY_BELOW = 1e-5  # a temperature that draws the likeliest token always; dividing by less leaves the range of float32


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to decode. temperature 0 is greedy, as is anything below `GREEDY_BELOW`; 1 samples from the model's own distribution. `stop` strings
    are not part of the text.

    `top_logprobs`: how many of the likeliest tokens are told at each place of a reply, 0 to 20."""

    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: a conversation in `messages`, or raw `text`, which no chat template touches and which may hold control tokens.

    `seeds`: one per sample (len == Sampling.n), or empty for greedy or unseeded sampling; 0 <= seed < 2**63."""

    id: str
    messages: tuple[Message, ...] = ()
    seeds: tuple[int, ...] = ()
    text: str | None = None


class FinishReason(StrEnum):
    STOP = "stop"  # end-of-turn token or a stop string
    LENGTH = "length"  # max_tokens or the context is used up


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token that was possible at some place, with its log-probability (nats, raw)."""

    text: str
    logprob: float


TopLogprobs = tuple[tuple[TokenLogprob, ...], ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """`token_logprobs` [L]: log P of each token (nats, raw: before temperature and top_p), end-of-turn token excluded.

    `top_logprobs` [L]: the `Sampling.top_logprobs` likeliest tokens at each place, likeliest first, the end-of-turn token and the chosen one
    only where they are among them; empty where none were asked for."""

    text: str
    tokens: tuple[str, ...]
    token_logprobs: tuple[float, ...]
    finish_reason: FinishReason
    top_logprobs: TopLogprobs = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """The `Sampling.n` completions of one prompt. `prompt_tokens` counts the rendered chat template, or the raw text's tokens."""

    id: str
    completions: tuple[Completion, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class ChatDelta:
    """A piece of a streamed reply. The last one has a finish reason (and may have empty text). `top_logprobs`: as `Completion`'s, of its tokens."""

    text: str
    tokens: tuple[str, ...] = ()
    token_logprobs: tuple[float, ...] = ()
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    top_logprobs: TopLogprobs = ()


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Teacher forcing: the log-probabilities of exactly this response after this prompt."""

    id: str
    messages: tuple[Message, ...]
    response: str


@dataclass(frozen=True, slots=True)
class Score:
    """`token_logprobs` [L], nats, end-of-turn token excluded; empty if the response has no token."""

    id: str
    tokens: tuple[str, ...]
    token_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A servable model. `base` is the base model as the user named it, `base_sha256` its fingerprint.

    `name` is what requests put in `model`: `base`, or an adapter's name, which carries its content hash (R9). For the base itself
    `adapter` (a URI) and `adapter_sha256` are empty.
    """

    name: str
    base: str
    base_sha256: str
    adapter: str = ""
    adapter_sha256: str = ""
    max_model_tokens: int = 0
    engine: str = ""  # backend and number format, `transformers/bfloat16`: what changes the last bits of its answers
    alias: str = ""  # under which a router was asked for it
    engine_starts: int = 0  # of the base, where engines are started by themselves: how many were, since the service began
    weight_swaps: int = 0  # likewise: how often other weights were read into one of them


BASE_MODEL = "base"  # the name under which every engine serves its base weights


class Generator(Protocol):
    """M(t): prompts in, answers with token log-probabilities out."""

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        """[n] prompts -> n generations, in input order; n may be 0. Deterministic for given seeds and the same call on one machine.

        Raises NotFound (model), InvalidInput(field=; a prompt longer than the model's context names its id), Busy, Unavailable, Cancelled.
        """
        ...

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        """Streams one reply (Sampling.n == 1). Raises as `generate`."""
        ...


class Scorer(Protocol):
    """log P(r_k | t, r_<k) of Eq. 6."""

    def score(self, model: str, requests: Sequence[ScoreRequest], *, cancel: Cancel = NEVER) -> list[Score]:
        """[n] -> n, in input order. Raises as Generator.generate; NotSupported where an endpoint cannot score."""
        ...


class AdapterHost(Protocol):
    """Which adapters an engine serves."""

    def models(self) -> list[ModelInfo]: ...

    def load_adapter(self, name: str, uri: str) -> ModelInfo:
        """`uri` names a published adapter or a model that the engine's endpoint trained (`artifact:<step key>`). The same name and content
        again is a no-op.

        Raises NotFound (uri), Corrupt, AlreadyExists (name taken by other content), InvalidInput (not for this base or this engine),
        Unavailable (the endpoint does not serve it yet).
        """
        ...

    def unload_adapter(self, name: str) -> None:
        """An adapter that is not loaded is no error."""
        ...


# ---------------------------------------------------------------- judging


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """The n candidates of one row."""

    row: Row
    candidates: tuple[Candidate, ...]


class Judge(Protocol):
    """Self-justify (Eq. 5) and adaptive selection (Eq. 7-8)."""

    def judge(
        self,
        model: str,
        task: Task,
        requests: Sequence[JudgeRequest],
        *,
        judge_all: bool = False,
        max_tokens: int = 128,
        cancel: Cancel = NEVER,
    ) -> list[Verdict]:
        """[n] rows -> n verdicts, in input order; n may be 0. `judge_all` asks the model about unanimous rows too (`judge: all`);
        `max_tokens` bounds a verdict. Raises as Generator.generate, and InvalidInput(field=) for a row id that comes twice."""
        ...

    def select(
        self, entropies: Mapping[str, float | None], theta: float, *, threshold_entropies: Sequence[float] | None = None
    ) -> Selection:
        """Row id -> H (None: no answer; NaN or infinite: no entropy) and theta in 0..100 -> the cut. `threshold_entropies` replaces the rows' own
        entropies as the population of the percentile (`threshold_reference: labeled`); empty is as None. Raises InvalidInput(field=)
        for theta out of range and for `threshold_entropies` of which none is finite."""
        ...


# ---------------------------------------------------------------- training


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where a fine-tuning run is. `state`: pending | running | succeeded | failed | cancelled. Times in seconds, loss in nats per token.
    `waiting_reason`: what holds a pending run up, if something does."""

    key: str
    state: str
    step: int = 0
    total_steps: int = 0
    loss: float = 0.0
    tokens_per_s: float = 0.0
    eta_s: float = 0.0
    adapter_uri: str = ""
    error: str = ""
    error_code: str = ""
    waiting_reason: str = ""


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """FT(M_base, D). Defaults: METHOD.md, "Parameters" (Tables 4-5, App. B of the paper).

    `dataset_uri` names a JSONL artifact file of `{prompt, completion}` examples (`artifact:<step key>/train.jsonl`). `endpoint`: URL of the
    OpenAI-compatible API that trains `base_model`, which is then its name there; empty: LoRA, by the service's own jobs. An endpoint knows
    neither rank nor scale nor cutoff, and makes one update of `batch_size` x `gradient_accumulation` examples.
    """

    base_model: str
    dataset_uri: str
    epochs: float = 2.0
    learning_rate: float = 1e-4
    lora_rank: int = 16
    lora_alpha: int = 32
    batch_size: int = 1
    gradient_accumulation: int = 8
    max_tokens: int = 1024
    warmup_ratio: float = 0.1
    seed: int = 0
    endpoint: str = ""


class Trainer(Protocol):
    """Fine-tuning runs, keyed: the same key twice is one run."""

    def create_run(self, key: str, spec: TrainingSpec, *, run: str = "") -> TrainingState:
        """Starts the run, or returns the one that this key has. `run`: the evolution run that wants it, and that its job goes with where jobs
        belong to runs. Raises InvalidInput(field=), NotFound (dataset), AlreadyExists (key with another spec)."""
        ...

    def get_run(self, key: str) -> TrainingState:
        """Raises NotFound."""
        ...

    def watch_run(self, key: str, *, cancel: Cancel = NEVER) -> Iterator[TrainingState]:
        """Yields on every change and ends after the terminal state, or when `cancel` is set; the run goes on. Raises NotFound."""
        ...

    def cancel_run(self, key: str) -> TrainingState:
        """A finished run stays as it is. Raises NotFound."""
        ...


# ---------------------------------------------------------------- storage


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    path: str
    size: int


class ObjectStore(Protocol):
    """A flat name space of immutable objects: a local directory or an S3 bucket. Paths are relative, `/`-separated, without `..`.

    A store that is far away also raises Unavailable (it cannot be reached) and NotAllowed (its credentials) from every method."""

    def put(self, path: str, source: bytes | Path) -> None:
        """Writes the object, atomically and durably; an object that is there is replaced. Raises StorageError."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Writes the object only if there is none (R3); False if there is one. Exactly one of concurrent callers gets True."""
        ...

    def open(self, path: str) -> BinaryIO:
        """Raises NotFound, StorageError; so does reading what is returned."""
        ...

    def size(self, path: str) -> int | None:
        """Bytes of the object, None if there is none: much cheaper than opening it where the store is far away."""
        ...

    def list(self, prefix: str) -> list[ObjectInfo]:
        """All objects whose path starts with `prefix`, in path order."""
        ...

    def delete(self, path: str) -> None:
        """An object that is not there is no error."""
        ...


# ---------------------------------------------------------------- launchers


class JobState(StrEnum):
    UNKNOWN = "unknown"  # never submitted, or its record is gone
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One process to run. `entrypoint` is `package.module:function`, called as function(args, cancel, emit).

    `name` is unique per attempt and never reused; submitting the same name with the same content adopts the running job. `labels`: `run` says
    for which run it is. With `shards` the job is a group: one process a shard, of which the argument `{shard}` is the number, at most
    `parallelism` of them at a time (which is no part of the content); it has succeeded when all have.
    """

    name: str
    entrypoint: str
    args: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    shards: tuple[int, ...] = ()
    parallelism: int = 1


@dataclass(frozen=True, slots=True)
class JobStatus:
    """`exit_code` is None while the job runs; see semievol.common.errors for its meaning. `message` is the job's last error line.
    `reason`: why a job that is RUNNING is not at work yet (no node has room for it, its image cannot be pulled), if something holds it up."""

    state: JobState
    exit_code: int | None = None
    message: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LogPart:
    """Lines of a log, and the position behind them."""

    lines: list[str]
    position: str


class Launcher(Protocol):
    """Runs jobs: in a thread, in a child process, as a Kubernetes Job.

    `group_size`: how many shards one job may do; 0: none, each shard is a job of its own. `lasting`: jobs outlive the process that launched
    them, and are found again by their names.
    """

    @property
    def group_size(self) -> int: ...

    @property
    def lasting(self) -> bool: ...

    def submit(self, job: JobSpec) -> None:
        """Raises AlreadyExists (same name, other content), InvalidInput(field=), Unavailable."""
        ...

    def state(self, name: str) -> JobStatus: ...

    def logs(self, name: str, start: int = 0) -> list[str]:
        """Log lines from line `start` on; lines that are JSON objects with a `progress` key report progress. Empty for an unknown job.
        Those of a group begin with `shard 3: `."""
        ...

    def log_part(self, name: str, position: str = "") -> LogPart:
        """The lines of `logs` behind a position, which is empty for the beginning, or one that a launcher of this kind gave, in another process
        perhaps. Raises InvalidInput (field=positions)."""
        ...

    def cancel(self, name: str) -> None:
        """Asks the job to stop (SIGTERM), then makes it stop; returns when it no longer runs. An unknown job is no error."""
        ...

    def close(self) -> None:
        """Cancels all jobs of this process and waits for them; lasting ones go on."""
        ...


@runtime_checkable
class RunOwner(Protocol):
    """A launcher whose jobs belong to their runs, and go with them."""

    def forget_run(self, run: str) -> None:
        """Deletes what there is of a run, jobs at work included; nothing of it is no error. Raises Unavailable, NotAllowed."""
        ...


# ---------------------------------------------------------------- engines of runs


@dataclass(frozen=True, slots=True)
class EngineState:
    """How far an engine is. `address`: HOST:PORT once it answers; until then it is empty, and `reason` says what is waited for.

    `base`: what it serves as its base, where it was asked. `crowded`: there is no room for it at present. `failed`: it will not come up
    however long one waits."""

    address: str = ""
    reason: str = ""
    base: ModelInfo | None = None
    crowded: bool = False
    failed: bool = False


class Engines(Protocol):
    """Engines that answer a run's steps. A slot names one of the run's engines (`shared`, `warm-2`); any weights can be loaded into any.

    `takes_turns`: they have to be gone before the run trains. `settings`: what they are told, hashed; empty where that is not known here."""

    @property
    def takes_turns(self) -> bool: ...

    @property
    def settings(self) -> str: ...

    def capacity(self) -> int | None:
        """How many can be at work side by side; None where nobody can say."""
        ...

    def acquire(self, run: str, slot: str) -> EngineState:
        """Starts the run's engine of this slot unless there is one; returns at once. Raises Unavailable (whoever starts engines does not answer)."""
        ...

    def held(self, run: str) -> list[str]:
        """Slots of the run whose engines are there or on their way, those that another process started included. Raises Unavailable."""
        ...

    def release(self, run: str, slot: str = "") -> bool:
        """Ends the engine of a slot, or all of the run's; returns at once, and whether they are gone. Raises Unavailable."""
        ...

    def used(self, run: str) -> tuple[int, int]:
        """(engines started, changes of weights in them): for the run, or, where engines are not the runs' own, since the service began."""
        ...


class ServingEngines(Protocol):
    """Engines that answer queries, apart from runs. They may have to make room for a run."""

    def yield_to(self, run: str) -> str:
        """The run wants what they compute on: ends them if they stand in its way. What to tell whoever looks at the run; empty where they stay."""
        ...

    def restore(self, run: str) -> None:
        """The run needs them gone no more; when no run does, they come back."""
        ...

    def recover(self, runs: Collection[str]) -> None:
        """At the start: `runs` are unfinished. Engines that yielded to others come back."""
        ...
