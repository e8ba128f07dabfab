"""What a training says while it works: bars for a person, or JSON lines for the program that started it."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ...debias.core.error import named
from ..loop.progress_bars import image_progress, steps_progress, work_progress
from .options import as_given

if TYPE_CHECKING:
    from ..data.group_images import Grouping

TITLES = {
    "cache": "Encoding images",
    "own": "Making the base's own images",
    "groups": "Finding groups",
    "base": "Looking at what the base makes",
    "prompts": "Looking at each prompt",
    "calibration": "Calibrating α",
    "sampling": "Making images to measure",
    "looking": "Looking at the images",
}
# Seconds between two lines of one phase; its last one is always said.
PAUSE = 0.2


class Reporter:
    """Told what happens in a training; this one keeps it to itself."""

    def note(self, text: str, *options: str) -> None:
        """Say a sentence, and which options it is about."""

    def stopped(self, step: int, steps: int, checkpoint: Path) -> None:
        """Say where a training stands that was stopped."""
        self.note(
            f"Stopped at step {step} of {steps}; the state is kept in {checkpoint}. Start it again to resume.", "resume"
        )

    @contextmanager
    def images(self, phase: str) -> Iterator[Callable[[float, int], None]]:
        """Begin a phase of `TITLES`; gives a function to call with (done, total)."""
        yield lambda done, total: None

    @contextmanager
    def work(self) -> Iterator[Callable[[str, int, int], None]]:
        """Begin work of several parts; gives a function to call with (what, done, total)."""
        yield lambda what, done, total: None

    @contextmanager
    def steps(self) -> Iterator[Callable[..., None]]:
        """Begin the training; gives a function to call with (step, steps, loss, ess=None, learning_rate=None)."""
        yield lambda step, steps, loss, ess=None, learning_rate=None: None

    def groups(self, grouping: "Grouping") -> None:
        """Say which groups were found."""

    def preview(self, file: Path, step: int) -> None:
        """Say where the preview of a step is."""

    def result(self, values: Mapping[str, Any]) -> None:
        """Say what was made."""


class TerminalReporter(Reporter):
    """Bars and sentences on stderr, so that stdout stays free for results."""

    def note(self, text: str, *options: str) -> None:
        """Say a sentence, and which options it is about."""
        typer.echo(named(text, options, as_given), err=True)

    def images(self, phase: str) -> AbstractContextManager[Callable[[float, int], None]]:
        """A bar for a phase of `TITLES`; gives a function to call with (done, total)."""
        return image_progress(TITLES[phase])

    def work(self) -> AbstractContextManager[Callable[[str, int, int], None]]:
        """A bar for each part; gives a function to call with (what, done, total)."""
        return work_progress()

    def steps(self) -> AbstractContextManager[Callable[..., None]]:
        """A bar for training; gives a function to call with (step, steps, loss, ess=None, learning_rate=None)."""
        return steps_progress("Training")

    def groups(self, grouping: "Grouping") -> None:
        """Say which groups were found."""
        for part in grouping.groups:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(part.names, part.shares, strict=True))
            self.note(f"Groups ({part.source}): {shares}")

    def preview(self, file: Path, step: int) -> None:
        """Say where the preview of a step is."""
        self.note(f"Preview of step {step}: {file}")


class JSONReporter(Reporter):
    """One JSON object in a line of stdout for each thing that happens.

    Lines have a `phase` (cache, own, groups, base, prompts, training, calibration, sampling, looking) with `done`,
    `total` and `seconds_left`, and while training `loss`, `ess` and `learning_rate` (null where there is none); or one
    of the keys `note` (with `options`, the fields of `TrainConfig` that it is about), `groups`, `preview` (a file, with
    its `step`) and `result`.
    """

    def note(self, text: str, *options: str) -> None:
        """Say a sentence, and which options it is about."""
        self._say({"note": text, "options": options})

    @contextmanager
    def images(self, phase: str) -> Iterator[Callable[[float, int], None]]:
        """Lines of a phase; gives a function to call with (done, total)."""
        yield self._phase(phase)

    @contextmanager
    def work(self) -> Iterator[Callable[[str, int, int], None]]:
        """Lines of the phase groups, whose parts are timed each by itself."""
        parts: dict[str, Callable[..., None]] = {}

        def report(what: str, done: int, total: int) -> None:
            parts.setdefault(what, self._phase("groups"))(done, total)

        yield report

    @contextmanager
    def steps(self) -> Iterator[Callable[..., None]]:
        """Lines of the training; gives a function to call with (step, steps, loss, ess=None, learning_rate=None)."""
        phase = self._phase("training")
        yield lambda step, steps, loss, ess=None, learning_rate=None: phase(
            step, steps, loss=loss, ess=ess, learning_rate=learning_rate
        )

    def groups(self, grouping: "Grouping") -> None:
        """Say which groups were found, and what their shares shall be."""
        found = [
            {
                "name": part.source,
                "groups": [
                    {"name": name, "share": round(float(share), 4), "target": round(float(wanted), 4)}
                    for name, share, wanted in zip(part.names, part.shares, goal.shares, strict=True)
                ],
            }
            for part, goal in zip(grouping.groups, grouping.targets, strict=True)
        ]
        self._say({"groups": found})

    def preview(self, file: Path, step: int) -> None:
        """Say where the preview of a step is."""
        self._say({"preview": str(file), "step": step})

    def result(self, values: Mapping[str, Any]) -> None:
        """Say what was made."""
        self._say({"result": values})

    def _phase(self, name: str) -> Callable[..., None]:
        # The speed is that of this process: a resumed run begins in the middle.
        began, first, said = time.monotonic(), None, 0.0

        def report(done: float, total: int, **figures: float | None) -> None:
            nonlocal first, said
            now = time.monotonic()
            first = (now, done) if first is None else first
            if now - said < PAUSE and done < total and said > began:
                return
            said = now
            speed = (done - first[1]) / max(now - first[0], 1e-6)
            left = round((total - done) / speed, 1) if speed > 0 else None
            self._say({"phase": name, "done": done, "total": total, "seconds_left": left, **figures})

        return report

    def _say(self, values: Mapping[str, Any]) -> None:
        # Whether or not somebody still listens, the state must be kept.
        with suppress(OSError):
            print(json.dumps(values, ensure_ascii=False), flush=True)
