"""The traps in the SemiEvol authors' own code, by number as docs and code cite them. Each test fails on the authors' behaviour."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from semievol.algorithm import semievol
from semievol.algorithm.answers import equal, parse
from semievol.algorithm.prompts import judge_prompt, plain_prompt, question_text, reference_prompt
from semievol.algorithm.selection import entropy, select
from semievol.algorithm.types import (
    Answer,
    AnswerForm,
    Candidate,
    Collaborator,
    Decision,
    Message,
    NoAnswer,
    Reason,
    Row,
    Selection,
    Task,
    TaskType,
    Verdict,
    Weights,
)
from semievol.ports import FinishReason, Sampling

from tests.scripted import ScriptedGenerator

TASK = Task(TaskType.CHOICE, AnswerForm.LETTER)
ROW = Row("u1", "Which is red?", ("Grass", "Blood", "Snow"))
FREE = Row("u1", "What is red?")


def said(*texts: str, row: Row = ROW, task: Task = TASK) -> list[Candidate]:
    return [Candidate(f"base-{i}", text, parse(text, row, task), (-1.0,)) for i, text in enumerate(texts)]


def justify(
    candidates: list[Candidate], verdict: str = "Answer: C", *, row: Row = ROW, task: Task = TASK, judge_all: bool = False
) -> tuple[Verdict, ScriptedGenerator]:
    generator = ScriptedGenerator(lambda prompt: verdict)
    (found,) = semievol.self_justify(generator, "warm", task, [row], {row.id: candidates}, 32, judge_all=judge_all)
    return found, generator


# ---------------------------------------------------------------- 1: unparseable answers become "", four of them "agree"


@pytest.mark.parametrize("text", ["", "   ", "I would rather not say", "I'm sorry, I can't."])
def test_trap_1_four_empty_answers_neither_agree_nor_vote_nor_become_a_pseudo_label(text: str) -> None:
    candidates = said(*[text] * 4)
    assert not semievol.unanimous(candidates, TASK)
    verdict, generator = justify(candidates)
    assert (verdict.decision, verdict.answer, verdict.response) == (Decision.NONE, None, "")
    assert generator.calls == []
    entropies = semievol.entropies(generator, "warm", {ROW.id: verdict.response}, [ROW], TASK)
    selection = select(entropies, 100)
    assert selection.reasons == {"u1": Reason.NO_ANSWER}
    assert semievol.pseudo_labeled([ROW], {ROW.id: verdict}, selection) == []


@pytest.mark.parametrize("task", [TASK, Task(TaskType.NUMBER), Task(TaskType.TEXT)])
def test_trap_1_no_answer_agrees_with_nothing_not_even_with_its_like(task: Task) -> None:
    for a, b in itertools.product(NoAnswer, [*NoAnswer, Answer("1"), Answer("")]):
        assert not equal(a, b, task)


def test_trap_1_three_answers_and_an_empty_one_do_not_agree_and_the_empty_one_is_not_shown() -> None:
    verdict, generator = justify(said("Answer: B", "Answer: B", "Answer: B", "nonsense"))
    assert (verdict.decision, verdict.agreement) == (Decision.JUDGED, 0.0)  # the judge said C
    assert "nonsense" not in generator.calls[0][1][0].messages[0].content


def test_trap_1_a_judge_that_gives_no_answer_excludes_the_row() -> None:
    verdict, _ = justify(said("Answer: A", "Answer: B"), "They are all wrong.")
    assert (verdict.decision, verdict.answer, verdict.response) == (Decision.NONE, None, "")
    assert verdict.transcript[-1] == Message("assistant", "They are all wrong.")


def test_trap_1_no_candidates_at_all_are_not_unanimous() -> None:
    assert not semievol.unanimous([], TASK)


# ---------------------------------------------------------------- 2: one empty log-probability list makes the percentile NaN


def test_trap_2_a_row_without_log_probabilities_leaves_the_cut_of_the_others_alone() -> None:
    """H = 1, 2, 3 and one NaN: tau is the median of 1, 2, 3, not NaN; the fourth row is excluded, and says so."""
    entropies = {"a": entropy([-1.0]), "b": entropy([-2.0]), "c": entropy([-3.0]), "d": entropy([])}
    selection = select(entropies, 50)
    assert selection.threshold == 2.0
    assert selection.selected == ("a", "b")
    assert selection.reasons["d"] is Reason.NO_ENTROPY


def test_trap_2_an_impossible_token_is_no_finite_entropy_either() -> None:
    selection = select({"a": entropy([-1.0]), "b": entropy([-math.inf, -1.0])}, 100)
    assert (selection.threshold, selection.reasons["b"]) == (1.0, Reason.NO_ENTROPY)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_trap_2_a_candidate_without_an_entropy_is_never_the_most_confident(order: tuple[int, ...]) -> None:
    task = Task(TaskType.TEXT)
    candidates = [
        Candidate("base-0", "Well. Answer: blood", Answer("blood"), ()),
        Candidate("base-1", "Hm. Answer: blood", Answer("blood"), (-0.5,)),
        Candidate("warm-0", "Answer: Blood", Answer("blood"), (-0.1,)),
    ]
    assert semievol.agreed_response(FREE, [candidates[i] for i in order], task) == (Answer("blood"), "Answer: Blood")
    verdict = Verdict("u1", Decision.UNANIMOUS, Answer("blood"), "Answer: Blood", 1.0)
    warm = [replace(candidates[0], collaborator="warm-1"), candidates[2]]
    assert semievol.generated_entropy(verdict, warm, task) == pytest.approx(0.1)


# ---------------------------------------------------------------- 3: unanimous rows skip the cut, judged ones get a fixed 30 %


def test_trap_3_unanimous_and_judged_rows_are_cut_alike() -> None:
    """The only thing that counts is H: of an unanimous and a judged row the more certain one stays, whichever it is."""
    unanimous, _ = justify(said("Answer: B", "Answer: B"))
    judged, _ = justify(said("Answer: A", "Answer: B"))
    assert (unanimous.decision, judged.decision) == (Decision.UNANIMOUS, Decision.JUDGED)
    rows = [replace(ROW, id="agreed"), replace(ROW, id="judged")]
    verdicts = {"agreed": unanimous, "judged": judged}
    for h_agreed, h_judged, kept in ((2.0, 1.0, "judged"), (1.0, 2.0, "agreed")):
        selection = select({"agreed": h_agreed, "judged": h_judged}, 0)
        assert [row.id for row in semievol.pseudo_labeled(rows, verdicts, selection)] == [kept]


def test_trap_3_every_response_is_scored_by_one_model_on_the_plain_task_whoever_wrote_it() -> None:
    scorer = ScriptedGenerator()
    found = semievol.entropies(scorer, "warm", {"u1": "Answer: B"}, [ROW], TASK)
    assert found == {"u1": 0.5}  # two words of log-probability -0.5
    ((model, (request,)),) = scorer.scored
    assert model == "warm"
    assert (request.messages, request.response) == (plain_prompt(ROW, TASK), "Answer: B")


# ---------------------------------------------------------------- 4: no retrieval; four clock seeds of one adapter


def seeds(collaborator: Collaborator, row: Row = ROW, references: tuple[Row, ...] = (), seed: int = 0) -> tuple[int, ...]:
    return semievol.collaborator_prompt([collaborator], row, references, TASK, seed).seeds


def test_trap_4_seeds_depend_on_run_seed_row_collaborator_and_sample_and_on_nothing_else() -> None:
    one = Collaborator(Weights.WARM, 2)
    reference = Row("l1", "Which is green?", ("Grass", "Blood"), answer="A")
    same = {
        seeds(one),
        seeds(one, references=(reference,)),
        seeds(one, row=replace(ROW, question="Reworded?", answer="B", metadata={"gt": "Blood"})),
    }
    others = {
        seeds(one, seed=1),
        seeds(one, row=replace(ROW, id="u2")),
        seeds(replace(one, model=Weights.BASE)),
        seeds(replace(one, references=1)),
        seeds(replace(one, sample=1)),
    }
    assert len(same) == 1
    assert len(same | others) == 6
    assert all(len(drawn) == 1 and 0 <= drawn[0] < 2**63 for drawn in same | others)


def test_trap_4_collaborators_of_one_configuration_ask_once_and_answer_as_they_would_alone() -> None:
    generator = ScriptedGenerator(lambda prompt: f"Answer: {'AB'[prompt.seeds[0] % 2]} {prompt.seeds[0]}")
    twins = [Collaborator(Weights.BASE, 0, sample) for sample in (0, 1)]
    together = semievol.collaborate(generator, "base", twins, [ROW], {}, TASK, Sampling(temperature=1.0), 0)[ROW.id]
    alone = [
        semievol.collaborate(generator, "base", [one], [ROW], {}, TASK, Sampling(temperature=1.0), 0)[ROW.id] for one in twins
    ]
    (_, prompts, sampling), *single = generator.calls
    assert len(prompts) == 1
    assert sampling.n == 2
    assert prompts[0].seeds == tuple(seed for _, asked, _ in single for seed in asked[0].seeds)
    assert [candidate.collaborator for candidate in together] == [one.name for one in twins]
    assert together == [candidate for candidates in alone for candidate in candidates]


def test_trap_4_a_seed_does_not_depend_on_the_other_rows_or_their_order() -> None:
    rows = [replace(ROW, id=f"u{i}") for i in range(5)]
    generator = ScriptedGenerator()
    one = Collaborator(Weights.BASE, 0)
    for chosen in (rows, rows[::-1], rows[2:3]):
        semievol.collaborate(generator, "base", [one], chosen, {}, TASK, Sampling(temperature=1.0), 0)
    first, second, third = ({prompt.id: prompt.seeds for prompt in prompts} for _, prompts, _ in generator.calls)
    assert first == second
    assert third == {"u2": first["u2"]}


def test_trap_4_a_collaborator_sees_its_number_of_references_nearest_first() -> None:
    library = [Row(f"l{i}", f"Reference {i}?", ("Grass", "Blood"), answer="A") for i in range(3)]
    for count in range(4):
        messages = semievol.collaborator_prompt([Collaborator(Weights.BASE, count)], ROW, library, TASK, 0).messages
        shown = "\n".join(message.content for message in messages)
        assert [f"Reference {i}?" in shown for i in range(3)] == [i < count for i in range(3)]
        assert messages[-1].content.endswith(question_text(ROW, TASK))
        assert [message.role for message in messages] == (["system", "user"] if count else ["user"])


# ---------------------------------------------------------------- 5: the evolved adapter is trained on pseudo-labels alone


def test_trap_5_the_evolved_model_is_trained_on_labeled_and_selected_rows() -> None:
    labeled = [Row("l1", "Which is green?", ("Grass", "Blood"), answer="A")]
    selected = semievol.pseudo_labeled(
        [ROW], {"u1": Verdict("u1", Decision.JUDGED, Answer("B"), "Answer: B", 1.0)}, Selection(1.0, {"u1": Reason.KEPT})
    )
    examples = semievol.training_examples(semievol.evolution_rows(labeled, selected), TASK)
    assert [(example.row_id, example.completion, example.source) for example in examples] == [
        ("l1", "Answer: A", "labeled"),
        ("u1", "Answer: B", "pseudo"),
    ]
    alone = semievol.evolution_rows(labeled, selected, include_labeled=False)  # Algorithm 1, line 11
    assert [row.id for row in alone] == ["u1"]


def test_trap_5_the_next_warm_model_is_trained_on_what_the_evolved_model_was() -> None:
    """Same rows, same examples: the next iteration's Eq. 1 is this one's Eq. 9, and is not trained again."""
    labeled = [Row("l1", "Which is green?", ("Grass", "Blood"), answer="A")]
    selected = [replace(ROW, answer="B", response="Answer: B", source="pseudo")]
    evolution = semievol.evolution_rows(labeled, selected)
    next_labeled = semievol.evolution_rows(selected, labeled)
    assert semievol.training_examples(evolution, TASK) == semievol.training_examples(next_labeled, TASK)


# ---------------------------------------------------------------- 6: the unlabeled file must contain the answers

SECRET = "Zanzibar"
LEAKY = replace(ROW, answer=SECRET, response=SECRET, category=SECRET, metadata={"gt": SECRET, SECRET: "x"})


def test_trap_6_an_unlabeled_answer_and_metadata_reach_no_prompt() -> None:
    library = [Row("l1", "Which is green?", ("Grass", "Blood"), answer="A", category=SECRET, metadata={"gt": SECRET})]
    candidates = said("Answer: A", "Answer: B")
    prompts = [
        plain_prompt(LEAKY, TASK),
        reference_prompt(LEAKY, library, TASK),
        judge_prompt(LEAKY, candidates, TASK),
        semievol.collaborator_prompt([Collaborator(Weights.WARM, 1)], LEAKY, library, TASK, 0).messages,
    ]
    assert SECRET not in repr(prompts)
    assert SECRET not in semievol.embedding_text(LEAKY)
    (request,) = semievol.entropy_requests({LEAKY.id: "Answer: B"}, [LEAKY], TASK)
    assert SECRET not in repr(request)


def test_trap_6_an_unlabeled_answer_changes_no_verdict_no_selection_and_no_training_set() -> None:
    """The same with the answer there, wrong, or absent: only the row's untouched metadata differs."""
    results = []
    for row in (LEAKY, replace(LEAKY, answer="A"), replace(LEAKY, answer=None, response="", metadata={})):
        verdict, generator = justify(said("Answer: A", "Answer: B"), "Answer: B", row=row)
        entropies = semievol.entropies(generator, "warm", {row.id: verdict.response}, [row], TASK)
        selection = select(entropies, 50)
        selected = semievol.pseudo_labeled([row], {row.id: verdict}, selection)
        examples = semievol.training_examples(semievol.evolution_rows([], selected), TASK)
        pseudo = [(one.answer, one.response, one.source) for one in selected]
        results.append((verdict, entropies, selection, examples, pseudo))
    assert results[0] == results[1] == results[2]
    assert results[0][3][0].completion == "Answer: B"
    assert results[0][4] == [("B", "Answer: B", "pseudo")]
    assert SECRET not in repr(results[0])


# ---------------------------------------------------------------- 7: `A` and `A.` disagree; options missing in judging


@pytest.mark.parametrize("texts", [("Answer: A", "Answer: A.", "answer: (a)", "**Answer:** A) Grass", "Answer: Grass")])
def test_trap_7_spellings_of_one_answer_agree(texts: tuple[str, ...]) -> None:
    verdict, generator = justify(said(*texts))
    assert (verdict.decision, verdict.response, verdict.agreement) == (Decision.UNANIMOUS, "Answer: A", 1.0)
    assert generator.calls == []


def test_trap_7_the_judge_sees_question_options_and_every_valid_candidate() -> None:
    _, generator = justify(said("It bleeds. Answer: B", "Answer: A"))
    ((model, (prompt,), sampling),) = generator.calls
    text = prompt.messages[-1].content
    for part in ("Which is red?", "A. Grass", "B. Blood", "C. Snow", "It bleeds. Answer: B", "Answer: A"):
        assert part in text
    assert (model, sampling, prompt.seeds) == ("warm", Sampling(temperature=0.0, max_tokens=32), ())


@pytest.mark.parametrize(
    ("task", "texts", "reply", "response"),
    [
        (Task(TaskType.NUMBER), ("Answer: 4", "Answer: 5"), "4 is wrong.\nAnswer: 5.0", "Answer: 5"),
        (Task(TaskType.TEXT), ("Answer: blood", "Answer: wine"), "Both are.\nAnswer: Blood", "Both are.\nAnswer: Blood"),
    ],
)
def test_trap_7_free_form_tasks_judge_too(task: Task, texts: tuple[str, ...], reply: str, response: str) -> None:
    verdict, generator = justify(said(*texts, row=FREE, task=task), reply, row=FREE, task=task)
    assert (verdict.decision, verdict.response, verdict.agreement) == (Decision.JUDGED, response, 0.5)
    assert "What is red?" in generator.calls[0][1][0].messages[-1].content


def test_a_valid_verdict_outside_the_candidates_stands() -> None:
    """Sec. 3.3: "select and summarize"."""
    verdict, _ = justify(said("Answer: A", "Answer: B"), "Answer: C")
    assert (verdict.decision, verdict.answer, verdict.agreement) == (Decision.JUDGED, Answer("C"), 0.0)


def test_judge_all_asks_about_unanimous_rows_but_never_about_rows_without_an_answer() -> None:
    """`judge: all` is Eq. 5 as written."""
    verdict, generator = justify(said("Answer: B", "Answer: B"), "Answer: C", judge_all=True)
    assert (verdict.decision, verdict.answer, len(generator.calls)) == (Decision.JUDGED, Answer("C"), 1)
    verdict, generator = justify(said("", ""), judge_all=True)
    assert (verdict.decision, generator.calls) == (Decision.NONE, [])


def test_a_reply_that_was_cut_off_is_a_truncated_answer_not_a_short_one() -> None:
    generator = ScriptedGenerator(lambda prompt: "Answer: 12", finish_reason=FinishReason.LENGTH)
    answers = semievol.evaluate(generator, "base", [FREE], Task(TaskType.NUMBER), 8)
    assert answers["u1"].answer is NoAnswer.TRUNCATED


def test_evaluation_is_greedy_and_uses_no_references() -> None:
    generator = ScriptedGenerator()
    semievol.evaluate(generator, "warm", [ROW], TASK, 16)
    ((_, (prompt,), sampling),) = generator.calls
    assert (sampling, prompt.seeds, prompt.messages) == (Sampling(temperature=0.0, max_tokens=16), (), plain_prompt(ROW, TASK))
