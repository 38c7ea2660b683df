"""Parts elsewhere that fail in the middle of a step: a text-embeddings-inference server, a Milvus server, an S3 store.

Each is a `Case` like the others (tests/faults/bench.py): start the real server, begin a run, end the server while a step works, and
say how the command must end. Cases that stand here are in the table of `python -m benchmarks.faults` and in tests/integration/test_bad_input.py.
"""

from __future__ import annotations

from tests.faults.bench import Case

REMOTE_CASES: list[Case] = []
