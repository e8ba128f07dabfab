"""DDM Compare Reports: what changed between two reports, with the interval of a paired difference."""

from typing import TYPE_CHECKING

from comfy_api.latest import io

from .types import CATEGORY, Report, known

if TYPE_CHECKING:
    from ..debias.evaluation.compare import Evaluation


class CompareReports(io.ComfyNode):
    """Puts two reports on the same prompts side by side."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DDMCompareReports",
            display_name="DDM Compare Reports",
            category=CATEGORY,
            description="Says what changed between two reports on the same prompts. Images of one seed are compared "
            "as pairs, which tells small changes from chance.",
            is_output_node=True,
            inputs=[
                Report.Input("before", tooltip="The report to compare with, for instance of images at α = 0."),
                Report.Input("after", tooltip="The report on the images that should be fairer."),
            ],
            outputs=[
                io.Image.Output(display_name="chart"),
                Report.Output(display_name="report"),
                io.String.Output(display_name="text", tooltip="What changed, in sentences."),
            ],
            **known(search_aliases=["before after", "difference", "bias"]),
        )

    @classmethod
    def execute(cls, before: "Evaluation", after: "Evaluation") -> io.NodeOutput:
        """Measure the two together, and write the report."""
        from ..debias.evaluation.compare import compare
        from ..debias.rendering.panel import report_panel
        from ..debias.rendering.report_html import overview
        from .report_files import chart_image, new_place, words

        study = compare(before, after)
        report = study.report
        panel = report_panel(report, "compare", new_place("compare").save(report))
        return io.NodeOutput(chart_image(overview(report)), study, words(report), ui={"ddm_panel": [panel]})
