"""What an audit and a training ask for alike: the folder, the model, and where groups come from."""

from comfy_api.latest import io

from . import files, image_folders

UNIFORM = "uniform"


def inputs(purpose: str) -> list[io.Input]:
    """The inputs folder, weights, groups, target and caption; `purpose` says which model is wanted."""
    from ..debias.core.option import settings_of
    from ..training.commands.config import TrainConfig

    declared = settings_of(TrainConfig)
    return [
        io.Combo.Input(
            "folder",
            options=image_folders.names(),
            tooltip="A folder below ComfyUI's input folder or below ddm_datasets, with captions beside the images.",
        ),
        io.Combo.Input(
            "weights",
            options=files.weights_names(),
            tooltip=f"{purpose}: Stable Diffusion 1.x, 2.x or XL, from models/diffusers or models/checkpoints.",
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


def check(folder: str | None, weights: str | None, groups: str | None, target: str | None) -> None:
    """Check what is known of these inputs before the graph runs; None is what comes over a wire.

    Raises:
        DDMError: folder or model are not there, or no base, or the groups are not known or cannot have the target.
    """
    from ..training.data.group_images import check_source
    from ..training.models.base import check_weights

    if folder is not None:
        image_folders.resolve(folder)
    if weights is not None:
        check_weights(files.resolve_weights(weights))
    if groups is not None and target is not None:
        check_source(*wanted(groups, target))


def wanted(groups: str, target: str) -> tuple[str, str]:
    """Source and target as the trainer takes them: nothing at all is a uniform target."""
    return groups.strip(), target.strip() or UNIFORM
