"""DDM Fit Probe: learns from labelled images who is in an image, as perceived."""

from comfy_api.latest import io

from ..debias.core.error import DDMError
from . import files, image_folders
from .types import CATEGORY, Probe, known
from .validation import said_once


class FitProbe(io.ComfyNode):
    """Fits a probe on a labelled folder, measures it on images kept from it, and saves it in models/ddm."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DDMFitProbe",
            display_name="DDM Fit Probe",
            category=CATEGORY,
            description="Learns from labelled images who is in an image, as perceived, and measures how often it is "
            "right on images that it has not seen. The probe is saved in models/ddm.",
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=image_folders.names(),
                    tooltip="A folder below ComfyUI's input folder or below ddm_datasets, with a metadata.jsonl or "
                    "with one subfolder for each class.",
                ),
                io.String.Input(
                    "labels",
                    default="gender",
                    tooltip="The column of metadata.jsonl to learn, or 'folder' for the names of the subfolders.",
                ),
                io.String.Input("name", default="gender", tooltip="The probe's file name in models/ddm."),
                io.Int.Input(
                    "steps",
                    default=400,
                    min=10,
                    max=20000,
                    tooltip="Steps of each of the two trainings: one to measure, one to keep. Not used with CLIP.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    tooltip="Of the images kept apart and of the training.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Fit on the features of this model instead of from scratch: better for photographs. The "
                    "probe then always needs it.",
                ),
            ],
            outputs=[
                Probe.Output(display_name="probe"),
                io.String.Output(display_name="text", tooltip="How often it is right, class by class."),
            ],
            **known(search_aliases=["train classifier", "train probe", "labels"]),
        )

    @classmethod
    @said_once
    def validate_inputs(cls, folder: str | None = None, name: str | None = None) -> bool | str:
        """A sentence if there is no such folder, or the name is none for a file."""
        try:
            if folder is not None:
                image_folders.resolve(folder)
            if name is not None:
                files.new_file(files.DDM, name)
        except DDMError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **rest: object) -> str:
        """Fit again when a file in the folder changes."""
        return image_folders.stamp(folder)

    @classmethod
    def execute(
        cls, folder: str, labels: str, name: str, steps: int, seed: int, clip_vision: object = None
    ) -> io.NodeOutput:
        """Read the folder, fit, measure, save."""
        import numpy as np
        import torch

        from ..debias.core.io import check_output
        from ..debias.probes.fit_probe import fit_linear_probe, fit_probe
        from ..debias.probes.predict import NETWORK_SIDE
        from ..training.data.read_folder import read_folder
        from .clip_vision import ClipVision
        from .progress import Progress

        target = files.new_file(files.DDM, name)
        check_output(target, "probe")
        labels = labels.strip()
        extractor = None if clip_vision is None else ClipVision(clip_vision)
        progress = Progress(1)
        image_folder = read_folder(image_folders.resolve(folder), progress=progress)
        values = image_folder.column(labels)
        images = []
        for index, image in image_folder.images(NETWORK_SIDE if extractor is None else extractor.size):
            progress(index + 1, len(values))
            if values[index] is not None:
                images.append(image)
        known = [value for value in values if value is not None]
        stack = np.stack(images)
        if extractor is not None:
            made = fit_linear_probe(stack, known, labels, extractor, seed)
        else:
            # Nodes run in inference mode, in which nothing can be learned.
            with torch.inference_mode(False), torch.enable_grad():
                made = fit_probe(stack, known, labels, seed, steps, progress=lambda step, of, loss: progress(step, of))
        made.made_for = f"images like the {len(known):,} of {folder}"
        made.save(target)
        lines = [f"{labels}: {made.accuracy:.1%} right on {int(made.counts.sum())} images that it had not seen."]
        lines += [f"{one}: {made.confusion[k, k]:.0%} right" for k, one in enumerate(made.names)]
        if len(known) < len(values):
            lines.append(f"Left out, since they have no {labels}: {len(values) - len(known)} images.")
        lines += image_folder.remarks()
        text = "\n".join(lines)
        return io.NodeOutput(made, text, ui={"text": [text]})
