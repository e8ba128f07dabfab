"""Measuring in the tab DDM: whom the selected checkpoint draws, or an adapter on it at several strengths."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules import shared

from ..debias.adapter.lora_file import AdapterCard, content_hash
from ..debias.core.error import DDMError, reason_of
from ..debias.core.io import read_metadata, write_bytes, write_text
from ..debias.rendering.panel_html import fragment, problem
from ..hosts import measurement
from ..hosts.background import Background
from ..hosts.image_store import ImageStore
from . import files, host, pages
from .generation import HostImages, SamplerSettings, Stopped
from .settings import Settings

if TYPE_CHECKING:
    from ..debias.evaluation.compare import Evaluation
    from ..debias.probes.probe import Probe

CANCELLED = "Stopped: these are the images until then. Press Measure again to go on."
GALLERY = "Images of every prompt, the worst prompt first"
GRID = "The same seeds at every strength"
OTHER_BASE = "It is not written into the adapter's card: the adapter was trained on another checkpoint."


@dataclass(frozen=True)
class Asked:
    """What is to be measured.

    Attributes:
        prompts: each once.
        count: images of each prompt, at each strength.
        probes: the first is for the attribute that the report is on.
        target: of the first probe's classes.
        sampling: of the images.
        batch_size: images that are made together.
        seed: where the seeds begin.
        adapter: by its name; None measures the checkpoint itself.
        alphas: strengths of the adapter.
        keep: write what was measured into the adapter's card.
    """

    prompts: Sequence[str]
    count: int
    probes: "Sequence[Probe]"
    target: str
    sampling: SamplerSettings
    batch_size: int
    seed: int
    adapter: str = files.NONE
    alphas: Sequence[float] = (0.0,)
    keep: bool = False


class Measuring(Background):
    """One measurement in the background. Its images are kept, so that the same one goes on where it was stopped."""

    def __init__(self, asked: Asked):
        """Prepare it; `start` begins.

        Raises:
            DDMError: no checkpoint is selected, the target does not fit the probe, or there is no such adapter.
        """
        from ..debias.groups.target import Target

        super().__init__(self._work, "ddm-measure")
        self._asked, self._checkpoint = asked, host.selected_checkpoint()
        self._targets = [Target.parse(asked.target or "uniform", asked.probes[0].names)]
        self._targets += [None for _ in asked.probes[1:]]
        self._path = files.adapter_path(asked.adapter) if files.chosen(asked.adapter) else None
        title = f"{asked.adapter} on {self._checkpoint.name}" if self._path else self._checkpoint.name
        self._progress: dict[str, Any] = {"kind": "train", "title": title, "phase": "", "doing": "Preparing"}
        self._progress |= {"total": 0, "done": 0, "seconds_left": None, "attributes": []}
        self._end = ""

    @property
    def html(self) -> str:
        """How it goes, or what was measured."""
        return self._end or fragment(self._progress)

    def _work(self) -> None:
        try:
            self._end = self._measured()
        except DDMError as error:
            self._end = problem(str(error))
        except Exception as error:  # nobody else would ever see it
            self._end = problem(f"The measurement ended with an error of the host: {reason_of(error)}")

    def _measured(self) -> str:
        asked = self._asked
        own = {"checkpoint": host.checkpoint_digest(self._checkpoint), **host.sampling_options()}
        variants = [self._variant(alpha, own | asdict(asked.sampling)) for alpha in asked.alphas]
        seeds = {name: measurement.seeds_of(name, asked.seed, asked.count) for name in asked.prompts}
        remarks = []
        try:
            measurement.generate(variants, seeds, self._begin)
        except Stopped:
            if not any(one.store.seeds(name) for one in variants for name in seeds):
                return problem("Stopped before any image was made.")
            remarks.append(CANCELLED)
        self._progress |= {"doing": "Looking", "total": 0}
        title = f"Sweep of {asked.adapter}" if self._path else "Whom the model draws"
        return self._shown(
            measurement.evaluate(asked.probes, self._targets, variants, seeds, title), variants, seeds, remarks
        )

    def _variant(self, alpha: float, settings: dict[str, Any]) -> measurement.Variant:
        asked = self._asked
        patched = {"adapter": content_hash(self._path), "alpha": alpha} if alpha else {}
        controls = Settings(adapter=asked.adapter, alpha=alpha) if alpha else Settings()
        images = HostImages(self._checkpoint, asked.sampling, controls, asked.batch_size, self.cancelled.is_set)
        return measurement.Variant(alpha, ImageStore(host.outputs_folder().parent, settings | patched), lambda: images)

    def _begin(self, total: int, there: int) -> measurement.Progress:
        began = time.monotonic()
        self._progress |= {"doing": "Generating", "total": total}

        def progress(done: float, *, preview: Any = None) -> None:
            new = done - there
            left = (time.monotonic() - began) * (total - done) / new if new > 0 else None
            self._progress |= {"done": done, "seconds_left": left}

        return progress

    def _shown(
        self,
        study: "Evaluation",
        variants: Sequence[measurement.Variant],
        seeds: dict[str, range],
        remarks: list[str],
    ) -> str:
        from ..debias.rendering.panel import report_panel
        from ..debias.rendering.report_html import render_report

        report, folder = study.report, variants[0].store.folder
        page = folder / f"{'sweep' if self._path else 'report'}_{report.attributes[0].name}.html"
        write_text(page, render_report(report))
        write_text(page.with_suffix(".json"), report.to_json(images=False))
        if self._path:
            remarks += self._kept(study)
            panel = measurement.sweep_panel(report, self._asked.sampling.cfg, {}, None)
        else:
            panel = report_panel(report, "measure")
        panel["remarks"] = list(dict.fromkeys([*remarks, *panel["remarks"]]))
        image, caption = self._image(study, variants, seeds, page)
        return fragment(panel, pages.link(page), image, caption)

    def _kept(self, study: "Evaluation") -> list[str]:
        """Write what was measured into the adapter's card, if that was asked for; what there is to say of it."""
        from ..training.evaluation.alpha_sweep import keep_measured, measured_card

        asked, card = self._asked, AdapterCard.from_metadata(read_metadata(self._path))
        if not asked.keep:
            return []
        if card.base_hash != host.checkpoint_digest(self._checkpoint):
            return [OTHER_BASE]
        keep_measured(self._path, card, measured_card(study.report, asked.sampling.cfg, asked.sampling.steps))
        return ["What was measured is in the adapter's card."]

    def _image(
        self, study: "Evaluation", variants: Sequence[measurement.Variant], seeds: dict[str, range], page: Path
    ) -> tuple[str, str]:
        """Address and caption of the images, if all are there."""
        import io

        whole = all(set(own) <= set(one.store.seeds(name)) for one in variants for name, own in seeds.items())
        if self._path and not whole:
            return "", ""
        drawn = (
            measurement.grid(study, variants, seeds) if self._path else measurement.gallery(study, variants[0].store)
        )
        buffer = io.BytesIO()
        drawn.save(buffer, "png")
        write_bytes(page.with_suffix(".png"), buffer.getvalue())
        return pages.link(page.with_suffix(".png")), GRID if self._path else GALLERY


def stop(job: Measuring) -> None:
    """Stop a measurement with the batch that is being made."""
    job.cancel()
    if shared.state.job == "ddm":
        shared.state.interrupt()
