"""The trainings of this server: one at a time, and each page of the tab shows its own, whoever started it."""

import base64
from collections.abc import Callable, Iterator
from functools import partial

from ..debias.core.error import DDMError
from ..debias.rendering.panel_html import fragment, problem
from ..hosts.background import BackgroundTraining
from ..hosts.progress_panel import TrainPanel
from ..hosts.trainer_process import Command
from . import host

# Seconds between two looks at a training.
PAUSE = 0.5
# The last training of each page.
_jobs: dict[str, BackgroundTraining] = {}


def check_free() -> None:
    """Refuse a second training, which would only share the memory with the first.

    Raises:
        DDMError: one is at work.
    """
    for job in _jobs.values():
        if job.running:
            raise DDMError(f"{job.panel.values['title']} is still being trained. Stop it, or wait for its end.")


def start(page: str, command: Command, panel: TrainPanel, finish: Callable[[TrainPanel], None]) -> Iterator[str]:
    """Start a training while the host's model is put away, and show how it goes; closing the page does not stop it.

    Args:
        page: of the tab, which shows it.
        command, panel, finish: see `BackgroundTraining`.
    """
    _jobs[page] = BackgroundTraining(command, panel, finish, partial(host.model_put_away, panel.busy))
    _jobs[page].start()
    yield from watch(page)


def watch(page: str) -> Iterator[str]:
    """How the training of a page goes, until it ends; nothing if there was none."""
    if page not in _jobs:
        yield ""
        return
    job = _jobs[page]
    for _ in job.follow(PAUSE):
        yield _shown(job)


def cancel(page: str) -> str:
    """Stop the training of a page, and say what is kept."""
    job = _jobs.get(page)
    if job is None or not job.running:
        return problem("No training is running.")
    job.cancel()
    job.wait()
    return _shown(job)


def _shown(job: BackgroundTraining) -> str:
    preview = job.panel.preview
    data = ""
    if preview is not None and preview.is_file():
        data = "data:image/png;base64," + base64.b64encode(preview.read_bytes()).decode("ascii")
    return fragment(job.panel.values, preview=data)
