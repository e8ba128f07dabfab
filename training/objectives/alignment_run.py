"""A whole alignment: probes, targets and prompts → training → adapter or embedding, with checkpoints and resume."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...debias.adapter.lora_file import AdapterCard, save_adapter
from ..loop.checkpoint import Checkpointing, checkpoint_path, fingerprint_of
from ..loop.fit import TrainingRun
from ..loop.training import Training
from ..models.lora import export_parts
from .alignment import ADAPTER, Alignment, AlignmentSettings, Extractor

if TYPE_CHECKING:
    from ...debias.groups.target import Target
    from ...debias.probes.probe import Probe
    from ..models.base import Base


@dataclass
class AlignmentRun(TrainingRun):
    """A prepared run.

    Args:
        base: gets the LoRA or the soft tokens.
        probes, targets, families, settings, keep: see `Alignment`.
        out: the file to write: an adapter, or an embedding if soft tokens are trained.
        depends: hashes of the files behind probes and `keep`: a checkpoint belongs to these.
        checkpoint_every: steps between checkpoints.
        checkpoint: where the state is kept; beside `out` if None.
        gradient_checkpointing: save memory from the start; see `Training.save_memory`.
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
        self.objective = Alignment(self.base, self.probes, self.targets, self.families, self.settings, self.keep)
        self.training = Training(self.objective, self.note)
        if self.gradient_checkpointing:
            self.training.save_memory()
        self.checkpoint = self.checkpoint or checkpoint_path(self.out)
        families, targets = list(map(list, self.families)), list(map(str, self.targets))
        depends = {"base": self.base.identity, "prompts": families, "target": targets, "probes": list(self.depends)}
        depends |= {"settings": asdict(self.settings)}
        self.fingerprint = fingerprint_of(*depends.values())
        self.checkpointing = Checkpointing(self.checkpoint, self.training, depends, self.checkpoint_every)

    def save(self) -> None:
        """Write the running average."""
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
            training={**asdict(settings), "fingerprint": self.fingerprint},
            title=self.out.stem,
        )
        with self.training.averaged():
            if base.soft_tokens:
                base.soft_tokens.save(self.out, card)
            else:
                save_adapter(self.out, export_parts(self.objective.parts, ADAPTER), card)
