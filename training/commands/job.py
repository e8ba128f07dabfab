"""One training from its configuration to its files: what `ddm train` does, for a reporter of any kind."""

import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ...debias.adapter.lora_file import AdapterCard, content_hash
from ...debias.core.error import DDMError, reason_of
from ...debias.core.io import check_output, check_writable, read_metadata
from ...debias.groups.groups import NOTHING
from ...debias.probes.predict import check_probes
from ..data.cache import cache_folder
from ..data.dataset import ImageSet, Preparation, folder_set, self_set
from ..data.file_index import FileIndex
from ..data.group_images import check_source
from ..data.image_folder import ImageFolder
from ..data.read_folder import read_folder
from ..evaluation.adapter_page import page_path, write_page
from ..evaluation.load_probes import open_probes, targets_for
from ..loop.checkpoint import OtherRun, checkpoint_path, refuse_left
from ..loop.distributed import Ranks
from ..loop.stop_signals import stop_signals
from ..models.base import Base
from ..models.load_base import check_weights, load_base, read_configuration, resolve_device
from ..models.model import EMBEDDED, Model, load_model
from ..objectives.ddm_paper import DDMPaperRun
from ..objectives.ddm_run import Run
from ..objectives.tilted import TiltedRun
from ..sampling.previews import Previews
from ..sampling.prompts import read_prompts
from .config import TrainConfig
from .config_file import write_config
from .reporters import Reporter
from .tensorboard import TensorBoardReporter

if TYPE_CHECKING:
    import torch

    from ..models.memory_estimate import Estimate

# Options that say how the base is opened.
OPENING = ("tokenizer", "prediction", "vae", "text_encoder_file", "clip_skip", "mixed_precision")
OPENING += ("quantize", "offload_blocks")
# The most captions that the finished adapter is measured under.
MEASURED = 20


class Stopped(Exception):
    """The training was stopped, and its state is kept."""


@dataclass
class Job:
    """A training.

    Args:
        config: what to do.
        reporter: told what happens; of several processes, that of the first.
        ranks: the processes that train together.
    """

    config: TrainConfig
    reporter: Reporter = field(default_factory=Reporter)
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        if not self.ranks.first:
            self.reporter = Reporter()
        elif self.config.log:
            self.reporter = TensorBoardReporter(self.reporter, self.config.log, write_config(vars(self.config)))
        self.path = self.config.base or EMBEDDED
        self.opening = {name: getattr(self.config, name) for name in OPENING}
        self.checkpoint = self.config.checkpoint or checkpoint_path(self.config.out)

    def run(self) -> dict[str, Any] | None:
        """Train.

        Returns:
            What was made, as JSON; None if it is there already and is not to be overwritten.

        Raises:
            DDMError: a mistake in what was given, a run that diverges, or a disk that refuses.
            Stopped: a signal came; the state is kept.
        """
        config, note, began = self.config, self.reporter.note, time.monotonic()
        self.ranks.agreed(self._check)
        prompts = read_prompts(config.prior_prompts) if config.prior_prompts else []
        with self.ranks.first_before_others():
            folders = self._folders()
        device = resolve_device(self.ranks.device(config.device))
        if device.type == "cuda" or config.quantize or config.offload_blocks:
            self._say_memory(device)
        base = load_base(self.path, device, **self.opening)
        base.use_resolution(config.resolution)
        with self.ranks.first_before_others():
            sets = self._sets(base, folders)
        if prompts:
            sets.append(self._own(base, prompts))
        images = reduce(add, sets)
        self.config = config = replace(config, steps=config.steps_of(len(images.captions)), epochs=None)
        run = self._prepare(base, images)
        if self.ranks.agreed(lambda: self._is_made(run)):
            return None
        if config.resume and not self._resume(run):
            note(f"There is no checkpoint of {config.out.name} yet, so training begins at step 0.")
        if config.restart and not config.resume and self.ranks.first:
            self.checkpoint.unlink(missing_ok=True)
        with ExitStack() as phases:
            stop = phases.enter_context(stop_signals())
            looking = phases.enter_context(self.reporter.images("base")) if run.needs_base_shares else None
            comparing = phases.enter_context(self.reporter.images("prompts")) if run.needs_prompt_shares else None
            steps = phases.enter_context(self.reporter.steps())
            calibrating = phases.enter_context(self.reporter.images("calibration"))
            previews = self._previews(base, run) if config.sample_dir else None
            complete = run.train(steps, stop, calibrating, previews, looking, comparing)
        if not complete:
            self.reporter.stopped(run.training.step, config.steps, self.checkpoint)
            raise Stopped
        if config.card and self.ranks.first:
            self._write_pages()
        measured = {}
        if config.probe and self.ranks.first:
            style = content_hash(config.style) if config.style else None
            with run.training.averaged():
                measured = self._measure(run, Model(base, content_hash(config.out), style))
        result = self._result(run, time.monotonic() - began, measured)
        note(f"Wrote {config.out} in {result['seconds']:.0f} s. Recommended α: {result['recommended_alpha']:g}.")
        self.reporter.result(result)
        return result

    def _check(self) -> None:
        """Find what is wrong before anything is read."""
        config = self.config
        if config.probe:
            check_probes(open_probes(config.probe, config.clip, "cpu"), [None] * len(config.probe))
        if not config.restart and not config.resume:
            refuse_left(self.checkpoint)
        for file in filter(None, (config.out, config.style, self.checkpoint)):
            check_writable(file)
        for file in filter(None, (config.out, config.style)):
            if config.overwrite is None:
                check_output(file, "adapter", "Choose another name, or allow to overwrite it.", "overwrite")
        check_source(config.groups, config.target)
        for path in filter(None, (self.path, config.calibrate_on)):
            check_weights(path, config.text_encoder_file, config.vae)

    def estimate(self) -> None:
        """Say what the training will take of the device and how long, and train nothing; errors as in `run`."""
        from .time_estimate import duration, speed_of

        self._check()
        config, device = self.config, resolve_device(self.config.device)
        captions = [caption for images in self._folders() for caption in images.captions]
        own = len(read_prompts(config.prior_prompts)) * config.prior_count if config.prior_prompts else 0
        found = self._say_memory(device)
        speed = speed_of(device, config.mixed_precision != "no")
        taken = duration(config, found, self._rows(), len(captions), len(set(captions)), own, speed)
        self.reporter.note(f"It takes {taken} (by how fast this device multiplies; no more than a guide).")

    def _rows(self) -> int:
        """Images that are computed at a time."""
        return -(-self.config.batch_size // self.config.gradient_accumulation_steps)

    def _dtype(self, device: "torch.device") -> "torch.dtype":
        import torch

        return torch.float32 if self.config.mixed_precision == "no" or device.type == "cpu" else torch.bfloat16

    def _say_memory(self, device: "torch.device") -> "Estimate":
        """Say how much memory the training will take, and what would make it less, before anything is loaded."""
        import torch

        from ..models.memory_estimate import estimate

        config = self.config
        family, parts = read_configuration(self.path, config.text_encoder_file, config.vae)
        found = estimate(
            family,
            parts,
            config.resolution,
            self._rows(),
            config.rank,
            config.gradient_checkpointing,
            config.quantize,
            config.offload_blocks,
            not config.text_encoder,
            self._dtype(device),
        )
        self.reporter.note(f"The training needs {found}.")
        room = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else found.peak
        if found.peak > room:
            self.reporter.note(
                f"The GPU has {room / 1e9:.1f} GB. More gradient accumulation steps, gradient checkpointing, quantized "
                "or offloaded blocks, and a lower resolution need less.",
                "gradient_accumulation_steps",
                "gradient_checkpointing",
                "quantize",
                "offload_blocks",
                "resolution",
            )
        return found

    def _folders(self) -> list[ImageFolder]:
        """The images to learn, and the regularisation set; of each only where there is one."""
        config = self.config
        found = []
        for place, trigger in ((config.folder, config.trigger), (config.reg_data, "")):
            if place:
                index = FileIndex.of(place, self._cache(place))
                images = read_folder(place, config.caption, index=index, every_line=config.enable_wildcard)
                found.append(images.triggered(trigger))
        for images in found:
            for skipped in images.skipped:
                self.reporter.note(f"Skipped {skipped.path.name}: {skipped.reason}")
            for remark in images.notes:
                self.reporter.note(remark)
        return found

    def _sets(self, base: Base, folders: list[ImageFolder]) -> list[ImageSet]:
        """Encode the folders."""
        config, reporter, sets = self.config, self.reporter, []
        how = Preparation(config.buckets, config.flip, config.masks, config.alpha_mask)
        for images in folders:
            with reporter.images("cache") as report:
                # A regularisation set has as many images as there are to learn.
                count = len(sets[0].captions) if sets else None
                sets.append(folder_set(base, images, report, self._cache(images.root), count, how))
            for remark in sets[-1].notes:
                reporter.note(remark)
        return sets

    def _own(self, base: Base, prompts: list[str]) -> ImageSet:
        """Let the base make images of the prompts."""
        with self.reporter.images("own") as report:
            return self_set(base, prompts, self.config.prior_count, self.config.seed, report)

    def _prepare(self, base: Base, images: ImageSet) -> Run:
        """Find groups and put the LoRAs on the base."""
        config, calibrate_on = self.config, None
        if config.calibrate_on:
            opening = self.opening | {"offload_blocks": True} if base.device.type == "cuda" else self.opening
            calibrate_on = load_base(config.calibrate_on, base.device, **opening)
        with self.reporter.images("groups") as report:
            kind = TiltedRun if config.teacher == "model" else Run
            run = (DDMPaperRun if config.objective == "ddm-paper" else kind)(
                base,
                images,
                config.out,
                config.style,
                config.groups,
                config.target,
                config.settings(base.denoiser.num_parameters()),
                config.checkpoint_every,
                lambda what, done, total: report(done, total),
                self.checkpoint,
                self.ranks,
                self.reporter.note,
                config.init_from,
                config.save_every or 0,
                calibrate_on,
            )
        if base.device.type == "cuda" and not config.text_encoder:
            base.rest()  # what they have encoded is kept
        run.training.micro_batches = max(run.training.micro_batches, config.gradient_accumulation_steps)
        if config.gradient_checkpointing:
            run.training.save_memory()
        self.reporter.groups(run.grouping)
        if run.grouping.weighting.by_indicator:
            self.reporter.note(
                f"{NOTHING} Rare images are drawn more often all the same; α = 0 is recommended.", "groups"
            )
        return run

    def _is_made(self, run: Run) -> bool:
        """Whether the files are there already and shall stay: as nothing is overwritten, or as the run's end.

        Only a preview is made then.
        """
        config = self.config
        taken = [file for file in (config.out, config.style) if file and file.exists()]
        finished = config.resume and not self.checkpoint.exists()
        if not taken or not (finished or config.overwrite is False):
            return False
        if not run.made:
            if config.overwrite is not False:
                return False
            raise DDMError(
                f"{taken[0].name} is there already, and was made of other images or with other settings. Choose "
                "another name, or allow to overwrite it."
            )
        self.reporter.note(
            f"{config.out.name} is there already, made of these images with these settings: nothing is trained."
        )
        unmeasured = config.probe and not self._is_measured()
        if config.sample_dir or unmeasured:
            made = load_model(self.path, config.out, config.style, config.device, **self.opening)
            made.base.use_resolution(config.resolution)
            if config.sample_dir:
                self._previews(made.base, run).make(config.steps)
            if unmeasured:
                self._measure(run, made)
        return True

    def _is_measured(self) -> bool:
        """Whether the card of the adapter that is there says already what the first probe sees."""
        measured = AdapterCard.from_metadata(read_metadata(self.config.out)).measured
        (probe,) = open_probes(self.config.probe[:1], self.config.clip, "cpu")
        return bool(measured) and measured["attribute"] == probe.attribute

    def _resume(self, run: Run) -> bool:
        """Go on from the checkpoint if there is one; with `restart`, one of another run is thrown away."""
        try:
            return run.resume()
        except OtherRun:
            if not self.config.restart:
                raise
        self.reporter.note("The checkpoint was of another run, and was thrown away.")
        self.checkpoint.unlink(missing_ok=True)
        return run.resume()

    def _previews(self, base: Base, run: Run) -> Previews:
        config = self.config
        every = config.sample_every or max(1, config.steps // 5)
        said = read_prompts(config.sample_prompts) if config.sample_prompts else run.images.captions
        return Previews(base, said, config.sample_dir, every, self.reporter.preview, config.seed)

    def _cache(self, place: Path) -> Path | None:
        return None if self.config.no_cache else self.config.cache or cache_folder(place)

    def _write_pages(self) -> None:
        for file in filter(None, (self.config.out, self.config.style)):
            if not write_page(file):
                self.reporter.note(f"{page_path(file).name} was not written by the trainer, so it stays as it is.")

    def _measure(self, run: Run, model: Model) -> dict[str, Any]:
        """Measure the finished adapter and write its card; if that is stopped or fails, the adapter stays as it is.

        Beside previews, the images are kept.

        Args:
            model: the base with the adapter on it.
        """
        from ..evaluation.alpha_sweep import measure

        config = self.config
        probes = open_probes(config.probe, config.clip, model.base.device)
        prompts = list(dict.fromkeys(run.images.captions))
        count = min(len(prompts), MEASURED)
        prompts = [prompts[place * len(prompts) // count] for place in range(count)]
        kept = config.sample_dir and nullcontext(config.sample_dir / f"measured_{model.adapter[:8]}")
        try:
            with kept or TemporaryDirectory() as folder:
                return measure(
                    config.out,
                    model,
                    Path(folder),
                    prompts,
                    probes,
                    targets_for(probes, run.grouping.targets),
                    sorted({0.0, run.recommended, 1.0}),
                    config.measure,
                    config.seed,
                    self.reporter.images,
                )
        except KeyboardInterrupt:
            self.reporter.note("The measuring was stopped. The adapter is finished; a sweep measures it as well.")
        except Exception as error:
            self.reporter.note(
                f"The adapter is finished, but could not be measured; a sweep does it as well. {reason_of(error)}"
            )
        return {}

    def _result(self, run: Run, seconds: float, measured: dict[str, Any]) -> dict[str, Any]:
        config, best = self.config, measured.get("recommended_alpha")
        return {
            "adapter": str(config.out),
            "style": str(config.style) if config.style else None,
            "seconds": round(seconds, 1),
            "steps": config.steps,
            "images": len(run.images.captions),
            "loss": run.training.loss.item(),
            "recommended_alpha": run.recommended if best is None else best,
            "groups": config.groups,
            "found": run.grouping.found,
            **({"measured": measured or None} if config.probe else {}),
        }
