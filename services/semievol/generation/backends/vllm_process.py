"""One vLLM engine at work: its core in child processes, its event loop on a thread of this one.

This module alone calls vLLM's engine, since names move between its versions. Everything here blocks; callers are threads.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import os
import queue
import shutil
import threading
import time
import uuid
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from semievol.common import errors
from semievol.generation.backends.sampling import Likely
from semievol.generation.backends.vllm_guard import guard
from semievol.generation.core import check_cancel
from semievol.ports import Cancel, Sampling

T = TypeVar("T")

_POLL_S = 0.05  # how soon a caller that has gone is noticed
_STOP_S = 20.0
_BUSY_RETRY_S = 1.0
_FEW_CORES = 4
_GREEDY = Sampling(max_tokens=1)
_starting = threading.Lock()  # one at a time: a start changes this process's environment


class EngineDied(Exception):
    """The engine's processes are gone, and what they were doing with them."""


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence; `max_tokens` of a reply. `scored`: how many of the last prompt tokens are to be scored; with it nothing is written."""

    ids: Sequence[int]
    sampling: Sampling = _GREEDY
    seed: int | None = None
    max_tokens: int = 1
    scored: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """Tokens with their raw log-probabilities (nats), and the likeliest ones at each place if they were asked for."""

    ids: Sequence[int]
    logprobs: Sequence[float]
    tops: Sequence[Likely] = ()


class VllmProcess:
    """`arguments`: vLLM's engine arguments; `end_ids`: tokens that end a reply; `log`: file for vLLM's own lines.

    The constructor returns when the engine is ready. Raises InvalidInput or Unavailable, with vLLM's own reason.
    """

    def __init__(self, arguments: Mapping[str, Any], end_ids: Sequence[int], log: Path, timeout_s: float) -> None:
        self._end_ids = list(end_ids)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        self._stopping = False
        self._engine: Any = None
        try:
            self._engine = _started(arguments, log, lambda make: self.call(make(), timeout_s))
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------ work

    def run(self, requests: Sequence[Request], adapter: Any, cancel: Cancel) -> list[Step]:
        """[n] -> n, in order; all at once: the engine forms its own batches. Raises EngineDied, InvalidInput, Busy, Cancelled."""
        check_cancel(cancel)
        future = asyncio.run_coroutine_threadsafe(self._run(requests, adapter), self._loop)
        try:
            while not concurrent.futures.wait([future], timeout=_POLL_S).done:
                check_cancel(cancel)
        finally:
            future.cancel()
        return future.result()

    def stream(self, request: Request, adapter: Any, cancel: Cancel) -> Iterator[Step]:
        """The tokens of one reply as they come. Raises as `run`; closing the iterator ends the request in the engine."""
        items: queue.SimpleQueue[Step | BaseException | None] = queue.SimpleQueue()

        async def write() -> None:
            try:
                async for output in self._outputs(request, adapter, stream=True):
                    if (step := _written(output, request.sampling)).ids:
                        items.put(step)
                items.put(None)
            except BaseException as error:
                items.put(error)
                raise

        future = asyncio.run_coroutine_threadsafe(write(), self._loop)
        try:
            while True:
                check_cancel(cancel)
                try:
                    item = items.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            future.cancel()

    async def _run(self, requests: Sequence[Request], adapter: Any) -> list[Step]:
        tasks = [asyncio.create_task(self._one(request, adapter)) for request in requests]
        try:
            return list(await asyncio.gather(*tasks))
        finally:  # one failed, or nobody waits any more: vLLM aborts what is cancelled
            for task in tasks:
                task.cancel()

    async def _one(self, request: Request, adapter: Any) -> Step:
        last = None
        async for output in self._outputs(request, adapter, stream=False):
            last = output
        if last is None:
            raise EngineDied
        return _scored(last, request.scored) if request.scored else _written(last, request.sampling)

    async def _outputs(self, request: Request, adapter: Any, *, stream: bool) -> Any:
        from vllm.exceptions import GracefulHTTPError, VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        prompt = tokens_input(list(request.ids))
        params = _parameters(request, self._end_ids, stream=stream)
        try:
            async for output in self._engine.generate(prompt, params, uuid.uuid4().hex, lora_request=adapter):
                if any(one.finish_reason in ("abort", "error") for one in output.outputs):
                    raise EngineDied
                yield output
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineDied from error
        except GracefulHTTPError as error:
            raise errors.Busy(f"The engine has all the requests that it takes: {error}", retry_after_s=_BUSY_RETRY_S) from error
        except (VLLMClientError, ValueError) as error:
            raise errors.InvalidInput(f"The engine refuses the request: {errors.first_line(error)}") from error

    # ------------------------------------------------------------ weights

    def reload(self, directory: Path) -> None:
        """Other weights of the same shape, from a directory that this engine has not read before. Nothing may be in flight.

        Raises EngineDied: what was half-way replaced is not to be used.
        """

        async def swap() -> None:
            await self._engine.pause_generation(mode="wait", clear_cache=True)
            await self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(directory)})
            await self._engine.reset_prefix_cache()
            await self._engine.resume_generation()

        try:
            self.call(swap(), None)
        except Exception as error:
            raise EngineDied(f"reloading {directory}: {errors.first_line(error)}") from error

    def lora(self, name: str, number: int, directory: Path) -> Any:
        """vLLM's handle on an adapter. The number is never used for another one: vLLM would keep the first one's weights."""
        from vllm.lora.request import LoRARequest

        return LoRARequest(name, number, str(directory))

    def add_lora(self, lora: Any) -> None:
        """Raises InvalidInput with vLLM's reason, EngineDied."""
        try:
            self.call(self._engine.add_lora(lora), None)
        except Exception as error:
            if not self.alive:
                raise EngineDied from error
            raise errors.InvalidInput(f"vLLM does not take the adapter: {errors.first_line(error)}", field="uri") from error

    def remove_lora(self, lora: Any) -> None:
        with contextlib.suppress(Exception):  # gone with the engine, or evicted before
            self.call(self._engine.remove_lora(lora.lora_int_id), None)

    # ------------------------------------------------------------ life

    @property
    def alive(self) -> bool:
        return self._engine is not None and not self._engine.errored and not self._stopping

    @property
    def engine(self) -> Any:
        """vLLM's AsyncLLM, for what is measured against it."""
        return self._engine

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float | None) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def close(self) -> None:
        """Ends the engine's processes; what is in flight raises EngineDied."""
        self._stopping = True
        if self._engine is not None:

            async def end() -> None:
                self._engine.shutdown(timeout=0)

            with contextlib.suppress(Exception):
                self.call(end(), _STOP_S)
            self._engine = None  # its destructor wants modules that are gone when the interpreter ends
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_S)


# ---------------------------------------------------------------- requests and outputs


def _parameters(request: Request, end_ids: Sequence[int], *, stream: bool) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
    if request.scored:  # vLLM always writes a token
        return SamplingParams(
            temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=kind, flat_logprobs=True
        )
    one = request.sampling
    return SamplingParams(
        temperature=one.temperature,
        top_p=one.top_p,
        max_tokens=request.max_tokens,
        seed=request.seed,
        stop=list(one.stop) or None,
        stop_token_ids=list(end_ids),
        logprobs=one.top_logprobs,
        detokenize=bool(one.stop),  # texts are made by the reader that all backends share
        output_kind=kind,
    )


def _written(output: Any, sampling: Sampling) -> Step:
    (reply,) = output.outputs
    ids = list(reply.token_ids)
    places = reply.logprobs or ()
    logprobs = [place[one].logprob for one, place in zip(ids, places, strict=True)]
    return Step(ids, logprobs, [_likeliest(place, sampling.top_logprobs) for place in places])


def _likeliest(place: Any, count: int) -> Likely:
    """vLLM adds the chosen token to the likeliest where it is none of them."""
    ranked = sorted((known.rank, one, known.logprob) for one, known in place.items() if known.rank <= count) if count else []
    return [(one, logprob) for _, one, logprob in ranked]


def _scored(output: Any, count: int) -> Step:
    """The last `count` tokens of the prompt."""
    ids, places = output.prompt_token_ids[-count:], output.prompt_logprobs
    found = [places[len(output.prompt_token_ids) - count + k][one].logprob for k, one in enumerate(ids)]
    return Step(ids, found)


# ---------------------------------------------------------------- start


def _started(arguments: Mapping[str, Any], log: Path, call: Any) -> Any:
    """A ready AsyncLLM. vLLM's core says only in its log why it did not start."""
    eager = bool(arguments.get("enforce_eager"))
    with _starting, start_environment(log, several_machines=arguments.get("nnodes", 1) > 1, eager=eager):
        begun = log.stat().st_size if log.exists() else 0
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise errors.NotSupported(
                f"vLLM is not installed ({errors.first_line(error)}): make setup-vllm, or pip install vllm==0.32.*.",
                field="backend",
            ) from error

        guard()

        async def make() -> Any:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

        try:
            return call(make)
        except TypeError as error:
            raise errors.InvalidInput(
                f"vLLM knows no such engine argument: {errors.first_line(error)}; see SEMIEVOL_VLLM_EXTRA.", field="extra"
            ) from error
        except TimeoutError as error:
            raise errors.Unavailable(
                f"The vLLM engine was not ready in time; raise SEMIEVOL_VLLM_START_TIMEOUT_S, or see {log}.",
                field="start_timeout_s",
            ) from error
        except Exception as error:
            raise start_fault(error, _tail(log, begun), log) from error


def start_fault(error: Exception, lines: str, log: Path) -> errors.SemiEvolError:
    """Of an engine that did not start: its reason, as its log tells it in `lines`, and the setting to change."""
    reason = _root_cause(lines) or errors.first_line(error)
    words = reason.lower()
    if "/dev/shm" in words:
        return errors.Unavailable(
            f"vLLM's processes meet in /dev/shm, which is too small: {reason} On Kubernetes the chart's engine.shmSize and "
            f"jobs.runEngine.shmSize say how large it is, with Docker --shm-size. vLLM's log: {log}",
            field="shm_size",
        )
    if any(one in words for one in ("memory", "kv cache", "out of", "oom")):
        return errors.Unavailable(
            f"The vLLM engine finds too little memory: {reason} Lower SEMIEVOL_VLLM_KV_CACHE_GIB, "
            f"SEMIEVOL_VLLM_GPU_MEMORY_UTILIZATION or SEMIEVOL_VLLM_MAX_MODEL_TOKENS. Its log: {log}",
            field="kv_cache_gib",
        )
    return errors.InvalidInput(f"The vLLM engine does not start: {reason} Its log: {log}", field="model")


def _tail(log: Path, begun: int) -> str:
    time.sleep(0.2)  # the child's last lines
    try:
        with log.open("rb") as file:
            file.seek(begun)
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _root_cause(lines: str) -> str:
    """The message of the last exception in vLLM's log whose words are not only that something else failed."""
    found = [line.split("] ", 1)[-1].strip() for line in lines.splitlines() if "Error: " in line]
    real = [line for line in found if "root cause" not in line.lower()]
    return real[-1][:400].rstrip(".") + "." if real else ""


@contextlib.contextmanager
def start_environment(log: Path, *, several_machines: bool, eager: bool) -> Iterator[None]:
    """What vLLM reads from the environment while it starts; restored after, since other children of this process are no engines."""
    before = dict(os.environ)
    log.parent.mkdir(parents=True, exist_ok=True)
    logging = log.with_suffix(".json")
    handler = {"class": "logging.FileHandler", "filename": str(log), "formatter": "plain"}
    body = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(levelname)s %(asctime)s pid=%(process)d [%(filename)s:%(lineno)d] %(message)s"}},
        "handlers": {"file": handler},
        "loggers": {"vllm": {"handlers": ["file"], "level": "INFO", "propagate": False}},
    }
    logging.write_text(json.dumps(body))
    os.environ |= {
        "VLLM_LOGGING_CONFIG_PATH": str(logging),  # its lines would mix with ours, on stdout
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process with threads can hang
        "HF_HUB_OFFLINE": "1",  # what it serves is a directory
    }
    cores = len(os.sched_getaffinity(0))
    if cores <= _FEW_CORES and "VLLM_CPU_OMP_THREADS_BIND" not in os.environ:
        # vLLM would keep a core for its scheduler and bind the model to the others, whoever else is at work on them
        os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cores))}
    if eager and shutil.which(os.environ.get("CXX") or "g++") is None:
        # some of its small functions are compiled in an eager engine, too, and end it where there is no compiler, as in a container
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    if not several_machines:  # or it asks a name server for its address, and its processes meet at one that others reach
        os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
