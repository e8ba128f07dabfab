"""DDM Invariant Guidance: what a small module, trained without labels, adds to a model's answer."""

from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io

from ..debias.core.error import DDMError
from . import files
from .types import CATEGORY, known
from .upstream import Upstream

KIND = "invariant"
OTHER_BASE = (
    "The module was trained on another model, or on one that is not known here: look at a report before you rely on it."
)


class InvariantGuidance(io.ComfyNode):
    """Patches a model: answer + r · δ."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Model in, model out."""
        return io.Schema(
            node_id="DDMInvariantGuidance",
            display_name="DDM Invariant Guidance",
            category=CATEGORY,
            description="Adds a small module's correction to the model's answer at every step. The module was trained "
            "without labels to serve all kinds of images alike; the model itself is not changed.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the module was trained for."),
                io.Combo.Input(
                    "module",
                    options=files.names(files.DDM, KIND),
                    tooltip="A module in models/ddm. DDM Train with the objective invariant makes one for your model.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-2.0,
                    max=5.0,
                    step=0.05,
                    round=0.001,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="r. 0: the model as it is. 1: as it was trained. More: further in that direction.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            outputs=[io.Model.Output(tooltip="The model with the correction.")],
            **known(search_aliases=["fair", "debias", "guidance", "invariant", "label-free"]),
        )

    @classmethod
    def validate_inputs(cls, module: str | None = None) -> bool | str:
        """A sentence when the file cannot be used."""
        return files.check_kind(module, KIND)

    @classmethod
    def fingerprint_inputs(cls, module: str | None = None, **_: object) -> str:
        """Load again when the file has changed."""
        return "" if module is None else files.stamp(files.resolve(files.DDM, module))

    @classmethod
    def execute(cls, model: Any, module: str, strength: float) -> io.NodeOutput:
        """The patched model."""
        from ..debias.methods.invariant_module import InvariantModule

        delta = InvariantModule.load(files.resolve(files.DDM, module))
        if not hasattr(model.model.diffusion_model, "middle_block"):
            raise DDMError(
                "Invariant guidance is for U-Nets, and this model is a transformer. Use DDM Distribution Guidance, or "
                "an adapter."
            )
        shape = model.model.model_config.unet_config
        if (delta.card.channels, delta.card.text_width) != (shape.get("in_channels"), shape.get("context_dim")):
            raise DDMError(
                f"{module} was trained for another kind of model. Use that one, or train a module for this one with "
                "DDM Train (objective invariant)."
            )
        model = model.clone()

        # A closure, and ahead of the U-Net: some hosts copy callable objects deeply.
        def correct(
            executor: Any, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor, *rest: Any, **named: Any
        ) -> torch.Tensor:
            answer = executor(x, timesteps, context, *rest, **named)
            return answer + strength * delta.to(x.device)(x, timesteps, context).to(answer.dtype)

        if strength:
            model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "ddm_invariant", correct)
        base = Upstream(cls.hidden.dynprompt, cls.hidden.unique_id).base_hash("model", model)
        told = [] if base == delta.card.base_hash else [OTHER_BASE]
        return io.NodeOutput(model, ui={"text": told})
