"""A whole alignment: probes, targets and prompts → training → adapter or embedding, with checkpoints and resume."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...debias.adapter.lora_file import AdapterCard, save_adapter
from ..loop.checkpoint import checkpoint_path, load_checkpoint, remove_strays, save_checkpoint
from ..models.lora import export_parts
from .alignment import ADAPTER, Alignment, AlignmentSettings, Extractor

if TYPE_CHECKING:
    from ...debias.groups.target import Target
    from ...debias.probes.probe import Probe
    from ..models.base import Base
    from ..sampling.previews import Previews


@dataclass
class AlignmentRun:
    """A prepared run.

    Args:
        base: gets the LoRA or the soft tokens.
        probes, targets, families, settings, keep: see `Alignment`.
        out: the file to write: an adapter, or an embedding if soft tokens are trained.
        depends: hashes of the files behind probes and `keep`: a checkpoint belongs to these.
        checkpoint_every: steps between checkpoints.
        checkpoint: where the state is kept; beside `out` if None.
        gradient_checkpointing: save memory from the start; see `Alignment.save_memory`.
        note: told what a user should know of the training.
    """

    base: "Base"
    probes: "Sequence[Probe]"
    targets: "Sequence[Target]"
    families: Sequence[Sequence[str]]
    out: Path
    settings: AlignmentSettings = field(default_factory=AlignmentSettings)
    keep: Sequence[Extractor] = ()
    depends: Sequence[str] = ()
    checkpoint_every: int = 20
    checkpoint: Path | None = None
    gradient_checkpointing: bool = False
    note: Callable[..., None] | None = None

    def __post_init__(self) -> None:
        self.training = Alignment(
            self.base, self.probes, self.targets, self.families, self.settings, self.keep, self.note
        )
        if self.gradient_checkpointing:
            self.training.save_memory()
        self.checkpoint = self.checkpoint or checkpoint_path(self.out)
        facts = [self.base.identity, list(map(list, self.families)), list(map(str, self.targets)), list(self.depends)]
        facts.append(self.settings.as_dict())
        self.fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one; tells whether there was."""
        remove_strays(self.checkpoint, self.out)
        if not self.checkpoint.exists():
            return False
        load_checkpoint(self.checkpoint, self.training, self.fingerprint)
        return True

    def train(
        self,
        progress: Callable[[int, int, float], None] | None = None,
        stop: Callable[[], bool] | None = None,
        previews: "Previews | None" = None,
    ) -> bool:
        """Train to the end, or until `stop` says so; the state is kept either way.

        Args:
            progress: called after each step with (step, steps, loss).
            stop: asked before each step.
            previews: makes images now and then, and at the end, with the running average that the file will hold.

        Returns:
            Whether the run is complete; then the file is written and the checkpoint is gone.

        Raises:
            DDMError: as in `Alignment.advance`; or a file cannot be written.
        """
        training, steps = self.training, self.settings.steps
        while training.step < steps:
            if stop and stop():
                self._keep()
                return False
            training.advance()
            if progress:
                progress(training.step, steps, training.loss.item())
            if training.step % self.checkpoint_every == 0 or training.step == steps:
                self._keep()
            if previews and (training.step % previews.every == 0 or training.step == steps):
                with training.averaged():
                    previews.make(training.step, stop)
        self.save()
        return True

    def _keep(self) -> None:
        save_checkpoint(self.checkpoint, self.training, self.fingerprint)

    def save(self) -> None:
        """Write the running average to the file, then remove the checkpoint."""
        base, settings = self.base, self.settings
        joined = {name: share for goal in self.targets for name, share in zip(goal.names, goal.shares, strict=True)}
        card = AdapterCard(
            objective="alignment",
            groups="probe:" + ",".join(probe.attribute for probe in self.probes),
            target={name: round(float(share), 6) for name, share in joined.items()},
            alpha_max=1.0,
            base_hash=base.hash,
            architecture=base.architecture,
            prediction=base.prediction,
            concepts=list(dict.fromkeys(prompt for family in self.families for prompt in family))[:200],
            training={**settings.as_dict(), "fingerprint": self.fingerprint},
            title=self.out.stem,
        )
        with self.training.averaged():
            if base.soft_tokens:
                base.soft_tokens.save(self.out, card)
            else:
                save_adapter(self.out, export_parts(self.training.parts, ADAPTER), card)
        self.checkpoint.unlink(missing_ok=True)
