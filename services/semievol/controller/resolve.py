"""What the services serve, held against what a run asks for."""

from __future__ import annotations

from collections.abc import Callable

from semievol.common import errors
from semievol.common.runspec import RunSpec
from semievol.controller.plan import Resolved
from semievol.ports import AdapterHost, Embedder


class Resolver:
    """Asks the generation and the embedding service which models they serve. Both are connected when first needed."""

    def __init__(self, generation: Callable[[], AdapterHost], embedding: Callable[[], Embedder]) -> None:
        self._generation = generation
        self._embedding = embedding

    def resolve(self, spec: RunSpec) -> Resolved:
        """Raises Conflict(field=) where a service serves another model than the run asks for, Unavailable."""
        base = self._generation().models()[0]
        if base.base != spec.model:
            raise _mismatch("model", spec.model, "generation", base.base)
        served = base.engine.removeprefix("openai/") if base.engine.startswith("openai/") else ""
        if served != spec.endpoint.rstrip("/"):
            raise _mismatch("engine", spec.engine, "generation", served or "transformers")
        embedder = self._embedding().info()
        if embedder.model != spec.embedding:
            raise _mismatch("embedding", spec.embedding, "embedding", embedder.model)
        return Resolved(base.base_sha256, base.engine, embedder.sha256)


def _mismatch(key: str, wanted: str, service: str, served: str) -> errors.Conflict:
    verb = "answers from" if key == "engine" else "serves"
    return errors.Conflict(
        f"The run asks for {key}: {wanted}, but the {service} service {verb} {served}. "
        f"Change {key} in the run file, or start the services with `semievol serve --{key} {wanted}`.",
        field=key,
    )
