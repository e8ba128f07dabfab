"""The page Audit a folder of the tab DDM."""

import gradio as gr

from ..debias.core.error import DDMError
from ..debias.core.io import write_text
from ..debias.rendering.panel_html import fragment, problem
from ..hosts.trainer_process import by_name
from . import host, pages, training_set

PAGE = "audit"


def build(page: gr.Blocks) -> None:
    """The inputs, and what was found beside them."""
    with gr.Row():
        with gr.Column():
            inputs = training_set.folder_inputs(PAGE)
            start = gr.Button("Audit", variant="primary", elem_id="ddm_audit_start")
        said = gr.HTML("", elem_id="ddm_audit")
    start.click(audit, inputs=inputs, outputs=[said])


def audit(folder: str, model: str, groups: str, target: str, caption: str) -> str:
    """Audit a folder; returns the panel, or the sentence that says why not."""
    from ..debias.rendering.audit_html import render_audit
    from ..debias.rendering.panel import audit_panel
    from ..training.data.audit_folder import audit_folder
    from ..training.data.group_images import check_source
    from ..training.data.read_folder import read_folder

    base = None
    groups, target = groups.strip(), target.strip() or training_set.UNIFORM
    try:
        check_source(groups, target)
        images = read_folder(training_set.folder_of(folder), caption.strip() or None)
        base = training_set.base_of(model)
        with host.model_put_away(lambda: "DDM is looking at a folder"):
            made = audit_folder(images, base, groups, target, device=host.device(), tokenizer=host.tokenizer())
        page = host.outputs_folder() / f"audit_{images.root.resolve().name}.html"
        write_text(page, render_audit(made))
        write_text(page.with_suffix(".json"), made.to_json(images=False))
        return fragment(audit_panel(made), pages.link(page))
    except DDMError as error:
        return problem(by_name(str(error), [base] if base else []))
