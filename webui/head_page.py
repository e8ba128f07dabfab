"""The page Guidance head of the tab DDM: what distribution guidance needs for the selected checkpoint."""

from collections.abc import Iterator
from functools import partial

import gradio as gr

from ..debias.core.error import DDMError
from ..debias.core.io import named_file
from ..debias.rendering.panel_html import problem
from ..hosts import head_training, prompt_lists
from ..hosts.progress_panel import TrainPanel
from ..hosts.train_inputs import opening
from ..hosts.trainer_process import by_name
from . import files, host, training_set, trainings

PAGE = "head"
ABOUT = (
    "The checkpoint makes images of the prompts, who is in them is found, and the head learns to see it while an image "
    "is still noise. Guidance with it then balances what is generated; the checkpoint is not changed."
)


def build(page: gr.Blocks) -> None:
    """The inputs, and how the training goes beside them."""
    with gr.Row():
        with gr.Column():
            gr.Markdown(ABOUT)
            model = training_set.model_input(PAGE)
            name = gr.Textbox("my_head", label="Name", lines=1, elem_id="ddm_head_name")
            prompts = training_set.prompt_inputs(PAGE, "occupations")
            count = gr.Number(
                24,
                precision=0,
                label="Images of each prompt",
                info="They are made first, and take most of the time.",
                elem_id="ddm_head_count",
            )
            probe = gr.Dropdown(
                files.probe_names(),
                value=files.NONE,
                label="Probe",
                info="Who is in the images, by a probe. Without one, by groups.",
                elem_id="ddm_head_probe",
            )
            with gr.Accordion("Groups, and images of your own", open=False, elem_id="ddm_head_own"):
                folder = training_set.folder_inputs(PAGE, "A folder of images to learn from as well", False)
                seed = gr.Number(0, precision=0, label="Seed", elem_id="ddm_head_seed")
            with gr.Row():
                start = gr.Button("Make the head", variant="primary", elem_id="ddm_head_start")
                stop = gr.Button("Stop", elem_id="ddm_head_stop")
        said = gr.HTML("", elem_id="ddm_head")
    start.click(train, inputs=[model, name, *prompts, count, probe, *folder, seed], outputs=[said])
    stop.click(partial(trainings.cancel, PAGE), outputs=[said])
    page.load(partial(trainings.watch, PAGE), outputs=[said])


def train(
    model: str,
    name: str,
    listed: str,
    written: str,
    count: float | None,
    probe: str,
    folder: str,
    groups: str,
    caption: str,
    seed: float | None,
) -> Iterator[str]:
    """Make a head, and show how it goes; closing the page does not stop it."""
    from ..training.data.group_images import check_source

    try:
        trainings.check_free()
        out = named_file(host.models_folder() / "ddm", name, "a head")
        chosen = files.probe_path(probe) if files.chosen(probe) else None
        if chosen is None:
            check_source(groups.strip(), training_set.UNIFORM)
        base = training_set.base_of(model)
        command = head_training.command(
            out,
            training_set.folder_of(folder) if folder.strip() else None,
            opening(base, training_set.tokenizer_of(model), host.device()),
            groups=groups,
            probe=chosen,
            prompts=prompt_lists.read(listed, written) if count else [],
            count=max(0, int(count or 0)),
            caption=caption,
            seed=max(0, int(seed or 0)),
        )
    except DDMError as error:
        yield problem(by_name(str(error), [host.models_folder()]))
        return
    place = f"{out.stem} is in models/ddm. Refresh the accordion's lists, and choose it in Distribution guidance."
    panel = TrainPanel(out.stem, lambda file: {}, head_training.NAMES)
    yield from trainings.start(PAGE, command, panel, partial(head_training.finish, out, place))
