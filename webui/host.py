"""What differs between A1111 and Forge, but for the model itself: places, memory, and what is selected."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modules import call_queue, paths, scripts, sd_models, shared

from ..debias.core.error import DDMError

# Forge, and A1111 from 1.10 on; before, a run is set up once for each batch.
BEFORE_SAMPLING = hasattr(scripts.Script, "process_before_every_sampling")
# Where the finished image is seen, by this version of the host.
LAST_LOOK = "postprocess_image" + "_after_composite" * hasattr(scripts.Script, "postprocess_image_after_composite")
# Where Forge keeps CLIP's tokenizer.
TOKENIZER = Path("backend/huggingface/runwayml/stable-diffusion-v1-5/tokenizer")


def is_forge(model: Any) -> bool:
    """Whether a loaded model is Forge's."""
    return hasattr(model, "forge_objects")


def checkpoint_hash(model: Any) -> str:
    """SHA-256 of the checkpoint that a model was loaded from; empty where the host does not know it."""
    return getattr(getattr(model, "sd_checkpoint_info", None), "sha256", None) or ""


def lora_folder() -> Path:
    """The host's folder of LoRAs."""
    return Path(shared.cmd_opts.lora_dir)


def models_folder() -> Path:
    """The host's folder of models."""
    return Path(paths.models_path)


def outputs_folder() -> Path:
    """Where audits, and trainings that were stopped, are kept."""
    return Path(paths.data_path) / "outputs" / "ddm"


def tokenizer() -> Path | None:
    """The host's own tokenizer of CLIP, if it has one."""
    folder = Path(paths.script_path) / TOKENIZER
    return folder if folder.is_dir() else None


def selected_checkpoint() -> Path:
    """The file of the checkpoint that is selected in the page.

    Raises:
        DDMError: there is none.
    """
    found = sd_models.select_checkpoint() if sd_models.checkpoints_list else None
    if found is None:
        raise DDMError("No checkpoint is selected. Put one into models/Stable-diffusion, and select it above.")
    return Path(found.filename)


def device() -> str:
    """Kind of the device that the host computes on: cpu, cuda, mps, ..."""
    return shared.device.type


def job() -> str:
    """What tells the job at hand from others: all the cells of an X/Y/Z plot are one."""
    return str(shared.state.job_timestamp)


@contextmanager
def model_put_away() -> Iterator[None]:
    """For as long as the context lasts, no image is made, and the device's memory is free of the host's model."""
    with call_queue.queue_lock:
        model = sd_models.model_data.sd_model
        if model is not None:
            sd_models.unload_model_weights()
        try:
            yield
        finally:
            if model is not None:
                sd_models.send_model_to_device(model)  # Forge fetches it by itself, and this does nothing there
