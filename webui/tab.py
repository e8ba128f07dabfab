"""The tab DDM: cards of adapters, what is in a folder of images, and training."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from modules import shared
from modules.ui_components import ToolButton

from ..debias.adapter.lora_file import AdapterCard
from ..debias.core.error import DDMError
from ..debias.core.io import named_file, read_metadata, write_text
from ..debias.probes.probe import Probe
from ..debias.rendering.panel_html import fragment, problem
from ..hosts.background import BackgroundTraining
from ..hosts.progress_panel import TrainPanel
from ..hosts.trainer_process import check_same, more_options, train_arguments
from . import files, host, pages
from .cards import card_html

EMBEDDED, SELECTED = "tiny_people (comes with ComfyUI-DDM)", "the selected checkpoint"
MODELS = [SELECTED, EMBEDDED]
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# Seconds between two looks at a training.
PAUSE = 0.5
# The training of this server: there is one at a time.
_job: BackgroundTraining | None = None


def build() -> gr.Blocks:
    """The tab's page."""
    with gr.Blocks(analytics_enabled=False) as page, gr.Tabs(elem_id="ddm_tabs"):
        with gr.TabItem("Adapters", elem_id="ddm_tab_adapters"):
            _adapters()
        with gr.TabItem("Audit a folder", elem_id="ddm_tab_audit"):
            _audit()
        with gr.TabItem("Train an adapter", elem_id="ddm_tab_train"):
            _train(page)
    return page


def _adapters() -> None:
    with gr.Row():
        name = gr.Dropdown(files.adapter_names(), value=files.NONE, label="Adapter", elem_id="ddm_cards_adapter")
        refresh = ToolButton("\U0001f504", elem_id="ddm_cards_refresh")
    card = gr.HTML("", elem_id="ddm_card")
    refresh.click(lambda: gr.update(choices=files.adapter_names()), outputs=[name])
    name.change(card_html, inputs=[name], outputs=[card])


def _audit() -> None:
    with gr.Row():
        with gr.Column():
            inputs = _set_inputs("audit")
            start = gr.Button("Audit", variant="primary", elem_id="ddm_audit_start")
        said = gr.HTML("", elem_id="ddm_audit")
    start.click(audit, inputs=inputs, outputs=[said])


def _train(page: gr.Blocks) -> None:
    with gr.Row():
        with gr.Column():
            inputs = _set_inputs("train")
            with gr.Row():
                name = gr.Textbox("my_fair_adapter", label="Name", lines=1, elem_id="ddm_train_name")
                style = gr.Checkbox(False, label="Learn the style as well", elem_id="ddm_train_style")
            with gr.Row():
                steps = gr.Number(300, label="Steps", precision=0, elem_id="ddm_train_steps")
                rank = gr.Number(8, label="Rank", precision=0, elem_id="ddm_train_rank")
                calibrate = gr.Number(160, label="Images to calibrate", precision=0, elem_id="ddm_train_calibrate")
                seed = gr.Number(0, label="Seed", precision=0, elem_id="ddm_train_seed")
            more = _more_inputs()
            overwrite = gr.Checkbox(
                False, label="Overwrite an adapter of this name, and a stopped run of it", elem_id="ddm_train_overwrite"
            )
            with gr.Row():
                start = gr.Button("Train", variant="primary", elem_id="ddm_train_start")
                stop = gr.Button("Stop, and keep what was trained", elem_id="ddm_train_stop")
        said = gr.HTML("", elem_id="ddm_train")
    settings = [name, style, steps, rank, calibrate, seed, overwrite]
    start.click(partial(_started, list(more)), inputs=[*inputs, *settings, *more.values()], outputs=[said])
    stop.click(cancel, outputs=[said])
    page.load(watch, outputs=[said])


def _more_inputs() -> dict[str, Any]:
    """Inputs of a training that may be left as they are, by the names that `more_options` gives them."""
    inputs: dict[str, Any] = {}

    def add(kind: type, name: str, value: Any, label: str, **more: Any) -> None:
        inputs[name] = kind(value=value, label=label, elem_id=f"ddm_train_{name}", **more)

    with gr.Accordion("More", open=False, elem_id="ddm_train_more"):
        add(
            gr.Number,
            "by_prompt",
            0,
            "Images to correct each prompt by (16 and 500 steps; 0: all prompts together)",
            precision=0,
        )
        add(gr.Textbox, "trigger", "", "Trigger: a word that is said at the beginning of every caption", lines=1)
        with gr.Row():
            add(gr.Checkbox, "shuffle_caption", False, "Shuffle captions between commas")
            add(gr.Checkbox, "flip", False, "Learn from mirror images too")
            add(gr.Checkbox, "buckets", True, "Keep the shape of each image")
            add(gr.Checkbox, "text_encoder", False, "Let the text encoders learn as well")
        with gr.Row():
            add(gr.Number, "learning_rate", 0, "Learning rate (0: the usual one)")
            add(gr.Number, "resolution", 0, "Resolution in pixels (0: the model's own)", precision=0)
        with gr.Row():
            add(gr.Number, "batch_size", 32, "Batch size: images in a step", precision=0)
            add(
                gr.Number,
                "gradient_accumulation_steps",
                1,
                "Gradient accumulation steps: parts of a step, for less memory",
                precision=0,
            )
        with gr.Row():
            add(
                gr.Checkbox,
                "gradient_checkpointing",
                False,
                "Gradient checkpointing: much less memory, a third more time",
            )
        add(
            gr.Textbox,
            "reg_data",
            "",
            "Regularisation: a folder of images that keep what the model knows",
            lines=1,
        )
        with gr.Row():
            add(gr.Textbox, "prior_prompts", "", "Mix in the model's own images of a doctor;…", lines=1)
            add(gr.Number, "prior_count", 24, "Images of each", precision=0)
        with gr.Row():
            add(
                gr.Dropdown, "probes", [], "Measure the adapter with", choices=files.probe_names()[1:], multiselect=True
            )
            add(gr.Number, "measure", 16, "Images of each caption, at each α", precision=0)
    return inputs


def _set_inputs(what: str) -> list:
    """What an audit and a training ask for alike: folder, model, groups, target and caption."""
    hint = "A folder of images on this machine, with captions beside them"
    return [
        gr.Textbox("", label=hint, lines=1, elem_id=f"ddm_{what}_folder"),
        gr.Radio(MODELS, value=SELECTED, label="Model", elem_id=f"ddm_{what}_model"),
        gr.Textbox(
            "discovered",
            label="Groups: discovered, auto, words:man|woman, or labels:COLUMN",
            lines=1,
            elem_id=f"ddm_{what}_groups",
        ),
        gr.Textbox("uniform", label="Target", lines=1, elem_id=f"ddm_{what}_target"),
        gr.Textbox("", label="Caption of images without one", lines=1, elem_id=f"ddm_{what}_caption"),
    ]


def audit(folder: str, model: str, groups: str, target: str, caption: str) -> str:
    """Audit a folder; returns the panel, or the sentence that says why not."""
    from ..debias.rendering.audit_html import render_audit
    from ..debias.rendering.panel import audit_panel
    from ..training.data.audit_folder import audit_folder
    from ..training.data.group_images import check_source
    from ..training.data.image_folder import read_folder

    try:
        check_source(groups.strip(), target.strip() or "uniform")
        images = read_folder(_folder(folder), caption.strip() or None)
        base = _base(model)
        with host.model_put_away():
            made = audit_folder(
                images,
                base,
                groups.strip(),
                target.strip() or "uniform",
                device=host.device(),
                tokenizer=host.tokenizer(),
            )
        page = host.outputs_folder() / f"audit_{images.root.resolve().name}.html"
        write_text(page, render_audit(made))
        write_text(page.with_suffix(".json"), made.to_json(images=False))
        return fragment(audit_panel(made), pages.link(page))
    except DDMError as error:
        return problem(str(error))


def train(
    folder: str,
    model: str,
    groups: str,
    target: str,
    caption: str,
    name: str,
    style: bool,
    steps: int | None,
    rank: int | None,
    calibrate: int | None,
    seed: int | None,
    overwrite: bool,
    **more: Any,
) -> Iterator[str]:
    """Start a training, and show how it goes; closing the page does not stop it. `more`: see `_more_inputs`."""
    global _job
    try:
        if _job is not None and _job.running:
            raise DDMError("A training is running already. Stop it, or wait for its end.")
        if None in (steps, rank, calibrate, seed):
            raise DDMError("Steps, rank, images to calibrate and seed each need a number.")
        numbers = {"steps": steps, "rank": rank, "seed": seed}
        out = named_file(host.lora_folder(), name)
        if out.exists() and not overwrite:
            check_same(out, groups.strip(), numbers)
        kept = host.outputs_folder()
        arguments = train_arguments(
            _folder(folder),
            _base(model),
            out,
            checkpoint=kept / f"{out.stem}.checkpoint.safetensors",
            previews=kept / f"{out.stem}_previews",
            device=host.device(),
            groups=groups,
            target=target,
            caption=caption,
            style=style,
            calibrate=calibrate,
            overwrite=overwrite,
            tokenizer=host.tokenizer() if model == SELECTED else None,
            options=_more_options(**more),
            **numbers,
        )
    except DDMError as error:
        yield problem(str(error))
        return
    panel = TrainPanel(out.stem, lambda file: {"filename": file.name})
    _job = BackgroundTraining(arguments, panel, lambda panel: _finish(panel, out), host.model_put_away)
    _job.start()
    yield from watch()


def _started(names: list[str], *values: Any) -> Iterator[str]:
    """`train`, as the page calls it: the last values are of the inputs with these names, None of an emptied one."""
    first = len(values) - len(names)
    more = dict(zip(names, values[first:], strict=True))
    yield from train(*values[:first], **{name: value for name, value in more.items() if value is not None})


def _more_options(reg_data: str = "", probes: Sequence[str] = (), **rest: Any) -> list[str]:
    """What the trainer is told of `_more_inputs`.

    Raises:
        DDMError: a folder, a probe or its CLIP model is not there.
    """
    paths = [files.probe_path(name) for name in probes]
    # The trainer opens the CLIP model itself, in its own process.
    identities = [probe.identity for probe in map(Probe.load, paths) if probe.network is None]
    return more_options(
        reg_data=_folder(reg_data) if reg_data.strip() else None,
        probes=paths,
        clip=files.clip_folder(identities[0]) if identities else None,
        **rest,
    )


def watch() -> Iterator[str]:
    """How the training goes, until it ends; nothing if there was none."""
    job = _job
    if job is None:
        yield ""
        return
    while True:
        running = job.wait(PAUSE)
        yield _shown(job)
        if not running:
            return


def cancel() -> str:
    """Stop the training, and say what is kept."""
    if _job is None or not _job.running:
        return problem("No training is running.")
    _job.cancel()
    while _job.wait(PAUSE):
        pass
    return _shown(_job)


def _shown(job: BackgroundTraining) -> str:
    preview = job.panel.preview
    data = ""
    if preview is not None and preview.is_file():
        data = "data:image/png;base64," + base64.b64encode(preview.read_bytes()).decode("ascii")
    return fragment(job.panel.values, preview=data)


def _finish(panel: TrainPanel, out: Path) -> None:
    card = AdapterCard.from_metadata(read_metadata(out))
    text = f"{out.name} is among your LoRAs. Recommended α: {card.recommended_alpha:g}. Refresh the list to choose it."
    panel.finish(asdict(card), text)


def _base(model: str) -> Path:
    return EXAMPLES / "tiny_people" if model == EMBEDDED else host.selected_checkpoint()


def _folder(text: str) -> Path:
    """The folder that a user names.

    Raises:
        DDMError: it is none, or this server lets nobody name folders.
    """
    if getattr(shared.cmd_opts, "hide_ui_dir_config", False):
        raise DDMError("This server was started with --hide-ui-dir-config, so folders cannot be named here.")
    folder = Path(text.strip()).expanduser()
    if not text.strip() or not folder.is_dir():
        raise DDMError(f"There is no folder {text.strip()!r} on this machine. Give the whole path of a folder.")
    return folder
