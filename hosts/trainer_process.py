"""The trainer in a process of its own, as hosts start it: what it is told, what it says, and how it is stopped."""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, NamedTuple

from ..debias.adapter.lora_file import AdapterCard
from ..debias.core.error import DDMError
from ..debias.core.io import read_metadata, write_text
from ..training.commands.config_file import write_config
from ..training.commands.parent_process import CUT_OFF, GRACE, STOPPED

COMMAND = Path(__file__).resolve().parent.parent / "training" / "__main__.py"
# Seconds between two looks for a cancel.
TICK = 0.02
# Seconds that a stopped trainer has to end, longer than it gives itself; and those that its last words may take.
PATIENCE, LISTEN = GRACE + 10, 30


class Command(NamedTuple):
    """A command of `ddm`, as it is given to `Trainer`.

    Attributes:
        arguments: its name and arguments.
        paths: files and folders that its messages call by their names alone.
    """

    arguments: Sequence[str]
    paths: Sequence[Path]

    @classmethod
    def of(cls, *arguments: str) -> "Command":
        """A command whose paths are among its arguments, such as `--out=/models/fair.safetensors`."""
        values = (Path(one.partition("=")[2] or one) for one in arguments)
        return cls(arguments, [path for path in values if path.is_absolute()])

    @classmethod
    def train(cls, config: Mapping[str, Any]) -> "Command":
        """`ddm train` with the fields of a `TrainConfig`.

        They are written to a TOML file beside its `checkpoint`, which stays there: it can be given to `ddm train` by
        hand.
        """
        file = toml_of(config["checkpoint"])
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, write_config(config))
        values = [one for value in config.values() for one in (value if isinstance(value, list) else [value])]
        return cls(["train", str(file)], [file, *(one for one in values if isinstance(one, Path) and one.name)])


class Trainer:
    """A command of `ddm` that trains, as a child that ends with us: it stops when its standard input is closed.

    As a context it is always ended: told to stop first, so that it keeps its state, and killed if it does not.

    Args:
        command: what it does.
    """

    def __init__(self, command: Command):
        name, *arguments = command.arguments
        self.paths = command.paths
        # How to say mistakes comes first, so that those in the arguments are said so.
        self.process = subprocess.Popen(
            [sys.executable, str(COMMAND), name, "--progress=json", "--stdin-stops", *arguments],
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
        """What it says, as `JSONReporter` writes it, until it is done; None every fiftieth of a second without any.

        Its sentences call files by their names: where they lie on the machine does not belong into a page.

        Raises:
            DDMError: it failed; with its own sentence, and the options that this is about.
        """
        refused = None
        while True:
            try:
                line = self.lines.get(timeout=TICK)
            except Empty:
                yield None
                continue
            if line is None:
                break
            try:
                event = json.loads(line)
            except ValueError:  # a package that it uses has printed something
                continue
            if "error" in event:
                refused = DDMError(by_name(event["error"], self.paths), *event["options"])
            else:
                if "note" in event:
                    event["note"] = by_name(event["note"], self.paths)
                yield event
        code = self.process.wait()
        if code == 2 and refused:
            raise refused
        if code:
            self.threads[1].join(LISTEN)
            raise DDMError(by_name(sentence("".join(self.errors), code), self.paths))

    @property
    def kept(self) -> bool:
        """Whether it ended in time to keep all that it had trained; to ask once it has ended."""
        return self.process.returncode in (0, STOPPED)

    def stop(self) -> None:
        """End it. It keeps what it has trained (see `kept`), unless it takes too long."""
        if not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for thread in self.threads:
            thread.join(LISTEN)

    def _read_lines(self) -> None:
        with self.process.stdout as lines:
            for line in lines:
                self.lines.put(line)
        self.lines.put(None)

    def _read_errors(self) -> None:
        with self.process.stderr as lines:
            self.errors.extend(lines)


def toml_of(checkpoint: Path) -> Path:
    """The file that says what the run with this checkpoint was asked for."""
    return checkpoint.with_name(f"{checkpoint.name.removesuffix('.checkpoint.safetensors')}.toml")


def by_name(text: str, paths: Iterable[Path]) -> str:
    """A sentence with these files and folders, and what is in them, by their names without their places."""
    for path in sorted(paths, key=lambda one: len(one.parts), reverse=True):
        text = text.replace(str(path), path.name)
    return text


def check_same(out: Path, groups: str | None, settings: Mapping[str, int | None]) -> None:
    """Refuse to write to a file that obviously is of another run; the trainer itself compares everything.

    Raises:
        DDMError: it is, or is no adapter of ours.
    """
    card = AdapterCard.from_metadata(read_metadata(out))
    known = {"groups": card.groups, **card.training} if card else {}
    wanted = {"groups": groups, **settings}
    if card is None or any(value is not None and known.get(key) != value for key, value in wanted.items()):
        what = "was not made by ComfyUI-DDM" if card is None else "was trained with other settings"
        raise DDMError(
            f"There is an adapter called {out.name} already, and it {what}. Choose another name, or switch overwrite "
            "on."
        )


def sentence(errors: str, code: int) -> str:
    """What a user should read of a trainer that ended without a sentence, by exit code and what it wrote to stderr."""
    if code == STOPPED:
        return "The trainer was stopped from outside. What it has trained is kept: start it again to go on."
    last = next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), "")
    if code in (-9, CUT_OFF) or "out of memory" in last.lower() or "OutOfMemory" in last:
        return (
            "The memory ran out while training. Close other programs, or choose a smaller model; what was trained up "
            f"to the last checkpoint is kept. {last}".strip()
        )
    return f"The trainer ended unexpectedly (exit code {code}): {last or 'it said nothing'}"
