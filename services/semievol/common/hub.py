"""Models of the Hugging Face hub, as directories in its cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from semievol.common import errors

_TIMEOUT_S = 5.0  # to reach the hub at all; a download itself may take as long as it needs


def download_model(
    hub_id: str,
    revision: str | None,
    *,
    wanted: Sequence[str],
    unwanted: Sequence[str] = (),
    field: str,
    missing: str,
    away: str,
) -> Path:
    """The files of a model that match `wanted` and not `unwanted`; `revision`: a commit, a tag or a branch, None for the newest.

    Raises NotSupported (`missing`: what to install), NotFound, Unavailable (`away`: what to do without the hub), all with this field.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise errors.NotSupported(missing, field=field) from error
    try:
        return Path(
            snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=list(wanted),
                ignore_patterns=list(unwanted) or None,
                etag_timeout=_TIMEOUT_S,
            )
        )
    except RevisionNotFoundError as error:
        raise errors.NotFound(f"The hub's model {hub_id} has no revision {revision}.", field=field) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise errors.NotFound(
            f"There is no directory {hub_id}, and the hub has no such model (or not for you).", field=field
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise errors.Unavailable(away, field=field) from error
