"""DDM Audit Images: what is in a folder of images, and what balance would cost, before any training."""

import comfy.model_management
from comfy_api.latest import io

from ..debias.core.error import DDMError
from . import files, image_folders, training_set
from .types import CATEGORY, known
from .validation import said_once


class AuditImages(io.ComfyNode):
    """Audits a folder of images with a base model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DDMAuditImages",
            display_name="DDM Audit Images",
            category=CATEGORY,
            description="Says what is common in a folder of images and what is rare, and what balancing it would "
            "cost, before you train on it.",
            is_output_node=True,
            inputs=[
                *training_set.inputs("The model that you will train for"),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    tooltip="Of the noises, and of the examples.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="chart"),
                io.String.Output(display_name="text", tooltip="The audit in sentences."),
            ],
            **known(search_aliases=["dataset", "bias", "balance", "training images"]),
        )

    @classmethod
    @said_once
    def validate_inputs(
        cls, folder: str | None = None, weights: str | None = None, groups: str | None = None, target: str | None = None
    ) -> bool | str:
        """A sentence if folder or model are not there, or the groups are not known."""
        try:
            training_set.check(folder, weights, groups, target)
        except DDMError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **rest: object) -> str:
        """Audit again when a file in the folder changes."""
        return image_folders.stamp(folder)

    @classmethod
    def execute(cls, folder: str, weights: str, groups: str, target: str, caption: str, seed: int) -> io.NodeOutput:
        """Read the folder, group its images, and write the audit."""
        from ..debias.rendering.audit_html import overview
        from ..debias.rendering.panel import audit_panel
        from ..training.data.audit_folder import audit_folder
        from ..training.data.read_folder import read_folder
        from .progress import Progress
        from .report_files import chart_image, new_place

        path, base = image_folders.resolve(folder), files.resolve_weights(weights)
        device = comfy.model_management.get_torch_device()
        if device.type == "cuda":
            comfy.model_management.unload_all_models()
        progress = Progress(1)
        images = read_folder(path, caption.strip() or None, progress)
        audit = audit_folder(
            images,
            base,
            *training_set.wanted(groups, target),
            title=f"What is in {folder}",
            seed=seed,
            device=str(device),
            **files.beside_weights(base),
            report=lambda what, done, total: progress(done, total),
        )
        panel = audit_panel(audit, new_place("audit").save(audit))
        text = "\n".join([audit.summary, audit.advice, *audit.remarks, *audit.notes])
        return io.NodeOutput(chart_image(overview(audit)), text, ui={"ddm_panel": [panel]})
