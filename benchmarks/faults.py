"""Injects every fault that users and machines come up with, and says what came of it.

    python -m benchmarks.faults [--only WORDS] [--write docs/faults.md]

Each fault is a case of tests/faults, through the real command line; models are fakes. The table is Markdown, on stdout or in a file; with --only,
the rows of the other cases stay in the file as they are. The exit code is 1 if one outcome was not as promised. tests/integration/test_bad_input.py
runs the same cases.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.faults.all import CASES
from tests.faults.bench import Case, Ended, Place, half_written, served

INTRODUCTION = """\
# Faults

What is injected, and what comes out. Made by `python -m benchmarks.faults --write docs/faults.md`; `tests/integration/test_bad_input.py` runs the
same cases. Every case goes through the real command line, most against all seven services with fake models. Of each it is checked that the exit
code is the promised one, that the message has at most six lines, says what it has to and shows no traceback, that no valid manifest stands
over bad bytes and no half-written file is left, and that the next good run in the same home works.

Servers elsewhere are taken away while a step is at work, and brought back for the same command: a double of text-embeddings-inference, one of an
OpenAI-compatible endpoint, a real Milvus 2.3.5 and a real MinIO. Of the writes of a run in one shard (fsync, link and rename are counted) every one
fails once. What comes after a manifest has its name, the sync of its directory and the record of the attempt, is swept over the steps: the
first of these writes fails in one step, the next in another. That is why fewer are named than are made.

Of access, every method of the controller and of the router is called with something wrong, one that does not exist and reflection among them, beside
the command; and with all that is right, so that a door that refuses everybody is no success.
"""
_MOST_LETTERS = 150
_WRONG = "WRONG: "


def outcome(case: Case, place: Place) -> tuple[Ended | None, list[str]]:
    """How it ended, and what is wrong about it."""
    place.reset()
    try:
        ended = case.inject(place)
    except AssertionError as error:
        return None, [str(error) or "an assertion failed"]
    wrong = case.wrong(ended) + half_written(place.home)
    if case.uses_the_place:
        wrong += place.next_good_run()
    return ended, wrong


Row = tuple[str, str]  # a case's group and name, as the table has them


def rows(cases: Sequence[Case], place: Place) -> Iterator[tuple[Row, str]]:
    """(which row, its line of the table), one by one."""
    for case in cases:
        started = time.monotonic()
        ended, wrong = outcome(case, place)
        print(
            f"{time.monotonic() - started:6.1f} s  {'ok' if not wrong else 'WRONG'}  {case.group}: {case.name}",
            file=sys.stderr,
            flush=True,
        )
        code = "" if ended is None else {-9: "killed"}.get(ended.code, str(ended.code))
        came = _shown(case, ended, place) if not wrong else f"{_WRONG}{'; '.join(wrong)}"
        yield row_of(case), f"| {_cell(case.name)} | {code} | {_cell(came)} |"


def row_of(case: Case) -> Row:
    return case.group, _cell(case.name)


def written_rows(text: str) -> dict[Row, str]:
    """The rows of a table that was written before."""
    found, group = {}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ")
        elif line.startswith("| ") and group:
            found[group, line.removeprefix("| ").partition(" | ")[0]] = line
    return found


def rendered(lines: Mapping[Row, str], cases: Sequence[Case]) -> tuple[str, bool]:
    """(the page with these rows in the order of the cases, whether all is as promised)."""
    parts, group = [INTRODUCTION.rstrip("\n")], ""
    shown = [row_of(case) for case in cases if row_of(case) in lines]
    for row in shown:
        if row[0] != group:
            group = row[0]
            parts.append(f"\n## {group}\n\n| fault | exit code | what came out |\n|---|---|---|")
        parts.append(lines[row])
    right = sum(f" | {_WRONG}" not in lines[row] for row in shown)
    parts.append(f"\nAs promised: {right} of {len(shown)}.\n")
    return "\n".join(parts), right == len(shown)


def _shown(case: Case, ended: Ended | None, place: Place) -> str:
    """What was counted, else the message's first line."""
    assert ended is not None
    if ended.figure:
        return ended.figure
    if not ended.message:
        return "read as it is" if case.group == "Data files" else "done"
    text = " ".join(
        line.strip().removeprefix("Error: ") for line in ended.message if not line.startswith(("Next:", "Usage:", "Try"))
    )
    return text.replace(f"{place.directory}/", "").replace(str(place.directory), "")


def _cell(text: str) -> str:
    text = " ".join(text.replace("|", "\\|").split())
    return text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 3] + "..."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose group or name contains this")
    parser.add_argument("--write", type=Path, help="a file for the table, in place of stdout")
    arguments = parser.parse_args()
    chosen = [case for case in CASES if arguments.only.lower() in f"{case.group} {case.name}".lower()]
    old = written_rows(arguments.write.read_text()) if arguments.only and arguments.write and arguments.write.exists() else {}
    with tempfile.TemporaryDirectory(prefix="semievol-faults-") as scratch, served(Path(scratch, "place")) as place:
        made = dict(rows(chosen, place))
    text, _ = rendered(old | made, CASES)
    if arguments.write:
        arguments.write.write_text(text)
    else:
        print(text, end="")
    _, fine = rendered(made, chosen)
    sys.exit(not fine)


if __name__ == "__main__":
    main()
