"""The program that started the trainer: when it closes our standard input, or dies, the trainer stops."""

import _thread
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

import typer

# Seconds within which a stopped trainer must have kept its state: it asks between few images, but a CPU may be slow.
GRACE = 120
# Exit codes of a trainer that was stopped: with its state kept, and without, since it did not get so far in time.
STOPPED, CUT_OFF = 130, 137


def stop_with_parent() -> None:
    """Stop as at Ctrl-C as soon as standard input ends. A closed pipe says it on every system, a signal does not."""
    # Whoever starts a program in the background may have told it to ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_wait_for_end, args=(sys.stdin.fileno(),), name="parent", daemon=True).start()


def leave(code: int) -> NoReturn:
    """End at once: what counts is on disk, and to take down all that is loaded would take a second."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody listens any more
            stream.flush()
    os._exit(code)


def end_stopped(at_once: bool) -> NoReturn:
    """End a command that was stopped and has kept its state.

    Args:
        at_once: another program waits for the end; see `leave`.
    """
    if at_once:
        leave(STOPPED)
    raise typer.Exit(STOPPED)


def _wait_for_end(descriptor: int) -> None:
    # Not `sys.stdin.read`: its lock, held while Python ends, is a fatal error.
    with suppress(OSError):
        while os.read(descriptor, 1 << 16):
            pass
    _thread.interrupt_main()
    time.sleep(GRACE)
    os._exit(CUT_OFF)
