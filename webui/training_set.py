"""What the pages of the tab ask for alike: a folder, a model, where groups come from, and what shares are wanted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from modules import shared

from ..debias.core.error import DDMError
from ..debias.core.option import settings_of
from ..hosts import prompt_lists
from ..training.commands.config import TrainConfig
from . import host

EMBEDDED, SELECTED = "tiny_people (comes with ComfyUI-DDM)", "the selected checkpoint"
MODELS = [SELECTED, EMBEDDED]
TINY_PEOPLE = Path(__file__).resolve().parent.parent / "examples" / "tiny_people"
# Sources of groups that need no labels; other words can be written in their place.
UNLABELLED = ["discovered", "auto", "words:man|woman"]
# A column with more values than this names no groups.
MOST_CLASSES = 20
UNIFORM = "uniform"


def model_input(page: str) -> Any:
    """Which model is meant."""
    return gr.Radio(MODELS, value=SELECTED, label="Model", elem_id=f"ddm_{page}_model")


def folder_inputs(
    page: str, label: str = "A folder of images on this machine, with captions beside them", whole: bool = True
) -> list[Any]:
    """The inputs folder, model, groups, target and caption; groups offers the columns of the folder.

    Args:
        whole: whether model and target are among them.
    """
    declared = settings_of(TrainConfig)

    def given(name: str) -> dict[str, str]:
        help_text = declared[name].option.help
        return {"label": name.capitalize(), "info": help_text, "elem_id": f"ddm_{page}_{name}"}

    folder = gr.Textbox("", label=label, lines=1, elem_id=f"ddm_{page}_folder")
    model = [model_input(page)] if whole else []
    groups = gr.Dropdown(UNLABELLED, value=UNLABELLED[0], allow_custom_value=True, **given("groups"))
    target = [target_input(page)] if whole else []
    caption = gr.Textbox("", lines=1, **given("caption"))
    folder.blur(lambda text: gr.update(choices=sources(text)), inputs=[folder], outputs=[groups])
    if whole:
        groups.change(lambda *of: offer_targets(classes_of(*of)), inputs=[folder, groups], outputs=target)
    return [folder, *model, groups, *target, caption]


def target_input(page: str) -> Any:
    """What shares are wanted: uniform, or shares that `offer_targets` offers."""
    text = "What share each class should have: choose, then change the numbers."
    given = {"allow_custom_value": True, "label": "Target", "info": text, "elem_id": f"ddm_{page}_target"}
    return gr.Dropdown([UNIFORM], value=UNIFORM, **given)


def offer_targets(names: Sequence[str]) -> dict[str, Any]:
    """Targets for these classes, none if they are not known: uniform, and more of each than of the others."""
    from ..debias.groups.target import Target

    names = list(dict.fromkeys(filter(None, names)))
    others, offered = len(names) - 1, [UNIFORM]
    most = 0.75 if others == 1 else 0.5
    for own in names if others > 0 else ():
        shares = [most if name == own else (1 - most) / others for name in names]
        offered.append(str(Target(tuple(names), shares)))
    return gr.update(choices=offered)


def classes_of(folder: str, groups: str) -> list[str]:
    """The classes that a source of groups has, as far as they are known beforehand."""
    kind, _, what = groups.strip().partition(":")
    if kind == "words":
        return [name.strip() for name in what.split("|")]
    return _columns(folder).get(what, []) if kind == "labels" else []


def sources(folder: str) -> list[str]:
    """Where groups may come from: without labels, and from the columns of the folder that is named, if there is one."""
    return [*UNLABELLED, *(f"labels:{name}" for name in _columns(folder))]


def prompt_inputs(page: str, listed: str) -> list[Any]:
    """A list of prompts to choose, or the prompts as they are written."""
    chosen = gr.Dropdown(prompt_lists.names(), value=listed, label="Prompts", elem_id=f"ddm_{page}_list")
    given = {"label": "As written, one in a line", "lines": 4, "elem_id": f"ddm_{page}_prompts"}
    written = gr.Textbox("a photo of a doctor\na photo of a nurse", visible=listed == prompt_lists.WRITTEN, **given)
    chosen.change(lambda name: gr.update(visible=name == prompt_lists.WRITTEN), inputs=[chosen], outputs=[written])
    return [chosen, written]


def base_of(model: str) -> Path:
    """The file or folder behind one of `MODELS`; errors as in `host.selected_checkpoint`."""
    return TINY_PEOPLE if model == EMBEDDED else host.selected_checkpoint()


def tokenizer_of(model: str) -> Path | None:
    """The host's tokenizer for one of `MODELS`; None where it has its own."""
    return host.tokenizer() if model == SELECTED else None


def folder_of(text: str) -> Path:
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


def _columns(folder: str) -> dict[str, list[str]]:
    """The columns of a folder that may name groups, with their values; none if it cannot be read."""
    from ..training.data.read_folder import read_folder

    try:
        columns = read_folder(folder_of(folder), "an image").columns if folder.strip() else {}
    except DDMError:  # it is said when the folder is used
        return {}
    return {name: values for name, values in columns.items() if 1 < len(values) <= MOST_CLASSES}
