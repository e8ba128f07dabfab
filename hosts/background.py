"""Work in the background of a host: a thread that can be asked how it goes, and to stop."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

from ..debias.core.error import DDMError, reason_of
from .progress_panel import TrainPanel
from .trainer_process import Command, Trainer


class Background:
    """Work that goes on while nobody looks.

    Args:
        work: called in a thread of its own, until it returns or notices `cancelled`; it raises nothing.
        name: of the thread.
    """

    def __init__(self, work: Callable[[], None], name: str):
        self.cancelled = threading.Event()
        self._thread = threading.Thread(target=work, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def cancel(self) -> None:
        """Ask it to stop."""
        self.cancelled.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, but no longer than so many seconds; returns whether it still works."""
        self._thread.join(seconds)
        return self._thread.is_alive()

    def follow(self, seconds: float) -> Iterator[None]:
        """Come back every so many seconds while it works, and once at its end."""
        while self.wait(seconds):
            yield
        yield

    @property
    def running(self) -> bool:
        """Whether it still works."""
        return self._thread.is_alive()


class BackgroundTraining(Background):
    """One run of the trainer; what was trained is kept when it is cancelled.

    Attributes:
        panel: its state, kept up to date.
        error: why it ended, if it failed.
    """

    def __init__(
        self,
        command: Command,
        panel: TrainPanel,
        finish: Callable[[TrainPanel], None],
        occupy: Callable[[], AbstractContextManager] = nullcontext,
        tell: Callable[[bool], None] = lambda urgent: None,
    ):
        """Prepare it; `start` begins.

        Args:
            command: see `Trainer`.
            panel: a new one.
            finish: called with the panel when what was trained is there.
            occupy: a context for as long as the trainer works, such as one in which the host's model is put away.
            tell: called whenever the panel has changed, with whether that is more than a number.
        """
        super().__init__(self._work, "ddm-train")
        self.panel = panel
        self.error: DDMError | None = None
        self._command, self._finish, self._occupy, self._tell = command, finish, occupy, tell

    def _work(self) -> None:
        self._tell(True)
        try:
            with self._occupy(), Trainer(self._command) as trainer:
                for event in trainer.events():
                    if self.cancelled.is_set():
                        break
                    if event is not None:
                        before = self.panel.values["phase"]
                        self.panel.take(event)
                        self._tell("phase" not in event or event["phase"] != before)
            if self.cancelled.is_set():
                self.panel.stop(trainer.kept)
            else:
                self._finish(self.panel)
        except DDMError as error:
            self._fail(error)
        except Exception as error:  # nobody else would ever see it
            self._fail(DDMError(f"The training ended with an error of the host: {reason_of(error)}"))
        self._tell(True)

    def _fail(self, error: DDMError) -> None:
        self.error = DDMError(self.panel.fail(error))
