"""The state of a run on disk: LoRA matrices, optimizer moments, step. Enough to go on bit for bit."""

from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..debias.error import DDMError
from ..debias.storage import load_tensors, save_tensors

if TYPE_CHECKING:
    from .loop import FairTraining

KIND = "checkpoint"


def checkpoint_path(out: Path) -> Path:
    """Where the checkpoint of the adapter `out` lies."""
    return out.with_name(f"{out.stem}.checkpoint.safetensors")


def remove_strays(*paths: Path) -> None:
    """Remove the temporary files that a run left when it was killed while it wrote one of these."""
    for path in paths:
        for stray in path.parent.glob(f".{escape(path.name)}.*.tmp"):
            stray.unlink(missing_ok=True)


def save_checkpoint(path: Path, training: "FairTraining", fingerprint: str) -> None:
    """Write the state of a run atomically.

    Args:
        path: see `checkpoint_path`.
        training: its step, LoRAs and optimizer.
        fingerprint: of everything that the run depends on; `load_checkpoint` compares it.
    """
    tensors = {"loss": training.loss}
    for number, parameter in enumerate(training.parameters):
        tensors[f"{number:05}.weight"] = parameter
        for name, value in training.optimizer.state[parameter].items():
            tensors[f"{number:05}.{name}"] = value
    save_tensors(path, tensors, {"ddm.kind": KIND, "ddm.step": str(training.step), "ddm.fingerprint": fingerprint})


def load_checkpoint(path: Path, training: "FairTraining", fingerprint: str) -> None:
    """Put a saved state into a fresh run.

    Raises:
        DDMError: the file is broken, or is of a run with other pictures, groups, base or settings.
    """
    import torch

    tensors, metadata = load_tensors(path)
    if metadata.get("ddm.kind") != KIND or metadata.get("ddm.fingerprint") != fingerprint:
        raise DDMError(
            f"{path} belongs to a run with other pictures, groups, base or settings. Give the ones it started with, "
            "or train anew with --restart, which throws this checkpoint away."
        )
    with torch.no_grad():
        training.loss = tensors["loss"].to(training.loss.device)
        for number, parameter in enumerate(training.parameters):
            parts = {name.split(".", 1)[1]: t for name, t in tensors.items() if name.startswith(f"{number:05}.")}
            parameter.copy_(parts.pop("weight"))
            if parts:
                training.optimizer.state[parameter] = {
                    name: value if name == "step" else value.to(parameter.device) for name, value in parts.items()
                }
    training.step = int(metadata["ddm.step"])
