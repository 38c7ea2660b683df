"""A step's work in the store: written once, healed when damaged, refused when it cannot be what its key says."""

from __future__ import annotations

from pathlib import Path

import pytest
from semievol.common import errors, work
from semievol.common.artifacts import File
from semievol.common.stores.local import LocalStore
from semievol.common.work import InputFile, Work

WORK = Work("judge", {"judge": "all"}, {"rows": (InputFile("a" * 64, None, File("rows.jsonl", 3, "b" * 64), 0),)}, 1)
PATH = f"steps/{WORK.key}/WORK.json"


def test_work_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    work.save(store, WORK)
    work.save(store, WORK)
    assert work.load(store, WORK.key) == WORK


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"kind": "judge"}'])
def test_damaged_work_is_refused_and_healed_by_saving_it_again(tmp_path: Path, damage: bytes) -> None:
    store = LocalStore(tmp_path)
    store.put(PATH, damage)
    with pytest.raises(errors.Corrupt, match="work of step"):
        work.load(store, WORK.key)
    work.save(store, WORK)
    assert work.load(store, WORK.key) == WORK


def test_work_under_another_key_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    work.save(store, WORK)
    with store.open(PATH) as stream:
        store.put(f"steps/{'c' * 64}/WORK.json", stream.read())
    with pytest.raises(errors.Corrupt, match="damaged"):
        work.load(store, "c" * 64)
