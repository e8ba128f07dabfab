"""DDM Load Probe: who is in an image, as perceived, from a file."""

from comfy_api.latest import io

from ..debias.core.error import DDMError
from . import files
from .types import CATEGORY, Probe, known


class LoadProbe(io.ComfyNode):
    """Opens a probe of models/ddm, or one that comes with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DDMLoadProbe",
            display_name="DDM Load Probe",
            category=CATEGORY,
            description="Opens a probe: it says who is in an image, as perceived, and how often it is right.",
            inputs=[
                io.Combo.Input(
                    "probe",
                    options=files.names(files.DDM, "probe"),
                    tooltip="A probe in models/ddm, or one that comes with ComfyUI-DDM (those are for the small "
                    "model's images). Make your own with DDM Fit Probe.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Only for a probe that was fitted on CLIP features: the same CLIP vision model.",
                ),
            ],
            outputs=[Probe.Output(display_name="probe", tooltip="For DDM Fairness Report and DDM Alpha Sweep.")],
            **known(search_aliases=["classifier", "gender", "bias", "fairness probe"]),
        )

    @classmethod
    def validate_inputs(cls, probe: str | None = None) -> bool | str:
        """A sentence if the file is not there."""
        try:
            return bool(probe is None or files.resolve(files.DDM, probe))
        except DDMError as error:
            return str(error)

    @classmethod
    def fingerprint_inputs(cls, probe: str | None = None, clip_vision: object = None) -> str:
        """Read again when the file changes."""
        try:
            return files.stamp(files.resolve(files.DDM, probe))
        except (DDMError, OSError):
            return str(probe)

    @classmethod
    def execute(cls, probe: str, clip_vision: object = None) -> io.NodeOutput:
        """Open the file."""
        from ..debias.probes import probe as probes
        from .clip_vision import ClipVision

        opened = probes.Probe.load(
            files.resolve(files.DDM, probe), None if clip_vision is None else ClipVision(clip_vision)
        )
        if opened.network is None and clip_vision is None:
            raise DDMError(
                f"The probe {probe} reads the features of {opened.identity}. Connect that model to clip_vision."
            )
        return io.NodeOutput(opened)
