"""A whole training run: images → latents → groups → loop → adapter file, with checkpoints and resume."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...debias.adapter.lora_file import AdapterCard, save_adapter
from ...debias.core.error import DDMError, reason_of
from ...debias.core.io import kind_of, read_metadata
from ...debias.groups.groups import concepts
from ...debias.groups.weighting import PredictedCurve, Weighting, predict_curve, recommended_alpha
from ..data.caption_table import CaptionTable
from ..data.dataset import ImageSet
from ..data.group_images import Grouper, Grouping, attributes
from ..evaluation.adapter_page import page_path
from ..loop.checkpoint import checkpoint_path, remove_strays
from ..loop.checkpointing import Checkpointing
from ..loop.distributed import Ranks
from ..loop.fair_training import FairTraining
from ..loop.settings import TrainSettings
from ..models.base import Base
from ..models.lora import export_parts, scale_lora
from ..sampling.previews import Previews
from .calibration import MIN_IMAGES, Calibration, GroupReader

if TYPE_CHECKING:
    import torch

READ_EVERY = 10
# A card lists so many prompts of a set at most.
LISTED = 200


class _Stopped(Exception):
    """A look at the model's images is to stop."""


@dataclass
class Run:
    """A prepared run.

    Args:
        base: gets the LoRAs.
        images: the set.
        out: the adapter file to write.
        style: the style file to write, if a style is to be learnt as well.
        groups, target: as on the command line.
        settings: of the loop.
        checkpoint_every: steps between checkpoints.
        report: called with (what, done, total) while groups are found.
        checkpoint: where the state is kept; beside `out` if None.
        ranks: the processes that train together; this one alone if None.
        note: told what a user should know of the training.
    """

    base: Base
    images: ImageSet
    out: Path
    style: Path | None = None
    groups: str = "discovered"
    target: str = "uniform"
    settings: TrainSettings = field(default_factory=TrainSettings)
    checkpoint_every: int = 100
    report: Callable[[str, int, int], None] | None = None
    checkpoint: Path | None = None
    ranks: Ranks = field(default_factory=Ranks)
    note: Callable[..., None] | None = None

    def __post_init__(self) -> None:
        grouper = Grouper(
            self.base,
            self.images.squares,
            self.images.captions,
            self.settings.seed,
            self.report,
            self.images.cache,
        )
        self.grouping: Grouping = self.ranks.agreed(lambda: grouper.group(self.groups, self.target, self.images.column))
        self.concepts = grouper.names
        if self.settings.by_prompt and (why := self._no_prompts()):
            self.settings = replace(self.settings, by_prompt=0)
            if self.note:
                self.note(f"Prompts are not corrected one by one: {why}.", "by_prompt")
        table = CaptionTable.build(
            self.base, self.images.captions, self.grouping, self.settings.shuffle, self.images.cache
        )
        self.training = self._training(table)
        self.checkpoint = self.checkpoint or checkpoint_path(self.out)
        settings = self.settings.as_dict()
        self.fingerprint = self._fingerprint(settings)
        # Calibration comes after the last step: a run may be gone on with without it, or with more images.
        del settings["calibrate"]
        self.checkpointing = Checkpointing(
            self.checkpoint, self.training, self._fingerprint(settings), self.checkpoint_every
        )

    def _fingerprint(self, settings: dict[str, Any]) -> str:
        """Of everything that a run with these settings depends on."""
        labels = self.groups.startswith("labels:")
        columns = [self.images.column(name) for name in attributes(self.groups)] if labels else []
        depends = [self.base.identity, self.images.fingerprint, self.groups, self.target, settings]
        depends += [self.style is not None, [label for column in columns for label in column] if labels else None]
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()

    def _no_prompts(self) -> str:
        """Why the shares of each prompt cannot be read; empty if they can."""
        if self.grouping.weighting.by_indicator:
            return "no groups were found whose shares could be counted"
        if (count := len(self.images.captions)) < MIN_IMAGES:
            return f"{count} images do not teach what to count, {MIN_IMAGES} do"
        return ""

    def _training(self, captions: CaptionTable) -> FairTraining:
        """The loop's own state: LoRAs on the base, and an optimizer."""
        return FairTraining(
            self.base,
            self.images.latents,
            captions,
            self.grouping.weighting,
            self.settings,
            self.style is not None,
            self.ranks,
            self.note,
        )

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one; tells whether there was. Errors as in `load_checkpoint`."""
        return self.checkpointing.resume()

    @property
    def files(self) -> list[Path]:
        """All that is written: the checkpoint first."""
        return [self.checkpoint, self.out, *([self.style] if self.style else [])]

    @property
    def made(self) -> bool:
        """Whether the files are there already, made by a run like this one in everything."""
        if not all(kind_of(file) == "adapter" for file in self.files[1:]):
            return False
        card = AdapterCard.from_metadata(read_metadata(self.out))
        return card.training.get("fingerprint") == self.fingerprint

    def train(
        self,
        progress: Callable[[int, int, float, float, float], None] | None = None,
        stop: Callable[[], bool] | None = None,
        calibration_progress: Callable[[int, int], None] | None = None,
        previews: Previews | None = None,
        base_progress: Callable[[int, int], None] | None = None,
        prompts_progress: Callable[[int, int], None] | None = None,
    ) -> bool:
        """Train to the end, or until `stop` says so; the state is kept either way.

        Args:
            progress: called every 10 steps with (step, steps, loss, ESS at α = 1, learning rate).
            stop: asked before each step, of training and of all that is sampled before and after it; and between the
                micro-batches of one that is made in several. Once it says True, it must keep to that.
            calibration_progress: called with (done, total) while the scale is calibrated.
            previews: makes images now and then, and of the finished adapter.
            base_progress: called with (done, total) while the base is measured, where that is needed.
            prompts_progress: likewise while each prompt is measured, where each is corrected by itself.

        Returns:
            Whether the run is complete; then the files are written and the checkpoint is gone.

        Raises:
            DDMError: step after step is not finite, a file cannot be written or will have no room, or the memory does
                not suffice. Whatever is raised, what was learnt is kept.
        """
        training, steps, checkpointing = self.training, self.settings.steps, self.checkpointing
        # Several processes cannot agree in the middle of a step.
        within = None if self.ranks.several else stop
        if self.ranks.first:
            remove_strays(*self.files, *map(page_path, self.files))
        checkpointing.check_room(self.files)
        with checkpointing.save_on_failure():
            if self.needs_base_shares and not self._look("base_group_shares", self.base_shares, stop, base_progress):
                return False
            ess = self._reweigh()
            while training.step < steps:
                if training.step == training.correction_start_step and self.needs_prompt_shares:
                    if not self._look("prompt_group_shares", self.shares_by_prompt, stop, prompts_progress):
                        return False
                    ess = self._reweigh()
                if stop and self._agreed(stop):
                    checkpointing.keep()
                    return False
                if not training.advance(within):
                    continue
                if training.step % READ_EVERY == 0 or training.step == steps:
                    checkpointing.check()
                    if progress:
                        progress(
                            training.step, steps, training.loss.item(), ess, training.learning_rate(training.step - 1)
                        )
                checkpointing.keep_if_due()
                if previews and training.step % previews.every == 0 and training.step < steps:
                    self._preview(previews, stop)
            skipped = int(training.skipped)
            if skipped and self.note:
                self.note(f"{skipped} of {steps} steps were left out, because their loss or gradient was not finite.")
            complete = self._finish(stop, calibration_progress)
        if complete and previews:
            self._preview(previews, stop)
        return complete

    def _finish(self, stop: Callable[[], bool] | None, calibration_progress: Callable[[int, int], None] | None) -> bool:
        """Calibrate and write the files; if that is stopped or fails, the checkpoint of the last step is there."""
        with self.training.averaged():
            calibrate = partial(self.calibrate, start=_known(self.training.base_group_shares))
            try:
                calibration, complete = self.ranks.agreed(lambda: self._watched(calibrate, stop, calibration_progress))
            except Exception as error:
                raise DDMError(
                    f"All steps are made and kept in {self.checkpoint}, but α could not be calibrated. "
                    f"{reason_of(error)} Resume it; with 0 images to calibrate on, it is left as it was trained.",
                    "resume",
                    "calibrate",
                ) from error
            if complete:
                self.save(calibration)
                if calibration and calibration.warning and self.note:
                    self.note(calibration.warning)
        return complete

    def _look(
        self,
        name: str,
        look: Callable[[Callable[[int, int], None]], np.ndarray],
        stop: Callable[[], bool] | None,
        progress: Callable[[int, int], None] | None,
    ) -> bool:
        """Let a figure of the training be the shares that are found in images; if stopped, the state is kept."""
        import torch

        shares, complete = self.ranks.agreed(lambda: self._watched(look, stop, progress))
        if complete:
            setattr(self.training, name, self.base.moved(torch.as_tensor(shares, dtype=torch.float32)))
        else:
            self.checkpointing.keep()
        return complete

    def _reweigh(self) -> float:
        """Draw by the weights for the shares that are known of the model's images; returns their ESS at α = 1."""
        grouping, weighting = self.grouping, self.grouping.weighting
        start, prompts = _known(self.training.base_group_shares), _known(self.training.prompt_group_shares)
        if start is not None:
            # Of two groups, calibration makes up for where the base stands.
            several = [own if len(own) > 2 else None for own in grouping.by_attribute(start)]
            weighting = weighting.starting_from(grouping.groups, several)
        scale = self._alpha_range_scale(weighting)
        if prompts is not None:
            weighting = weighting.corrected(grouping.targets, grouping.by_attribute(prompts))
        if weighting is not grouping.weighting or scale != self.training.alpha_range_scale:
            self.training.reweigh(weighting, scale)
        return weighting.effective_share(1.0)

    def _alpha_range_scale(self, weighting: Weighting) -> float:
        """How far the dial is trained; of the weights that training begins with, so that it stays as it is."""
        return weighting.reach

    def _agreed(self, stop: Callable[[], bool]) -> bool:
        """Whether to stop; several processes stop at the same step, and do not ask each other at every one."""
        if self.ranks.several and self.training.step % READ_EVERY:
            return False
        return self.ranks.any(stop())

    def _preview(self, previews: Previews, stop: Callable[[], bool] | None) -> None:
        """Make a preview; whatever goes wrong with it, the training goes on."""
        if not self.ranks.first:
            return
        try:
            with self.training.averaged():
                previews.make(self.training.step, stop)
        except Exception as error:
            if self.note:
                self.note(f"The preview of step {self.training.step} could not be made. {reason_of(error)}")

    def _watched(
        self,
        look: Callable[[Callable[[int, int], None]], Any],
        stop: Callable[[], bool] | None,
        progress: Callable[[int, int], None] | None,
    ) -> tuple[Any, bool]:
        """What a look at the model's images found, and whether it was not stopped."""

        def watched(done: int, total: int) -> None:
            if stop and stop():
                raise _Stopped
            if progress:
                progress(done, total)

        try:
            return look(watched), True
        except _Stopped:
            return None, False

    @property
    def needs_base_shares(self) -> bool:
        """Whether the base's own shares are still to be found: no scale could make up for those of many groups.

        With a style the adapter starts from what that makes of the base: the set's own shares.
        """
        # A run that began without calibrating is not turned round when it is gone on with.
        grouping, unknown = self.grouping, not len(self.training.base_group_shares) and not self.training.step
        several = any(len(part.names) > 2 for part in grouping.groups)
        return unknown and several and not self.style and not grouping.weighting.by_indicator and self._reads

    def base_shares(self, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Shares of every group in the base's own images."""
        return self._reader(progress).base_shares()

    @property
    def needs_prompt_shares(self) -> bool:
        """Whether the shares of each prompt are still to be found, so that it is corrected by itself."""
        return bool(self.settings.by_prompt) and not len(self.training.prompt_group_shares)

    def shares_by_prompt(self, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Shares of every group in the images of each prompt, at the strength that would be α = 1 now."""
        with self.training.averaged():
            return self._reader(progress).shares_by_prompt(self.settings.by_prompt)

    def calibrate(
        self, progress: Callable[[int, int], None] | None = None, start: np.ndarray | None = None
    ) -> Calibration | None:
        """Find the scale that makes α = 1 what was promised; None if not asked for, or if too few images teach it.

        Args:
            start: what `base_shares` found.
        """
        if not self._reads:
            return None
        return self._reader(progress).calibrate(start)

    @property
    def _reads(self) -> bool:
        """Whether the model's images are looked at, and there are enough to learn from what to see in them."""
        return bool(self.settings.calibrate) and len(self.images.captions) >= MIN_IMAGES

    def _reader(self, progress: Callable[[int, int], None] | None) -> GroupReader:
        images, settings = self.images, self.settings
        return GroupReader(
            self.base,
            images.squares,
            images.captions,
            self.grouping,
            settings.calibrate,
            settings.seed,
            progress,
            images.cache,
        )

    @property
    def seen(self) -> list[dict[str, Any]]:
        """What each prompt was corrected for (`shares_by_prompt`); nothing where prompts are not corrected one by one.

        Captions of few images are one of these together.
        """
        shares = _known(self.training.prompt_group_shares)
        if shares is None:
            return []
        grouping, (names, index) = self.grouping, concepts(self.images.captions)
        return [
            {
                "prompts": [names[number] for number in np.unique(index[grouping.weighting.concept == one])[:LISTED]],
                "found": grouping.named(grouping.by_attribute(shares[one])),
            }
            for one in range(len(shares[:LISTED]))
        ]

    @property
    def curve(self) -> PredictedCurve:
        """The predicted curve of the first attribute."""
        return predict_curve(self.grouping.weighting, self.grouping.groups[0].membership, self.grouping.targets[0])

    @property
    def recommended(self) -> float:
        """The recommended α for all attributes together."""
        return recommended_alpha(self.grouping.weighting, self.grouping.groups, self.grouping.targets)

    def card(self, calibration: Calibration | None = None) -> AdapterCard:
        """What the adapter was trained for."""
        groups, curve = self.grouping.groups, self.curve
        points = zip(curve.alphas, curve.shares, curve.distance, curve.effective_share, strict=True)
        return AdapterCard(
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
            concepts=self.concepts[:LISTED],
            predicted=[
                {"alpha": float(a), "shares": s.round(4).tolist(), "fd": round(float(d), 4), "ess": round(float(e), 4)}
                for a, s, d, e in points
            ],
            training={
                **self.settings.as_dict(),
                "images": len(self.images.captions),
                "resolution": self.base.image_size,
                "found": self.grouping.found,
                "calibration": asdict(calibration) if calibration else None,
                "prompts": self.seen,
                "fingerprint": self.fingerprint,
            },
            title=self.out.stem,
        )

    def save(self, calibration: Calibration | None = None) -> None:
        """Scale the adapter as calibrated, write it and the style, then remove the checkpoint."""
        parts = self.training.parts
        if calibration:
            for model in parts.values():
                scale_lora(model, "debias", calibration.scale)
        if not self.ranks.first:
            return
        card = self.card(calibration)
        if self.style:
            style = AdapterCard(
                objective="style",
                groups=self.groups,
                base_hash=self.base.hash,
                architecture=card.architecture,
                prediction=card.prediction,
                concepts=self.concepts[:LISTED],
                training=card.training,
                title=self.style.stem,
                description="Style learnt with a DDM adapter; use it at strength 1.",
            )
            save_adapter(self.style, export_parts(parts, "style"), style)
        save_adapter(self.out, export_parts(parts, "debias"), card)
        self.checkpoint.unlink(missing_ok=True)


def _known(figure: "torch.Tensor") -> np.ndarray | None:
    """A figure of the training; None if nobody has looked."""
    return figure.double().cpu().numpy() if len(figure) else None
