"""Sizes that both ends of a call have to agree on."""

MAX_MESSAGE_BYTES = 32 * 1024 * 1024  # pages are 64 KiB to 1 MiB; gRPC's own 4 MiB is too near
MAX_PAGE_ROWS = 1024  # rows, prompts or texts in one call
