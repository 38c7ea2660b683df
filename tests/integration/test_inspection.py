"""What a run's users can look into afterwards: another theta, one row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from semievol.common import errors

from tests.fake_suite import Suite, fake_suite, wait_for, write_colours


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """With a finished run of two iterations whose unlabeled file carries answers."""
    with fake_suite(tmp_path_factory.mktemp("suite")) as running:
        assert running.run(with_answers(running, iterations=2))["error"] == ""
        yield running


def with_answers(suite: Suite, **changes: Any) -> Any:
    return suite.with_data(suite.spec(**changes), unlabeled=write_colours(suite.home, "unlabeled", answers=True))


def test_a_preview_is_what_a_run_with_that_theta_gives(suite: Suite) -> None:
    asked = suite.trainer.created
    previewed = suite.client.preview_selection("colours", [30, 50], 1)
    assert suite.trainer.created == asked
    assert (previewed.theta, previewed.row_count, previewed.excluded_count) == (50, 20, 0)
    for theta, preview in zip((30, 50), previewed.previews, strict=True):
        (iteration,) = suite.run(with_answers(suite, theta=theta, name=f"theta-{theta}"))["iterations"]
        assert preview.selected_count == iteration["selected"]
        assert preview.threshold == pytest.approx(iteration["threshold"])
        assert preview.pseudo_label_accuracy == pytest.approx(iteration["pseudo_label_accuracy"])


def test_the_last_iteration_is_previewed_unless_another_is_named(suite: Suite) -> None:
    assert suite.client.preview_selection("colours", [50]).iteration == 2
    assert suite.client.preview_selection("colours", [50]).row_count == 10
    assert suite.client.preview_selection("colours", [50], 1).row_count == 20


def test_without_true_answers_a_preview_knows_no_accuracy(suite: Suite) -> None:
    suite.run(suite.spec(name="plain"))
    assert not suite.client.preview_selection("plain", [50]).previews[0].HasField("pseudo_label_accuracy")


def test_a_labeled_threshold_is_taken_over_the_labeled_rows(suite: Suite) -> None:
    (iteration,) = suite.run(suite.spec(name="labeled", threshold_reference="labeled"))["iterations"]
    (preview,) = suite.client.preview_selection("labeled", [50]).previews
    assert preview.threshold == pytest.approx(iteration["threshold"])
    assert preview.selected_count == iteration["selected"]


@pytest.mark.parametrize("thetas", [[], [101.0], [-1.0], [50.0] * 102])
def test_thetas_out_of_range_are_refused(suite: Suite, thetas: list[float]) -> None:
    with pytest.raises(errors.InvalidInput):
        suite.client.preview_selection("colours", thetas)


def test_a_row_is_explained_from_its_references_to_its_fate(suite: Suite) -> None:
    kept = 0
    for number in range(20):
        found = suite.client.explain_row("colours", f"unlabeled-{number:03d}", 1)
        assert found.question == f"Which colour is the {('red', 'green', 'blue')[number % 3]} unlabeled thing {number}?"
        assert list(found.options) == ["red", "green", "blue"]
        assert found.true_answer == "ABC"[number % 3]
        assert [one.row_id for one in found.references] == [f"labeled-{number:03d}"]  # the most that a collaborator was shown
        assert [one.collaborator for one in found.candidates] == ["warm-0", "warm-1"]
        answers = {one.answer for one in found.candidates}
        assert found.decision == ("unanimous" if len(answers) == 1 else "judged")
        assert bool(found.transcript) == (found.decision == "judged")
        assert found.fate == ("kept" if found.entropy <= found.threshold else "above_threshold")
        kept += found.fate == "kept"
    assert kept == suite.client.preview_selection("colours", [50], 1).previews[0].selected_count


def test_a_row_that_was_not_kept_is_explained_as_of_the_last_iteration_that_has_it(suite: Suite) -> None:
    rows = [f"unlabeled-{number:03d}" for number in range(20)]
    fates = {row: suite.client.explain_row("colours", row, 1).fate for row in rows}
    assert {suite.client.explain_row("colours", row).iteration for row in rows if fates[row] == "kept"} == {1}
    assert {suite.client.explain_row("colours", row).iteration for row in rows if fates[row] != "kept"} == {2}


def test_an_unknown_row_and_an_unknown_run_are_not_found(suite: Suite) -> None:
    with pytest.raises(errors.NotFound, match="no unlabeled row 'zzz'"):
        suite.client.explain_row("colours", "zzz")
    with pytest.raises(errors.NotFound, match="no unlabeled row 'labeled-000'"):
        suite.client.explain_row("colours", "labeled-000")
    with pytest.raises(errors.NotFound, match="There is no run"):
        suite.client.explain_row("nonsense", "unlabeled-000")


def test_a_run_that_has_not_got_so_far_says_so_and_shows_what_it_has(tmp_path: Path) -> None:
    with fake_suite(tmp_path) as suite:
        suite.trainer.hold = True
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: suite.trainer.created == 1)
        with pytest.raises(errors.Conflict, match="no entropies yet"):
            suite.client.preview_selection(run, [50])
        found = suite.client.explain_row(run, "unlabeled-007")
        assert (found.iteration, found.fate, found.decision, len(found.candidates)) == (1, "", "", 0)
        assert json.loads(suite.client.get_run(run).result_json)["state"] == "running"
        suite.client.cancel_run(run)
