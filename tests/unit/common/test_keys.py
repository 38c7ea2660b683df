"""Canonical JSON, content keys and seeds (R2, R5): the same in every process, on every machine, for ever."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semievol.common.keys import canonical_json, content_key, derive_seed, sha256_file, sha256_hex

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(_json)
def test_canonical_json_reads_back_and_is_its_own_canonical_form(value: object) -> None:
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


def test_canonical_json_is_compact_utf_8_with_sorted_keys_and_one_line_end() -> None:
    assert canonical_json({"b": [1, 2.5, None, True], "a": "é\n"}) == '{"a":"é\\n","b":[1,2.5,null,true]}\n'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_what_json_has_no_number_for_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_keys_and_seeds_are_what_they_always_were() -> None:
    """Stored artifacts are found by these: a change of the encoding would orphan them all.

    Both by sha256sum, of `{"a":1}` and `[0,"row","warm-2",1]` with a line end.
    """
    assert content_key({"a": 1}) == "e346432021b04179518d9614f3560ccd71354a4ee101ddcb893d6959a9d6301c"
    assert derive_seed(0, "row", "warm-2", 1) == 0x9CC74EE5573B2D2A >> 1


@given(st.lists(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.integers())))
def test_seeds_fit_into_63_bits(parts: list[str | int]) -> None:
    assert 0 <= derive_seed(*parts) < 2**63


def test_seeds_depend_on_every_part_its_type_and_its_place() -> None:
    parts: list[tuple[str | int, ...]] = [
        (0, "a", "b", 1),
        (1, "a", "b", 1),
        (0, "ab", "", 1),
        (0, "b", "a", 1),
        (0, "a", "b", "1"),
        (0, "a", "b"),
    ]
    assert len({derive_seed(*one) for one in parts}) == len(parts)


def test_keys_do_not_depend_on_the_process() -> None:
    program = "from semievol.common.keys import content_key; print(content_key({'b': ['x'], 'a': {'z': 1, 'y': 2}}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "99"}
    )
    assert done.stdout.strip() == content_key({"a": {"y": 2, "z": 1}, "b": ["x"]})


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    for size in (0, 1, 1 << 20, (1 << 20) + 1):
        data = bytes(size)
        (tmp_path / "file").write_bytes(data)
        assert sha256_file(tmp_path / "file") == sha256_hex(data)
