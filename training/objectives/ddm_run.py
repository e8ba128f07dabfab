"""A whole training run: images → latents → groups → loop → adapter file, with checkpoints and resume."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...debias.adapter.lora_file import AdapterCard, content_hash, load_adapter, save_adapter
from ...debias.core.error import DDMError, printable, reason_of
from ...debias.core.io import kind_of, read_metadata
from ...debias.groups.groups import Groups, concepts
from ...debias.groups.weighting import Weighting, predict_curve, recommended_alpha
from ..data.caption_table import CaptionTable
from ..data.dataset import ImageSet
from ..data.group_images import Grouper, Grouping, attributes
from ..evaluation.adapter_page import page_path
from ..loop.checkpoint import Checkpointing, checkpoint_path, fingerprint_of
from ..loop.distributed import Ranks
from ..loop.fit import StepProgress, Stop, TrainingRun, fit, preview
from ..loop.settings import TrainSettings
from ..loop.training import Training
from ..models.base import Base
from ..models.lora import export_parts, scale_lora, start_lora
from ..sampling.previews import Previews
from .calibration import MIN_IMAGES, Calibration, GroupReader, Sampling
from .ddm import DDM
from .final_look import FinalLook

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None] | None
# A card lists so many prompts of a set at most.
LISTED = 200
LONGEST = 500  # characters of a caption that a card tells of
# A column of more labels than this is no attribute to look at.
MOST_LABELS = 12


class _Stopped(Exception):
    """The measuring of the model's images is to stop."""


@dataclass
class Run(TrainingRun):
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
        init_from: a LoRA of the same layers and rank, that the adapter begins as.
        save_every: steps between adapters that are saved on the way, as they are then; 0 for none.
        calibrate_on: another model that makes the images which are looked at; None for the base.
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
    init_from: Path | None = None
    save_every: int = 0
    calibrate_on: Base | None = None
    look: FinalLook | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        images, seed = self.images, self.settings.seed
        self.sampling = Sampling(self.calibrate_on, self.settings.calibrate_steps, self.settings.calibrate_cfg)
        self.sampling.check(self.base)
        grouper = Grouper(self.base, images.squares, images.captions, seed, self.report, images.cache)
        self.grouping: Grouping = self.ranks.agreed(lambda: grouper.group(self.groups, self.target, images.column))
        self.concepts = _short(grouper.names)
        if self.settings.by_prompt and (why := self._no_prompts()):
            self.settings = replace(self.settings, by_prompt=0)
            if self.note:
                self.note(f"Prompts are not corrected one by one: {why}.", "by_prompt")
        table = CaptionTable.build(
            self.base, images.captions, self.grouping, self.settings.shuffle, images.cache, images.others
        )
        self.objective = self._objective(table)
        if self.init_from:
            start_lora(self.objective.parts, "debias", load_adapter(self.init_from))
        self.training = Training(self.objective, self.note)
        self.checkpoint = self.checkpoint or checkpoint_path(self.out)
        settings = self.settings.as_dict()
        self.fingerprint = fingerprint_of(*self._depends(settings).values())
        # Calibration comes after the last step: a run may be resumed without it, or with more or other images.
        for name in ("calibrate", "calibrate_steps", "calibrate_cfg"):
            del settings[name]
        depends = self._depends(settings) | {"style_steps": self.objective.sampler.style_steps}
        self.checkpointing = Checkpointing(self.checkpoint, self.training, depends, self.checkpoint_every)

    def _depends(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Everything that a run with these settings depends on, by name."""
        labels = self.groups.startswith("labels:")
        columns = [self.images.column(name) for name in attributes(self.groups)] if labels else []
        labelled = [label for column in columns for label in column] if labels else None
        of_images = {"images": self.images.fingerprint, "groups": self.groups, "target": self.target}
        begun = {"init_from": content_hash(self.init_from)} if self.init_from else {}
        run = {"settings": settings, "style": self.style is not None, "labels": labelled}
        return {"base": self.base.identity, **of_images, **run, **begun}

    def _no_prompts(self) -> str:
        """Why the shares of each prompt cannot be read; empty if they can."""
        if self.grouping.weighting.by_indicator:
            return "no groups were found whose shares could be counted"
        if (count := len(self.images.captions)) < MIN_IMAGES:
            return f"{count} images do not teach what to count, {MIN_IMAGES} do"
        return ""

    def _objective(self, captions: CaptionTable) -> DDM:
        """What is learnt: LoRAs on the base, by weights of the images."""
        weighting, style = self.grouping.weighting, self.style is not None
        # Images of regularisation, and those that the base made, come after the user's own.
        own = len(self.images.rows) or None
        return DDM(self.base, self.images.latents, captions, weighting, self.settings, style, self.ranks, own)

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
        progress: StepProgress = None,
        stop: Stop = None,
        calibration_progress: Progress = None,
        previews: Previews | None = None,
        base_progress: Progress = None,
        prompts_progress: Progress = None,
    ) -> bool:
        """Train to the end, or until `stop` says so; the state is kept either way.

        Args:
            progress, stop: see `fit`; `stop` is asked before each step of all that is sampled as well.
            calibration_progress: called with (done, total) while the scale is calibrated.
            previews: makes images now and then, and of the finished adapter.
            base_progress: called with (done, total) while the base is measured, where that is needed.
            prompts_progress: likewise while each prompt is measured, where each is corrected by itself.

        Returns:
            Whether the run is complete; then the files are written and the checkpoint is gone.

        Raises:
            DDMError: as in `fit`, or as in `Checkpointing.alone`; or a file cannot be written.
        """
        before_step = partial(self._before_step, stop, base_progress, prompts_progress)
        files = [*self.files, *map(page_path, self.files)]
        with self.checkpointing.alone():
            complete = fit(self.checkpointing, files, progress, stop, previews, before_step)
            complete = complete and self._finish(stop, calibration_progress)
            if complete and previews:
                preview(self.training, previews, stop)
        return complete

    def _finish(self, stop: Stop, calibration_progress: Progress) -> bool:
        """Calibrate and write the files; if that is stopped or fails, the checkpoint of the last step is there."""
        with self.training.averaged():
            calibrate = partial(self.calibrate, base_shares=_known(self.objective.base_group_shares))
            try:
                calibration, complete = self.ranks.agreed(lambda: self._watched(calibrate, stop, calibration_progress))
                if complete:
                    self._scale(calibration)
                    self.look, complete = self.ranks.agreed(
                        lambda: self._watched(self.last_look, stop, calibration_progress)
                    )
            except Exception as error:
                raise DDMError(
                    f"All steps are made and kept in {self.checkpoint}, but α could not be calibrated. "
                    f"{reason_of(error)} Resume it; with 0 images to calibrate on, it is left as it was trained.",
                    "resume",
                    "calibrate",
                ) from error
            if complete:
                self.save(calibration)
                for warning in (calibration and calibration.warning, self.look and self.look.harm):
                    if warning and self.note:
                        self.note(warning)
        return complete

    def _before_step(self, stop: Stop, base_progress: Progress, prompts_progress: Progress) -> bool:
        """Save the adapter where it is to be saved on the way, then `_adjust`."""
        if self.save_every and self.training.step and self.training.step % self.save_every == 0:
            self._save_snapshot()
        return self._adjust(stop, base_progress, prompts_progress)

    def _adjust(self, stop: Stop, base_progress: Progress, prompts_progress: Progress) -> bool:
        """Measure what the next steps' weights depend on, where it is time for that; False if that was stopped."""
        if self.needs_base_shares and not self._measure("base_group_shares", self.base_shares, stop, base_progress):
            return False
        correct = self.training.step == self.objective.correction_start_step < self.settings.steps
        correct = correct and self.needs_prompt_shares
        if correct and not self._measure("prompt_group_shares", self.shares_by_prompt, stop, prompts_progress):
            return False
        if correct or self.objective.effective_share is None:
            self._reweigh()
        return True

    def _measure(
        self, name: str, measure: Callable[[Callable[[int, int], None]], np.ndarray], stop: Stop, progress: Progress
    ) -> bool:
        """Let an attribute of the objective be the shares that are found in images; False if that was stopped."""
        import torch

        shares, complete = self.ranks.agreed(lambda: self._watched(measure, stop, progress))
        if complete:
            setattr(self.objective, name, self.base.moved(torch.as_tensor(shares, dtype=torch.float32)))
        return complete

    def _reweigh(self) -> None:
        """Draw by the weights for the shares that are known of the model's images."""
        grouping, weighting, objective = self.grouping, self.grouping.weighting, self.objective
        base_shares, prompt_shares = _known(objective.base_group_shares), _known(objective.prompt_group_shares)
        if base_shares is not None:
            # Of two groups, calibration makes up for where the base stands.
            several = [own if len(own) > 2 else None for own in grouping.by_attribute(base_shares)]
            weighting = weighting.starting_from(grouping.groups, several)
        scale = self._alpha_range_scale(weighting)
        if prompt_shares is not None:
            weighting = weighting.corrected(grouping.targets, grouping.by_attribute(prompt_shares))
        if weighting is not grouping.weighting or scale != objective.alpha_range_scale:
            objective.reweigh(weighting, scale)
        objective.effective_share = weighting.effective_share(1.0)

    def _alpha_range_scale(self, weighting: Weighting) -> float:
        """How far the dial is trained; of the weights that training begins with, so that it stays as it is."""
        return weighting.reach

    def _watched(
        self, measure: Callable[[Callable[[int, int], None]], Any], stop: Stop, progress: Progress
    ) -> tuple[Any, bool]:
        """What was measured of the model's images, and whether it was not stopped."""

        def watched(done: int, total: int) -> None:
            if stop and stop():
                raise _Stopped
            if progress:
                progress(done, total)

        try:
            return measure(watched), True
        except _Stopped:
            return None, False

    @property
    def needs_base_shares(self) -> bool:
        """Whether the base's own shares are still to be found: no scale could make up for those of many groups.

        With a style the adapter starts from what that makes of the base: the set's own shares.
        """
        # A run that began without calibrating is not turned round when it is resumed.
        grouping, unknown = self.grouping, not len(self.objective.base_group_shares) and not self.training.step
        several = any(len(part.names) > 2 for part in grouping.groups)
        return unknown and several and not self.style and not grouping.weighting.by_indicator and self._reads

    def base_shares(self, progress: Progress = None) -> np.ndarray:
        """Shares of every group in the base's own images."""
        return self._reader(progress).base_shares()

    @property
    def needs_prompt_shares(self) -> bool:
        """Whether the shares of each prompt are still to be found, so that it is corrected by itself."""
        return bool(self.settings.by_prompt) and not len(self.objective.prompt_group_shares)

    def shares_by_prompt(self, progress: Progress = None) -> np.ndarray:
        """Shares of every group in the images of each prompt, at the strength that would be α = 1 now."""
        with self.training.averaged():
            return self._reader(progress).shares_by_prompt(self.settings.by_prompt)

    def calibrate(self, progress: Progress = None, base_shares: np.ndarray | None = None) -> Calibration | None:
        """Find the scale that makes α = 1 what was promised; None if not asked for, or if too few images teach it.

        Args:
            base_shares: what the method of that name found.
        """
        if not self._reads:
            return None
        return self._reader(progress).calibrate(base_shares)

    def _scale(self, calibration: Calibration | None) -> None:
        """Scale the LoRA as calibrated."""
        for model in self.objective.parts.values() if calibration else ():
            scale_lora(model, "debias", calibration.scale)

    def last_look(self, progress: Progress = None) -> FinalLook | None:
        """See whether the finished adapter helps, and what else it moves; None if not asked for, or if nothing tells.

        What else there is to move are the other columns of the set whose labels differ within captions.
        """
        if not self._reads or self.grouping.weighting.by_indicator:
            return None
        return self._reader(progress).last_look(self._others())

    def _others(self) -> list[Groups]:
        """Groups by the columns of the set that nobody asked to change."""
        folder, found = self.images.folder, []
        asked = [name for name in attributes(self.groups) if self.groups.startswith("labels:")]
        for name in folder.columns if folder else ():
            labels = [label or "" for label in self.images.column(name)]
            pairs = {(caption, label) for caption, label in zip(self.images.captions, labels, strict=True) if label}
            several = len({label for _, label in pairs}) in range(2, MOST_LABELS + 1)
            within = len(pairs) > len({caption for caption, _ in pairs})
            if name not in asked and several and within:
                found.append(Groups.from_labels(labels, name))
        return found

    @property
    def _reads(self) -> bool:
        """Whether the model's images are measured, and there are enough of the set to learn from what is in them."""
        return bool(self.settings.calibrate) and len(self.images.captions) >= MIN_IMAGES

    def _reader(self, progress: Progress) -> GroupReader:
        images, settings = self.images, self.settings
        made, seed = settings.calibrate, settings.seed
        return GroupReader(
            self.base, images.squares, images.captions, self.grouping, made, seed, progress, images.cache, self.sampling
        )

    @property
    def prompt_shares(self) -> list[dict[str, Any]]:
        """What each prompt was corrected for (`shares_by_prompt`); nothing where prompts are not corrected one by one.

        Captions of few images are one of these together.
        """
        shares = _known(self.objective.prompt_group_shares)
        if shares is None:
            return []
        grouping, (names, index) = self.grouping, concepts(self.images.captions)
        names = _short(names)
        return [
            {
                "prompts": [names[number] for number in np.unique(index[grouping.weighting.concept == one])[:LISTED]],
                "found": grouping.named(grouping.by_attribute(shares[one])),
            }
            for one in range(len(shares[:LISTED]))
        ]

    @property
    def recommended(self) -> float:
        """The recommended α for all attributes together; 0 where the last look shows that the adapter does not help."""
        if self.look and self.look.harm:
            return 0.0
        return self._promised_alpha()

    def _promised_alpha(self) -> float:
        """The α at which the weights are as near to the target as can be told."""
        return recommended_alpha(self.grouping.weighting, self.grouping.groups, self.grouping.targets)

    def card(self, calibration: Calibration | None = None) -> AdapterCard:
        """What the adapter was trained for."""
        groups, targets = self.grouping.groups, self.grouping.targets
        curve = predict_curve(self.grouping.weighting, groups[0].membership, targets[0])
        points = zip(curve.alphas, curve.shares, curve.distance, curve.effective_share, strict=True)
        return AdapterCard(
            groups=self.groups,
            target={
                name: round(float(share), 6)
                for part, goal in zip(groups, targets, strict=True)
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
                **({"clip_skip": self.base.clip_skip} if self.base.clip_skip else {}),
                "found": self.grouping.found,
                "calibration": asdict(calibration) | self._calibrated_on() if calibration else None,
                "last_look": asdict(self.look) | {"harm": self.look.harm} if self.look else None,
                "prompts": self.prompt_shares,
                "fingerprint": self.fingerprint,
            },
            title=self.out.stem,
        )

    def _calibrated_on(self) -> dict[str, Any]:
        """For which model, steps and guidance α = 1 holds."""
        base = self.calibrate_on or self.base
        on = {"model": base.path.stem, "hash": base.hash, "steps": self.sampling.steps}
        return {"on": on | {"cfg": self.sampling.guidance_scale}}

    def _save_snapshot(self) -> None:
        """Save the adapter as it is, as kohya's trainer calls it: NAME-000100.safetensors. Its α is not calibrated."""
        step = self.training.step
        if not self.ranks.first or step == self.settings.steps or self.objective.phase(step - 1) != "debias":
            return
        out = self.out.with_stem(f"{self.out.stem}-{step:06}")
        card = replace(self.card(), title=out.stem, recommended_alpha=0.0, description=f"As it was after step {step}.")
        with self.training.averaged():
            save_adapter(out, export_parts(self.objective.parts, "debias"), card)

    def save(self, calibration: Calibration | None = None) -> None:
        """Write the adapter, which is scaled as calibrated, and the style, then remove the checkpoint."""
        parts = self.objective.parts
        if not self.ranks.first:
            return
        card = self.card(calibration)
        if self.look and self.look.harm:  # for those who see the file in another tool
            card = replace(card, description=f"{card.description} {self.look.harm}")
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


def _short(captions: list[str]) -> list[str]:
    return [printable(caption, LONGEST) for caption in captions]


def _known(shares: "torch.Tensor") -> np.ndarray | None:
    """Measured shares; None if there are none."""
    return shares.double().cpu().numpy() if len(shares) else None
