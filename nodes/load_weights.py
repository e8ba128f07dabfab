"""DDM Load Weights: a model folder in diffusers layout, or a checkpoint, as MODEL, CLIP and VAE."""

import comfy.sd
import folder_paths
from comfy_api.latest import io

from ..debias.core.error import DDMError, out_of_memory, reason_of
from ..debias.core.io import check_finite_files, read_metadata
from .files import resolve_weights, stamp, weights_names
from .native import BASE_HASH, load_folder, weight_files
from .types import CATEGORY, known


class LoadWeights(io.ComfyNode):
    """Loads the base model, and remembers which one it is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The embedded model is the first choice, so the node works as it is."""
        return io.Schema(
            node_id="DDMLoadWeights",
            display_name="DDM Load Weights",
            category=CATEGORY,
            description="Loads a base model: the small one that comes with ComfyUI-DDM, a folder in diffusers layout "
            "(models/diffusers), or a checkpoint. The model is recognised by the adapters made for it.",
            inputs=[
                io.Combo.Input(
                    "weights",
                    options=weights_names(),
                    tooltip="The small model that comes with ComfyUI-DDM makes images of 64×64 pixels, on any "
                    "machine. The others are what lies in models/diffusers and models/checkpoints.",
                )
            ],
            outputs=[
                io.Model.Output(tooltip="The diffusion model; it remembers which base it is."),
                io.Clip.Output(tooltip="The text encoder."),
                io.Vae.Output(tooltip="Turns latents into images and back."),
            ],
            **known(search_aliases=["diffusers", "checkpoint", "load model", "tiny people", "fair"]),
        )

    @classmethod
    def validate_inputs(cls, weights: str | None = None) -> bool | str:
        """A sentence when the weights are not there, or not whole; only the files' headers are read."""
        try:
            if weights is not None:
                path = resolve_weights(weights)
                weight_files(path) if path.is_dir() else read_metadata(path)
        except DDMError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, weights: str | None = None) -> str:
        """Load again when the files have changed."""
        return "" if weights is None else stamp(resolve_weights(weights))

    @classmethod
    def execute(cls, weights: str) -> io.NodeOutput:
        """MODEL, CLIP and VAE."""
        from ..training.models.file_hash import hash_files

        path = resolve_weights(weights)
        check_finite_files([file for part in weight_files(path).values() for file in part] if path.is_dir() else [path])
        if path.is_dir():
            return io.NodeOutput(*load_folder(path))
        try:
            parts = comfy.sd.load_checkpoint_guess_config(
                str(path), embedding_directory=folder_paths.get_folder_paths("embeddings")
            )[:3]
        except Exception as error:
            if out_of_memory(error):
                raise
            raise DDMError(
                f"ComfyUI cannot load {path.name} as a checkpoint ({reason_of(error)}). Choose another file."
            ) from error
        if None in parts:
            raise DDMError(
                f"{path.name} is no whole checkpoint: it lacks the U-Net, the text encoder or the VAE. Choose another "
                "file, or load the parts with ComfyUI's own nodes."
            )
        model = parts[0].clone()
        model.set_attachments(BASE_HASH, hash_files([path]))
        return io.NodeOutput(model, *parts[1:])
