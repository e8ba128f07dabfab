"""DDM Alpha Schedule: the strength of an adapter over the course of sampling."""

import comfy.hooks
from comfy_api.latest import io

from ..debias.adapter.alpha_schedule import HIGHEST, LOWEST, SHAPES, make_schedule
from ..debias.core.error import DDMError
from .adapter_file import AdapterFile, check_name
from .files import ADAPTERS, names, resolve, stamp
from .types import CATEGORY, Card, known
from .validation import said_once

UNCHECKED = (
    "No model is connected, so whether the adapter fits it is not checked: one that does not fit changes nothing."
)
WITHOUT_TEXT = "The file also changes the text encoder; the prompts are encoded already, so this half is left out."


class AlphaScheduleNode(io.ComfyNode):
    """Attaches an adapter to both conditionings, with a strength that changes while the image is made."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Conditioning in, conditioning out: the strength belongs to the prompts, not to the model."""

        def strength(name: str, label: str, default: float, tooltip: str) -> io.Float.Input:
            return io.Float.Input(
                name,
                display_name=label,
                default=default,
                min=LOWEST,
                max=HIGHEST,
                step=0.05,
                round=0.001,
                display_mode=io.NumberDisplay.slider,
                tooltip=tooltip,
            )

        return io.Schema(
            node_id="DDMAlphaSchedule",
            display_name="DDM Alpha Schedule",
            category=CATEGORY,
            description="Uses a fair adapter with a strength α that changes while the image is made. Who is in an "
            "image is decided early: an adapter that acts only then leaves the details to the model. Use it in place "
            "of DDM Load Adapter, not after it.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the image shall show."),
                io.Conditioning.Input("negative", tooltip="What it shall not; it gets the same strength."),
                io.Combo.Input("adapter", options=names(ADAPTERS), tooltip="An adapter file from models/loras."),
                io.Combo.Input(
                    "shape",
                    options=list(SHAPES),
                    default="early",
                    tooltip="constant: α all the time. ramp: evenly from α to the end. early: α up to the switch, the "
                    "end from there on. custom: the points.",
                ),
                strength("alpha", "α", 1.0, "Strength at the start. 0: the model as it was; 1: the target."),
                strength("alpha_end", "α end", 0.0, "Strength at the end (ramp), or after the switch (early)."),
                io.Float.Input(
                    "switch",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="early: where α changes. 0 is pure noise, 1 the finished image.",
                ),
                io.String.Input(
                    "points",
                    default="0:1, .4:.5, 1:0",
                    tooltip="custom: position:α pairs, joined by straight lines; two pairs at one position are a jump.",
                ),
                io.Model.Input(
                    "model", optional=True, tooltip="Connect it to be told whether the adapter fits; it is not changed."
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With the adapter attached."),
                io.Conditioning.Output(display_name="negative", tooltip="With the adapter attached."),
                Card.Output(display_name="card", tooltip="What the adapter was made for, and at which α it starts."),
            ],
            **known(
                search_aliases=["lora schedule", "hook", "keyframe", "alpha", "fair", "debias"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    @said_once
    def validate_inputs(
        cls, adapter: str | None = None, shape: str | None = None, points: str | None = None
    ) -> bool | str:
        """A sentence when the file or the points cannot be used."""
        problem = check_name(adapter)
        try:
            if problem is None and shape is not None and (shape != "custom" or points is not None):
                make_schedule(shape, 0.0, 0.0, 0.0, points or "")
        except DDMError as error:
            problem = str(error)
        return True if problem is None else problem

    @classmethod
    def fingerprint_inputs(cls, adapter: str | None = None, **_: object) -> str:
        """Load again when the file has changed."""
        return "" if adapter is None else stamp(resolve(ADAPTERS, adapter))

    @classmethod
    def execute(
        cls, positive, negative, adapter: str, shape: str, alpha, alpha_end, switch, points, model=None
    ) -> io.NodeOutput:
        """Both conditionings with the adapter attached, and the card."""
        schedule = make_schedule(shape, alpha, alpha_end, switch, points)
        file = AdapterFile.load(adapter)
        steps = schedule.steps()
        fits = UNCHECKED if model is None else file.check(model)
        loaded = file.loaded(steps[0][1], fits, WITHOUT_TEXT if file.changes_text else None)
        keyframes = comfy.hooks.HookKeyframeGroup()
        for start, strength in steps:  # the first one starts at 0: before it, α would be that of the first anyhow
            keyframes.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
        hooks = comfy.hooks.create_hook_lora(lora=dict(file.tensors), strength_model=1.0, strength_clip=0.0)
        hooks.set_keyframes_on_hooks(keyframes)
        cache: dict = {}  # so that both get the same combination with hooks that are there already
        both = [comfy.hooks.set_hooks_for_conditioning(cond, hooks, cache=cache) for cond in (positive, negative)]
        panel = loaded.panel() | {"kind": "schedule", "schedule": schedule.curve()}
        return io.NodeOutput(*both, loaded, ui={"ddm_panel": [panel], "text": [loaded.text]})
