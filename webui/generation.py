"""Images of the selected checkpoint by the host's own sampling, as `hosts.measurement` asks for them."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from modules import call_queue, processing, scripts, shared

from ..debias.core.error import DDMError, reason_of
from ..hosts.measurement import Step
from . import files, host
from .script import DDMScript, Run
from .settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image


class Stopped(Exception):
    """The user asked to stop."""


@dataclass(frozen=True)
class SamplerSettings:
    """How to sample: as in txt2img, with the size of the images in pixels."""

    steps: int
    cfg: float
    sampler: str
    width: int
    height: int
    negative: str = ""


@dataclass(frozen=True)
class HostImages:
    """The selected checkpoint, and what the accordion DDM may put on it, as `hosts.measurement.Generator`.

    Attributes:
        checkpoint: its file; a checkpoint that is selected meanwhile is not measured in its place.
        settings: of the sampler.
        controls: of the accordion.
        batch_size: images that are made together.
        stopped: whether the user asked to stop.
    """

    checkpoint: "Path"
    settings: SamplerSettings
    controls: Settings
    batch_size: int
    stopped: Callable[[], bool]

    @property
    def steps(self) -> int:
        """Of sampling."""
        return self.settings.steps

    def batches(self, seeds: Sequence[int]) -> list[Sequence[int]]:
        """The seeds in batches."""
        return [seeds[start : start + self.batch_size] for start in range(0, len(seeds), self.batch_size)]

    def generate(self, prompt: str, seeds: Sequence[int], step: Step) -> "list[Image]":
        """Images of a batch of seeds. Between batches the host makes other images, if anybody asks for some.

        Raises:
            Stopped: the user asked to stop.
            DDMError: another checkpoint is selected, the adapter could not be used, or the host failed.
        """
        with call_queue.queue_lock:
            if self.stopped():
                raise Stopped
            if host.selected_checkpoint() != self.checkpoint:
                raise DDMError(
                    f"Another checkpoint than {self.checkpoint.name} was selected while it was measured. Select it "
                    "again to go on, or measure the other one."
                )
            shared.state.begin(job="ddm")
            try:
                return host.on_main_thread(lambda: self._make(prompt, list(seeds)))
            finally:
                shared.state.end()

    def _make(self, prompt: str, seeds: list[int]) -> "list[Image]":
        p = processing.StableDiffusionProcessingTxt2Img(
            prompt=[prompt] * len(seeds),
            negative_prompt=self.settings.negative,
            seed=seeds,
            sampler_name=self.settings.sampler,
            batch_size=len(seeds),
            n_iter=1,
            steps=self.settings.steps,
            cfg_scale=self.settings.cfg,
            width=self.settings.width,
            height=self.settings.height,
            do_not_save_samples=True,
            do_not_save_grid=True,
        )
        p.scripts, p.script_args = _only_ours(), astuple(self.controls)
        try:
            made = processing.process_images(p)
        except Exception as error:
            raise DDMError(f"The host could not make the images: {reason_of(error)}") from error
        if shared.state.interrupted or self.stopped():
            raise Stopped
        run = getattr(p, "ddm", Run())
        if files.chosen(self.controls.adapter) and not run.adapting:
            raise DDMError(" ".join(map(str, p.comments)))
        return [one.convert("RGB") for one in made.images[made.index_of_first_image :][: len(seeds)]]


def _only_ours() -> "scripts.ScriptRunner":
    """What the host asks of scripts while it makes images, with our script alone."""
    runner, script = scripts.ScriptRunner(), DDMScript()
    script.filename, script.args_from, script.args_to = __file__, 0, None
    runner.scripts.append(script)
    runner.alwayson_scripts.append(script)
    return runner
