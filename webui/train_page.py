"""The page Train an adapter of the tab DDM."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from ..debias.adapter.lora_file import AdapterCard
from ..debias.core.error import DDMError
from ..debias.core.io import named_file, read_metadata
from ..debias.core.option import Setting
from ..debias.probes.probe import Probe
from ..debias.rendering.panel_html import problem, sentence
from ..hosts.progress_panel import TrainPanel
from ..hosts.stopped_run import check_same_run
from ..hosts.train_inputs import asked, choices, explained, train_config
from ..hosts.trainer_process import Command, Trainer, check_same
from . import files, host, training_set, trainings

PAGE = "train"
# The input that is not called like the option.
NAMES = {"base": "model"}


def build(page: gr.Blocks) -> None:
    """The inputs, and how the training goes beside them."""
    with gr.Row():
        with gr.Column():
            inputs = training_set.folder_inputs(PAGE)
            with gr.Row():
                name = gr.Textbox("my_fair_adapter", label="Name", lines=1, elem_id="ddm_train_name")
                style = gr.Checkbox(False, label="Learn the style as well", elem_id="ddm_train_style")
            options = _options()
            overwrite = gr.Checkbox(
                False, label="Overwrite an adapter of this name, and a stopped run of it", elem_id="ddm_train_overwrite"
            )
            with gr.Row():
                ask = gr.Button("Estimate time and memory", elem_id="ddm_train_estimate")
                start = gr.Button("Train", variant="primary", elem_id="ddm_train_start")
                stop = gr.Button("Stop, and keep what was trained", elem_id="ddm_train_stop")
        said = gr.HTML("", elem_id="ddm_train")
    inputs += [name, style, overwrite]
    for button, act in ((ask, estimate), (start, train)):
        button.click(partial(act, list(options)), inputs=[*inputs, *options.values()], outputs=[said])
    stop.click(partial(trainings.cancel, PAGE), outputs=[said])
    page.load(partial(trainings.watch, PAGE), outputs=[said])


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


def estimate(names: Sequence[str], *values: Any) -> Iterator[str]:
    """Say how much time and memory a training would take; arguments as in `train`."""
    try:
        config = _config(names, *values)
        asked = {"checkpoint": config["checkpoint"].with_name("estimate"), "resume": False, "restart": False}
        command = Command.train(config | asked)
        panel = TrainPanel(config["out"].stem, lambda file: {}, NAMES)
        yield sentence("Counting what the training takes.")
        with Trainer(command._replace(arguments=[*command.arguments, "--estimate"])) as trainer:
            notes = [panel.said(one["note"], one["options"]) for one in trainer.events() if one and "note" in one]
        yield "".join(map(sentence, notes))
    except DDMError as error:
        yield problem(str(error))


def train(names: Sequence[str], *values: Any) -> Iterator[str]:
    """Start a training, and show how it goes; closing the page does not stop it.

    Args:
        names: of the options that the last values are of.
        values: of the inputs; None of a number that was emptied.
    """
    try:
        trainings.check_free()
        config = _config(names, *values)
        check_same_run(config)
        command = Command.train(config)
    except DDMError as error:
        yield problem(str(error))
        return
    out = config["out"]
    panel = TrainPanel(out.stem, lambda file: {"filename": file.name}, NAMES)
    yield from trainings.start(PAGE, command, panel, partial(_finish, out))


def _config(names: Sequence[str], *values: Any) -> dict[str, Any]:
    """What the trainer is told; arguments as in `train`.

    Raises:
        DDMError: the name is taken or none for a file, or files that are named are not there.
    """
    first = len(values) - len(names)
    options = {name: value for name, value in zip(names, values[first:], strict=True) if value is not None}
    folder, model, groups, target, caption, name, style, overwrite = values[:first]
    out, kept = named_file(host.lora_folders()[0], name), host.outputs_folder()
    if out.exists() and not overwrite:
        check_same(out, groups.strip(), {name: options.get(name) for name in ("steps", "rank", "seed")})
    return train_config(
        training_set.folder_of(folder),
        training_set.base_of(model),
        out,
        checkpoint=kept / f"{out.stem}.checkpoint.safetensors",
        sample_dir=kept / f"{out.stem}_previews",
        device=host.device(),
        style=style,
        overwrite=overwrite,
        groups=groups,
        target=target,
        caption=caption,
        tokenizer=training_set.tokenizer_of(model),
        **_with_files(**options),
    )


def _with_files(reg_data: str = "", probe: Sequence[str] = (), **rest: Any) -> dict[str, Any]:
    """The options with the files that their texts name.

    Raises:
        DDMError: a folder, a probe or its CLIP model is not there.
    """
    paths = [files.probe_path(name) for name in probe]
    # The trainer opens the CLIP model itself, in its own process.
    identities = [one.identity for one in map(Probe.load, paths) if one.network is None]
    return rest | {
        "reg_data": training_set.folder_of(reg_data) if reg_data.strip() else None,
        "probe": paths,
        "clip": files.clip_folder(identities[0]) if identities else None,
    }


def _finish(out: Path, panel: TrainPanel) -> None:
    card = AdapterCard.from_metadata(read_metadata(out))
    text = f"{out.name} is among your LoRAs. Recommended α: {card.recommended_alpha:g}. Refresh the list to choose it."
    panel.finish(asdict(card), text)
