"""What fine-tuning publishes: a PEFT adapter, or the name of a model that an endpoint has trained and serves.

Either way an artifact of a few files, of which one stands for the model: its digest is part of every name that the model gets (R9).

    adapter_model.safetensors, adapter_config.json     weights, served by whoever holds the base model
    openai_model.json                                  {"model", "base", "job", "endpoint"}: the weights stay at the endpoint
"""

from __future__ import annotations

from collections.abc import Iterable

from semievol.common import errors
from semievol.common.artifacts import File

PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
ENDPOINT_MODEL = "openai_model.json"


def naming_file(files: Iterable[File]) -> File:
    """The one that stands for the model. Raises Corrupt where there is none."""
    named = {file.path: file for file in files}
    for path in (PEFT_WEIGHTS, ENDPOINT_MODEL):
        if path in named:
            return named[path]
    raise errors.Corrupt(f"A trained model has neither {PEFT_WEIGHTS} nor {ENDPOINT_MODEL}; train it again.")
