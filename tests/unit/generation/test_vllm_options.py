"""What reaches vLLM for which device, and what is refused before it sees an adapter."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from semievol.common import errors
from semievol.generation.adapters import Adapter
from semievol.generation.backends.vllm_options import VllmOptions
from semievol.generation.backends.vllm_process import _root_cause, start_environment
from semievol.generation.backends.vllm_weights import check_adapter


def arguments(device: str, *, adapters: bool = False, precision: str = "bfloat16", **options: Any) -> dict[str, Any]:
    return VllmOptions(**options).arguments(
        Path("model"), device=device, precision=precision, model_tokens=4096, adapters=adapters
    )


def test_a_cpu_reads_a_prompt_in_one_step_since_a_seeded_request_would_end_the_engine() -> None:
    cpu, gpu = arguments("cpu"), arguments("cuda")
    assert not cpu["enable_chunked_prefill"]
    assert cpu["max_num_batched_tokens"] >= cpu["max_model_len"] == 4096
    assert gpu["enable_chunked_prefill"]
    assert "max_num_batched_tokens" not in gpu


def test_a_cpu_compiles_nothing_unless_asked_to() -> None:
    assert arguments("cpu")["enforce_eager"]
    assert not arguments("cpu", eager="off")["enforce_eager"]
    assert not arguments("cuda")["enforce_eager"]


def test_on_a_cpu_prompts_share_beginnings_of_a_few_dozen_tokens() -> None:
    assert arguments("cpu")["enable_prefix_caching"]
    assert arguments("cpu")["block_size"] == 32
    assert arguments("cpu", extra={"block_size": 64})["block_size"] == 64
    assert "block_size" not in arguments("cuda")


def test_memory_is_named_outright_on_a_cpu_and_as_a_share_on_a_gpu() -> None:
    assert arguments("cpu")["kv_cache_memory_bytes"] == 2 * 2**30
    assert "gpu_memory_utilization" not in arguments("cpu")
    assert arguments("cuda", gpu_memory_utilization=0.4)["gpu_memory_utilization"] == 0.4
    assert "kv_cache_memory_bytes" not in arguments("cuda")
    assert arguments("cuda", kv_cache_gib=0.5)["kv_cache_memory_bytes"] == 2**29


def test_log_probabilities_are_raw_and_the_models_own_wishes_are_left_out() -> None:
    for device in ("cpu", "cuda"):
        assert arguments(device)["logprobs_mode"] == "raw_logprobs"
        assert arguments(device)["generation_config"] == "vllm"


def test_hot_adapters_never_touch_the_head() -> None:
    hot = arguments("cpu", adapters=True, max_lora_rank=20)
    assert hot["max_lora_rank"] == 32  # the next that vLLM has
    assert "lm_head" not in hot["lora_target_modules"]
    assert "enable_lora" not in arguments("cpu")
    with pytest.raises(errors.InvalidInput, match="SEMIEVOL_VLLM_MAX_LORA_RANK"):
        arguments("cpu", adapters=True, max_lora_rank=1000)


def test_tensor_parallelism_and_everything_else_reaches_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIEVOL_VLLM_TENSOR_PARALLEL_SIZE", "4")
    monkeypatch.setenv("SEMIEVOL_VLLM_EXTRA", '{"block_size": 64, "max_num_seqs": 7}')
    given = VllmOptions().arguments(Path("model"), device="cuda", precision="bfloat16", model_tokens=100, adapters=False)
    assert (given["tensor_parallel_size"], given["block_size"], given["max_num_seqs"]) == (4, 64, 7)


def test_logits_are_float32_whatever_the_weights_are() -> None:
    assert arguments("cpu")["hf_overrides"] == {"head_dtype": "float32"}
    assert "hf_overrides" not in arguments("cpu", precision="float32")


def adapter_in(directory: Path, module: str = "q_proj", **config: Any) -> Adapter:
    directory.mkdir(exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, **config}))
    name = f"base_model.model.model.layers.0.self_attn.{module}"
    tensors = {f"{name}.lora_A.weight": np.zeros((8, 4), np.float32), f"{name}.lora_B.weight": np.zeros((4, 8), np.float32)}
    save_file(tensors, directory / "adapter_model.safetensors")
    return Adapter("one", "artifact:one", directory, "0" * 64, ("0", "0"))


@pytest.mark.parametrize(
    ("module", "config", "words"),
    [
        ("q_proj", {"r": 65}, "SEMIEVOL_VLLM_MAX_LORA_RANK"),
        ("q_proj", {"rank_pattern": {"q_proj": 128}}, "rank is 128"),
        ("q_proj", {"modules_to_save": ["lm_head"]}, "whole modules"),
        ("q_proj", {"bias": "all"}, "biases"),
        ("q_proj", {"use_dora": True}, "use_dora"),
        ("q_proj", {"trainable_token_indices": [1]}, "trainable_token_indices"),
        ("q_proj", {"init_lora_weights": "pissa"}, "pissa"),
        ("lm_head", {}, "SEMIEVOL_VLLM_LORA_TARGET_MODULES"),
    ],
)
def test_what_vllm_would_refuse_or_leave_out_is_said_first(
    tmp_path: Path, module: str, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.InvalidInput, match=words) as caught:
        check_adapter(adapter_in(tmp_path / "one", module, **config), 64, ["q_proj", "v_proj"])
    assert caught.value.field == "uri"


def test_a_plain_adapter_passes(tmp_path: Path) -> None:
    check_adapter(adapter_in(tmp_path / "one", modules_to_save=None, init_lora_weights=True, bias="none"), 64, ["q_proj"])


def test_the_reason_of_a_failed_start_is_found_behind_what_only_says_that_it_failed() -> None:
    lines = """INFO 11-23 pid=1 [core.py:1] starting
ERROR 11-23 pid=2 [core.py:9] ValueError: No available memory for the cache blocks.
ERROR 11-23 pid=1 [core.py:9] RuntimeError: Engine core initialization failed. See root cause above.
"""
    assert _root_cause(lines) == "ValueError: No available memory for the cache blocks."
    assert _root_cause("nothing") == ""


def test_an_eager_engine_compiles_nothing_where_there_is_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "g++"
    compiler.touch(mode=0o755)
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)

    def off(path: Path, *, eager: bool) -> bool:
        monkeypatch.setenv("PATH", str(path))
        monkeypatch.delenv("CXX", raising=False)
        with start_environment(tmp_path / "log", several_machines=False, eager=eager):
            return os.environ.get("TORCH_COMPILE_DISABLE") == "1"

    assert off(tmp_path / "nothing", eager=True)
    assert "TORCH_COMPILE_DISABLE" not in os.environ
    assert not off(tmp_path, eager=True)
    assert not off(tmp_path / "nothing", eager=False)
