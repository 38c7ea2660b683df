"""The model card of an adapter. Deterministic: no times, no machine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from semievol.algorithm.types import TrainingExample
from semievol.common.models import LocalModel
from semievol.ports import TrainingSpec

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
    sources = Counter(example.source for example in examples)
    update_examples = spec.batch_size * spec.gradient_accumulation
    epoch = -(-len(examples) // update_examples)
    return _CARD.format(
        base=base.reference,
        base_json=json.dumps(base.reference),
        base_sha256=base.sha256,
        dataset_sha256=dataset_sha256,
        examples=len(examples),
        sources=", ".join(f"{count} {source}" for source, count in sorted(sources.items())),
        cut=cut,
        spec=spec,
        updates=len(losses),
        update_examples=update_examples,
        first_loss=_mean(losses[:epoch]),
        last_loss=_mean(losses[-epoch:]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
