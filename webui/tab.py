"""The tab DDM: cards of adapters, measuring, what is in a folder of images, and training."""

from typing import Any

import gradio as gr
from modules.ui_components import ToolButton

from . import audit_page, files, head_page, measure_page, train_page
from .cards import card_html

PAGES = {
    "Measure": measure_page,
    "Guidance head": head_page,
    "Train an adapter": train_page,
    "Audit a folder": audit_page,
}


def build() -> gr.Blocks:
    """The tab's page."""
    with gr.Blocks(analytics_enabled=False) as page, gr.Tabs(elem_id="ddm_tabs"):
        with gr.TabItem("Adapters", elem_id="ddm_tab_adapters"):
            _adapters()
        for name, part in PAGES.items():
            with gr.TabItem(name, elem_id=f"ddm_tab_{part.PAGE}") as item:
                part.build(page)
            _keep_defaults_apart(item, part.PAGE)
    return page


def _keep_defaults_apart(block: Any, page: str) -> None:
    """Tell the host whose inputs these are: by tab and label alone, it takes Steps of two pages for one default."""
    block.custom_script_source = f"ddm_{page}"
    for child in getattr(block, "children", ()):
        _keep_defaults_apart(child, page)


def _adapters() -> None:
    with gr.Row():
        name = gr.Dropdown(files.adapter_names(), value=files.NONE, label="Adapter", elem_id="ddm_cards_adapter")
        refresh = ToolButton("\U0001f504", elem_id="ddm_cards_refresh")
    card = gr.HTML("", elem_id="ddm_card")
    refresh.click(lambda: gr.update(choices=files.adapter_names()), outputs=[name])
    name.change(card_html, inputs=[name], outputs=[card])
