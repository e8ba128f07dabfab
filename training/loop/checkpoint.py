"""The state of a run on disk: what is learnt, optimizer moments, step. Enough to resume as if nothing had happened.

It is written every so many steps or minutes, and when the run ends early.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...debias.core.error import DDMError, out_of_memory, reason_of
from ...debias.core.io import check_finite, free_space, load_tensors, remove_temporaries, save_tensors

if TYPE_CHECKING:
    import torch

    from .training import Training

KIND = "checkpoint"
# So many steps in a row that are not finite end a run.
MAX_CONSECUTIVE_SKIPS = 10
# A step may take a minute: no more than so many seconds of training are lost, however the run ends.
CHECKPOINT_SECONDS = 300.0
# Longer texts are kept as a hash; no hash is as short.
SHORT = 60


class OtherRun(DDMError):
    """A checkpoint is of a run with other images, groups, base or settings."""


def checkpoint_path(out: Path) -> Path:
    """Where the checkpoint of the adapter `out` is."""
    return out.with_name(f"{out.stem}.checkpoint.safetensors")


def fingerprint_of(*depends: Any) -> str:
    """A hash of all that a run depends on, which is JSON."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def _described(depends: Mapping[str, Any]) -> dict[str, Any]:
    """What a run depends on, by name: numbers and short texts as they are, a hash of anything else."""
    flat: dict[str, Any] = {}
    for name, value in depends.items():
        flat |= value if isinstance(value, Mapping) else {name: value}
    short = {name: isinstance(value, (int, float)) or len(str(value)) < SHORT for name, value in flat.items()}
    return {name: value if short[name] else fingerprint_of(value) for name, value in flat.items()}


def _differences(then: Any, now: Mapping[str, Any]) -> dict[str, str]:
    """What differs between two runs, by name, in words: learning_rate: “learning rate (0.0003, now 0.0001)”."""
    if not isinstance(then, dict):
        return {"": "images, groups, base or settings"}
    found = {}
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            values = [run.get(name) for run in (then, now)]
            brief = all(isinstance(one, (int, float, str)) and len(str(one)) < SHORT for one in values)
            shown = f" ({values[0]}, now {values[1]})" if brief and not isinstance(values[0], bool) else ""
            found[name] = name.replace("_", " ") + shown
    return found


def refuse_left(path: Path) -> None:
    """Refuse to begin anew where a stopped run left its checkpoint."""
    if path.exists():
        raise DDMError(f"A stopped run left {path}. Resume it, or begin anew.", "resume", "restart")


def remove_strays(*paths: Path) -> None:
    """Remove the temporary files that a run left when it was killed while it wrote one of these."""
    for path in paths:
        remove_temporaries(path.parent, escape(path.name))


def save_checkpoint(path: Path, training: "Training", depends: Mapping[str, Any]) -> None:
    """Write the state of a run atomically.

    Args:
        path: see `checkpoint_path`.
        training: its step, LoRAs, averages, optimizer, and how it saves memory.
        depends: everything that the run depends on, by name; `load_checkpoint` compares it.
    """
    import torch

    optimizer = training.optimizer.state_dict()
    tensors = training.state() | training.objective.state() | _learnt(training)
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
    metadata = {"ddm.kind": KIND, "ddm.depends": json.dumps(_described(depends)), "ddm.step": str(training.step)}
    save_tensors(path, tensors, metadata | {"ddm.state": json.dumps(state)})


def load_checkpoint(path: Path, training: "Training", depends: Mapping[str, Any]) -> None:
    """Put a saved state into a fresh run, which may have more steps, or fewer, but not fewer than are made.

    Raises:
        OtherRun: the file is of a run with other images, groups, base or settings; names what differs.
        DDMError: it is broken, or no checkpoint.
    """
    try:
        tensors, metadata = training.objective.ranks.agreed(lambda: load_tensors(path))
    except DDMError as error:
        raise DDMError(f"{error} If that is not possible, remove it to train anew.") from error
    if metadata.get("ddm.kind") != KIND:
        raise DDMError(
            f"{path} is no checkpoint of a training. Move it elsewhere, or name another file.",
            "checkpoint",
        )
    own = _learnt(training)
    try:
        now = json.loads(json.dumps(_described(depends)))
        different = _differences(json.loads(metadata.get("ddm.depends", "null")), now)
        if different and not (different.keys() == {"steps"} and int(metadata["ddm.step"]) <= now["steps"]):
            raise OtherRun(
                f"{path} belongs to a run with other {', '.join(different.values())}. Give what it started with, or "
                "train anew, which throws this checkpoint away.",
                "restart",
            )
        wrong = next((name for name, value in own.items() if tensors[name].shape != value.shape), None)
        if wrong:
            raise ValueError(f"{wrong} has another shape")
        check_finite(path, {name: tensors[name] for name in own})
        _restore(training, tensors, json.loads(metadata["ddm.state"]))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"it holds no {error}" if isinstance(error, KeyError) else error
        raise DDMError(f"{path} is broken ({reason}). Remove it to train anew.") from error
    if different:
        training.note(f"The stopped run goes on with other {different['steps']}.")


def _learnt(training: "Training") -> "dict[str, torch.Tensor]":
    """Weights and averages, which are restored in place."""
    weights = {f"{number:05}.weight": parameter for number, parameter in enumerate(training.parameters)}
    averages = training.averages.items()
    return weights | {f"{phase}.{key}": value for phase, ema in averages for key, value in ema.state.items()}


def _restore(training: "Training", tensors: "dict[str, torch.Tensor]", state: Mapping[str, Any]) -> None:
    """Put a checkpoint's tensors and state into a run."""
    import torch

    for owner in (training, training.objective):
        for name in owner.state():
            setattr(owner, name, tensors.pop(name).to(training.objective.base.device))
    with torch.no_grad():
        for name, value in _learnt(training).items():
            value.copy_(tensors.pop(name))
    for phase, ema in training.averages.items():
        ema.step = int(state["averaged"][phase])
    moments = {int(key): values for key, values in state["numbers"].items()}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        moments[int(number)][name] = value
    training.optimizer.load_state_dict({"state": moments, "param_groups": state["groups"]})
    training.step, training.micro_batches = int(state["step"]), int(state["micro_batches"])
    if state["gradient_checkpointing"]:
        training.save_memory()


class Checkpointing:
    """Keeps a training's state in a checkpoint.

    Args:
        path: the checkpoint.
        training: whose state it is.
        depends: everything that the steps depend on, by name (see `load_checkpoint`).
        every: steps between checkpoints.
    """

    def __init__(self, path: Path, training: "Training", depends: Mapping[str, Any], every: int):
        self.path, self.training, self.depends, self.every = path, training, depends, every
        self._step, self._time = 0, time.monotonic()  # of what was kept last

    def resume(self) -> bool:
        """Resume from the checkpoint, if there is one; tells whether there was. Errors as in `load_checkpoint`."""
        if not self.training.objective.ranks.agreed(self.path.exists):
            return False
        load_checkpoint(self.path, self.training, self.depends)
        self._step = self.training.step
        return True

    def check_room(self, files: Iterable[Path]) -> None:
        """Refuse to begin what could not be kept: two checkpoints for a moment, or one and the files.

        Raises:
            DDMError: a disk has too little room.
        """
        training = self.training
        weights = sum(parameter.nbytes for parameter in training.parameters)
        size = weights * (4 if training.averages else 3)  # weights, two moments, averages
        needed = max(size, weights) + (0 if self.path.exists() else size)
        folders = dict.fromkeys(path.absolute().parent for path in (self.path, *files))
        for folder in folders if training.objective.ranks.first else ():
            room = free_space(folder)
            if room < needed:
                raise DDMError(
                    f"The training needs {needed / 2**20:,.0f} MiB in {folder} for its checkpoints and the adapter, "
                    f"and only {room / 2**20:,.0f} MiB are free. Free some space, or choose another place."
                )

    def check(self) -> None:
        """Refuse what is not finite.

        Raises:
            DDMError: weights are not finite, or the last steps were not.
        """
        import torch

        training, rate = self.training, self.training.objective.settings.learning_rate
        finite = torch.stack([value.isfinite().all() for value in training.parameters]).all()
        if not finite or training.consecutive_skips >= MAX_CONSECUTIVE_SKIPS:
            raise DDMError(
                f"Loss or gradients are no longer finite at step {training.step}, and did not recover. Train again "
                f"with a learning rate lower than {rate:g}.",
                "learning_rate",
                "restart",
            )

    def save(self) -> None:
        """Write the checkpoint; a state that is not finite does not replace the last good one. Errors as in `check`."""
        self.check()
        if self.training.objective.ranks.first:
            save_checkpoint(self.path, self.training, self.depends)
        self._step, self._time = self.training.step, time.monotonic()

    def save_if_due(self) -> None:
        """Write it after so many steps, after so many minutes, and after the last step. Errors as in `check`."""
        step = self.training.step
        due = step % self.every == 0 or step == self.training.objective.settings.steps
        if due or time.monotonic() - self._time > CHECKPOINT_SECONDS:
            self.save()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else may train this adapter meanwhile; the system gives the lock back, however the process ends.

        Raises:
            DDMError: somebody does.
        """
        from filelock import FileLock, Timeout

        if not self.training.objective.ranks.first:
            yield
            return
        lock = FileLock(self.path.with_name(f".{self.path.stem}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise DDMError(
                f"Another training keeps its state in {self.path}. Wait for its end, stop it, or choose another name.",
                "out",
            ) from error
        try:
            yield
        finally:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)

    @contextmanager
    def save_on_failure(self) -> Iterator[None]:
        """Whatever ends the context, what was learnt since the last time is written, if it can be.

        Raises:
            DDMError: the memory ran out; says where the state is.
        """
        try:
            yield
        except Exception as error:
            if self.training.consistent and self.training.step > self._step:
                with suppress(DDMError):
                    self.save()
            if self.path.exists() and out_of_memory(error):
                raise DDMError(
                    f"{reason_of(error)} What was learnt is kept in {self.path}, to resume from.",
                    "resume",
                ) from error
            raise
