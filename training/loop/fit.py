"""The one outer loop: steps until the last one or until somebody stops it, with all that was learnt on disk."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ...debias.core.error import reason_of
from ..sampling.previews import Previews
from .checkpoint import Checkpointing, remove_strays
from .training import Training

Stop = Callable[[], bool] | None
StepProgress = Callable[[int, int, float, float | None, float], None] | None
# What the steps find is read from the device after so many of them, and after so many seconds.
READ_EVERY, READ_SECONDS = 10, 2.0


def fit(
    checkpointing: Checkpointing,
    files: Iterable[Path],
    progress: StepProgress = None,
    stop: Stop = None,
    previews: Previews | None = None,
    before_step: Callable[[], bool] | None = None,
) -> bool:
    """Train to the last step, or until `stop` says so; the state is kept either way.

    Args:
        checkpointing: keeps the state of the training that is fitted.
        files: what will be written after the last step.
        progress: called now and then with (step, steps, loss, ESS or None, learning rate).
        stop: asked before each step, and between the micro-batches of one. Once it says True, it must keep to that.
        previews: makes images now and then, and not after the last step.
        before_step: called before each step, and after the last; False ends the training.

    Returns:
        Whether all steps are made; the last state is in the checkpoint in any case.

    Raises:
        DDMError: step after step is not finite, a file cannot be written or will have no room, or the memory does not
            suffice. Whatever is raised, what was learnt is kept.
    """
    training = checkpointing.training
    objective, ranks, steps = training.objective, training.objective.ranks, training.objective.settings.steps
    within = None if ranks.several else stop  # several processes cannot agree in the middle of a step
    with checkpointing.save_on_failure():
        if ranks.first:
            remove_strays(checkpointing.path, *files)
        checkpointing.check_room(files)
        read = time.monotonic()
        while True:
            done = training.step == steps
            if (before_step and not before_step()) or (stop and not done and _agreed(training, stop)):
                checkpointing.save()
                return False
            if done:
                break
            if not training.advance(within):
                continue
            step = training.step
            if step % READ_EVERY == 0 or step == steps or time.monotonic() - read > READ_SECONDS:
                checkpointing.check()
                if progress:
                    learning_rate = objective.learning_rate(step - 1)
                    progress(step, steps, training.loss.item(), objective.effective_share, learning_rate)
                read = time.monotonic()
            checkpointing.save_if_due()
            if previews and step % previews.every == 0 and step < steps:
                preview(training, previews, stop)
    if skipped := int(training.skipped):
        training.note(f"{skipped} of {steps} steps were left out, because their loss or gradient was not finite.")
    return True


class TrainingRun:
    """A training from what is prepared to its file.

    Attributes:
        out: the file to write; `save` writes it after the last step.
        training: an objective, and how far it is.
        checkpointing: keeps the state.
    """

    out: Path
    training: Training
    checkpointing: Checkpointing

    def resume(self) -> bool:
        """Resume from the checkpoint, if there is one; tells whether there was. Errors as in `load_checkpoint`."""
        return self.checkpointing.resume()

    def train(self, progress: StepProgress = None, stop: Stop = None, previews: Previews | None = None) -> bool:
        """Train to the end, or until `stop` says so, as `fit` does; previews are made at the end as well.

        Returns:
            Whether the run is complete; then the file is written and the checkpoint is gone.

        Raises:
            DDMError: as in `fit`, or as in `Checkpointing.alone`.
        """
        with self.checkpointing.alone():
            complete = fit(self.checkpointing, [self.out], progress, stop, previews)
            if complete:
                self.save()
                self.checkpointing.path.unlink(missing_ok=True)
                if previews:
                    preview(self.training, previews, stop)
        return complete

    def save(self) -> None:
        """Write the file."""
        raise NotImplementedError


def preview(training: Training, previews: Previews, stop: Stop) -> None:
    """Make a preview of what would be saved now; whatever goes wrong with it, the training goes on."""
    if not training.objective.ranks.first:
        return
    try:
        with training.averaged():
            previews.make(training.step, stop)
    except Exception as error:
        training.note(f"The preview of step {training.step} could not be made. {reason_of(error)}")


def _agreed(training: Training, stop: Callable[[], bool]) -> bool:
    """Whether to stop; several processes stop at the same step, and do not ask each other at every one."""
    ranks = training.objective.ranks
    return (not ranks.several or training.step % READ_EVERY == 0) and ranks.any(stop())
