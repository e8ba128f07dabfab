"""DDM Load Adapter: a fair adapter at strength α, exactly as the host's own LoRA loader applies it."""

import comfy.sd
from comfy_api.latest import io

from ..debias.adapter.alpha_schedule import HIGHEST, LOWEST
from ..debias.core.error import DDMError
from .adapter_file import AdapterFile, check_name, recommended_alpha
from .files import ADAPTERS, names, resolve, stamp
from .types import CATEGORY, Card, known
from .upstream import Upstream
from .validation import said_once

WITHOUT_TEXT = "The file also changes the text encoder, and no CLIP is connected: this half is left out."


class LoadAdapter(io.ComfyNode):
    """Puts an adapter on a model; its strength is α."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One slider matters: α."""
        return io.Schema(
            node_id="DDMLoadAdapter",
            display_name="DDM Load Adapter",
            category=CATEGORY,
            description="Puts a fair adapter on a model. Its strength is α: 0 is the model as it was, 1 the "
            "distribution that the adapter was trained for, more is too far, less than 0 makes the bias stronger. It "
            "does exactly what Load LoRA does, and tells what the adapter was made for.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the adapter was trained for."),
                io.Combo.Input("adapter", options=names(ADAPTERS), tooltip="An adapter file from models/loras."),
                io.Float.Input(
                    "alpha",
                    display_name="α",
                    default=1.0,
                    min=LOWEST,
                    max=HIGHEST,
                    step=0.05,
                    round=0.001,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="Strength. 0: the model as it was. 1: the target. Between: part of the way. "
                    "Beyond 1: too far. Below 0: the bias, stronger.",
                ),
                io.Combo.Input(
                    "strength_from",
                    options=["alpha", "recommended"],
                    default="alpha",
                    tooltip="alpha: the slider. recommended: what the adapter's card says; the slider is ignored.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Needed only by an adapter that changes the text encoder too."
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the adapter."),
                io.Clip.Output(tooltip="The text encoder, with the adapter if it changes it."),
                Card.Output(display_name="card", tooltip="What the adapter was made for, and at which α it is used."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            **known(search_aliases=["lora", "debias", "fair", "alpha", "load lora"], has_intermediate_output=True),
        )

    @classmethod
    @said_once
    def validate_inputs(cls, adapter: str | None = None, strength_from: str | None = None) -> bool | str:
        """A sentence when the file cannot be used."""
        problem = check_name(adapter)
        if problem is None and strength_from not in ("alpha", "recommended", None):
            problem = f"strength_from is {strength_from!r}. Choose alpha or recommended."
        if problem is None and adapter is not None and strength_from == "recommended":
            try:
                recommended_alpha(adapter)
            except DDMError as error:
                problem = str(error)
        return True if problem is None else problem

    @classmethod
    def fingerprint_inputs(cls, adapter: str | None = None, **_: object) -> str:
        """Load again when the file has changed."""
        return "" if adapter is None else stamp(resolve(ADAPTERS, adapter))

    @classmethod
    def execute(cls, model, adapter: str, alpha: float, strength_from: str, clip=None) -> io.NodeOutput:
        """MODEL, CLIP and card."""
        if strength_from == "recommended":
            alpha = recommended_alpha(adapter)
        file = AdapterFile.load(adapter)
        base = Upstream(cls.hidden.dynprompt, cls.hidden.unique_id).base_hash("model", model) if file.card else ""
        half = WITHOUT_TEXT if clip is None and file.changes_text else None
        loaded = file.loaded(alpha, file.check(model, base), half)
        if alpha != 0:
            model, clip = comfy.sd.load_lora_for_models(model, clip, dict(file.tensors), alpha, alpha)
        return io.NodeOutput(model, clip, loaded, ui={"ddm_panel": [loaded.panel()], "text": [loaded.text]})
