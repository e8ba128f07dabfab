"""Reports as files in the host's output folder, and as what a node shows of them."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths

from ..debias.core.io import write_text

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from ..debias.evaluation.dataset_audit import Audit
    from ..debias.evaluation.report import FairnessReport

DPI = 130


@dataclass(frozen=True)
class Place:
    """Where a report goes: a stem in a subfolder of the output folder, which no other report has."""

    folder: Path
    subfolder: str
    stem: str

    def save(self, report: "FairnessReport | Audit") -> dict[str, dict[str, str]]:
        """Write page and figures, each whole or not at all, and return how the host's /view finds them."""
        from ..debias.evaluation.dataset_audit import Audit
        from ..debias.rendering.audit_html import render_audit
        from ..debias.rendering.report_html import render_report

        page = render_audit(report) if isinstance(report, Audit) else render_report(report)
        contents = {"html": page, "json": report.to_json(images=False)}
        for kind, text in contents.items():
            write_text(self.folder / f"{self.stem}.{kind}", text)
        return {
            kind: {"filename": f"{self.stem}.{kind}", "subfolder": self.subfolder, "type": "output"}
            for kind in contents
        }


def new_place(kind: str) -> Place:
    """The next free place for a report of a kind: output/ddm/<kind>_00001_."""
    folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(
        f"ddm/{kind}", folder_paths.get_output_directory()
    )
    return Place(Path(folder), subfolder, f"{stem}_{counter:05}_")


def chart_image(figure: "Figure") -> "torch.Tensor":
    """A chart as an IMAGE [1, H, W, 3]."""
    from PIL import Image

    from ..debias.rendering.charts import to_png

    return to_image(Image.open(io.BytesIO(to_png(figure, DPI))))


def to_image(image: "Image") -> "torch.Tensor":
    """An image as an IMAGE [1, H, W, 3]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)[None]


def words(report: "FairnessReport") -> str:
    """The report in sentences, one in a line."""
    return "\n".join([report.summary, *report.remarks, *report.notes])
