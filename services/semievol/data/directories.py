"""Hugging Face datasets on disk -> tables: what `Dataset.save_to_disk` wrote, or a directory of data files as the hub keeps them.

Which file belongs to which split is for the `datasets` library to say (file names, README.md); files in our own formats are then read by
our own readers, which go on after a bad row, and others by the library. Nothing is copied, and rows are read in batches. Rows are
numbered over the whole split. Class labels become their names: their numbers count from 0, and ours from 1.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from semievol.common import errors
from semievol.common.errors import BadRow
from semievol.data import arrow
from semievol.data.formats import FORMATS, read_table
from semievol.data.tables import Record, Table

_HUB_TIMEOUT_S = 5.0  # to reach the hub at all; a download may take as long as it needs
# What a directory may hold: files in our own formats, and those that the library reads.
_ENDINGS = (*FORMATS, ".json", ".arrow", ".gz", ".zst")


def download(name: str, revision: str = "") -> Path:
    """The directory of a hub dataset's files, downloaded if need be; without an answer of the hub, what its cache has. `revision`: a commit,
    a tag or a branch; empty for the newest. Raises NotFound, Unavailable, NotSupported."""
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        raise _no_library() from error
    try:
        # ends within seconds, which a download need not
        commit = HfApi().dataset_info(name, revision=revision or None, timeout=_HUB_TIMEOUT_S).sha
    except RevisionNotFoundError as error:
        raise errors.NotFound(f"The hub's dataset {name} has no revision {revision}.", field="data") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise errors.NotFound(f"The hub has no dataset {name} (or not for you).", field="data") from error
    except Exception:  # no answer, in the words of whichever HTTP client the library has
        commit = None
    patterns = ["README.md", *(f"*{ending}" for ending in _ENDINGS)]
    try:
        found = snapshot_download(
            name,
            repo_type="dataset",
            revision=commit or revision or None,
            allow_patterns=patterns,
            local_files_only=commit is None,
        )
    except Exception as error:
        pinned = f" --revision {revision}" if revision else ""
        raise errors.Unavailable(
            f"The hub cannot be reached to download the dataset {name}{f' at {revision}' if revision else ''}; download it elsewhere "
            f"(hf download --repo-type dataset {name}{pinned} --local-dir DIR) and give the directory.",
            field="data",
        ) from error
    return Path(found)


@contextlib.contextmanager
def opened(
    directory: Path, reference: str, config: str, split: str, obvious: Sequence[str], max_row_bytes: int
) -> Iterator[tuple[str, Table]]:
    """(what it is, its rows). `reference`: what the user wrote, for messages and row numbers. Raises InvalidInput, NotSupported."""
    with tempfile.TemporaryDirectory(prefix="semievol-dataset-") as scratch:
        found = _Directory(directory, reference, config, split, tuple(obvious), max_row_bytes, scratch)
        if _is_saved(directory):
            yield "a saved dataset", found.saved()
        else:
            yield "a directory of data files", found.repository()


def splits(directory: Path, config: str) -> list[str]:
    """The splits of a dataset directory; empty for one without splits. Raises InvalidInput, NotSupported."""
    with tempfile.TemporaryDirectory(prefix="semievol-dataset-") as scratch:
        found = _Directory(directory, str(directory), config, "", (), 0, scratch)
        return found.saved_splits() if _is_saved(directory) else list(found.files()[1])


def _is_saved(directory: Path) -> bool:
    return (directory / "state.json").is_file() or (directory / "dataset_dict.json").is_file()


class _Directory:
    """One dataset directory and what is wanted of it."""

    def __init__(
        self, path: Path, reference: str, config: str, split: str, obvious: tuple[str, ...], max_row_bytes: int, scratch: str
    ) -> None:
        self._path = path
        self._reference = reference
        self._config = config
        self._split = split
        self._obvious = obvious
        self._max_row_bytes = max_row_bytes
        self._scratch = scratch  # the library keeps a lock there, and would else want the user's cache
        try:
            import datasets
        except ImportError as error:
            raise _no_library() from error
        self._library = datasets

    # -------------------------------------------------------------- save_to_disk

    def saved_splits(self) -> list[str]:
        data = self._loaded()
        return [str(name) for name in data] if isinstance(data, self._library.DatasetDict) else []

    def _loaded(self) -> Any:
        with self._reading():
            return self._library.load_from_disk(str(self._path))

    def saved(self) -> Table:
        data = self._loaded()
        if isinstance(data, self._library.DatasetDict):
            data = data[self._chosen([str(name) for name in data])]
        elif self._split:
            raise errors.InvalidInput(f"{self._path} is one dataset without splits; leave out ':{self._split}'.")
        return self._table(data)

    def _table(self, data: Any) -> Table:
        """Of a dataset of the library, whole or streamed."""
        columns = tuple(map(str, data.features or ())) or None
        batches = data.with_format("arrow").iter(batch_size=arrow.BATCH_ROWS)
        return Table(columns, arrow.records(self._reference, batches, self._classes(data.features), self._max_row_bytes))

    def _classes(self, features: Any) -> arrow.Classes:
        labels = self._library.ClassLabel
        return {
            name: feature.names for name, feature in (features or {}).items() if isinstance(feature, labels) and feature.names
        }

    # -------------------------------------------------------------- files as the hub keeps them

    def repository(self) -> Table:
        builder, files = self.files()
        split = self._chosen(list(files))
        paths = [self._inside(path) for path in files[split]]
        if all(path.suffix.lower() in FORMATS for path in paths):
            tables = self._tables(paths)
            first = next(tables)
            records = self._numbered(itertools.chain([first], tables), self._classes(builder.info.features))
            return Table(first.columns if len(paths) == 1 else None, records)
        with self._reading():
            stream = self._library.load_dataset(
                str(self._path), name=self._config, split=split, streaming=True, cache_dir=self._scratch
            )
        return self._table(stream)

    def files(self) -> tuple[Any, dict[str, list[str]]]:
        """(the library's builder, split -> files); settles the configuration."""
        if not any(path.suffix.lower() in _ENDINGS for path in self._path.rglob("*")):
            raise errors.InvalidInput(
                f"{self._path} is a directory without data files ({', '.join(FORMATS)}) and no saved dataset."
            )
        with self._reading():
            self._config = self._config or self._library.get_dataset_default_config_name(str(self._path)) or ""
            names = [] if self._config else self._library.get_dataset_config_names(str(self._path))
        if names:
            listed = ", ".join(names[:10])
            raise errors.InvalidInput(
                f"{self._path} has the configurations {listed}; name one and its split: PATH:{names[0]}/SPLIT."
            )
        with self._reading():
            builder = self._library.load_dataset_builder(str(self._path), name=self._config, cache_dir=self._scratch)
        return builder, {str(split): [str(file) for file in paths] for split, paths in (builder.config.data_files or {}).items()}

    def _inside(self, path: str) -> Path:
        """README.md may name any file; only the directory's own are data."""
        absolute = Path(os.path.abspath(path))  # not resolved: the hub's cache is made of links
        if "://" in path or not absolute.is_relative_to(os.path.abspath(self._path)):
            raise errors.InvalidInput(f"{self._path} names a file outside of it: {path}.")
        return absolute

    def _tables(self, paths: list[Path]) -> Iterator[Table]:
        for path in paths:
            with path.open("rb") as file:
                yield read_table(path, file, self._max_row_bytes)

    def _numbered(self, tables: Iterable[Table], classes: arrow.Classes) -> Iterator[Record | BadRow]:
        """Rows are numbered over all files; what cannot be read keeps its own file and line."""
        number = 0
        for table in tables:
            for record in table.records:
                number += 1
                if isinstance(record, BadRow):
                    yield record
                else:
                    yield Record(number, arrow.with_class_names(dict(record.values), classes))

    # -------------------------------------------------------------- both

    def _chosen(self, splits: list[str]) -> str:
        """The split that is named, the only one, or the obvious one."""
        named = ", ".join(splits[:10]) or "none"
        if self._split:
            if self._split not in splits:
                raise errors.InvalidInput(f"{self._path} has no split {self._split!r}; there are: {named}.")
            return self._split
        if len(splits) == 1:
            return splits[0]
        meant = next((split for split in self._obvious if split in splits), None)
        if meant:
            return meant
        raise errors.InvalidInput(
            f"{self._reference} has the splits {named}; name one: {self._reference}:{splits[0] if splits else 'train'}."
        )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """What the library raises, as ours. It knows a dozen exceptions for a directory that is none."""
        try:
            yield
        except Exception as error:
            text = " ".join(str(error).split())[:300] or type(error).__name__
            raise errors.InvalidInput(f"{self._path} cannot be read as a dataset: {text}") from error


def _no_library() -> errors.NotSupported:
    return errors.NotSupported(
        "Dataset directories and hub datasets are read by the datasets library: pip install 'semievol[data]'."
    )
