"""Progress in the host's bar and in a node's panel. Every step can be cancelled."""

import time
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.utils

if TYPE_CHECKING:
    from PIL.Image import Image

PREVIEW_SIDE = 512
# Seconds between two messages to a panel.
PAUSE = 0.5


class Progress:
    """The bar of the node at work, and the time that is left in its panel.

    The host's own bar notices a cancel only when it is sent to the page, which newer hosts do ten times a second.

    Args:
        node: id of the node whose panel is told too, and which shows previews; without a panel, nothing would remove
            the last of them.
        doing: what the panel says of the work.
        done: what was done before, of which nothing can be said about time.
    """

    def __init__(self, total: int, node: str | None = None, doing: str = "", done: float = 0):
        self.bar = comfy.utils.ProgressBar(max(1, total))
        self._total, self._node, self._doing, self._first = total, node, doing, done
        self._began, self._told = time.monotonic(), 0.0

    def __call__(self, done: float, total: int | None = None, preview: "Image | tuple | None" = None) -> None:
        """Show that `done` of `total` is done, with an image if there is one.

        Raises:
            InterruptProcessingException: the user cancelled.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        # Multistep samplers may take a step or two more than asked for.
        done = min(done, total or self._total)
        if self._node is None:
            preview = None
        elif preview is not None and not isinstance(preview, tuple):
            preview = ("JPEG", preview, PREVIEW_SIDE)
        self.bar.update_absolute(done, total, preview)
        now = time.monotonic()
        if self._node is None or now - self._told < PAUSE:
            return
        self._told, new = now, done - self._first
        left = (now - self._began) * (self._total - done) / new if new > 0 else None
        panel = {"doing": self._doing, "done": int(done), "total": self._total, "seconds_left": left}
        send_panel(self._node, "ddm.progress", panel)


def send_panel(node: str, event: str, panel: dict[str, Any]) -> None:
    """Tell the page how the work of a node goes."""
    from server import PromptServer

    server = PromptServer.instance
    server.send_sync(event, {"node": node, "panel": panel}, server.client_id)
