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
from ..debias.core.option import Setting, settings_of
from ..debias.probes.probe import Probe
from ..debias.rendering.panel_html import fragment, problem
from ..hosts.background import BackgroundTraining
from ..hosts.progress_panel import TrainPanel
from ..hosts.stopped_run import check_same_run
from ..hosts.train_inputs import asked, choices, explained, train_config
from ..hosts.trainer_process import Command, by_name, check_same
from ..training.commands.config import TrainConfig
from . import files, host, measure_page, pages
from .cards import card_html

EMBEDDED, SELECTED = "tiny_people (comes with ComfyUI-DDM)", "the selected checkpoint"
MODELS = [SELECTED, EMBEDDED]
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# The input that is not called like the option.
NAMES = {"base": "model"}
# Sources of groups that need no labels; other words can be written in their place.
UNLABELLED = ["discovered", "auto", "words:man|woman"]
# A column with more values than this names no groups.
MOST_CLASSES = 20
# Seconds between two looks at a training.
PAUSE = 0.5
# The training of this server: there is one at a time.
_job: BackgroundTraining | None = None


def build() -> gr.Blocks:
    """The tab's page."""
    with gr.Blocks(analytics_enabled=False) as page, gr.Tabs(elem_id="ddm_tabs"):
        with gr.TabItem("Adapters", elem_id="ddm_tab_adapters"):
            _adapters()
        with gr.TabItem("Measure", elem_id="ddm_tab_measure"):
            measure_page.build(page)
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
            options = _options()
            overwrite = gr.Checkbox(
                False, label="Overwrite an adapter of this name, and a stopped run of it", elem_id="ddm_train_overwrite"
            )
            with gr.Row():
                start = gr.Button("Train", variant="primary", elem_id="ddm_train_start")
                stop = gr.Button("Stop, and keep what was trained", elem_id="ddm_train_stop")
        said = gr.HTML("", elem_id="ddm_train")
    inputs += [name, style, overwrite]
    start.click(partial(_started, list(options)), inputs=[*inputs, *options.values()], outputs=[said])
    stop.click(cancel, outputs=[said])
    page.load(watch, outputs=[said])


def _options() -> dict[str, Any]:
    """Inputs of the trainer's options, by their names; those that few need are in an accordion."""
    few = [setting for setting in asked() if setting.option.expert]
    made = {setting.name: _option(setting) for setting in asked() if not setting.option.expert}
    with gr.Accordion("More", open=False, elem_id="ddm_train_more"):
        return made | {setting.name: _option(setting) for setting in few}


def _option(setting: Setting) -> Any:
    """The input of an option; of what is not given, it shows 0 or nothing."""
    given = {"label": setting.name.replace("_", " ").capitalize(), "info": explained(setting)}
    given["elem_id"] = f"ddm_train_{setting.name}"
    if setting.name == "probe":
        return gr.Dropdown(files.probe_names()[1:], value=[], multiselect=True, **given)
    if setting.option.choices:
        return gr.Dropdown(choices(setting), value=choices(setting)[0], **given)
    if setting.kind is bool:
        return gr.Checkbox(setting.default, **given)
    if setting.kind in (int, float):
        return gr.Number(setting.default or 0, precision=0 if setting.kind is int else None, **given)
    return gr.Textbox(setting.default or "", lines=1, **given)


def _set_inputs(what: str) -> list:
    """What an audit and a training ask for alike: folder, model, groups, target and caption."""
    hint = "A folder of images on this machine, with captions beside them"
    declared = settings_of(TrainConfig)
    folder = gr.Textbox("", label=hint, lines=1, elem_id=f"ddm_{what}_folder")
    model = gr.Radio(MODELS, value=SELECTED, label="Model", elem_id=f"ddm_{what}_model")
    given = {
        name: {"label": name.capitalize(), "info": declared[name].option.help, "elem_id": f"ddm_{what}_{name}"}
        for name in ("groups", "target", "caption")
    }
    sources = _sources("")
    groups = gr.Dropdown(sources, value=sources[0], allow_custom_value=True, **given["groups"])
    folder.blur(lambda text: gr.update(choices=_sources(text)), inputs=[folder], outputs=[groups])
    texts = [gr.Textbox(declared[name].default or "", lines=1, **given[name]) for name in ("target", "caption")]
    return [folder, model, groups, *texts]


def _sources(folder: str) -> list[str]:
    """Where groups may come from: without labels, and from the columns of the folder that is named, if there is one."""
    from ..training.data.read_folder import read_folder

    try:
        columns = read_folder(_folder(folder), "an image").columns if folder.strip() else {}
    except DDMError:  # it is said when the folder is used
        columns = {}
    named = [f"labels:{name}" for name, values in columns.items() if 1 < len(values) <= MOST_CLASSES]
    return [*UNLABELLED, *named]


def audit(folder: str, model: str, groups: str, target: str, caption: str) -> str:
    """Audit a folder; returns the panel, or the sentence that says why not."""
    from ..debias.rendering.audit_html import render_audit
    from ..debias.rendering.panel import audit_panel
    from ..training.data.audit_folder import audit_folder
    from ..training.data.group_images import check_source
    from ..training.data.read_folder import read_folder

    base = None
    try:
        check_source(groups.strip(), target.strip() or "uniform")
        images = read_folder(_folder(folder), caption.strip() or None)
        base = _base(model)
        with host.model_put_away(lambda: "DDM is looking at a folder"):
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
        return problem(by_name(str(error), [base] if base else []))


def train(
    folder: str,
    model: str,
    groups: str,
    target: str,
    caption: str,
    name: str,
    style: bool,
    overwrite: bool,
    **options: Any,
) -> Iterator[str]:
    """Start a training, and show how it goes; closing the page does not stop it. `options`: see `_options`."""
    global _job
    try:
        if _job is not None and _job.running:
            raise DDMError("A training is running already. Stop it, or wait for its end.")
        out = named_file(host.lora_folders()[0], name)
        if out.exists() and not overwrite:
            check_same(out, groups.strip(), {name: options.get(name) for name in ("steps", "rank", "seed")})
        kept = host.outputs_folder()
        config = train_config(
            _folder(folder),
            _base(model),
            out,
            checkpoint=kept / f"{out.stem}.checkpoint.safetensors",
            sample_dir=kept / f"{out.stem}_previews",
            device=host.device(),
            style=style,
            overwrite=overwrite,
            groups=groups,
            target=target,
            caption=caption,
            tokenizer=host.tokenizer() if model == SELECTED else None,
            **_with_files(**options),
        )
        check_same_run(config)
        command = Command.train(config)
    except DDMError as error:
        yield problem(str(error))
        return
    panel = TrainPanel(out.stem, lambda file: {"filename": file.name}, NAMES)
    busy = partial(host.model_put_away, panel.busy)
    _job = BackgroundTraining(command, panel, lambda panel: _finish(panel, out), busy)
    _job.start()
    yield from watch()


def _started(names: list[str], *values: Any) -> Iterator[str]:
    """`train`, as the page calls it: the last values are of the inputs with these names, None of an emptied one."""
    first = len(values) - len(names)
    options = dict(zip(names, values[first:], strict=True))
    yield from train(*values[:first], **{name: value for name, value in options.items() if value is not None})


def _with_files(reg_data: str = "", probe: Sequence[str] = (), **rest: Any) -> dict[str, Any]:
    """The options with the files that their texts name.

    Raises:
        DDMError: a folder, a probe or its CLIP model is not there.
    """
    paths = [files.probe_path(name) for name in probe]
    # The trainer opens the CLIP model itself, in its own process.
    identities = [one.identity for one in map(Probe.load, paths) if one.network is None]
    return rest | {
        "reg_data": _folder(reg_data) if reg_data.strip() else None,
        "probe": paths,
        "clip": files.clip_folder(identities[0]) if identities else None,
    }


def watch() -> Iterator[str]:
    """How the training goes, until it ends; nothing if there was none."""
    job = _job
    if job is None:
        yield ""
        return
    for _ in job.follow(PAUSE):
        yield _shown(job)


def cancel() -> str:
    """Stop the training, and say what is kept."""
    if _job is None or not _job.running:
        return problem("No training is running.")
    _job.cancel()
    _job.wait()
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
