"""Every fault, in the order of the table."""

from __future__ import annotations

from tests.faults.access import ACCESS_CASES
from tests.faults.files import DATA_CASES, RUN_FILE_CASES
from tests.faults.machine import MACHINE_CASES, STOP_CASES
from tests.faults.models import MODEL_CASES, REPLY_CASES
from tests.faults.remote import REMOTE_CASES
from tests.faults.storage import STORAGE_CASES

CASES = [
    *DATA_CASES,
    *RUN_FILE_CASES,
    *MODEL_CASES,
    *REPLY_CASES,
    *MACHINE_CASES,
    *STOP_CASES,
    *STORAGE_CASES,
    *REMOTE_CASES,
    *ACCESS_CASES,
]
