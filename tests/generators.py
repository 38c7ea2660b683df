"""A tiny language model and adapters for it: what a real one does, in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semievol.common.artifacts import Artifacts, Manifest, uri
from semievol.common.keys import content_key


def write_tiny_model(directory: Path, tokenizer: Any, seed: int = 0, *, head: int = 8) -> Path:
    """Two layers of random weights, peaked enough that greedy and sampled replies differ; context of 512 tokens. `head`: width of
    one of its four attention heads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=4 * head,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=1.0)
    torch.nn.init.normal_(model.lm_head.weight, std=0.7)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def write_tiny_adapter(directory: Path, model: Path, seed: int, *, trained: bool = True, **overrides: Any) -> Path:
    """A LoRA of rank 4 for the tiny model; untrained ones change nothing. `overrides` go into its configuration file."""
    return write_adapter(directory, model, str(model), seed, rank=4, std=0.3 if trained else 0.0, **overrides)


def write_adapter(directory: Path, model: Path, reference: str, seed: int, *, rank: int, std: float, **overrides: Any) -> Path:
    """A LoRA on all linear layers of the model in `model`, with random weights of this deviation."""
    import peft
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    base = LlamaForCausalLM.from_pretrained(model)
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=not std
    )
    adapted = peft.get_peft_model(base, config)
    if std:
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=std)
    adapted.save_pretrained(directory)
    file = directory / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": reference} | overrides))
    return directory


def publish(artifacts: Artifacts, files: Mapping[str, bytes | Path]) -> str:
    """The URI of a new artifact with these files."""
    key = content_key(["test", sorted((name, str(source)) for name, source in files.items())])
    artifacts.publish(Manifest(key, "test/1", {}, {}, ()), files)
    return uri(key)


def publish_directory(artifacts: Artifacts, directory: Path) -> str:
    return publish(artifacts, {path.name: path for path in sorted(directory.iterdir()) if path.is_file()})
