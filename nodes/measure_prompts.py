"""DDM Measure Prompts: generates images of many prompts, and says whom the model draws for each."""

from typing import TYPE_CHECKING, Any

import comfy.model_management
from comfy_api.latest import io

from ..debias.core.error import DDMError
from . import files, measured_inputs, prompt_lists
from .generation import SamplerSettings
from .target import check_target
from .types import CATEGORY, Probe, Report, known
from .validation import said_once

if TYPE_CHECKING:
    from ..debias.evaluation.compare import Evaluation
    from ..hosts.image_store import ImageStore


class MeasurePrompts(io.ComfyNode):
    """Generates what is missing, looks at all images of these prompts, and reports prompt by prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DDMMeasurePrompts",
            display_name="DDM Measure Prompts",
            category=CATEGORY,
            description="Whom does this model draw? Generates images of many prompts, looks at them with a probe, and "
            "shows the shares prompt by prompt, the worst first. The images are kept in output/ddm, so that counts go "
            "on over queued runs, a cancel, and a restart.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to measure, with whatever is on it."),
                io.Clip.Input("clip", tooltip="Reads the prompts."),
                io.Vae.Input("vae", tooltip="Turns latents into images."),
                Probe.Input("probe", tooltip="Who to look for. Another probe looks at the same images again."),
                io.String.Input(
                    "prompts",
                    default="a photo of a doctor\na photo of a nurse",
                    multiline=True,
                    tooltip="What to generate, one prompt in a line (or with ';' between them).",
                ),
                io.Combo.Input(
                    "prompt_list",
                    options=prompt_lists.names(),
                    default=prompt_lists.WRITTEN,
                    tooltip="as written: the prompts above. Others in place of them: occupations, described people, "
                    "or a text file in the input folder with one prompt in a line.",
                ),
                io.Int.Input(
                    "count",
                    default=60,
                    min=1,
                    max=4096,
                    tooltip="Images of each prompt. A verdict needs 60; those that are there already are not "
                    "generated again.",
                ),
                *measured_inputs.settings(
                    "Another seed generates other images, which are counted with the earlier ones.", new_seeds=True
                ),
                io.Boolean.Input(
                    "collect",
                    default=True,
                    label_on="with earlier images",
                    label_off="only these seeds",
                    tooltip="On: all images of these prompts that this model made with these settings count. Off: only "
                    "those of the seeds from here on.",
                ),
                *measured_inputs.wires(),
            ],
            outputs=[
                io.Image.Output(display_name="gallery", tooltip="Images of every prompt, the worst prompt first."),
                io.Image.Output(display_name="chart"),
                Report.Output(display_name="report", tooltip="For DDM Compare Reports."),
                io.String.Output(display_name="text", tooltip="The report in sentences."),
                io.String.Output(display_name="json", tooltip="All figures of the report."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            **known(search_aliases=["bias", "fairness", "who", "audit model", "statistics", "diversity"]),
        )

    @classmethod
    @said_once
    def validate_inputs(
        cls, prompts: str | None = None, prompt_list: str | None = None, target: str | None = None
    ) -> bool | str:
        """A sentence if there is no prompt, no such list, or the target is none."""
        try:
            if None not in (prompts, prompt_list):
                prompt_lists.read(prompt_list, prompts)
        except DDMError as error:
            return str(error)
        return check_target(target)

    @classmethod
    def fingerprint_inputs(cls, prompt_list: str | None = None, **rest: object) -> str:
        """Measure again when the list's file has changed."""
        path = None if prompt_list is None else prompt_lists.path_of(prompt_list)
        return "" if path is None else files.stamp(path)

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        probe: Any,
        prompts: str,
        prompt_list: str,
        count: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        seed: int,
        width: int,
        height: int,
        target: str,
        collect: bool,
        negative: list | None = None,
        watch: Any = None,
    ) -> io.NodeOutput:
        """Generate what is missing, measure what is there; a cancel shows what was measured until then."""
        from ..hosts.measurement import Variant, evaluate, seeds_of
        from . import measurement
        from .generation import Generator
        from .progress import send_panel
        from .upstream import Upstream

        probes, targets = measured_inputs.asked(probe, watch, target)
        names = prompt_lists.read(prompt_list, prompts)
        settings = SamplerSettings(steps, cfg, sampler_name, scheduler, width, height)
        upstream = Upstream(cls.hidden.dynprompt, cls.hidden.unique_id)
        store = measurement.store_of(model, upstream, settings)
        generator = Generator(vae, settings)
        variant = Variant(
            upstream.alpha("model") or 0.0,
            store,
            lambda: measurement.ModelImages(generator, model, measurement.conditioning(names, clip, None, negative)),
        )
        asked = {name: seeds_of(name, seed, count) for name in names}

        def evaluated() -> "Evaluation":
            counted = {name: store.seeds(name) if collect else own for name, own in asked.items()}
            return evaluate(probes, targets, [variant], counted, "Whom the model draws")

        try:
            measurement.generate([variant], asked, cls.hidden.unique_id)
        except comfy.model_management.InterruptProcessingException:
            if any(store.seeds(name) for name in names):
                panel = _panel(evaluated(), store)
                panel["remarks"].insert(0, "Cancelled: these are the images until then. Queue again to go on.")
                send_panel(cls.hidden.unique_id, "ddm.result", panel)
            raise
        return _output(evaluated(), store)


def _panel(study: "Evaluation", store: "ImageStore") -> dict[str, Any]:
    from ..debias.rendering.panel import report_panel
    from .report_files import Place

    report = study.report
    place = Place(store.folder, store.subfolder, f"report_{report.attributes[0].name}")
    return report_panel(report, "measure", place.save(report))


def _output(study: "Evaluation", store: "ImageStore") -> io.NodeOutput:
    from ..debias.rendering.report_html import overview
    from ..hosts.measurement import gallery
    from .report_files import chart_image, to_image, words

    report = study.report
    return io.NodeOutput(
        to_image(gallery(study, store)),
        chart_image(overview(report)),
        study,
        words(report),
        report.to_json(images=False),
        ui={"ddm_panel": [_panel(study, store)]},
    )
