"""The configuration of `ddm train`: every option once, for the command line, for a TOML file and for Python."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ...debias.core.error import DDMError
from ...debias.core.io import check_suffix
from ..loop.optimizer import OptimizerName
from ..loop.settings import LARGE, LARGE_RATE, TrainSettings
from .options import (
    BaseOption,
    CaptionOption,
    ClipOption,
    DeviceOption,
    PredictionOption,
    PreviewEveryOption,
    PreviewsOption,
    ResumeOption,
    SaveEveryOption,
    SelfCountOption,
    SelfOption,
    TokenizerOption,
    VAEOption,
)

OBJECTIVES = ("ddm", "ddm-paper")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a training depends on. The fields are the options of `ddm train`, in the words of its help.

    Raises:
        DDMError: fields that do not go together.
    """

    out: Annotated[Path, Option(metavar="FILE", help="The adapter to write, a .safetensors file; always needed.")]
    folder: Annotated[
        Path | None,
        Argument(help="Images, with captions beside them where there are any; or a .toml file with all options."),
    ] = None
    base: BaseOption = None
    tokenizer: TokenizerOption = None
    prediction: PredictionOption = None
    vae: VAEOption = None
    groups: Annotated[
        str,
        Option(
            help='discovered or auto (nothing to say), words:"man|woman", or labels:COLUMN; several '
            "columns, or lists of words, are separated by commas and balanced jointly."
        ),
    ] = "discovered"
    target: Annotated[
        str,
        Option(help="uniform, or shares such as 'man=.75,woman=.25'; one for each attribute, separated by semicolons."),
    ] = "uniform"
    objective: Annotated[
        str, Option(help="ddm; or ddm-paper, the published method with one fixed α, to compare with.")
    ] = TrainSettings.objective
    paper_alpha: Annotated[
        float, Option(min=0.0, max=1.0, help="ddm-paper: how much its indicator counts in the loss.")
    ] = TrainSettings.paper_alpha
    style: Annotated[
        Path | None,
        Option(metavar="FILE", help="Also learn the images' style or subject, and write it to this file."),
    ] = None
    prior_prompts: SelfOption = None
    prior_count: SelfCountOption = 24
    reg_data: Annotated[
        Path | None,
        Option(
            metavar="FOLDER",
            help="Images that keep what the base knows already (regularisation): as many of them as of your own are "
            "mixed in, without labels and without the trigger word.",
        ),
    ] = None
    caption: CaptionOption = None
    trigger: Annotated[
        str, Option(metavar="WORD", help="Said at the beginning of every caption of your own images.")
    ] = ""
    caption_dropout: Annotated[
        float, Option(min=0.0, max=0.9, help="Share of the images that are learnt without their caption.")
    ] = TrainSettings.caption_dropout
    shuffle_caption: Annotated[
        bool, Option("--shuffle-caption", help="Put what a caption has between commas into another order each time.")
    ] = False
    keep_tokens: Annotated[
        int, Option(min=0, help="So many parts stay at the beginning of a shuffled caption; the trigger word always.")
    ] = 1
    buckets: Annotated[
        bool, Option(help="Keep about the shape of each image; without, all are cropped to their centre square.")
    ] = True
    flip: Annotated[
        bool, Option("--flip", help="Learn from mirror images too; not where left and right matter, as in writing.")
    ] = False
    masks: Annotated[
        bool,
        Option(help="Learn mostly what is white in an image's mask: face-masklabel.png beside face.png."),
    ] = True
    alpha_mask: Annotated[
        bool, Option("--alpha-mask", help="Learn mostly what is opaque in images that have no mask beside them.")
    ] = False
    cache: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            help="Where encoded images are kept for the next run; without one, .ddm_cache in FOLDER. "
            "It may be deleted, but not while it is used.",
        ),
    ] = None
    no_cache: Annotated[bool, Option("--no-cache", help="Keep no encoded images on disk.")] = False
    steps: Annotated[int, Option(min=1, help="Optimizer steps.")] = TrainSettings.steps
    rank: Annotated[int, Option(min=1, help="Rank of the LoRA.")] = TrainSettings.rank
    text_encoder: Annotated[
        bool,
        Option("--text-encoder", help="Let the text encoders learn as well: the LoRA then changes both, at one α."),
    ] = False
    resolution: Annotated[
        int | None,
        Option(
            min=1,
            metavar="PIXELS",
            help="Side of the square whose area images are learnt at; the base's own if not given. What the trainer "
            "makes itself, to calibrate, preview or measure, has this size too.",
        ),
    ] = None
    batch_size: Annotated[int, Option(min=1, help="Images per step, of all processes together.")] = (
        TrainSettings.batch_size
    )
    gradient_accumulation_steps: Annotated[
        int,
        Option(
            min=1,
            help="Parts that a step's images are taken in, one after another: less memory, the same result. More "
            "by itself when memory runs out.",
        ),
    ] = 1
    learning_rate: Annotated[
        float | None,
        Option(
            min=0.0,
            help=f"Peak learning rate. If not given, {LARGE_RATE:g} for a base of Stable Diffusion's size and "
            f"{TrainSettings.learning_rate:g} for a small one. Prodigy finds its own: 1.",
        ),
    ] = None
    optimizer: Annotated[OptimizerName, Option(help="adamw8bit needs bitsandbytes, prodigy needs prodigyopt.")] = (
        OptimizerName.ADAMW
    )
    min_snr: Annotated[
        float, Option(min=0.0, help="Min-SNR weights of the loss over timesteps, with this γ (5 is usual); 0 for none.")
    ] = TrainSettings.min_snr
    max_grad_norm: Annotated[
        float, Option(min=0.0, help="Longest gradient of a step; longer ones are shortened to it. 0 for any length.")
    ] = TrainSettings.max_grad_norm
    noise_offset: Annotated[
        float,
        Option(
            min=0.0,
            help="Shift the noise of each channel as a whole, so that very dark and bright images are learnt (.05).",
        ),
    ] = TrainSettings.noise_offset
    ema: Annotated[
        float, Option(min=0.0, max=0.9999, help="Save the average of the weights with this decay (.99); 0 for none.")
    ] = TrainSettings.ema
    gradient_checkpointing: Annotated[
        bool,
        Option(
            "--gradient-checkpointing",
            help="Need much less memory, and a third more time. Done by itself when memory runs out.",
        ),
    ] = False
    calibrate: Annotated[
        int, Option(min=0, help="Images made at each of three strengths to calibrate α; 0 for none.")
    ] = TrainSettings.calibrate
    by_prompt: Annotated[
        int,
        Option(
            min=0,
            help="Correct each prompt by itself in the last steps, from so many images of each at three strengths "
            "(16 are enough); 0 balances all prompts together.",
        ),
    ] = TrainSettings.by_prompt
    checkpoint_every: SaveEveryOption = 100
    resume: ResumeOption = False
    restart: Annotated[
        bool,
        Option(help="Throw the checkpoint of a stopped run away; with --resume, only if it is of another run."),
    ] = False
    checkpoint: Annotated[
        Path | None, Option(metavar="FILE", help="Where a stopped run is kept; beside the adapter if not given.")
    ] = None
    overwrite: Annotated[
        bool | None,
        Option(
            help="Replace whatever file has the adapter's name, or none; one of just this run is then left as it is. "
            "If neither is said, an adapter that ddm wrote is replaced, and no other file."
        ),
    ] = None
    sample_dir: PreviewsOption = None
    sample_every: PreviewEveryOption = None
    probe: Annotated[
        list[Path] | None,
        Option(
            metavar="FILE",
            help="Measure the finished adapter with this probe, made by `ddm probe`, and write the figures into its "
            "card; give the option again for another attribute.",
        ),
    ] = None
    clip: ClipOption = None
    measure: Annotated[
        int,
        Option(
            min=1,
            help="Images that a probe measures at each α, for each of at most 20 captions; from 60 on, the "
            "recommended α is the measured one.",
        ),
    ] = 16
    log: Annotated[
        Path | None, Option(metavar="DIR", help="Write loss, learning rate and previews for TensorBoard, in here.")
    ] = None
    card: Annotated[
        bool, Option(help="Write a page in Markdown beside the adapter: groups, data sheet, figures, limits.")
    ] = True
    seed: Annotated[int, Option(min=0, help="Seed of everything.")] = TrainSettings.seed
    device: DeviceOption = "auto"

    def __post_init__(self) -> None:
        for path in filter(None, (self.out, self.style)):
            check_suffix(path)
        if self.style is not None and self.style.resolve() == self.out.resolve():
            raise DDMError(f"--style and --out are the same file, {self.out}. They are two LoRAs: give two names.")
        if self.objective not in OBJECTIVES:
            raise DDMError(f"The objective {self.objective!r} is not known. Use {' or '.join(OBJECTIVES)}.")
        if self.objective == "ddm-paper" and not self.groups.startswith(("labels:", "words:")):
            raise DDMError(
                f"The objective ddm-paper learns from labels, and the groups “{self.groups}” are none. Use --groups "
                "labels:… or words:…, or the objective ddm."
            )
        if self.objective == "ddm-paper" and "," in self.groups:
            raise DDMError("The objective ddm-paper learns one attribute. Name one, or use the objective ddm.")
        if self.objective == "ddm-paper" and self.style is not None:
            raise DDMError("The objective ddm-paper learns no style beside the adapter. Leave --style out.")
        if self.objective == "ddm-paper" and self.text_encoder:
            raise DDMError("The objective ddm-paper teaches the U-Net alone. Leave --text-encoder out.")
        if self.objective == "ddm-paper" and self.by_prompt:
            raise DDMError("The objective ddm-paper promises no shares to correct prompts by. Leave --by-prompt out.")
        if self.folder is None and self.prior_prompts is None:
            raise DDMError(
                "There is nothing to train on. Give a FOLDER of images, or --prior-prompts with prompts, or both."
            )
        if self.reg_data is not None and self.folder is None:
            raise DDMError(
                "--reg-data goes with images to learn. Give a FOLDER too, or make the other folder the FOLDER."
            )
        if self.gradient_accumulation_steps > self.batch_size:
            raise DDMError(
                f"A step has {self.batch_size} images, which are not {self.gradient_accumulation_steps} parts. Give "
                "fewer --gradient-accumulation-steps."
            )
        if self.cache is not None and self.no_cache:
            raise DDMError("Two options exclude each other (--cache and --no-cache). Give one of them.")

    def settings(self, parameters: int) -> TrainSettings:
        """What the loop itself depends on, for a U-Net of so many parameters."""
        same = {field.name: getattr(self, field.name) for field in fields(TrainSettings) if hasattr(self, field.name)}
        shuffle = self.keep_tokens + bool(self.trigger.strip()) if self.shuffle_caption else None
        return TrainSettings(
            **same
            | {
                "learning_rate": self._learning_rate(parameters),
                "optimizer": self.optimizer.value,
                "shuffle": shuffle,
            }
        )

    def _learning_rate(self, parameters: int) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        if self.optimizer is OptimizerName.PRODIGY:
            return 1.0
        return LARGE_RATE if parameters >= LARGE else TrainSettings.learning_rate
