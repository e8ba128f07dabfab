"""DDM Check Probe: thirty images with what the probe says of them, to be told whether it is right."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
from comfy_api.latest import io

from ..debias.core.error import DDMError
from .types import CATEGORY, Report, advanced, known

if TYPE_CHECKING:
    from ..debias.evaluation.compare import Evaluation
    from ..debias.evaluation.probe_check import Question


class CheckProbe(io.ComfyNode):
    """Shows images of a report to be answered, and measures the report again by the answers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DDMCheckProbe",
            display_name="DDM Check Probe",
            category=CATEGORY,
            description="How often is the probe right? Shows thirty images of a report with what the probe says of "
            "them. Click what is wrong, queue again, and the report is corrected by it.",
            is_output_node=True,
            inputs=[
                Report.Input("report", tooltip="From DDM Measure Prompts or DDM Fairness Report."),
                *advanced(
                    io.String.Input(
                        "answers",
                        default="",
                        multiline=True,
                        tooltip="What you have answered, as the panel keeps it. Empty it to begin again.",
                    )
                ),
            ],
            outputs=[
                Report.Output(display_name="report", tooltip="Corrected by the answers; for DDM Compare Reports."),
                io.String.Output(
                    display_name="text", tooltip="How often the probe is right, and the report in sentences."
                ),
                io.Float.Output(display_name="accuracy", tooltip="Share of the images of which the probe is right."),
            ],
            **known(search_aliases=["accuracy", "calibrate", "verify", "label", "correct", "confusion"]),
        )

    @classmethod
    def execute(cls, report: "Evaluation", answers: str) -> io.NodeOutput:
        """Choose the images, and measure again by the answers that there are."""
        from ..debias.evaluation import probe_check
        from ..debias.evaluation.compare import Evaluation
        from ..debias.rendering.panel import report_panel
        from .report_files import new_place, words

        records, first = report.records, report.records.attributes[0]
        asked = probe_check.questions(records, first)
        given = probe_check.read_answers(answers, first.classes)
        told, check = probe_check.corrected(records, given)
        made = Evaluation.of(told, report.report.title) if check.enough else report
        place = new_place("check")
        panel = report_panel(made.report, "check", place.save(made.report))
        if given and not check.enough:
            panel["remarks"] = [*check.sentences(first.name), *panel["remarks"]]
        panel["check"] = {
            "attribute": first.name,
            "classes": list(first.classes),
            "unclear": probe_check.UNCLEAR,
            "fewest": probe_check.FEWEST,
            "images": [_shown(one, report) for one in asked],
        }
        accuracy = check.accuracy if check.enough else float("nan")
        text = "\n".join([*(check.sentences(first.name) if given and not check.enough else []), words(made.report)])
        return io.NodeOutput(made, text, accuracy, ui={"ddm_panel": [panel]})


def _shown(question: "Question", report: "Evaluation") -> dict[str, Any]:
    """One image as the panel shows it: its file, what the probe says, and how sure it is of it."""
    from ..debias.core.io import write_bytes

    records, first = report.records, report.records.attributes[0]
    data = records.thumbnails[question.row].partition(",")[2]
    if not data:
        raise DDMError("One of the images cannot be shown any more. Queue the graph that measures them again.")
    file = {"filename": f"{question.key}.jpg", "subfolder": "ddm/check", "type": "output"}
    path = Path(folder_paths.get_output_directory()) / file["subfolder"] / file["filename"]
    if not path.exists():
        write_bytes(path, base64.b64decode(data))
    return {
        "key": question.key,
        "said": first.classes[question.said],
        "sure": float(first.probabilities[question.row, question.said]),
        "prompt": records.prompts[records.prompt[question.row]],
        "file": file,
    }
