"""Artifacts (R1-R3): what is published is whole, what is damaged is seen, and one writer counts."""

from __future__ import annotations

import errno
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from semievol.common import errors
from semievol.common.artifacts import Artifacts, Manifest, blob_path, parse_uri, uri
from semievol.common.keys import canonical_json, content_key, sha256_hex
from semievol.common.stores.fake import FakeStore
from semievol.common.stores.local import LocalStore

KEY = content_key("a step")
PLAN = Manifest(KEY, "infer/1", {"rows": "0" * 64}, {"temperature": 1.0, "seed": 7}, ())
FILES: dict[str, bytes | Path] = {"answers.jsonl": b'{"id":"a"}\n', "adapter/weights.bin": bytes(range(256)) * 8, "empty": b""}
MANIFEST = f"steps/{KEY}/MANIFEST.json"


def published(store: FakeStore) -> Manifest:
    manifest, ours = Artifacts(store).publish(PLAN, FILES)
    assert ours
    return manifest


def test_what_is_published_is_found_by_its_key_and_read_back(tmp_path: Path) -> None:
    store = FakeStore()
    (tmp_path / "weights").write_bytes(b"from a file")
    Artifacts(store).publish(PLAN, FILES | {"weights": tmp_path / "weights"})
    artifacts = Artifacts(store)
    manifest = artifacts.manifest(KEY)
    assert manifest is not None
    assert [file.path for file in manifest.files] == ["adapter/weights.bin", "answers.jsonl", "empty", "weights"]
    assert artifacts.read(manifest.file("weights")) == b"from a file"
    assert artifacts.read_json_lines(manifest.file("answers.jsonl")) == [{"id": "a"}]
    assert replace(manifest, files=()) == PLAN


def test_equal_work_has_equal_manifests_byte_for_byte() -> None:
    one, two = FakeStore(), FakeStore()
    published(one)
    Artifacts(two).publish(replace(PLAN, params={"seed": 7, "temperature": 1.0}), dict(reversed(FILES.items())))
    assert one.objects == two.objects


def test_shards_of_a_step_are_published_and_found_on_their_own() -> None:
    artifacts = Artifacts(FakeStore())
    artifacts.publish(replace(PLAN, shard=3), {"part": b"3"})
    assert artifacts.manifest(KEY, 3) is not None
    assert artifacts.manifest(KEY, 2) is None
    assert artifacts.manifest(KEY) is None


def test_the_nth_failing_write_never_leaves_a_manifest_over_bad_bytes() -> None:
    """Writes of one publication: three blobs, then the manifest; so the fourth failure is the last one, and a retry heals each."""
    swept = 0
    for code in (errno.EIO, errno.ENOSPC):
        for nth in range(1, len(FILES) + 2):
            store = FakeStore(fail_write=nth, code=code)
            with pytest.raises(errors.StorageError):
                Artifacts(store).publish(PLAN, FILES)
            assert Artifacts(store).manifest(KEY) is None
            assert MANIFEST not in store.objects
            published(store)
            assert Artifacts(store).manifest(KEY) is not None
            swept += 1
    print(f"{swept} failing writes swept, silent corruptions = 0")


def damages(store: FakeStore) -> list[tuple[str, str, int]]:
    """Every truncation and every flipped bit of the manifest, and a sample of those of the blobs."""
    found: list[tuple[str, str, int]] = []
    for path, data in store.objects.items():
        step = 1 if path == MANIFEST else 97
        found += [("truncate", path, size) for size in range(0, len(data), step)]
        found += [("flip_bit", path, bit) for bit in range(0, 8 * len(data), step)]
    return found


def test_every_truncation_and_flipped_bit_is_a_miss_and_publishing_again_heals_it() -> None:
    reference = FakeStore()
    published(reference)
    injected = damages(reference)
    detected = 0
    for kind, path, where in injected:
        store = FakeStore()
        store.objects = dict(reference.objects)
        getattr(store, kind)(path, where)
        detected += Artifacts(store).manifest(KEY) is None
        manifest, _ = Artifacts(store).publish(PLAN, FILES)
        assert Artifacts(store).manifest(KEY) == manifest
        assert store.objects == reference.objects
    assert detected == len(injected) > 5000
    print(f"detected {detected} / injected {len(injected)}")


def test_a_missing_blob_is_a_miss() -> None:
    store = FakeStore()
    manifest = published(store)
    store.delete(blob_path(manifest.files[0].sha256))
    assert Artifacts(store).manifest(KEY) is None


def test_a_manifest_under_another_key_or_shard_is_a_miss() -> None:
    store = FakeStore()
    published(store)
    other = content_key("another step")
    store.put(f"steps/{other}/MANIFEST.json", store.objects[MANIFEST])
    store.put(f"steps/{KEY}/shard-00001/MANIFEST.json", store.objects[MANIFEST])
    assert Artifacts(store).manifest(other) is None
    assert Artifacts(store).manifest(KEY, 1) is None


def test_reading_damaged_or_missing_bytes_is_corrupt_and_says_which_file() -> None:
    store = FakeStore()
    artifacts = Artifacts(store)
    manifest, _ = artifacts.publish(PLAN, FILES)
    file = manifest.file("answers.jsonl")
    store.truncate(blob_path(file.sha256), 3)
    with pytest.raises(errors.Corrupt, match=r"answers\.jsonl .* damaged"):
        artifacts.read(file)
    store.delete(blob_path(file.sha256))
    with pytest.raises(errors.Corrupt, match=r"answers\.jsonl .* gone"):
        artifacts.read(file)


def test_what_was_verified_once_and_found_damaged_later_is_a_miss_from_then_on() -> None:
    store = FakeStore()
    published(store)
    artifacts = Artifacts(store)
    manifest = artifacts.manifest(KEY)
    assert manifest is not None
    store.flip_bit(blob_path(manifest.file("answers.jsonl").sha256), 5)
    with pytest.raises(errors.Corrupt):
        artifacts.read(manifest.file("answers.jsonl"))
    assert artifacts.manifest(KEY) is None
    artifacts.publish(PLAN, FILES)
    assert artifacts.manifest(KEY) == manifest


def test_a_stream_that_breaks_is_a_storage_error_and_not_a_miss() -> None:
    store = FakeStore()
    manifest = published(store)
    store.fail_reads = True
    for action in (lambda: Artifacts(store).manifest(KEY), lambda: Artifacts(store).read(manifest.files[0])):
        with pytest.raises(errors.StorageError, match="Cannot read"):
            action()


def test_the_second_writer_is_superseded_and_gets_the_first_ones_manifest() -> None:
    store = FakeStore()
    first = published(store)
    second, ours = Artifacts(store).publish(PLAN, {"answers.jsonl": b"something else"})
    assert (second, ours) == (first, False)


def test_of_16_concurrent_writers_with_different_results_one_counts_and_all_agree_which(tmp_path: Path) -> None:
    start = threading.Barrier(16)
    results: list[tuple[Manifest, bool]] = []

    def write(number: int) -> None:
        artifacts = Artifacts(LocalStore(tmp_path))
        start.wait()
        results.append(artifacts.publish(PLAN, {"answers.jsonl": f"{number}\n".encode()}))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(ours for _, ours in results) == 1
    assert {manifest.to_json() for manifest, _ in results} == {(tmp_path / MANIFEST).read_bytes()}


def test_a_writer_that_stands_over_a_damaged_winner_replaces_it() -> None:
    store = FakeStore()
    first = published(store)
    store.flip_bit(blob_path(first.file("answers.jsonl").sha256), 0)
    second, ours = Artifacts(store).publish(PLAN, {"answers.jsonl": b"another result"})
    assert ours
    assert Artifacts(store).manifest(KEY) == second


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "", "a//b", "."])
def test_a_file_name_that_leads_out_of_the_artifact_is_refused(path: str) -> None:
    with pytest.raises(errors.InvalidInput):
        Artifacts(FakeStore()).publish(PLAN, {path: b"x"})


def test_a_fetched_artifact_is_a_plain_directory(tmp_path: Path) -> None:
    store = FakeStore()
    manifest = published(store)
    directory = Artifacts(store).fetch(manifest, tmp_path / "cache" / "a")
    assert {path: (directory / path).read_bytes() for path in FILES} == FILES
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["a"]


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = FakeStore()
    manifest = published(store)
    store.truncate(blob_path(manifest.file("answers.jsonl").sha256), 1)
    with pytest.raises(errors.Corrupt):
        Artifacts(store).fetch(manifest, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StorageError):
        Artifacts(store).fetch(manifest, tmp_path / "file" / "a")


def test_a_fetched_directory_is_used_again_without_the_store_and_made_anew_if_damaged(tmp_path: Path) -> None:
    store = FakeStore()
    manifest = published(store)
    directory = Artifacts(store).fetch(manifest, tmp_path / "a")
    assert Artifacts(FakeStore()).fetch(manifest, tmp_path / "a") == directory
    for damage in (lambda file: file.write_bytes(b"{}"), Path.unlink):
        damage(directory / "answers.jsonl")
        Artifacts(store).fetch(manifest, tmp_path / "a")
        assert {path: (directory / path).read_bytes() for path in FILES} == FILES
    assert list(tmp_path.iterdir()) == [directory]


def test_concurrent_fetches_agree(tmp_path: Path) -> None:
    store = FakeStore()
    manifest = published(store)
    failures: list[BaseException] = []

    def fetch() -> None:
        try:
            Artifacts(store).fetch(manifest, tmp_path / "a")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (tmp_path / "a" / "answers.jsonl").read_bytes() == FILES["answers.jsonl"]


def test_attempts_lie_beside_the_manifest_and_damaged_ones_are_left_out() -> None:
    store = FakeStore()
    artifacts = Artifacts(store)
    published(store)
    before = store.objects[MANIFEST]
    artifacts.record_attempt(KEY, None, "a1", {"seconds": 3})
    artifacts.record_attempt(KEY, 2, "a2", {"seconds": 4})
    artifacts.record_attempt(KEY, 2, "a3", {"seconds": 5})
    store.truncate(f"steps/{KEY}/shard-00002/attempts/a3.json", 4)
    assert [record["seconds"] for record in artifacts.attempts(KEY)] == [3, 4]
    assert store.objects[MANIFEST] == before


def test_a_uri_names_a_step_or_one_of_its_files() -> None:
    artifacts = Artifacts(FakeStore())
    manifest, _ = artifacts.publish(PLAN, FILES)
    assert parse_uri(uri(KEY, "adapter/weights.bin"), field="uri") == (KEY, "adapter/weights.bin")
    assert artifacts.resolve(uri(KEY), field="uri") == (manifest, None)
    assert artifacts.resolve(uri(KEY, "empty"), field="uri") == (manifest, manifest.file("empty"))


@pytest.mark.parametrize(
    "text", ["", "artifact:", "artifact:abc", f"artifact:{KEY}/", f"s3:{KEY}", f"artifact:{KEY.upper()}", f"artifact:{KEY}\n"]
)
def test_what_is_no_uri_names_the_field(text: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        parse_uri(text, field="dataset_uri")
    assert caught.value.field == "dataset_uri"


def test_a_uri_of_nothing_is_not_found_and_names_the_field() -> None:
    with pytest.raises(errors.NotFound) as caught:
        Artifacts(FakeStore()).resolve(uri(sha256_hex(b"")), field="adapter")
    assert caught.value.field == "adapter"


def test_a_file_of_json_lines_is_streamed_whole_across_chunks_of_any_size() -> None:
    """Lines of 700 KB: most of them lie in two chunks of 1 MiB."""
    store = FakeStore()
    lines = [{"n": n, "text": "x" * 700_000} for n in range(5)]
    Artifacts(store).publish(PLAN, {"a.jsonl": b"".join(map(canonical_json, lines)), "empty": b""})
    manifest = Artifacts(store).manifest(KEY)
    assert manifest is not None
    assert list(Artifacts(store).stream_json_lines(manifest.file("a.jsonl"))) == lines
    assert list(Artifacts(store).stream_json_lines(manifest.file("empty"))) == []


@pytest.mark.parametrize(
    "damaged",
    [b"", b'{"id":"a"}', b'{"id":"b"}\n', b'{"id":"a"\n', b'{"id":"a"}\n{"id":"b"}\n', None],
    ids=["empty", "cut", "changed", "no JSON", "longer", "gone"],
)
def test_streamed_json_lines_that_are_damaged_end_with_an_error(damaged: bytes | None) -> None:
    store = FakeStore()
    file = published(store).file("answers.jsonl")
    store.delete(blob_path(file.sha256))
    if damaged is not None:
        store.put(blob_path(file.sha256), damaged)
    with pytest.raises(errors.Corrupt, match=r"answers\.jsonl"):
        list(Artifacts(store).stream_json_lines(file))
