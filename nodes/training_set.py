"""What an audit and a training ask for alike: the folder, the model, and where groups come from."""

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..debias.core.error import DDMError
from . import files, image_folders

UNIFORM = "uniform"
# Stands for a folder, where there is none.
OWN = "(none: the model's own images)"


def inputs(purpose: str, own: bool = False) -> list[io.Input]:
    """The inputs folder, weights, groups, target and caption.

    Args:
        purpose: says which model is wanted.
        own: whether there need not be a folder, as the model makes images of its own.
    """
    from ..debias.core.option import settings_of
    from ..training.commands.config import TrainConfig

    declared = settings_of(TrainConfig)
    return [
        io.Combo.Input(
            "folder",
            options=[*image_folders.names(), *([OWN] if own else [])],
            tooltip="A folder below ComfyUI's input folder or below ddm_datasets, with captions beside the images."
            + (" Without one, the model's own images of your prompts." if own else ""),
        ),
        io.Combo.Input(
            "weights",
            options=files.bases_names(),
            tooltip=f"{purpose}: Stable Diffusion 1.x, 2.x, XL, 3, 3.5, Z-Image, FLUX, Chroma, Qwen-Image or Krea 2, "
            "from models/diffusers, models/checkpoints or models/diffusion_models.",
        ),
        io.String.Input(
            "groups",
            default="discovered",
            tooltip=declared["groups"].option.help,
        ),
        io.String.Input(
            "target",
            default=UNIFORM,
            tooltip=declared["target"].option.help,
        ),
        io.String.Input(
            "caption",
            default="",
            tooltip=declared["caption"].option.help,
        ),
    ]


def common_inputs() -> list[io.Input]:
    """Inputs of all nodes that train: the model by wire, and whether the queue waits."""
    return [
        io.Model.Input(
            "model",
            optional=True,
            tooltip="Train for the file that this model was loaded from; weights is then not used.",
        ),
        io.Boolean.Input(
            "background",
            default=False,
            optional=True,
            tooltip="On: the queue goes on at once, and the training beside it; there must be memory for both, and "
            "what is wired to this node waits for a later run. Off: the queue waits.",
        ),
    ]


def base_of(hidden: Any, weights: str, model: object) -> Path:
    """The file or folder to train for: that of the model that is wired to the node, or the one that is chosen.

    Args:
        hidden: the node's hidden inputs, with dynprompt and unique_id.

    Raises:
        DDMError: it is not there, or cannot be told from the graph.
    """
    from .upstream import Upstream

    if model is None:
        return files.resolve_weights(weights)
    found = Upstream(hidden.dynprompt, hidden.unique_id).weights("model")
    if found is None:
        raise DDMError(
            "Which file the model was loaded from cannot be told. Load it with Load Checkpoint or DDM Load Weights, or "
            "take the wire away and choose it in weights."
        )
    return found


def check(folder: str | None, weights: str | None, groups: str | None, target: str | None) -> None:
    """Check what is known of these inputs before the graph runs; None is what comes over a wire.

    Raises:
        DDMError: folder or model are not there, or no base, or the groups are not known or cannot have the target.
    """
    from ..training.data.group_images import check_source
    from ..training.models.load_base import check_weights

    if folder not in (None, OWN):
        image_folders.resolve(folder)
    if weights is not None:
        path = files.resolve_weights(weights)
        check_weights(path, files.beside_weights(path).get("text_encoder_file"))
    if groups is not None and target is not None:
        check_source(*wanted(groups, target))


def folder_of(name: str) -> Path | None:
    """The folder behind a choice; None where there is none. Errors as in `image_folders.resolve`."""
    return None if name == OWN else image_folders.resolve(name)


def stamp(folder: str | None) -> str:
    """Changes when a file in the folder does; for `fingerprint_inputs`."""
    return "" if folder in (None, OWN) else image_folders.stamp(folder)


def wanted(groups: str, target: str) -> tuple[str, str]:
    """Source and target as the trainer takes them: nothing at all is a uniform target."""
    return groups.strip(), target.strip() or UNIFORM


def opening(base: Path) -> list[str]:
    """How commands other than `ddm train` are told which base to open, and on which device."""
    import comfy.model_management

    from ..hosts import train_inputs
    from ..training.models.tokenizer import find_tokenizer

    # The host's own tokenizer: the trainer runs elsewhere.
    tokenizer = None if base.is_dir() else find_tokenizer(base)
    return train_inputs.opening(base, tokenizer, comfy.model_management.get_torch_device().type)
