"""The paths of the door."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from semievol.common import errors
from semievol.door import chat, completions, embeddings
from semievol.door.errors import answer
from semievol.door.guard import Guard
from semievol.door.parts import Parts
from semievol.door.streams import unless_gone
from semievol.ports import BASE_MODEL, ModelInfo

_OWNER = "semievol"
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def make_app(parts: Parts) -> FastAPI:
    """Without FastAPI's own pages, which load scripts from elsewhere. Raises as `DoorSettings.keys`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    settings = parts.settings
    app.add_middleware(
        Guard,
        keys=settings.keys(),
        open_paths={"/health", "/metrics"} if settings.open_metrics else {"/health"},
        max_requests=settings.max_open_requests,
        metrics=parts.metrics,
    )
    app.add_exception_handler(errors.SemiEvolError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    _add_inference(app, parts)
    _add_models(app, parts)
    _add_watching(app, parts)
    return app


def _add_inference(app: FastAPI, parts: Parts) -> None:
    @app.post("/v1/chat/completions")
    async def create_chat(request: Request) -> Response:
        return await chat.create(request, parts)

    @app.post("/v1/completions")
    async def create_completion(request: Request) -> Response:
        return await completions.create(request, parts)

    @app.post("/v1/embeddings")
    async def create_embeddings(request: Request) -> Response:
        return await embeddings.create(request, parts)


def _add_models(app: FastAPI, parts: Parts) -> None:
    @app.get("/v1/models")
    async def list_models(request: Request) -> Response:
        models = await unless_gone(request, parts.generation.models())
        return JSONResponse({"object": "list", "data": [_model(one, parts) for one in models]})

    @app.get("/v1/models/{name:path}")
    async def get_model(request: Request, name: str) -> Response:
        models = await unless_gone(request, parts.generation.models())
        for one in models:
            if _id(one) == name:
                return JSONResponse(_model(one, parts))
        if parts.embedding is not None:
            embedder = (await unless_gone(request, parts.embedding.info())).model
            if name in (embeddings.EMBEDDING_MODEL, embedder):
                return JSONResponse(_entry(name, embedder, parts) | {"parent": None, "max_model_len": None})
        known = ", ".join(map(_id, models))
        raise errors.NotFound(f"The model {name!r} is not served here; served: {known}.", field="model")


def _add_watching(app: FastAPI, parts: Parts) -> None:
    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Response:
        """Whether answers can be had, as the generation side says of itself (R12)."""
        if not await parts.generation.serving():
            raise errors.Unavailable("The generation service says that it does not work (NOT_SERVING); its log says why.")
        return JSONResponse({"status": "serving"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(parts.metrics.text(), media_type=_METRICS_TYPE)


def _id(info: ModelInfo) -> str:
    """By what callers ask for it: an alias is a model of its own to them."""
    return info.alias or info.name


def _model(info: ModelInfo, parts: Parts) -> dict[str, Any]:
    """As the public API has it, with what vLLM adds: `root`, `parent` (of an alias: what it points at) and `max_model_len`, null where it is not
    known."""
    parent = info.name if info.alias else BASE_MODEL if info.adapter else None
    return _entry(_id(info), info.base, parts) | {"parent": parent, "max_model_len": info.max_model_tokens or None}


def _entry(name: str, root: str, parts: Parts) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": parts.started, "owned_by": _OWNER, "root": root}


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.SemiEvolError)
    status, body, headers = answer(error, getattr(request.state, "names", None))
    return JSONResponse(body, status, headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """No such path, or not with this method."""
    assert isinstance(error, HTTPException)
    asked = f"{request.method} {request.url.path}"
    if error.status_code == 405:
        refusal: errors.SemiEvolError = errors.InvalidInput(
            f"{asked}: this path knows other methods only.", details={"code": "method_not_allowed"}
        )
    else:
        refusal = errors.NotFound(f"Unknown request URL: {asked}.", details={"code": "unknown_url"})
    status, body, headers = answer(refusal)
    return JSONResponse(body, status, {**headers, **(error.headers or {})})
