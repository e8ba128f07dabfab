"""A whole training run: pictures → latents → groups → loop → adapter file, with checkpoints and resume."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..debias.adapter import AdapterCard, save_adapter
from ..debias.error import DDMError
from ..debias.storage import read_metadata
from ..debias.weight import PredictedCurve, predict_curve, recommended_alpha
from .base import Base
from .calibration import FEWEST, Calibration, calibrate
from .checkpoint import checkpoint_path, load_checkpoint, remove_strays, save_checkpoint
from .folder import ImageFolder
from .grouping import Grouper, Grouping
from .latents import encode_moments
from .loop import FairTraining, Settings
from .lora import export_lora, scale_lora
from .preview import Previews
from .text_table import TextTable

if TYPE_CHECKING:
    import torch

READ_EVERY = 10


@dataclass(frozen=True)
class PictureSet:
    """The pictures of a run as the model sees them.

    Attributes:
        moments: scaled latent means and deviations [N, C, h, w].
        captions: [N].
        fingerprint: of pictures and captions.
        folder: where they come from; None when the base made all of them.
        rows: which picture of the folder each of the first ones is; a picture with repeats comes more than once.
    """

    moments: tuple["torch.Tensor", "torch.Tensor"]
    captions: Sequence[str]
    fingerprint: str
    folder: ImageFolder | None = None
    rows: Sequence[int] = ()

    def column(self, name: str) -> list[str | None]:
        """One label per picture; pictures that the base made have none."""
        if self.folder is None:
            raise DDMError(
                "Pictures that the base made (--self) have no labels. Use --groups auto or words:… with them."
            )
        column = self.folder.column(name)
        labels = [column[row] for row in self.rows]
        return labels + [None] * (len(self.captions) - len(labels))

    def __add__(self, other: "PictureSet") -> "PictureSet":
        """Append pictures that are not to be grouped by labels: of the base, or of a regularisation set."""
        import torch

        moments = tuple(torch.cat(pair) for pair in zip(self.moments, other.moments, strict=True))
        both = hashlib.sha256((self.fingerprint + other.fingerprint).encode()).hexdigest()
        return PictureSet(moments, [*self.captions, *other.captions], both, self.folder, self.rows)


def folder_set(
    base: Base,
    folder: ImageFolder,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
    count: int | None = None,
) -> PictureSet:
    """Encode a folder, each picture as often as its repeats say.

    Args:
        cache: a folder that keeps the latents.
        count: how many pictures shall be used in all, as a regularisation set has as many as there are pictures to
            learn: more are left out (by a draw that is always the same), fewer are repeated.
    """
    rows = [row for row, item in enumerate(folder.items) for _ in range(item.repeats)]
    if count is not None:
        rows = sorted(np.resize(np.random.default_rng(0).permutation(rows), count).tolist())
    captions = [folder.items[row].caption for row in rows]
    digest = hashlib.sha256(json.dumps([folder.fingerprint(), captions]).encode()).hexdigest()
    mean, deviation = encode_moments(base, folder, progress, cache=cache)
    return PictureSet((mean[rows], deviation[rows]), captions, digest, folder, rows)


def self_set(
    base: Base, prompts: Sequence[str], per_prompt: int, seed: int, progress: Callable[[int, int], None] | None = None
) -> PictureSet:
    """Let the base make the set: `per_prompt` pictures of each prompt (prior preservation, or all there is)."""
    import torch

    from .sampler import generate_batches

    captions = [prompt for prompt in prompts for _ in range(per_prompt)]
    seeds = [1_000_000 + seed + number for number in range(len(captions))]
    latents = torch.cat([batch.latents for batch in generate_batches(base, captions, seeds, progress=progress)])
    digest = hashlib.sha256(json.dumps([base.hash, list(prompts), per_prompt, seed]).encode()).hexdigest()
    return PictureSet((latents, torch.zeros_like(latents)), captions, digest)


class _Stopped(Exception):
    """The calibration is to stop."""


@dataclass
class Run:
    """A prepared run.

    Args:
        base: gets the LoRAs.
        pictures: the set.
        out: the adapter file to write.
        style: the style file to write, if a style is to be learnt as well.
        groups, target: as on the command line.
        settings: of the loop.
        save_every: steps between checkpoints.
        report: called with (what, done, total) while groups are found.
        checkpoint: where the state is kept; beside `out` if None.
    """

    base: Base
    pictures: PictureSet
    out: Path
    style: Path | None = None
    groups: str = "discovered"
    target: str = "uniform"
    settings: Settings = field(default_factory=Settings)
    save_every: int = 100
    report: Callable[[str, int, int], None] | None = None
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        grouper = Grouper(self.base, self.pictures.moments[0], self.pictures.captions, self.settings.seed, self.report)
        self.grouping: Grouping = grouper.group(self.groups, self.target, self.pictures.column)
        self.concepts = grouper.names
        table = TextTable.build(self.base, self.pictures.captions, self.grouping)
        self.training = FairTraining(
            self.base, self.pictures.moments, table, self.grouping.weighting, self.settings, self.style is not None
        )
        self.checkpoint = self.checkpoint or checkpoint_path(self.out)
        depends = [self.base.hash, self.pictures.fingerprint, self.groups, self.target, self.settings.as_dict()]
        depends.append(self.style is not None)
        kind, _, column = self.groups.partition(":")
        depends.append(self.pictures.column(column) if kind == "labels" else None)
        self.fingerprint = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one; tells whether there was."""
        remove_strays(self.checkpoint, self.out, *([self.style] if self.style else []))
        if not self.checkpoint.exists():
            return False
        load_checkpoint(self.checkpoint, self.training, self.fingerprint)
        return True

    @property
    def made(self) -> bool:
        """Whether the files are there already, made by a run like this one in everything."""
        if not self.out.exists() or (self.style and not self.style.exists()):
            return False
        card = AdapterCard.from_metadata(read_metadata(self.out))
        return card is not None and card.training.get("fingerprint") == self.fingerprint

    def train(
        self,
        progress: Callable[[int, int, float, float], None] | None = None,
        stop: Callable[[], bool] | None = None,
        calibrating: Callable[[int, int], None] | None = None,
        previews: Previews | None = None,
    ) -> bool:
        """Train to the end, or until `stop` says so; the state is kept either way.

        Args:
            progress: called every 10 steps with (step, steps, loss, ESS at α = 1).
            stop: asked before each step, of training and of the calibration.
            calibrating: called with (done, total) while the scale is calibrated.
            previews: makes pictures now and then, and of the finished adapter.

        Returns:
            Whether the run is complete; then the files are written and the checkpoint is gone.

        Raises:
            DDMError: the loss is no longer finite, or a file cannot be written.
        """
        training, steps = self.training, self.settings.steps
        ess = self.grouping.weighting.effective_share(1.0)
        while training.step < steps:
            if stop and stop():
                self._keep()
                return False
            training.advance()
            if training.step % READ_EVERY == 0 or training.step == steps:
                self._check()
                if progress:
                    progress(training.step, steps, training.loss.item(), ess)
            if training.step % self.save_every == 0 or training.step == steps:
                self._keep()
            if previews and training.step % previews.every == 0 and training.step < steps:
                previews.make(training.step, stop)

        def watched(done: int, total: int) -> None:
            if stop and stop():
                raise _Stopped
            if calibrating:
                calibrating(done, total)

        try:
            self.save(self.calibrate(watched))
        except _Stopped:
            # The checkpoint of the last step is there: a resumed run only calibrates.
            return False
        if previews:
            previews.make(steps, stop)
        return True

    def _check(self) -> None:
        """Refuse a state that is not finite; what follows from it never would be."""
        import torch

        training = self.training
        if not torch.stack([value.isfinite().all() for value in (training.loss, *training.parameters)]).all():
            raise DDMError(
                f"The loss is no longer finite at step {training.step}. Train again with a rate lower than "
                f"{self.settings.rate:g} (--rate and --restart)."
            )

    def _keep(self) -> None:
        """Write the checkpoint; a state that is not finite does not replace the last good one."""
        self._check()
        save_checkpoint(self.checkpoint, self.training, self.fingerprint)

    def calibrate(self, progress: Callable[[int, int], None] | None = None) -> Calibration | None:
        """Find the scale that makes α = 1 what was promised; None if not asked for, or if too few pictures teach it."""
        if not self.settings.calibrate or len(self.pictures.captions) < FEWEST:
            return None
        return calibrate(
            self.base,
            self.pictures.moments[0],
            self.pictures.captions,
            self.grouping,
            pictures=self.settings.calibrate,
            seed=self.settings.seed,
            progress=progress,
        )

    @property
    def curve(self) -> PredictedCurve:
        """The predicted curve of the first attribute."""
        return predict_curve(self.grouping.weighting, self.grouping.groups[0].membership, self.grouping.targets[0])

    @property
    def recommended(self) -> float:
        """The recommended α for all attributes together."""
        return recommended_alpha(self.grouping.weighting, self.grouping.groups, self.grouping.targets)

    def save(self, calibration: Calibration | None = None) -> None:
        """Write adapter and style file, the adapter scaled as calibrated, then remove the checkpoint."""
        groups, curve = self.grouping.groups, self.curve
        points = zip(curve.alphas, curve.shares, curve.distance, curve.effective_share, strict=True)
        card = AdapterCard(
            groups=self.groups,
            target={
                name: round(float(share), 6)
                for part, goal in zip(groups, self.grouping.targets, strict=True)
                if part.source != "discovered"
                for name, share in zip(part.names, goal.shares, strict=True)
            }
            or None,
            alpha_max=self.settings.alpha_max,
            recommended_alpha=self.recommended,
            base_hash=self.base.hash,
            architecture=self.base.architecture,
            prediction=self.base.prediction,
            concepts=self.concepts[:200],
            predicted=[
                {"alpha": float(a), "shares": s.round(4).tolist(), "fd": round(float(d), 4), "ess": round(float(e), 4)}
                for a, s, d, e in points
            ],
            training={
                **self.settings.as_dict(),
                "pictures": len(self.pictures.captions),
                "calibration": asdict(calibration) if calibration else None,
                "fingerprint": self.fingerprint,
            },
            title=self.out.stem,
        )
        if self.style:
            style = AdapterCard(
                objective="style",
                groups=self.groups,
                base_hash=self.base.hash,
                architecture=card.architecture,
                prediction=card.prediction,
                concepts=self.concepts[:200],
                training=card.training,
                title=self.style.stem,
                description="Style learnt with a DDM adapter; use it at strength 1.",
            )
            save_adapter(self.style, export_lora(self.base.unet, "style"), style)
        if calibration:
            scale_lora(self.base.unet, "debias", calibration.scale)
        save_adapter(self.out, export_lora(self.base.unet, "debias"), card)
        self.checkpoint.unlink(missing_ok=True)
