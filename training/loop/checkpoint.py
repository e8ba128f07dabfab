"""The state of a run on disk: LoRA matrices, optimizer moments, step. Enough to go on as if nothing had happened."""

import json
from collections.abc import Callable, Mapping, Sequence
from glob import escape
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ...debias.core.error import DDMError, OutOfMemory
from ...debias.core.io import check_finite, load_tensors, remove_temporaries, save_tensors
from .distributed import Ranks

if TYPE_CHECKING:
    import torch

    from ..models.base import Base
    from .ema import Ema

KIND = "checkpoint"


class OtherRun(DDMError):
    """A checkpoint is of a run with other images, groups, base or settings."""


class Resumable:
    """What a checkpoint keeps of a training, with what is so unless a training says otherwise.

    Attributes:
        FIGURES: names of its tensors besides those that are learnt.
        base: its model; the device is that of the tensors.
        parameters, optimizer, step: what is learnt, by what, and how far it is.
        averages: of what is learnt, by name.
        ranks: the processes that share each step.
        note: told when memory has to be saved.
        micro_batches, gradient_checkpointing: how it saves memory, see `FairTraining`.
    """

    FIGURES: tuple[str, ...] = ("loss",)
    base: "Base"
    parameters: "Sequence[torch.nn.Parameter]"
    optimizer: "torch.optim.Optimizer"
    step: int
    averages: "Mapping[str, Ema]" = MappingProxyType({})
    ranks = Ranks()
    note: Callable[[str], None]
    micro_batches, gradient_checkpointing = 1, False

    def save_memory(self) -> None:
        """Keep no activations of the U-Net: a third more time, a fraction of the memory."""
        self.gradient_checkpointing = True
        self.base.unet.enable_gradient_checkpointing()

    def need_less(self, fewer: str, way: str, option: str) -> None:
        """The memory did not suffice: say that fewer images are taken at a time, or else keep no activations.

        Args:
            fewer: how few are taken now; empty if it was one already.
            way: how one image is learnt, and `option` what could be lower, for the error.

        Raises:
            OutOfMemory: no activations are kept as it is.
        """
        import torch

        begins = f"from step {self.step + 1} on,"
        if fewer:
            self.note(
                f"The memory does not suffice for more images at a time: {begins} {fewer}. What is learnt is the same."
            )
        elif not self.gradient_checkpointing:
            self.save_memory()
            self.note(
                f"The memory does not suffice for one image at a time: {begins} activations are computed twice "
                "instead of kept (gradient checkpointing). What is learnt is the same."
            )
        else:
            raise OutOfMemory(
                f"The memory of {self.base.device} does not suffice to learn {way} one image at a time. Close other "
                f"programs that use it, or choose a lower {option.replace('_', ' ')} or a smaller base.",
                option,
            )
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()


def checkpoint_path(out: Path) -> Path:
    """Where the checkpoint of the adapter `out` lies."""
    return out.with_name(f"{out.stem}.checkpoint.safetensors")


def refuse_left(path: Path) -> None:
    """Refuse to begin anew where a stopped run left its checkpoint."""
    if path.exists():
        raise DDMError(f"A stopped run left {path}. Resume it, or begin anew.", "resume", "restart")


def remove_strays(*paths: Path) -> None:
    """Remove the temporary files that a run left when it was killed while it wrote one of these."""
    for path in paths:
        remove_temporaries(path.parent, escape(path.name))


def save_checkpoint(path: Path, training: Resumable, fingerprint: str) -> None:
    """Write the state of a run atomically.

    Args:
        path: see `checkpoint_path`.
        training: its step, LoRAs, averages, optimizer, and how it saves memory.
        fingerprint: of everything that the run depends on; `load_checkpoint` compares it.
    """
    import torch

    optimizer = training.optimizer.state_dict()
    tensors = {name: getattr(training, name) for name in training.FIGURES}
    tensors |= {f"{number:05}.weight": parameter for number, parameter in enumerate(training.parameters)}
    for name, ema in training.averages.items():
        tensors |= {f"{name}.{key}": value for key, value in ema.state.items()}
    numbers: dict[str, dict[str, float]] = {}
    for key, values in optimizer["state"].items():
        tensors |= {f"{key:05}.{name}": value for name, value in values.items() if torch.is_tensor(value)}
        numbers[str(key)] = {name: value for name, value in values.items() if not torch.is_tensor(value)}
    state = {
        "step": training.step,
        "micro_batches": training.micro_batches,
        "gradient_checkpointing": training.gradient_checkpointing,
        "averaged": {name: ema.step for name, ema in training.averages.items()},
        "numbers": numbers,
        "groups": optimizer["param_groups"],
    }
    metadata = {"ddm.kind": KIND, "ddm.fingerprint": fingerprint, "ddm.step": str(training.step)}
    save_tensors(path, tensors, metadata | {"ddm.state": json.dumps(state)})


def load_checkpoint(path: Path, training: Resumable, fingerprint: str) -> None:
    """Put a saved state into a fresh run.

    Raises:
        OtherRun: the file is of a run with other images, groups, base or settings.
        DDMError: it is broken, or no checkpoint.
    """
    try:
        tensors, metadata = training.ranks.agreed(lambda: load_tensors(path))
    except DDMError as error:
        raise DDMError(f"{error} If that is not possible, remove it to train anew.") from error
    if metadata.get("ddm.kind") != KIND:
        raise DDMError(
            f"{path} is no checkpoint of a training. Move it elsewhere, or name another file.",
            "checkpoint",
        )
    if metadata.get("ddm.fingerprint") != fingerprint:
        raise OtherRun(
            f"{path} belongs to a run with other images, groups, base or settings. Give the ones it started with, "
            "or train anew, which throws this checkpoint away.",
            "restart",
        )
    own = {f"{number:05}.weight": parameter for number, parameter in enumerate(training.parameters)}
    own |= {f"{name}.{key}": value for name, ema in training.averages.items() for key, value in ema.state.items()}
    try:
        wrong = next((name for name, value in own.items() if tensors[name].shape != value.shape), None)
        if wrong:
            raise ValueError(f"{wrong} has another shape")
        check_finite(path, {name: tensors[name] for name in own})
        _restore(training, tensors, json.loads(metadata["ddm.state"]), own)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"it holds no {error}" if isinstance(error, KeyError) else error
        raise DDMError(f"{path} is broken ({reason}). Remove it to train anew.") from error


def _restore(
    training: Resumable,
    tensors: "dict[str, torch.Tensor]",
    state: Mapping[str, Any],
    own: "Mapping[str, torch.Tensor]",
) -> None:
    """Put a checkpoint's tensors and state into a run, whose own tensors of weights and averages are `own`."""
    import torch

    for name in training.FIGURES:
        if name in tensors:  # an older version kept fewer
            setattr(training, name, tensors.pop(name).to(training.base.device))
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors.pop(name))
    for name, ema in training.averages.items():
        ema.step = int(state["averaged"][name])
    moments = {int(key): values for key, values in state["numbers"].items()}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        moments[int(number)][name] = value
    training.optimizer.load_state_dict({"state": moments, "param_groups": state["groups"]})
    training.step, training.micro_batches = int(state["step"]), int(state["micro_batches"])
    if state["gradient_checkpointing"]:
        training.save_memory()


def checkpoint_size(training: Resumable) -> int:
    """About how many bytes a checkpoint takes: weights, two moments and averages."""
    weights = sum(parameter.nbytes for parameter in training.parameters)
    return weights * (4 if training.averages else 3)
