"""Attention on a CPU for models whose heads share keys and values (grouped queries).

Given a mask, transformers copies keys and values once per head, which the GPU kernels need and the CPU kernel does not: with 64 rows
of 100 tokens that copy was 40 % of the time of decoding one token (SmolLM2-135M, three heads a group).
"""

from __future__ import annotations

from typing import Any

_NAME = "sdpa_grouped"


def use_grouped(model: Any) -> None:
    """Makes a model that would use transformers' sdpa attention use ours."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(_NAME, _grouped)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    model.set_attn_implementation(_NAME)


def _grouped(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> tuple[Any, None]:
    """query [B, heads, T, d]; key, value [B, groups, S, d]; mask [B, 1, T, S] -> [B, T, heads, d]."""
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is None or kwargs.get("position_bias") is not None or kwargs.get("cache") is not None:
        attended, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return attended, None
    attended = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=kwargs.get("scaling"), enable_gqa=query.shape[1] != key.shape[1]
    )
    return attended.transpose(1, 2).contiguous(), None
