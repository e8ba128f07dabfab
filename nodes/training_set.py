"""What an audit and a training ask for alike: the folder, the model, and where groups come from."""

from comfy_api.latest import io

from . import files, picture_folder


def inputs(weights_tooltip: str) -> list[io.Input]:
    """The inputs folder, weights, groups, target and caption; `weights_tooltip` says what the model is for."""
    return [
        io.Combo.Input(
            "folder",
            options=picture_folder.names(),
            tooltip="A folder below ComfyUI's input folder, with captions beside the pictures.",
        ),
        io.Combo.Input("weights", options=files.diffusers_names(), tooltip=weights_tooltip),
        io.String.Input(
            "groups",
            default="discovered",
            tooltip="Where groups come from: discovered (nothing to say), auto, words:man|woman, or labels:COLUMN.",
        ),
        io.String.Input(
            "target",
            default="uniform",
            tooltip="'uniform', or shares such as 'man=.75,woman=.25' (with words or labels only).",
        ),
        io.String.Input(
            "caption",
            default="",
            tooltip="What pictures without a caption show, such as 'a portrait'. {role} stands for a column of "
            "metadata.jsonl.",
        ),
    ]


def check(folder: str | None, weights: str | None, groups: str | None, target: str | None) -> None:
    """Check what is known of these inputs before the graph runs; None is what comes over a wire.

    Raises:
        DDMError: folder or model are not there, or the groups are not known or cannot have the target.
    """
    from ..training.grouping import check_source

    if folder is not None:
        picture_folder.resolve(folder)
    if weights is not None:
        files.resolve_weights(weights)
    if groups is not None and target is not None:
        check_source(groups.strip(), target.strip())
