"""What counts as an answer, over responses as models really write them. `None` in a table: there is no answer."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semievol.algorithm.answers import canonical_answer, equal, fold, parse, target_text
from semievol.algorithm.types import Answer, AnswerForm, NoAnswer, Row, Task, TaskType

LETTER = Task(TaskType.CHOICE, AnswerForm.LETTER)
WORDS = Task(TaskType.CHOICE, AnswerForm.TEXT)
NUMBER = Task(TaskType.NUMBER)
TEXT = Task(TaskType.TEXT)

CITIES = Row("r", "Which city?", ("York", "New York", "New York City", "Rome"))
TEAMS = Row("r", "Which team?", ("Roads", "Water", "Parks", "Waste", "Permits", "Housing"))
YES_NO = Row("r", "Does it?", ("yes", "no", "maybe"))
GASES = Row("r", "Which gas?", ("C", "NO_{2}", "O_{2}", "CO"))  # ARC Mercury_402547: an option that reads as a letter
GENES = Row("r", "Which genotype?", ("R", "rr", "Rr", "RR"))  # ARC Mercury_7238945: told apart by case alone
DIGITS = Row("r", "How many?", ("1", "12", "28", "365"))
FREE = Row("r", "?")


def value(text: str, row: Row, task: Task, *, truncated: bool = False) -> str | None:
    answer = parse(text, row, task, truncated=truncated)
    return answer.value if isinstance(answer, Answer) else None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        # the requested form, and what surrounds it
        ("Answer: B", "B"),
        ("Answer: b", "B"),
        ("Answer: B.", "B"),
        ("Answer:B", "B"),
        ("answer : (B)", "B"),
        ("**Answer: B**", "B"),
        ("**Answer:** B", "B"),
        ("**Answer**: `B`", "B"),
        ("### Answer:\n\nB", "B"),
        ("Answer: [B]", "B"),
        ("Answer: <B>", "B"),
        ("Answer: $\\boxed{B}$", "B"),
        ("Answer: \\text{B}", "B"),
        ("Answer: Option B", "B"),
        ("Answer: option (B)", "B"),
        ("Answer\uff1aB", "B"),
        ("Answer: \uff22", "B"),
        ("Final Answer: B", "B"),
        ("The answer is: C", "C"),
        ("The correct answer is C.", "C"),
        ("the answer is **(C)**", "C"),
        ("Answer: B) New York", "B"),
        ("Answer: B. New York", "B"),
        ("Answer: B: New York", "B"),
        ("Answer: B New York", "B"),
        ("Answer: (B) New York", "B"),
        ("Answer: B - New York", "B"),
        ("Answer: B, because the others are not on that coast.", "B"),
        ("Answer: B because it is larger", "B"),
        ("Answer: A is correct", "A"),
        ("Answer: B\n\nExplanation: A is wrong since ...", "B"),
        ("Let me think. A is far, B is near.\nAnswer: B", "B"),
        ("Answer: B. This answer is correct because of the river.", "B"),
        # the last statement counts
        ("Answer: A\nNo, wait.\nAnswer: C", "C"),
        ("First answer: A. Final answer: C", "C"),
        ("Answer: B\nAnswer: B\nAnswer:", "B"),
        # base models run on into a question of their own
        ("Answer: B\n\nQuestion: What is the capital of Spain?\nOptions:\nA. Madrid\nAnswer: A", "B"),
        ("Question: Which city?\nAnswer: B", "B"),
        # the option's own words, though a letter was asked for
        ("Answer: Rome", "D"),
        ("Answer: new york", "B"),
        ("Answer: New York City", "C"),
        ("Answer: New York City is the largest", "C"),
        ("Answer: York, in the north", "A"),
        # without a marker only what is nothing but an answer
        ("B", "B"),
        ("B.", "B"),
        ("(b)", "B"),
        ("**B**", "B"),
        ("B) New York", "B"),
        ("B. New York", "B"),
        ("**B. New York**", "B"),
        ("B. The river is the reason.", "B"),
        ("Rome", "D"),
        ("Rome. It was the first.", "D"),
        # chatter, echoes and contradictions
        ("A rise in prices made it so.", None),
        ("A", "A"),
        ("Answer: A rise in prices", None),
        ("Answer: a small town", None),
        ("I think that it depends.", None),
        ("B is what I would say if I had to guess, or C", None),
        ("Answer: A, B, C or D", None),
        ("Answer: A and B", None),
        ("Answer: A/B", None),
        ("Answer: B or C", None),
        ("Answer: B, C", None),
        ("Answer: York, New York, New York City, Rome", None),
        ("Answer: New York or Rome", None),
        ("A. York\nB. New York\nC. New York City\nD. Rome", None),
        ("A. York B. New York C. New York City D. Rome", None),
        ("Answer:\nA. York\nB. New York\nC. New York City\nD. Rome", None),
        ("Answer: A. Rome", None),
        ("Answer: LETTER", None),
        ("Answer: LETTER, where LETTER is the letter of your option.", None),
        ("Answer: F", None),
        ("Answer: A+", None),
        ("Answer: A-level", None),
        ("Answer: B12", None),
        ("Answer: D.C.", None),
        ("Answer: I'm not sure", None),
        ("Answer: none of these", None),
        ("Answer: \u00df", None),  # its upper case has two letters
        ("Answer: Paris", None),
        ("Yorkshire", None),
        ("Answer: Yorkshire", None),
        ("Options: York, Rome", None),
    ],
)
def test_a_letter_is_read_from_what_models_write(text: str, letter: str | None) -> None:
    assert value(text, CITIES, LETTER) == letter


@pytest.mark.parametrize(
    ("text", "row", "letter"),
    [
        ("Answer: Parks", TEAMS, "C"),
        ("answer: parks.", TEAMS, "C"),
        ("**Answer:** **Parks**", TEAMS, "C"),
        ("Answer: 'Parks'", TEAMS, "C"),
        ("Answer: Parks team", TEAMS, "C"),
        ("Answer: Parks\n\nThe message is about a tree.", TEAMS, "C"),
        ("Parks", TEAMS, "C"),
        ("Parks. The message is about a tree.", TEAMS, "C"),
        ("Answer: C", TEAMS, "C"),
        ("Answer: C. Parks", TEAMS, "C"),
        ("Answer: Roads, Water, Parks, Waste, Permits, Housing", TEAMS, None),
        ("Roads, Water, Parks, Waste, Permits, Housing", TEAMS, None),
        ("Roads\nWater\nParks", TEAMS, None),
        ("Answer: Roads/Water", TEAMS, None),
        ("Answer: Roads and Water", TEAMS, None),
        ("Answer: OPTION", TEAMS, None),
        ("Options: Roads, Water, Parks", TEAMS, None),
        ("Parks and roads are both maintained by the town.", TEAMS, None),
        ("Yes, I can help you with that!", YES_NO, None),
        ("No problem, let me look at it.", YES_NO, None),
        ("Answer: Yes, the effect was significant.", YES_NO, "A"),
        ("Answer: yes or no", YES_NO, None),
        ("Answer: Nothing", YES_NO, None),
        # words of an option that look like a letter or a number
        ("Answer: C", GASES, "A"),
        ("Answer: CO", GASES, "D"),
        ("Answer: O_{2}", GASES, "C"),
        ("Answer: Rr", GENES, "C"),
        ("Answer: rr.", GENES, "B"),
        ("Answer: RR", GENES, "D"),
        ("Answer: rR", GENES, None),
        ("Answer: 12", DIGITS, "B"),
        ("Answer: 12.", DIGITS, "B"),
        ("Answer: 1.5", DIGITS, None),
        ("Answer: 1,000", DIGITS, None),
        ("Answer: 1 000", DIGITS, None),
        ("Answer: 1/2", DIGITS, None),
        ("Answer: 28%", DIGITS, None),
    ],
)
def test_an_option_s_words_are_read_from_what_models_write(text: str, row: Row, letter: str | None) -> None:
    assert value(text, row, WORDS) == letter


def test_a_letter_that_is_an_option_s_own_words_is_read_as_it_was_asked_for() -> None:
    """Options C, NO2, O2, CO: asked for a letter, `C` is the third; asked for the words, it is the first."""
    assert value("Answer: C", GASES, LETTER) == "C"
    assert value("Answer: C. O_{2}", GASES, LETTER) == "C"
    assert value("Answer: C", GASES, WORDS) == "A"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Answer: 42", "42"),
        ("Answer: 42.", "42"),
        ("**Answer:** 42", "42"),
        ("Answer: **42**", "42"),
        ("Answer: \\boxed{42}", "42"),
        ("Answer: $\\frac{1}{4}$", "0.25"),
        ("Answer: 1/4", "0.25"),
        ("Answer: 1/3", "0.333333"),
        ("Answer: 1/0", None),
        ("Answer: $1,234.50", "1234.5"),
        ("Answer: 1,234,567", "1234567"),
        ("Answer: 1,234, since", "1234"),
        ("Answer: 1{,}234", "1234"),
        ("Answer: 1\u202f234", "1234"),
        ("Answer: \u20ac 5", "5"),
        ("Answer: US$5", "5"),
        ("Answer: 12.50%", "12.5"),
        ("Answer: -3", "-3"),
        ("Answer: \u22123", "-3"),
        ("Answer: - 3", "-3"),
        ("Answer: -$3.20", "-3.2"),
        ("Answer: $-3.20", "-3.2"),
        ("Answer: +7", "7"),
        ("Answer: -0", "0"),
        ("Answer: 0.0", "0"),
        ("Answer: .5", "0.5"),
        ("Answer: 007", "7"),
        ("Answer: 1e3", "1000"),
        ("Answer: 1.5E-3", "0.0015"),
        ("Answer: 1.5 x 10^3", "1500"),
        ("Answer: 1.5 \\times 10^{3}", "1500"),
        ("Answer: 6.02\u00d710^23", "6.02E+23"),
        ("Answer: 3 + 4 = 7", "7"),
        ("Answer: x = 5", "5"),
        ("Answer: about 5 dollars", "5"),
        ("Answer: 5 apples", "5"),
        ("Answer: 5km", "5"),
        ("The answer is 5.", "5"),
        ("We have 3 and 4.\nAnswer: 7\n", "7"),
        ("Answer: The total is 15 dollars.", "15"),
        ("42", "42"),
        ("$42.", "42"),
        ("-7 %", "-7"),
        # not one clear number
        ("Answer: In 2023 the total was 5,600", None),
        ("Answer: 3-5", None),
        ("Answer: 3 to 5", None),
        ("Answer: 3 or 4", None),
        ("Answer: 3, 4", None),
        ("Answer: 3 + 4", None),
        ("Answer: 1 1/2", None),
        ("Answer: 37,7", None),
        ("Answer: 1.234.567", None),
        ("Answer: 12/31/2024", None),
        ("Answer: 10:30", None),
        ("Answer: VALUE, where VALUE is a number.", None),
        ("Answer: infinity", None),
        ("Answer: 1e999", None),
        ("Answer: 1e99999999999", None),
        ("Answer: A7", None),
        # chatter
        ("Let me see, 3 apples and 4 apples make", None),
        ("3 apples and 4 apples make 7", None),
        ("Answer 2 is right", None),
        ("There are 12 months.", None),
    ],
)
def test_a_number_is_read_from_what_models_write(text: str, number: str | None) -> None:
    assert value(text, FREE, NUMBER) == number


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Answer: Paris", "paris"),
        ("Answer: \u201cParis\u201d.", "paris"),
        ("**Answer:** The  Hague", "the hague"),
        ("Answer: Paris\nIt is in France.", "paris"),
        ("Thinking aloud ...\nAnswer: Paris", "paris"),
        ("Answer: \uff30aris", "paris"),
        ("Answer: STRASSE", "strasse"),
        ("Answer: Stra\u00dfe", "strasse"),
        ("Paris", None),  # free text needs the marker: any chatter would be an answer
        ("Sure! Let me think about that step by step.", None),
        ("Answer: VALUE", None),
        ("Answer: ...", None),
        ("Answer: I'm sorry, I can't say.", None),
    ],
)
def test_free_text_is_read_after_its_marker_only(text: str, folded: str | None) -> None:
    assert value(text, FREE, TEXT) == folded


@pytest.mark.parametrize(
    ("text", "truncated", "reason"),
    [
        ("", False, NoAnswer.EMPTY),
        (" \n\t ", False, NoAnswer.EMPTY),
        ("", True, NoAnswer.EMPTY),
        ("Let us consider each of the", True, NoAnswer.TRUNCATED),
        ("Answer:", True, NoAnswer.TRUNCATED),
        ("Answer:", False, NoAnswer.UNPARSEABLE),
        ("Hello there", False, NoAnswer.UNPARSEABLE),
        ("I'm sorry, but I can't help with that.", False, NoAnswer.REFUSED),
        ("I cannot answer this.", False, NoAnswer.REFUSED),
        ("As an AI language model, I have no opinion.", False, NoAnswer.REFUSED),
        ("Answer: I don\u2019t know", False, NoAnswer.REFUSED),
    ],
)
@pytest.mark.parametrize("task", [LETTER, WORDS, NUMBER, TEXT])
def test_no_answer_is_a_typed_state(text: str, truncated: bool, reason: NoAnswer, task: Task) -> None:
    assert parse(text, CITIES, task, truncated=truncated) is reason


@pytest.mark.parametrize(
    ("text", "task", "expected"),
    [
        ("Answer: 12", NUMBER, None),  # of 1234
        ("Answer: 12 apples, since", NUMBER, "12"),
        ("Answer: 12\nSince", NUMBER, "12"),
        ("Answer: New", WORDS, None),
        ("Answer: New York", WORDS, None),  # of New York City
        ("Answer: New York. The", WORDS, "B"),
        ("Answer: Rome", WORDS, "D"),
        ("Answer: B", LETTER, "B"),
        ("Answer: Par", TEXT, None),  # of Paris
        ("Answer: Paris\nIt is", TEXT, "paris"),
    ],
)
def test_a_response_that_was_cut_off_gives_no_answer_that_more_tokens_could_change(
    text: str, task: Task, expected: str | None
) -> None:
    assert value(text, CITIES, task, truncated=True) == expected


@pytest.mark.parametrize(
    ("written", "row", "task", "canonical"),
    [
        ("B", CITIES, LETTER, "B"),
        ("b.", CITIES, WORDS, "B"),
        ("(B)", CITIES, LETTER, "B"),
        ("New York", CITIES, LETTER, "B"),
        ("new york", CITIES, WORDS, "B"),
        ("E", CITIES, LETTER, None),
        ("Paris", CITIES, LETTER, None),
        ("Answer: B", CITIES, LETTER, None),
        ("A rise", CITIES, LETTER, None),
        ("2", CITIES, LETTER, "B"),  # ARC counts some options from 1
        ("12", DIGITS, LETTER, "B"),  # but an option's words are meant where there are such
        ("C", GASES, LETTER, "C"),  # a lone letter is a label (ARC: O_{2} is right)
        ("C", GASES, WORDS, "C"),
        ("Rr", GENES, WORDS, "C"),
        ("$1,234.50", FREE, NUMBER, "1234.5"),
        ("n/a", FREE, NUMBER, None),
        (" The Hague. ", FREE, TEXT, "the hague"),
        ("Value", FREE, TEXT, "value"),
        ("...", FREE, TEXT, None),
    ],
)
def test_an_answer_in_a_data_file_gets_its_canonical_form(written: str, row: Row, task: Task, canonical: str | None) -> None:
    assert canonical_answer(written, row, task) == (None if canonical is None else Answer(canonical))


# ---------------------------------------------------------------- comparison


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("1", "1.01", True),  # |1 - 1.01| = 0.01 = 1e-2 * max(1, 1.01) but for rounding
        ("0", "0.009", True),  # absolute below 1
        ("0", "0.02", False),
        ("0.001", "0.002", True),  # relatively far, absolutely near
        ("99", "100", True),  # 1 <= 1e-2 * 100
        ("98", "100", False),
        ("-5", "5", False),
        ("1000000", "1009999", True),
        ("1", "1E+300", False),
    ],
)
def test_numbers_agree_within_the_tolerance_relative_and_below_one_absolute(a: str, b: str, same: bool) -> None:
    assert equal(Answer(a), Answer(b), NUMBER) is same


def test_letters_and_texts_agree_exactly() -> None:
    assert equal(Answer("A"), Answer("A"), LETTER)
    assert not equal(Answer("A"), Answer("B"), LETTER)
    assert not equal(Answer("1"), Answer("1.001"), TEXT)


# ---------------------------------------------------------------- properties

words = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=30).filter(
    lambda text: bool(text.strip())
)
option_lists = st.lists(words.map(str.strip), min_size=2, max_size=26, unique_by=lambda text: " ".join(text.split()))


@given(option_lists, st.data(), st.sampled_from([AnswerForm.LETTER, AnswerForm.TEXT]))
def test_the_target_text_of_any_option_is_read_back_as_that_option(
    options: list[str], data: st.DataObject, form: AnswerForm
) -> None:
    row, task = Row("r", "q", tuple(options)), Task(TaskType.CHOICE, form)
    answer = Answer(chr(ord("A") + data.draw(st.integers(0, len(options) - 1))))
    said = target_text(answer, row, task)
    assert parse(said, row, task) == answer


@given(option_lists, st.data())
def test_a_canonical_letter_stays_what_it_is_whatever_the_options_read(options: list[str], data: st.DataObject) -> None:
    letter = chr(ord("A") + data.draw(st.integers(0, len(options) - 1)))
    for task in (LETTER, WORDS):
        assert canonical_answer(letter, Row("r", "q", tuple(options)), task) == Answer(letter)


@given(st.text(max_size=80), option_lists, st.sampled_from([LETTER, WORDS, NUMBER, TEXT]), st.booleans())
def test_any_text_gives_an_answer_that_is_canonical_or_a_reason(
    text: str, options: list[str], task: Task, truncated: bool
) -> None:
    row = Row("r", "q", tuple(options))
    for said in (text, f"Answer: {text}"):
        answer = parse(said, row, task, truncated=truncated)
        if isinstance(answer, Answer):
            assert canonical_answer(answer.value, row, task) == answer


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6))
def test_the_target_text_of_any_number_is_read_back_as_that_number(number: object) -> None:
    answer = canonical_answer(str(number), FREE, NUMBER)
    assert answer is not None
    assert math.isclose(float(answer.value), float(str(number)), rel_tol=1e-12, abs_tol=1e-12)
    assert parse(target_text(answer, FREE, NUMBER), FREE, NUMBER) == answer


answers = st.one_of(st.sampled_from(list(NoAnswer)), st.sampled_from("ABCD").map(Answer))


@given(answers, answers)
def test_agreement_on_choices_is_symmetric(a: Answer | NoAnswer, b: Answer | NoAnswer) -> None:
    assert equal(a, b, LETTER) == equal(b, a, LETTER)


@given(answers, st.sampled_from(list(NoAnswer)), st.sampled_from([LETTER, WORDS, NUMBER, TEXT]))
def test_no_answer_agrees_with_nothing(a: Answer | NoAnswer, b: NoAnswer, task: Task) -> None:
    assert not equal(a, b, task)
    assert not equal(b, a, task)


@given(st.text(max_size=60))
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)


tricky = st.text("aAbB*_ .,:()[]-+12/Iansweri", min_size=1, max_size=8).map(str.strip).filter(bool)


@given(
    st.lists(tricky | st.just("The answer: 1"), min_size=2, max_size=6, unique_by=lambda text: " ".join(text.split())), st.data()
)
def test_options_that_look_like_markup_letters_or_markers_are_told_apart(options: list[str], data: st.DataObject) -> None:
    row, index = Row("r", "q", tuple(options)), data.draw(st.integers(0, len(options) - 1))
    for task in (LETTER, WORDS):
        answer = Answer(chr(ord("A") + index))
        assert parse(target_text(answer, row, task), row, task) == answer


@pytest.mark.parametrize(
    "piece", ["*", " ", "\n", "`", "Answer:", "answer ", "A. ", "1,", "1/", "-", "(", "Question:\n", "\n \n", "York, "]
)
def test_a_long_and_odd_response_is_read_in_no_time(piece: str) -> None:
    """20 000 characters, about what 4096 tokens can be."""
    text = piece * (20_000 // len(piece))
    started = time.perf_counter()
    for task in (LETTER, WORDS, NUMBER, TEXT):
        parse(text, CITIES, task)
        parse(f"Answer: {text}x", CITIES, task)
    assert time.perf_counter() - started < 2
