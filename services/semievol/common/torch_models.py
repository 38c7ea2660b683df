"""How the rooms that hold a language model run it: device, precision, layout. torch is imported on use."""

from __future__ import annotations

from typing import Any

from semievol.common import errors


def torch_device(wanted: str) -> str:
    """Of `auto`, `cuda` and `cpu`, the one that is meant: `cuda` or `cpu`. Raises Unavailable where cuda is wanted and there is none."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise errors.Unavailable("There is no CUDA device on this machine; set the device to auto or cpu.", field="device")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def torch_precision(wanted: str, device: str) -> str:
    """`auto`: bfloat16 where the hardware multiplies it (GPUs since Ampere; CPUs with AVX512_BF16 or AMX). Elsewhere it is emulated,
    at a fraction of float32's speed."""
    import torch

    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def flatten_head_input(model: Any) -> None:
    """Makes the head one matrix product. `logits_to_keep` hands it a slice of the hidden states, [n, kept, d] with gaps between the
    rows, and torch multiplies such a batch by n copies of the head's weights: a tenth of a short prompt's time."""
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
