from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest


@pytest.fixture(scope="module")
def channel(address: str) -> Iterator[grpc.Channel]:
    """To the module's own server. It sends messages of any size, so that it is the server that refuses them."""
    with grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield channel
