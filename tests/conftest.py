"""Fixtures that several tiers share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from semievol.common.models import LocalModel, resolve_model


@pytest.fixture(scope="session")
def model_cache(pytestconfig: pytest.Config) -> Path:
    """Where prepared models lie between test sessions: preparing one takes half a minute."""
    assert pytestconfig.cache is not None
    return Path(pytestconfig.cache.mkdir("models"))


@pytest.fixture(scope="session")
def bundled_model(model_cache: Path) -> LocalModel:
    """The real small model, SmolLM2-135M-Instruct."""
    return resolve_model("bundled:smollm2-135m", model_cache)


@pytest.fixture(scope="session")
def bundled_tokenizer(bundled_model: LocalModel) -> Any:
    """The real small model's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_model.directory)
