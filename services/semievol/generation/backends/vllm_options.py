"""What vLLM can be told from outside, and the engine arguments that come of it.

Defaults are per device, and each `auto` has its reason beside it. Whatever else vLLM knows goes through `extra`, unchecked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from semievol.common import errors

Switch = Literal["auto", "on", "off"]

_GIB = 2**30
_CPU_KV_CACHE_GIB = 2.0
_CPU_SEQUENCES = 64  # beyond, a step of the CPU engine grows as fast as its batch
# Tokens that share a cached beginning in whole blocks. vLLM's 128 on a CPU is longer than an instruction, and so nothing would be shared; 32 is
# the least that its attention takes there. 64 rows of the demo took 8.2 instead of 17.2 s.
_CPU_BLOCK_TOKENS = 32
_MAX_LOGPROBS = 20  # the API's bound on alternatives per token
# Modules of the usual decoder families that may carry a LoRA. The head must not be among them: vLLM's CPU head with a LoRA cannot give
# the log-probabilities of a prompt, and scores are made of those.
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj")
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM compiles its LoRA kernels for


class VllmOptions(BaseSettings):
    """Environment variables SEMIEVOL_VLLM_<FIELD>. 0 and `auto` mean the default of the device."""

    model_config = SettingsConfigDict(env_prefix="SEMIEVOL_VLLM_", frozen=True)

    max_model_tokens: int = Field(default=0, ge=0)
    """Longest prompt plus reply. 0: what the model was made for."""

    kv_cache_gib: float = Field(default=0.0, ge=0)
    """Memory for keys and values of an engine, GiB. 0: 2 on a CPU; on a GPU what `gpu_memory_utilization` leaves beside the weights."""

    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of a GPU's memory that an engine may fill. Two engines on one GPU: below 0.5 each."""

    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share each layer's matrices."""

    pipeline_parallel_size: int = Field(default=1, ge=1)
    """GPUs, or groups of them, that share the layers."""

    max_sequences: int = Field(default=0, ge=0)
    """Sequences that a step of the engine holds. 0: 64 on a CPU, vLLM's own choice on a GPU."""

    max_batched_tokens: int = Field(default=0, ge=0)
    """Tokens that a step of the engine holds. 0: vLLM's own choice; without chunked prefill at least the longest prompt."""

    chunked_prefill: Switch = "auto"
    """Whether a long prompt is read in several steps. `auto`: off on a CPU, where a seeded request would end the engine; else on."""

    prefix_caching: Switch = "auto"
    """Whether prompts with the same beginning share its keys and values. `auto`: on. Scores never read that cache."""

    eager: Switch = "auto"
    """Whether the model runs as written instead of compiled. `auto`: on on a CPU, where compiling takes a C++ compiler and minutes, and the
    demo's model was no faster for it; else off."""

    max_lora_rank: int = Field(default=64, ge=1)
    """Largest rank of an adapter that is loaded hot."""

    max_loras: int = Field(default=4, ge=1)
    """Adapters that one batch of the engine may mix when they are loaded hot; as many stay in memory."""

    lora_target_modules: tuple[str, ...] = _PROJECTIONS
    """Modules that a hot adapter may change. The output head is not among them (see the source)."""

    engines: int = Field(default=1, ge=1)
    """Engines that may be at work at the same time, each with weights of its own; used where adapters are merged."""

    max_queued_requests: int = Field(default=0, ge=0)
    """Requests (prompts times samples) that may be in an engine at the same time; one more is told to come back. 0: no limit but the
    service's own on waiting calls."""

    start_timeout_s: float = Field(default=900.0, gt=0)
    """Longest start of an engine."""

    float32_head: bool = True
    """Whether logits are computed in float32 where the weights are bfloat16: entropies are compared."""

    seed: int = 0
    """Of the engine; requests have seeds of their own."""

    extra: dict[str, Any] = Field(default_factory=dict)
    """Any other argument of vLLM's engine, as JSON: {"swap_space": 4}. It wins over what is set here."""

    def arguments(self, model: Path, *, device: str, precision: str, model_tokens: int, adapters: bool) -> dict[str, Any]:
        """vLLM's engine arguments for the model in this directory. `adapters`: whether some will be loaded hot.

        `model_tokens`: the longest that the model was made for. Raises InvalidInput naming the setting.
        """
        cpu = device == "cpu"
        longest = self.max_model_tokens or model_tokens
        chunked = self.chunked_prefill == "on" or (self.chunked_prefill == "auto" and not cpu)
        arguments: dict[str, Any] = {
            "model": str(model),
            "dtype": precision,
            "max_model_len": longest,
            "tensor_parallel_size": self.tensor_parallel_size,
            "pipeline_parallel_size": self.pipeline_parallel_size,
            "enable_chunked_prefill": chunked,
            "enable_prefix_caching": self.prefix_caching != "off",
            "enforce_eager": self.eager == "on" or (self.eager == "auto" and cpu),
            "max_logprobs": _MAX_LOGPROBS,
            "logprobs_mode": "raw_logprobs",  # before temperature and top_p: what the API promises
            "generation_config": "vllm",  # the model's own wishes (top_k, penalties) would distort its distribution
            "use_tqdm_on_load": False,
            "seed": self.seed,
        }
        if sequences := self.max_sequences or (_CPU_SEQUENCES if cpu else 0):
            arguments["max_num_seqs"] = sequences
        if tokens := self.max_batched_tokens or (0 if chunked else max(longest, 8192)):
            arguments["max_num_batched_tokens"] = tokens
        if gib := self.kv_cache_gib or (_CPU_KV_CACHE_GIB if cpu else 0):
            arguments["kv_cache_memory_bytes"] = int(gib * _GIB)
        if cpu:
            arguments["block_size"] = _CPU_BLOCK_TOKENS
        else:
            arguments["gpu_memory_utilization"] = self.gpu_memory_utilization
        if self.max_queued_requests:
            arguments["max_num_queued_reqs"] = self.max_queued_requests
        if self.float32_head and precision != "float32":
            arguments["hf_overrides"] = {"head_dtype": "float32"}
        if adapters:
            arguments |= {
                "enable_lora": True,
                "max_loras": self.max_loras,
                "max_lora_rank": self.lora_rank(),
                "lora_target_modules": list(self.lora_target_modules),
            }
        return arguments | self.extra

    def lora_rank(self) -> int:
        """The smallest of vLLM's ranks that holds `max_lora_rank`. Raises InvalidInput."""
        for rank in _RANKS:
            if rank >= self.max_lora_rank:
                return rank
        raise errors.InvalidInput(
            f"SEMIEVOL_VLLM_MAX_LORA_RANK is {self.max_lora_rank}; vLLM takes ranks up to {_RANKS[-1]}.", field="max_lora_rank"
        )
