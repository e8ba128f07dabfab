"""A training's figures and previews for TensorBoard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...debias.core.error import DDMError
from .reporters import Reporter


class TensorBoardReporter(Reporter):
    """Tells another reporter everything, and writes loss, ESS, learning rate and previews as TensorBoard reads them.

    Args:
        other: the reporter that is told as well.
        folder: where the event files go, one for each time that the training is begun or gone on with.
        config: the configuration as text, which is shown beside the curves.

    Raises:
        DDMError: tensorboard is not installed.
    """

    def __init__(self, other: Reporter, folder: Path, config: str):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise DDMError(
                f"Curves need the package tensorboard, which cannot be used here ({error}). Install it with "
                "pip install tensorboard, or train without.",
                "log",
            ) from error
        self.other, self.folder, self.config, self.open = other, folder, config, SummaryWriter
        self.writer: SummaryWriter | None = None
        self.note, self.images, self.groups, self.result = other.note, other.images, other.groups, other.result

    @contextmanager
    def steps(self) -> Iterator[Callable[..., None]]:
        """As the other's; each call writes a point of the curves."""
        with self.other.steps() as report, self.open(str(self.folder)) as self.writer:
            self.writer.add_text("configuration", f"```toml\n{self.config}\n```")

            def told(step: int, steps: int, loss: float, ess: float, learning_rate: float) -> None:
                report(step, steps, loss, ess, learning_rate)
                self.writer.add_scalar("loss", loss, step)
                self.writer.add_scalar("learning rate", learning_rate, step)
                self.writer.add_scalar("effective sample size at α = 1", ess, step)

            yield told
        self.writer = None

    def preview(self, file: Path, step: int) -> None:
        """As the other's; the image goes beside the curves."""
        import numpy as np
        from PIL import Image

        self.other.preview(file, step)
        if self.writer:
            with Image.open(file) as image:
                self.writer.add_image("preview", np.asarray(image.convert("RGB")), step, dataformats="HWC")
