"""Progress in the host's bar. Every step can be cancelled."""

from typing import TYPE_CHECKING

import comfy.model_management
import comfy.utils

if TYPE_CHECKING:
    from PIL.Image import Image

PREVIEW_SIDE = 512


class Progress:
    """The bar of the node at work.

    The host's own bar notices a cancel only when it is sent to the page, which newer hosts do ten times a second.
    """

    def __init__(self, total: int):
        self.bar = comfy.utils.ProgressBar(max(1, total))

    def __call__(self, done: int, total: int | None = None, preview: "Image | tuple | None" = None) -> None:
        """Show that `done` of `total` steps are done, with an image if there is one.

        Raises:
            InterruptProcessingException: the user cancelled.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        if preview is not None and not isinstance(preview, tuple):
            preview = ("JPEG", preview, PREVIEW_SIDE)
        self.bar.update_absolute(done, total, preview)
