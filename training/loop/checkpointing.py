"""Keeps the state of a run on disk: every so many steps or minutes, and when the run ends early."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ...debias.core.error import DDMError, out_of_memory, reason_of
from ...debias.core.io import free_space
from .checkpoint import checkpoint_size, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from .fair_training import FairTraining

# So many steps in a row that are not finite end a run.
MAX_CONSECUTIVE_SKIPS = 10
# A step may take a minute: no more than so many seconds of training are lost, however the run ends.
CHECKPOINT_SECONDS = 300.0


class Checkpointing:
    """Keeps a training's state in a checkpoint.

    Args:
        path: the checkpoint.
        training: whose state it is.
        fingerprint: of everything that the steps depend on.
        every: steps between checkpoints.
    """

    def __init__(self, path: Path, training: "FairTraining", fingerprint: str, every: int):
        self.path, self.training, self.fingerprint, self.every = path, training, fingerprint, every
        self._step, self._time = 0, time.monotonic()  # of what was kept last

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one; tells whether there was. Errors as in `load_checkpoint`."""
        if not self.training.ranks.agreed(self.path.exists):
            return False
        load_checkpoint(self.path, self.training, self.fingerprint)
        self._step = self.training.step
        return True

    def check_room(self, files: Iterable[Path]) -> None:
        """Refuse to begin what could not be kept: two checkpoints for a moment, or one and the files.

        Raises:
            DDMError: a disk has too little room.
        """
        training = self.training
        weights = sum(parameter.nbytes for parameter in training.parameters)
        size = checkpoint_size(training)
        needed = max(size, weights) + (0 if self.path.exists() else size)
        folders = dict.fromkeys(path.absolute().parent for path in (self.path, *files))
        for folder in folders if training.ranks.first else ():
            room = free_space(folder)
            if room < needed:
                raise DDMError(
                    f"The training needs {needed / 2**20:,.0f} MiB in {folder} for its checkpoints and the adapter, "
                    f"and only {room / 2**20:,.0f} MiB are free. Free some space, or choose another place."
                )

    def check(self) -> None:
        """Refuse to go on with what is not finite.

        Raises:
            DDMError: weights are not finite, or the last steps were not.
        """
        import torch

        training = self.training
        finite = torch.stack([value.isfinite().all() for value in training.parameters]).all()
        if not finite or training.consecutive_skips >= MAX_CONSECUTIVE_SKIPS:
            raise DDMError(
                f"Loss or gradients are no longer finite at step {training.step}, and did not recover. Train again "
                f"with a learning rate lower than {training.settings.learning_rate:g}.",
                "learning_rate",
                "restart",
            )

    def keep(self) -> None:
        """Write the checkpoint; a state that is not finite does not replace the last good one. Errors as in `check`."""
        self.check()
        if self.training.ranks.first:
            save_checkpoint(self.path, self.training, self.fingerprint)
        self._step, self._time = self.training.step, time.monotonic()

    def keep_if_due(self) -> None:
        """Write it after so many steps, after so many minutes, and after the last step. Errors as in `check`."""
        step = self.training.step
        due = step % self.every == 0 or step == self.training.settings.steps
        if due or time.monotonic() - self._time > CHECKPOINT_SECONDS:
            self.keep()

    @contextmanager
    def save_on_failure(self) -> Iterator[None]:
        """Whatever ends the context, what was learnt since the last time is written, if it can be.

        Raises:
            DDMError: the memory ran out; says where the state is.
        """
        try:
            yield
        except Exception as error:
            if self.training.consistent and self.training.step > self._step:
                with suppress(DDMError):
                    self.keep()
            if self.path.exists() and out_of_memory(error):
                raise DDMError(
                    f"{reason_of(error)} What was learnt is kept in {self.path}, to resume from.",
                    "resume",
                ) from error
            raise
