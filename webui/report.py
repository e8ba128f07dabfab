"""The fairness report over the images of a page: it grows from run to run, beside the gallery and in files."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..debias.core.error import DDMError
from ..debias.core.io import write_text
from ..debias.rendering.panel_html import fragment, problem
from ..hosts.session_store import SessionStore
from . import files, pages

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..debias.evaluation.accumulator import ImageMeta

# Below the folder that the host saves images in.
FOLDER = "ddm"


@dataclass
class Images:
    """The images of a run, as they are made.

    Attributes:
        probes: names of the probe, and of one for what should stay as it was, if any.
        target: of the first probe's classes.
        collect: add to earlier runs; without, only runs of one job add up.
        job: of the host that the run belongs to.
        folder: where the host saves images.
    """

    probes: Sequence[str]
    target: str
    collect: bool
    job: str
    folder: Path
    images: "list[Image]" = field(default_factory=list)
    origins: "list[ImageMeta]" = field(default_factory=list)


class Reports:
    """The reports of the pages (txt2img, img2img).

    Attributes:
        shown: the HTML beside each page's gallery.
    """

    def __init__(self) -> None:
        self.gatherings = SessionStore()
        self.shown: dict[str, str] = {}
        self._jobs: dict[str, str] = {}

    def add(self, page: str, run: Images) -> None:
        """Look at the images of a run, measure all that was collected, and write the report.

        Raises:
            DDMError: a probe that cannot be opened, a target that it cannot have, or no place to write.
        """
        from ..debias.evaluation.compare import Evaluation
        from ..debias.rendering.panel import report_panel
        from ..debias.rendering.report_html import render_report

        if not run.images:
            return
        probes = [files.open_probe(name) for name in run.probes]
        same_job = self._jobs.get(page) == run.job
        self._jobs[page] = run.job
        kept = self.gatherings.get(page, probes, run.target.strip(), run.collect or same_job)
        kept.collection.add(probes, run.images, run.origins)
        report = Evaluation.of(kept.collection.records()).report
        kept.place = kept.place or _next_place(run.folder / FOLDER)
        write_text(kept.place, render_report(report))
        write_text(kept.place.with_suffix(".json"), report.to_json(images=False))
        self.shown[page] = fragment(report_panel(report), pages.link(kept.place))

    def clear(self, page: str) -> None:
        """Forget what a page has collected, and what is shown of it; the files stay."""
        self.gatherings.drop(page)
        self.shown.pop(page, None)

    def fail(self, page: str, error: DDMError) -> None:
        """Say beside the gallery what could not be done."""
        self.shown[page] = problem(str(error))


def add_image(run: Images, image: Any, origin: "ImageMeta") -> None:
    """Keep an image (a PIL image) of the run for its report; of one origin and noise there may be several."""
    place = sum(replace(one, place=0) == origin for one in run.origins)
    run.images.append(image.convert("RGB"))
    run.origins.append(replace(origin, place=place))


def _next_place(folder: Path) -> Path:
    taken = [path.stem.removeprefix("report_") for path in folder.glob("report_*.html")]
    number = 1 + max((int(one) for one in taken if one.isdigit()), default=0)
    return folder / f"report_{number:05}.html"
