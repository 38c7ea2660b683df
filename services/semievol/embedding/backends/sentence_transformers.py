"""The embedded default: sentence-transformers, on a GPU or a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semievol.common import errors
from semievol.common.cpu_lane import lane_of, on_cpu_lane
from semievol.embedding import core
from semievol.embedding.backends import references
from semievol.ports import NEVER, Cancel, EmbedderInfo, FloatMatrix


class SentenceTransformersEmbedder:
    """One model, loaded when constructed; not for concurrent use (the service gives it one thread).

    Raises as `references.resolve`; InvalidInput where the directory is no model, NotSupported where the library is missing.
    """

    def __init__(self, reference: str, *, device: str = "auto", batch_count: int = 32) -> None:
        local = references.resolve(reference)
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging
        except ImportError as error:
            raise errors.NotSupported(
                "The sentence-transformers backend is not installed: pip install 'semievol[embedding]'.", field="embedding"
            ) from error
        logging.disable_progress_bar()
        try:
            self._model = on_cpu_lane(
                lambda: SentenceTransformer(
                    str(local.directory),
                    device=None if device == "auto" else device,
                    local_files_only=True,
                    trust_remote_code=False,
                    model_kwargs={"use_safetensors": True},
                )
            )
        except Exception as error:  # the library raises whatever its parts raise on a broken directory
            raise errors.InvalidInput(
                f"{reference} cannot be loaded as an embedding model on {device}: {errors.first_line(error)}",
                field=references.FIELD,
            ) from error
        self._batch_count = batch_count
        self._on_lane = lane_of(self._model.device.type)
        dimension = self._model.get_embedding_dimension() or self._encode(["dimension"]).shape[1]
        self._info = EmbedderInfo(reference, local.sha256, dimension, self._model.max_seq_length or 0)

    def info(self) -> EmbedderInfo:
        return self._info

    def embed(self, texts: Sequence[str], *, cancel: Cancel = NEVER) -> FloatMatrix:
        core.check_texts(texts)
        order = core.longest_first(texts)
        matrix = np.empty((len(texts), self._info.dimension), dtype=np.float32)
        for start in range(0, len(order), self._batch_count):
            if cancel.is_set():
                raise errors.Cancelled("Embedding was cancelled.")
            batch = order[start : start + self._batch_count]
            matrix[batch] = self._encode([texts[i] for i in batch])
        return core.unit_rows(matrix)

    def _encode(self, texts: list[str]) -> FloatMatrix:
        return self._on_lane(lambda: self._model.encode(texts, batch_size=len(texts), show_progress_bar=False))
