"""One thread for the CPU's tensor work, whoever asks for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from semievol.common.cpu_lane import lane_of, on_cpu_lane


def test_work_of_all_threads_runs_on_one() -> None:
    with ThreadPoolExecutor(4) as threads:
        names = set(threads.map(lambda _: on_cpu_lane(lambda: threading.current_thread().name), range(40)))
    assert names == {"cpu-lane"}


def test_work_on_the_lane_may_ask_for_the_lane() -> None:
    assert on_cpu_lane(lambda: on_cpu_lane(lambda: threading.current_thread().name)) == "cpu-lane"


def test_an_error_reaches_whoever_asked_and_the_lane_goes_on() -> None:
    with pytest.raises(ZeroDivisionError):
        on_cpu_lane(lambda: 1 // 0)
    assert on_cpu_lane(lambda: 1) == 1


def test_a_gpu_orders_its_own_work() -> None:
    assert lane_of("cuda")(lambda: threading.current_thread()) is threading.current_thread()
