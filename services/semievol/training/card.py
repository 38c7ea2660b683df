"""The model card of an adapter, or of a model that an endpoint keeps. Deterministic: no times, no machine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from semievol.algorithm.types import TrainingExample
from semievol.common.models import LocalModel
from semievol.ports import TrainingSpec
from semievol.training.core import rate_multiplier

_CARD = """---
base_model: {base_json}
library_name: peft
pipeline_tag: text-generation
tags:
- lora
- semievol
---

# LoRA adapter for {base}

Made by SemiEvol's training service. The loss was on the responses only.

| | |
|---|---|
| base model | `{base}` |
| fingerprint of the base | `{base_sha256}` |
| data set (sha256) | `{dataset_sha256}` |
| examples | {examples} |
| examples by source | {sources} |
| prompts cut at the beginning | {cut} |
| epochs | {spec.epochs:g} |
| updates | {updates} |
| examples per update | {update_examples} |
| learning rate | {spec.learning_rate:g}, cosine, warm-up {spec.warmup_ratio:g} |
| optimizer | AdamW, weight decay 0, gradient norm at most 1 |
| LoRA | rank {spec.lora_rank}, alpha {spec.lora_alpha}, all linear layers |
| longest example | {spec.max_tokens} tokens |
| seed | {spec.seed} |
| loss, first and last epoch | {first_loss:.4f} -> {last_loss:.4f} nats per response token |

## Use

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained(BASE_DIRECTORY)
model = PeftModel.from_pretrained(base, ADAPTER_DIRECTORY)
```
"""

_ENDPOINT_CARD = """---
base_model: {base_json}
pipeline_tag: text-generation
tags:
- semievol
---

# {model}

Fine-tuned from {base} by the endpoint at {endpoint}, which keeps it and serves it under this name; `openai_model.json` says so in JSON. SemiEvol's
training service made the data set and asked for it. There are no weights here.

| | |
|---|---|
| base model | `{base}` |
| job | `{job}` |
| data set (sha256) | `{dataset_sha256}` |
| examples | {examples} |
| examples by source | {sources} |
| epochs | {spec.epochs:g} |
| examples per update | {update_examples} |
| learning rate | {rate} |
| seed | {spec.seed} |
| loss, first and last that was told | {losses} |
"""


def model_card(
    base: LocalModel,
    spec: TrainingSpec,
    examples: Sequence[TrainingExample],
    *,
    dataset_sha256: str,
    cut: int,
    losses: Sequence[float],
) -> str:
    """The README.md of an adapter; `losses` is one value an update."""
    update_examples = spec.batch_size * spec.gradient_accumulation
    epoch = -(-len(examples) // update_examples)
    return _CARD.format(
        base=base.reference,
        base_json=json.dumps(base.reference),
        base_sha256=base.sha256,
        dataset_sha256=dataset_sha256,
        examples=len(examples),
        sources=_sources(examples),
        cut=cut,
        spec=spec,
        updates=len(losses),
        update_examples=update_examples,
        first_loss=_mean(losses[:epoch]),
        last_loss=_mean(losses[-epoch:]),
    )


def endpoint_card(
    told: Mapping[str, str],
    spec: TrainingSpec,
    examples: Sequence[TrainingExample],
    *,
    dataset_sha256: str,
    losses: Sequence[float],
) -> str:
    """The README.md of a model that stays at its endpoint; `told`: what openai_model.json says."""
    multiplier = rate_multiplier(spec)
    return _ENDPOINT_CARD.format(
        **told,
        base_json=json.dumps(told["base"]),
        dataset_sha256=dataset_sha256,
        examples=len(examples),
        sources=_sources(examples),
        spec=spec,
        update_examples=spec.batch_size * spec.gradient_accumulation,
        rate="chosen by the endpoint" if multiplier == 1 else f"{multiplier:g} times what the endpoint would choose",
        losses=f"{losses[0]:.4f} -> {losses[-1]:.4f}" if losses else "none",
    )


def _sources(examples: Sequence[TrainingExample]) -> str:
    sources = Counter(example.source for example in examples)
    return ", ".join(f"{count} {source}" for source, count in sorted(sources.items()))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
