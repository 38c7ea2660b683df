"""What the services serve, held against what a run asks for."""

from __future__ import annotations

from collections.abc import Callable

from semievol.common import errors
from semievol.common.endpoints import is_url
from semievol.common.runspec import RunSpec
from semievol.controller.plan import Resolved
from semievol.ports import AdapterHost, Embedder, ModelInfo

_CHART_VALUES = {"engine": "engine.backend", "model": "models.base", "embedding": "models.embedding"}


class Resolver:
    """Asks the generation and the embedding service which models they serve. Both are connected when first needed. `base`: what serves a base
    model of this name, where the generation service is not the one that answers runs."""

    def __init__(
        self,
        generation: Callable[[], AdapterHost],
        embedding: Callable[[], Embedder],
        base: Callable[[str], ModelInfo] | None = None,
    ) -> None:
        self._base = base or (lambda model: generation().models()[0])
        self._embedding = embedding

    def resolve(self, spec: RunSpec) -> Resolved:
        """Raises Conflict(field=) where a service serves another model than the run asks for, InvalidInput(field=) where it cannot do what
        the run needs, Unavailable."""
        base = self._base(spec.model)
        if base.base != spec.model:
            raise _mismatch("model", spec.model, "generation", base.base)
        _check_engine(spec, base.engine)
        _check_trainer(spec, base.engine)
        embedder = self._embedding().info()
        if embedder.model != spec.embedding:
            raise _mismatch("embedding", spec.embedding, "embedding", embedder.model)
        return Resolved(base.base_sha256, base.engine, embedder.sha256)


def endpoint_of(engine: str) -> tuple[str, bool]:
    """The endpoint's URL, empty for none, and whether it is all there is.

    `engine`: `transformers/...`; `vllm/...`; `openai/OWNER@URL`, an endpoint alone; or both with ` + ` in between, where this machine
    does the rest."""
    endpoint, _, here = engine.partition(" + ")
    url = endpoint.partition("@")[2] if endpoint.startswith("openai/") else ""
    return url, bool(url and not here)


def _check_trainer(spec: RunSpec, engine: str) -> None:
    """What an endpoint trains is served by an engine that is nothing but the endpoint."""
    _, alone = endpoint_of(engine)
    if spec.trainer == "openai" and not alone:
        raise errors.Conflict(
            f"The run asks for trainer: openai, but the generation service computes trained models on its own machine. Start the services with "
            f"`semievol serve --engine {spec.endpoint} --trainer openai`, or set SEMIEVOL_GENERATION_ENDPOINT_ONLY for it.",
            field="trainer",
        )


def _check_engine(spec: RunSpec, engine: str) -> None:
    url, alone = endpoint_of(engine)
    served = url or engine.partition("/")[0]
    # what else answers (a fake of the tests) stands for the default
    if url != spec.endpoint or (served == "vllm") != (spec.engine == "vllm"):
        raise _mismatch("engine", spec.engine, "generation", served or "transformers")
    if not alone or spec.trainer == "openai":  # what that cannot do, the spec itself says
        return
    unfit = {
        "in_weight": "in_weight: false" if spec.in_weight else "",
        "entropy_source": "entropy_source: generated" if spec.entropy_source != "generated" else "",
        "threshold_reference": "threshold_reference: unlabeled" if spec.threshold_reference != "unlabeled" else "",
        "data.test": "data.test empty" if spec.data.test else "",
        "data.dev": "data.dev empty" if spec.data.dev else "",
        "gate": "gate: {holdout: 0}" if spec.holdout[0] else "",
    }
    wanted = [words for words in unfit.values() if words]
    if wanted:
        raise errors.InvalidInput(
            f"The generation service answers from {url} and has nothing else: no warm or evolved model, no scores. "
            f"Set {', '.join(wanted)}; or start it without SEMIEVOL_GENERATION_ENDPOINT_ONLY; or let the endpoint train (trainer: openai).",
            field=next(key for key, words in unfit.items() if words),
        )


def _mismatch(key: str, wanted: str, service: str, served: str) -> errors.Conflict:
    verb = "answers from" if key == "engine" else "serves"
    of_chart = "" if key == "engine" and is_url(wanted) else f" (a release of the chart: {_CHART_VALUES[key]}={wanted})"
    return errors.Conflict(
        f"The run asks for {key}: {wanted}, but the {service} service {verb} {served}. "
        f"Change {key} in the run file, or start the services with `semievol serve --{key} {wanted}`{of_chart}.",
        field=key,
    )
