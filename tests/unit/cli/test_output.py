"""What services in this process log: a line for people, the whole story where clients know a request's id only."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from semievol.cli import output


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before, root.handlers = root.handlers, []  # what other tests left would be taken as enough
    yield root
    root.handlers = before


@pytest.mark.parametrize("tracebacks", [True, False])
def test_a_server_prints_the_traceback_of_an_error(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], tracebacks: bool
) -> None:
    output.log_to_stderr(tracebacks=tracebacks)
    try:
        raise ZeroDivisionError("by nobody")
    except ZeroDivisionError as error:
        logging.getLogger("semievol.door.guard").error("POST failed, request id 7", exc_info=error)
        logging.getLogger("semievol.door.guard").warning("slow", exc_info=error)
    shown = capsys.readouterr().err
    assert "error: POST failed, request id 7\n" in shown
    assert shown.count("ZeroDivisionError: by nobody") == tracebacks
