"""The trainings of this server: how they go, for every page that asks, and whoever wants to stop one.

A training belongs to a node of a workflow, not to the page that started it: closed pages, other tabs and other
browsers show it all the same.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import comfy.model_management

from ..debias.core.error import DDMError
from ..debias.core.last_used import LastUsed
from .progress import Progress

if TYPE_CHECKING:
    from ..hosts.background import BackgroundTraining
    from ..hosts.progress_panel import TrainPanel
    from ..hosts.trainer_process import Command

EVENT = "ddm.train"
# Finished ones that are remembered.
KEPT = 32
# Seconds between two messages to the pages, but for those that say something new; and between two looks for a cancel.
PAUSE, TICK = 0.25, 0.05
# What a training needs beside the weights: as a multiple of them, and in bytes.
TIMES_WEIGHTS, WORKSPACE = 1.5, 1 << 29


class Owner(NamedTuple):
    """The node that a training belongs to; `workflow` is None for a graph that came without one, over the API."""

    workflow: str | None
    node: str

    @classmethod
    def of(cls, hidden: Any) -> "Owner":
        """The owner by a node's hidden inputs, unique_id and extra_pnginfo."""
        workflow = (hidden.extra_pnginfo or {}).get("workflow") or {}
        return cls(workflow.get("id"), str(hidden.unique_id))


_kept: "LastUsed[Owner, BackgroundTraining]" = LastUsed(KEPT)


def start(
    owner: Owner, command: "Command", panel: "TrainPanel", finish: "Callable[[TrainPanel], None]"
) -> "BackgroundTraining":
    """Begin a training, which every page is told of from now on; arguments as in `BackgroundTraining`.

    Raises:
        DDMError: another one is at work.
    """
    from ..hosts.background import BackgroundTraining

    check_free()
    told = 0.0

    def tell(urgent: bool) -> None:
        nonlocal told
        if urgent or time.monotonic() - told > PAUSE:
            told = time.monotonic()
            _send(owner, panel)

    _kept[owner] = job = BackgroundTraining(command, panel, finish, tell=tell)
    job.start()
    return job


def check_free() -> None:
    """Refuse a second training, which would only share the memory with the first.

    Raises:
        DDMError: one is at work.
    """
    for job in list(_kept.values()):
        if job.running:
            raise DDMError(
                f"{job.panel.values['title']} is still being trained. Wait for its end, or stop it in its node or in "
                "the DDM tab of the side bar."
            )


def check_memory(weights: Path) -> str:
    """Refuse a training beside the host's models where there is no room for it; returns a sentence on what there is.

    Raises:
        DDMError: too little memory is free.
    """
    files = [weights] if weights.is_file() else weights.rglob("*.safetensors")
    needed = TIMES_WEIGHTS * sum(file.stat().st_size for file in files) + WORKSPACE
    free = comfy.model_management.get_free_memory(comfy.model_management.get_torch_device())
    said = f"{free / 1e9:.1f} GB of memory are free, and a training of {weights.stem} needs about {needed / 1e9:.1f} GB"
    if needed > free:
        raise DDMError(f"{said}. Switch background off: the models that ComfyUI holds then make room.")
    return f"{said}: it goes on in the background, and the queue is free."


def run(
    hidden: Any,
    base: Path,
    command: "Command",
    panel: "TrainPanel",
    finish: "Callable[[TrainPanel], None]",
    background: bool,
) -> bool:
    """Train for a node: to the end, while the host's models make room; or in the background, beside them.

    Args:
        hidden: the node's hidden inputs, see `Owner.of`.
        base: the model's file or folder.

    Returns:
        Whether the end was waited for.

    Raises:
        InterruptProcessingException, DDMError: see `start`, `follow` and `check_memory`.
    """
    check_free()
    if background:
        panel.values["remarks"].append(check_memory(base))
    else:
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
    job = start(Owner.of(hidden), command, panel, finish)
    if not background:
        follow(job)
    return not background


def follow(job: "BackgroundTraining") -> None:
    """Wait for the end, with the state of the run in the host's bar.

    Raises:
        InterruptProcessingException: it was cancelled, here or in the node; what was trained is kept.
        DDMError: what the trainer said.
    """
    progress, shown = Progress(1), (0, 0)
    try:
        while job.wait(TICK):
            comfy.model_management.throw_exception_if_processing_interrupted()
            done, total = int(job.panel.values["done"]), int(job.panel.values["total"])
            if total and (done, total) != shown:
                shown = (done, total)
                progress(done, total)
    except comfy.model_management.InterruptProcessingException:
        job.cancel()
        job.wait()
        raise
    if job.error:
        raise job.error
    if job.cancelled.is_set():
        raise comfy.model_management.InterruptProcessingException()


def add_routes() -> None:
    """GET /ddm/trainings gives all of them; POST /ddm/trainings/stop, with workflow and node, stops one."""
    from server import PromptServer, web

    routes = PromptServer.instance.routes

    @routes.get("/ddm/trainings")
    async def every(_request: web.Request) -> web.Response:
        return web.json_response([_state(owner, job.panel) for owner, job in list(_kept.items())])

    @routes.post("/ddm/trainings/stop")
    async def stop(request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return web.json_response({"error": "Send JSON."}, status=415)
        try:
            asked = await request.json()
            job = _kept.get(Owner(asked.get("workflow"), str(asked["node"])))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return web.json_response({"error": "Send the workflow and the node of the training."}, status=400)
        if job is None:
            return web.json_response({"error": "There is no such training."}, status=404)
        job.cancel()
        return web.json_response({"stopped": job.running})


def _send(owner: Owner, panel: "TrainPanel") -> None:
    from server import PromptServer

    PromptServer.instance.send_sync(EVENT, _state(owner, panel))


def _state(owner: Owner, panel: "TrainPanel") -> dict[str, Any]:
    return {**owner._asdict(), "panel": panel.snapshot()}
