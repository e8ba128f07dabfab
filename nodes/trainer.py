"""The trainer in a process of its own: its events, and how it is stopped. Nothing of the host is needed here."""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from ..debias.error import DDMError

COMMAND = Path(__file__).resolve().parent.parent / "training" / "__main__.py"
# Seconds between two looks for a cancel, and those that a stopped trainer has to keep its state.
TICK, PATIENCE = 0.1, 30
SAID = "ddm: "
STOPPED = 130


class Trainer:
    """`ddm train` as a child that ends with us: it stops when its standard input is closed.

    As a context it is always ended: told to stop first, so that it keeps its state, and killed if it does not.
    """

    def __init__(self, arguments: Sequence[str]):
        self.process = subprocess.Popen(
            [sys.executable, str(COMMAND), "train", *arguments, "--progress=json", "--stdin-stops"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONUTF8": "1"},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self.lines: Queue[str | None] = Queue()
        self.errors: deque[str] = deque(maxlen=200)
        self.threads = [Thread(target=one, daemon=True) for one in (self._read_lines, self._read_errors)]
        for thread in self.threads:
            thread.start()

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def events(self) -> Iterator[dict[str, Any] | None]:
        """What it says, as `JSONReporter` writes it, until it is done; None every tenth of a second without any.

        Raises:
            DDMError: it failed; with its own sentence.
        """
        while True:
            try:
                line = self.lines.get(timeout=TICK)
            except Empty:
                yield None
                continue
            if line is None:
                break
            try:
                yield json.loads(line)
            except ValueError:  # a package that it uses has printed something
                continue
        code = self.process.wait()
        if code:
            self.threads[1].join(PATIENCE)
            raise DDMError(sentence("".join(self.errors), code))

    def stop(self) -> None:
        """End it; what it has trained is kept."""
        if not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for thread in self.threads:
            thread.join(PATIENCE)

    def _read_lines(self) -> None:
        with self.process.stdout as lines:
            for line in lines:
                self.lines.put(line)
        self.lines.put(None)

    def _read_errors(self) -> None:
        with self.process.stderr as lines:
            self.errors.extend(lines)


def sentence(errors: str, code: int) -> str:
    """What a user should read of a trainer that ended with an exit code other than 0, by what it wrote to stderr."""
    _, said, text = errors.rpartition(SAID)
    if said and code == 2:
        # The node's own words for two options of the command line.
        return text.strip().replace("--restart", "overwrite switched on").replace("--resume", "the same inputs")
    if code == STOPPED:
        return "The trainer was stopped from outside. What it has trained is kept: queue again to go on."
    last = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "")
    if code in (-9, 137) or "out of memory" in last.lower() or "OutOfMemory" in last:
        return (
            "The memory ran out while training. Close other programs, or choose a smaller model; what was trained up "
            f"to the last checkpoint is kept. {last}".strip()
        )
    return f"The trainer ended unexpectedly (exit code {code}): {last or 'it said nothing'}"
