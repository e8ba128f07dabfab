"""Ctrl-C and the system's request to end, as a question that the loop asks between two steps."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Catch the signals as long as the context lasts; yields a function that says whether one has come."""
    came: list[int] = []
    before = {name: signal.signal(name, lambda number, _: came.append(number)) for name in SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
