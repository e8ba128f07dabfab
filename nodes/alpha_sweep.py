"""DDM Alpha Sweep: the same seeds at several strengths of an adapter, measured, with the strength to recommend."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import comfy.sd
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..debias.core.error import DDMError
from ..hosts.measurement import read_alphas
from . import adapter_file, files, measured_inputs, prompt_lists
from .generation import SamplerSettings
from .target import check_target
from .types import CATEGORY, Probe, Report, known
from .validation import said_once

if TYPE_CHECKING:
    from ..debias.evaluation.compare import Evaluation
    from ..hosts.measurement import Variant

NONE = "none"


class AlphaSweep(io.ComfyNode):
    """Generates at every α with the same seeds, looks at the images, and recommends an α."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DDMAlphaSweep",
            display_name="DDM Alpha Sweep",
            category=CATEGORY,
            description="Makes images of the same seeds at several strengths α of a fair adapter, measures who is in "
            "them, and recommends the smallest α at which every prompt is as near to the target as can be told.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model as it is, without the adapter."),
                io.Vae.Input("vae", tooltip="Turns latents into images."),
                io.Combo.Input(
                    "adapter",
                    options=[*files.names(files.ADAPTERS), NONE],
                    tooltip="The fair adapter: a LoRA in models/loras. none: only α = 0, the model as it comes.",
                ),
                Probe.Input("probe", tooltip="Who to look for."),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="What to make, one prompt in a line (or with ';' between them); needs clip. If positive is "
                    "connected instead, this is only what it is called in the report.",
                ),
                io.String.Input("alphas", default="0, 0.5, 1", tooltip="The strengths to try. 0 has to be among them."),
                io.Int.Input(
                    "count",
                    default=8,
                    min=1,
                    max=4096,
                    tooltip="Images for each prompt and α. A verdict needs 60 of each prompt.",
                ),
                *measured_inputs.settings("They are the same at every α.", new_seeds=False),
                io.Clip.Input("clip", optional=True, tooltip="Reads the prompts; needed without positive."),
                io.Conditioning.Input("positive", optional=True, tooltip="One prompt, in place of clip and prompts."),
                *measured_inputs.wires(),
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="The same seeds, one block for each α."),
                io.Image.Output(
                    display_name="chart", tooltip="Shares and distance over α, and fairness against quality."
                ),
                Report.Output(display_name="report"),
                io.Float.Output(display_name="recommended_alpha"),
                io.String.Output(display_name="text"),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            **known(search_aliases=["xy plot", "strength", "recommend", "pareto", "lora sweep"]),
        )

    @classmethod
    @said_once
    def validate_inputs(
        cls, adapter: str | None = None, alphas: str | None = None, target: str | None = None
    ) -> bool | str:
        """A sentence if the adapter is not there, or strengths or target cannot be read."""
        if adapter not in (None, NONE) and (wrong := adapter_file.check_name(adapter)):
            return wrong
        try:
            if alphas is not None:
                read_alphas(alphas)
        except DDMError as error:
            return str(error)
        return check_target(target)

    @classmethod
    def fingerprint_inputs(cls, adapter: str | None = None, **rest: object) -> str:
        """Measure again when the adapter's file changes."""
        try:
            return files.stamp(files.resolve(files.ADAPTERS, adapter))
        except (DDMError, OSError):
            return str(adapter)

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        adapter: str,
        probe: Any,
        prompts: str,
        alphas: str,
        count: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        seed: int,
        width: int,
        height: int,
        target: str,
        clip: Any = None,
        positive: list | None = None,
        negative: list | None = None,
        watch: Any = None,
    ) -> io.NodeOutput:
        """Sample, look, measure, recommend."""
        from ..hosts.measurement import Variant, evaluate, seeds_of
        from . import measurement
        from .generation import Generator
        from .upstream import Upstream

        probes, targets = measured_inputs.asked(probe, watch, target)
        names = _prompts(prompts, positive, clip)
        lora = None if adapter == NONE else adapter_file.AdapterFile.load(adapter)
        warning = lora and lora.check(model)
        settings = SamplerSettings(steps, cfg, sampler_name, scheduler, width, height)
        upstream = Upstream(cls.hidden.dynprompt, cls.hidden.unique_id)
        stamp = "" if lora is None else files.stamp(files.resolve(files.ADAPTERS, adapter))

        generator = Generator(vae, settings)

        def variant(alpha: float) -> Variant:
            def prepare() -> measurement.ModelImages:
                # The host's own loader, so that what is measured is what a graph will do; 0 is the model itself.
                own, text = (
                    comfy.sd.load_lora_for_models(model, clip, dict(lora.tensors), alpha, alpha)
                    if alpha
                    else (model, clip)
                )
                encoded = measurement.conditioning(names, text, positive, negative)
                return measurement.ModelImages(generator, own, encoded)

            store = measurement.store_of(model, upstream, settings, stamp, alpha)
            return Variant(alpha, store, prepare)

        variants = [variant(alpha) for alpha in read_alphas(alphas) if lora or not alpha]
        seeds = {name: seeds_of(name, seed, count) for name in names}
        measurement.generate(variants, seeds, cls.hidden.unique_id)
        title = "Whom the model draws" if lora is None else f"Sweep of {adapter}"
        study = evaluate(probes, targets, variants, seeds, title)
        return _output(study, variants, seeds, cfg, warning)


def _prompts(text: str, positive: list | None, clip: Any) -> list[str]:
    if positive is not None:
        return [" ".join(text.split())]
    if clip is None:
        raise DDMError("There is nothing to make: connect clip and write prompts, or connect positive.")
    return prompt_lists.split(text)


def _output(
    study: "Evaluation", variants: "Sequence[Variant]", seeds: Mapping[str, range], cfg: float, warning: str | None
) -> io.NodeOutput:
    from ..debias.rendering.report_html import sweep_overview
    from ..hosts.measurement import grid, sweep_panel
    from .report_files import chart_image, new_place, to_image, words

    report = study.report
    best = report.recommendation(cfg)
    panel = sweep_panel(report, cfg, new_place("sweep").save(report), warning)
    text = "\n".join(filter(None, (best.reason, words(report), warning)))
    chart = chart_image(sweep_overview(report, best.alpha))
    # Whatever takes its strength from here stops with the reason where there is none.
    alpha = ExecutionBlocker(best.reason) if best.alpha is None else best.alpha
    return io.NodeOutput(to_image(grid(study, variants, seeds)), chart, study, alpha, text, ui={"ddm_panel": [panel]})
