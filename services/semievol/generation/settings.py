"""What the generation service can be told from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class GenerationSettings(BaseSettings):
    """Environment variables SEMIEVOL_GENERATION_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="SEMIEVOL_GENERATION_", frozen=True)

    address: str = "127.0.0.1:50053"
    """Where `python -m semievol.generation.server` listens: on loopback, the third of the suite's customary ports."""

    backend: Literal["auto", "transformers", "vllm", "openai", "fake"] = "auto"
    """What answers; `auto`: openai where `endpoint` is set, else transformers. `vllm` has settings of its own (SEMIEVOL_VLLM_...);
    `fake` is for tests."""

    endpoint: str = ""
    """URL of an OpenAI-compatible endpoint that serves `model` under that name: `http://host:8000/v1`. Its key: SEMIEVOL_OPENAI_API_KEY, or
    SEMIEVOL_OPENAI_API_KEY_FILE; else, over https or on this machine, OPENAI_API_KEY, or OPENAI_API_KEY_FILE."""

    endpoint_only: bool = False
    """Whether the endpoint is all there is: no warm or evolved models, no scores. Else those are computed here, with the weights that `model`
    names on this machine too."""

    timeout_s: float = Field(default=120.0, gt=0)
    """Longest wait for an endpoint's answer, four times over."""

    parallel_calls: int = Field(default=0, ge=0)
    """Calls at the same time, where the backend forms its batches across them. 0: 8 to an endpoint, 128 to vLLM."""

    check_every_s: float = Field(default=10.0, gt=0)
    """How often an endpoint, or vLLM's engine, is looked at; while it does not work, health says NOT_SERVING."""

    model: str = "bundled:smollm2-135m"
    """The base model: a directory, a hub id or bundled:NAME. The default needs no network: an installed package carries it."""

    store: str = "artifacts"
    """URI of the artifact store that adapters are fetched from."""

    cache: Path = Path("cache")
    """Where bundled models are prepared, once, and adapters are unpacked."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the weights. `auto`: bfloat16 where the hardware multiplies it, else float32, since a CPU with AVX-512 but without its bf16
    instructions was four times slower in bfloat16 (benchmarks/generation_service.py)."""

    adapter_mode: Literal["auto", "merged", "switched", "hot"] = "auto"
    """`merged`: a copy of the weights per adapter, at the base model's speed. `switched` (vLLM's word: `hot`): one copy, the adapters
    computed beside it. `auto`: merged on a CPU, where the extra products cost a quarter of the prompt speed, and with vLLM five
    to fifteen times the whole; switched on a GPU, where memory is dear."""

    placement: Literal["auto", "shared", "dedicated"] = "auto"
    """vLLM's engines where adapters are merged: one, into which weights are read in turn, or one for each of base, warm and evolved
    model. `auto`: shared, unless SEMIEVOL_VLLM_ENGINES says more."""

    merged_models: int = Field(default=3, ge=1)
    """Merged copies kept in memory, the least recently used going first: the warm, the evolved and a served one."""

    batch_tokens: int = Field(default=8192, ge=1)
    """Padded prompt tokens in one forward pass. On a CPU the speed is flat from 1000 to 4000 and falls a little
    beyond, while replies are decoded faster in wide batches."""

    max_waiting_count: int = Field(default=64, ge=0)
    """Calls that may wait for the model; one more is told to come back (RESOURCE_EXHAUSTED). 64 pages are some minutes on a CPU."""
