"""Work in the background of a host: a thread that can be asked how it goes, and to stop."""

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..debias.core.error import DDMError, reason_of
from .progress_panel import TrainPanel
from .trainer_process import Trainer


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

    def wait(self, seconds: float) -> bool:
        """Wait for the end, but no longer than so many seconds; returns whether it still works."""
        self._thread.join(seconds)
        return self._thread.is_alive()

    @property
    def running(self) -> bool:
        """Whether it still works."""
        return self._thread.is_alive()


class BackgroundTraining(Background):
    """One run of the trainer; what was trained is kept when it is cancelled.

    Attributes:
        panel: its state, kept up to date.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        panel: TrainPanel,
        finish: Callable[[TrainPanel], None],
        occupy: Callable[[], AbstractContextManager] = nullcontext,
    ):
        """Prepare it; `start` begins.

        Args:
            config: see `hosts.train_inputs.train_config`.
            panel: a new one.
            finish: called with the panel when the adapter is there.
            occupy: a context for as long as the trainer works, such as one in which the host's model is put away.
        """
        super().__init__(self._work, "ddm-train")
        self.panel = panel
        self._config, self._finish, self._occupy = config, finish, occupy

    def _work(self) -> None:
        try:
            with self._occupy(), Trainer(self._config) as trainer:
                for event in trainer.events():
                    if self.cancelled.is_set():
                        break
                    if event is not None:
                        self.panel.take(event)
            if self.cancelled.is_set():
                self.panel.stop(trainer.kept)
            else:
                self._finish(self.panel)
        except DDMError as error:
            self.panel.fail(error)
        except Exception as error:  # nobody else would ever see it
            self.panel.fail(DDMError(f"The training ended with an error of the host: {reason_of(error)}"))
