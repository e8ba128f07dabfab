"""The configuration of `ddm train`: every option once, for all faces (see `debias.core.option`)."""

from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from ...debias.core.error import DDMError
from ...debias.core.io import check_suffix
from ...debias.core.option import option, settings_of
from ..loop.settings import LARGE, LARGE_RATE, MEASURING, TrainSettings
from ..models.family import PRECISIONS, PREDICTIONS, QUANTIZATIONS


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainSettings):
    """Everything that a training depends on: what the loop itself does (`TrainSettings`), and the options of a run.

    Raises:
        DDMError: fields that do not go together.
    """

    folder: Path | None = option(
        None,
        "Images, with captions beside them where there are any.",
        "Images",
        names=("train-data-dir", "instance-data-dir"),
        expert=False,
    )
    caption: str | None = option(
        None,
        "Caption of images that have none, such as 'a portrait'. {role} stands for a column of metadata.jsonl.",
        "Images",
        expert=False,
    )
    trigger: str = option(
        "",
        "A word that is said at the beginning of every caption of your own images.",
        "Images",
        metavar="WORD",
        expert=False,
    )
    shuffle_caption: bool = option(
        False,
        "Put what a caption has between commas into another order each time; the first part and the trigger stay.",
        "Images",
        expert=False,
    )
    enable_wildcard: bool = option(
        False, "Of a caption with several lines, draw one each time; without, the first line is the caption.", "Images"
    )
    keep_tokens: int = option(
        1, "So many parts stay at the beginning of a shuffled caption; the trigger word always.", "Images", least=0
    )
    flip: bool = option(
        False,
        "Learn from mirror images too; not where left and right matter, as in writing.",
        "Images",
        names=("flip-aug", "random-flip"),
        expert=False,
    )
    masks: bool = option(
        True,
        "Learn mostly what is white in an image's mask: face-masklabel.png beside face.png.",
        "Images",
        expert=False,
    )
    alpha_mask: bool = option(
        False, "Learn mostly what is opaque in images that have no mask beside them.", "Images", expert=False
    )
    buckets: bool = option(
        True,
        "Keep about the shape of each image; without, all are cropped to their centre square.",
        "Images",
        names=("enable-bucket",),
        expert=False,
    )
    reg_data: Path | None = option(
        None,
        "Images that keep what the model knows already (regularisation): as many of them as of your own are mixed in, "
        "without labels and without the trigger.",
        "Images",
        metavar="FOLDER",
        names=("reg-data-dir", "class-data-dir"),
    )
    prior_prompts: str | None = option(
        None,
        "Use the model's own images of these prompts, such as 'a doctor;a pilot', together with your own if there are "
        "any: so your subject does not spread to everyone.",
        "Images",
        metavar="TEXT|FILE",
    )
    prior_count: int = option(24, "How many of the model's own images of each of these prompts.", "Images", least=1)
    cache: Path | None = option(
        None,
        "Where encoded images are kept for the next run. It may be deleted, but not while it is used.",
        "Images",
        unset=".ddm_cache in the folder of images",
        metavar="DIR",
    )
    no_cache: bool = option(False, "Keep no encoded images on disk.", "Images")
    groups: str = option(
        "discovered",
        "Where groups come from: discovered or auto (nothing to say), words:man|woman, or labels:COLUMN; several "
        "columns, or lists of words, are separated by commas and balanced jointly.",
        "Groups",
        expert=False,
    )
    target: str = option(
        "uniform",
        "uniform, or shares such as 'man=.75,woman=.25' (with words or labels only); one for each attribute, separated "
        "by semicolons.",
        "Groups",
        expert=False,
    )
    style: Path | None = option(
        None,
        "Also learn the images' style or subject, as a LoRA of its own, and write it to this file.",
        "Groups",
        metavar="FILE",
        expert=False,
    )
    base: Path | None = option(
        None,
        "Base model: a checkpoint (.safetensors) or a diffusers folder.",
        "Model",
        unset="the embedded model",
        metavar="FILE|DIR",
        names=("pretrained-model-name-or-path",),
        expert=False,
    )
    text_encoder_file: list[Path] | None = option(
        None,
        "Text encoders of a diffusion model that ComfyUI keeps apart from them: files, or folders that hold them.",
        "Model",
        unset="those found in text_encoders beside the diffusion model's folder",
        metavar="FILE|DIR",
    )
    tokenizer: Path | None = option(
        None,
        "Tokenizer for a checkpoint; or a folder of several.",
        "Model",
        unset="the one found in ComfyUI",
        metavar="DIR",
    )
    prediction: str | None = option(
        None,
        "What the model predicts, where its file does not say so or is wrong.",
        "Model",
        choices=PREDICTIONS,
        unset="what its file says",
    )
    vae: Path | None = option(
        None,
        "A VAE in place of the model's own: a file, or a diffusers folder.",
        "Model",
        unset="the model's own",
        metavar="FILE|DIR",
    )
    clip_skip: int | None = option(
        None,
        "Layer of the text encoder that is read, counted from the last, which is 1; anime models are used with 2. "
        "Generate with the same one.",
        "Model",
        least=1,
        most=12,
        unset="the model's usual one",
    )
    mixed_precision: str = option(
        "auto",
        "auto: bf16 on a GPU that has it, else fp16, and float32 on a CPU. no: float32, which needs twice the memory.",
        "Model",
        choices=PRECISIONS,
    )
    quantize: str | None = option(
        None,
        "Keep the model's blocks in 8 bits while training: half the memory, nearly the same answers.",
        "Model",
        choices=QUANTIZATIONS,
        unset="as the model is",
    )
    offload_blocks: bool = option(
        False,
        "Keep the model's blocks in the computer's memory, and bring in each layer when it computes: the least memory "
        "on a GPU, but slower.",
        "Model",
    )
    resolution: int | None = option(
        None,
        "Side in pixels of the square whose area images are learnt at. Smaller needs less memory and time; what the "
        "trainer makes itself, to calibrate, preview or measure, has this size too.",
        "Model",
        least=1,
        unset="the model's own",
        metavar="PIXELS",
    )
    device: str = option("auto", "auto, cpu or cuda.", "Model")
    epochs: int | None = option(
        None,
        "How often each image is learnt from, instead of a number of steps.",
        least=1,
        unset="as many steps as are given",
        names=("max-train-epochs", "num-train-epochs"),
    )
    init_from: Path | None = option(
        None,
        "A LoRA to begin with, such as an adapter that is to be trained further; of the same rank and layers.",
        metavar="FILE",
        unset="a new one",
        names=("network-weights",),
    )
    learning_rate: float | None = option(
        None,
        "Peak learning rate.",
        least=0.0,
        unset=f"{LARGE_RATE:g} for the size of Stable Diffusion, {TrainSettings.learning_rate:g} for a small one, "
        "and 1 for prodigy, which finds its own",
    )
    gradient_accumulation_steps: int = option(
        1,
        "Take the images of a step in so many parts, one after another: less memory, the same result. More by itself "
        "when memory runs out.",
        least=1,
    )
    gradient_checkpointing: bool = option(
        False, "Need much less memory, and a third more time. Done by itself when memory runs out."
    )
    calibrate_on: Path | None = option(
        None,
        "The model that you sample with, where it is another one than the base, such as its distilled sibling: α = 1 "
        "is set by its images.",
        MEASURING,
        metavar="FILE|DIR",
        unset="the base itself",
    )
    probe: list[Path] | None = option(
        None,
        "Measure the finished adapter with this probe, and write the figures into its card; several probes measure "
        "several attributes.",
        MEASURING,
        metavar="FILE",
    )
    clip: Path | None = option(None, "The CLIP model that a probe was made with.", MEASURING, metavar="DIR")
    measure: int = option(
        16,
        "Images that a probe measures at each α, for each of at most 20 captions. From 60 on, the recommended α is the "
        "measured one.",
        MEASURING,
        least=1,
    )
    sample_dir: Path | None = option(
        None,
        "While training, make images at α = 0 and 1 with the same seeds, in here.",
        MEASURING,
        metavar="DIR",
    )
    sample_prompts: str | None = option(
        None,
        "Prompts of these images ('a;b', or a file).",
        MEASURING,
        metavar="TEXT|FILE",
        unset="some of the captions",
        names=("validation-prompt",),
    )
    sample_every: int | None = option(
        None,
        "Steps between two previews.",
        MEASURING,
        least=1,
        unset="a fifth of all",
        names=("sample-every-n-steps", "validation-steps"),
    )
    out: Path = option(
        MISSING, "The adapter to write, a .safetensors file; always needed.", "Files", metavar="FILE", expert=False
    )
    overwrite: bool | None = option(
        None,
        "Replace whatever file has the adapter's name, or none; one of just this run is then left as it is.",
        "Files",
        unset="an adapter that ddm wrote is replaced, and no other file",
        expert=False,
    )
    save_every: int | None = option(
        None,
        "Steps between adapters that are saved on the way as NAME-000100.safetensors, to be used as they are; their "
        "α is not calibrated.",
        "Files",
        least=1,
        unset="none",
        names=("save-every-n-steps",),
    )
    checkpoint_every: int = option(
        100,
        "Steps between checkpoints, from which a stopped run is resumed.",
        "Files",
        least=1,
        names=("checkpointing-steps", "save-state-every-n-steps"),
    )
    checkpoint: Path | None = option(
        None, "Where a stopped run is kept.", "Files", unset="beside the adapter", metavar="FILE"
    )
    resume: bool = option(False, "Go on where a stopped run of the same name was.", "Files")
    restart: bool = option(
        False, "Throw the checkpoint of a stopped run away; with resume, only if it is of another run.", "Files"
    )
    card: bool = option(
        True, "Write a page in Markdown beside the adapter: groups, data sheet, figures, limits.", "Files"
    )
    log: Path | None = option(
        None,
        "Write loss, learning rate and previews for TensorBoard, in here.",
        "Files",
        metavar="DIR",
        names=("logging-dir",),
    )

    def __post_init__(self) -> None:
        for name, setting in settings_of(TrainConfig).items():
            value = getattr(self, name)
            if value is not None and (wrong := setting.misfit(value)):
                raise DDMError(f"{value!r} is not possible. {wrong}", name)
        for path in filter(None, (self.out, self.style)):
            check_suffix(path)
        if self.style is not None and self.style.resolve() == self.out.resolve():
            raise DDMError(
                f"Style and adapter are the same file, {self.out}. They are two LoRAs: give two names.", "style", "out"
            )
        if self.objective == "ddm-paper":
            self._check_paper()
        if self.folder is None and self.prior_prompts is None:
            raise DDMError(
                "There is nothing to train on. Give a folder of images, or prompts for images of the model's own, or "
                "both.",
                "folder",
                "prior_prompts",
            )
        if self.reg_data is not None and self.folder is None:
            raise DDMError(
                "Regularisation images go with images to learn. Give a folder of these too, or make the other one the "
                "folder.",
                "reg_data",
                "folder",
            )
        if self.gradient_accumulation_steps > self.batch_size:
            raise DDMError(
                f"A step has {self.batch_size} images, which are not {self.gradient_accumulation_steps} parts. Take it "
                "in fewer parts.",
                "batch_size",
                "gradient_accumulation_steps",
            )
        if self.cache is not None and self.no_cache:
            raise DDMError("Two options exclude each other. Give one of them.", "cache", "no_cache")

    def _check_paper(self) -> None:
        if not self.groups.startswith(("labels:", "words:")):
            raise DDMError(
                f"The objective ddm-paper learns from labels, and the groups “{self.groups}” are none. Use labels:… or "
                "words:…, or the objective ddm.",
                "groups",
            )
        if "," in self.groups:
            raise DDMError(
                "The objective ddm-paper learns one attribute. Name one, or use the objective ddm.", "groups"
            )
        if self.style is not None:
            raise DDMError("The objective ddm-paper learns no style beside the adapter. Leave it out.", "style")
        if self.text_encoder:
            raise DDMError(
                "The objective ddm-paper teaches the U-Net alone. Leave the text encoders as they are.", "text_encoder"
            )
        if self.teacher != "images":
            raise DDMError("The objective ddm-paper learns from images. Leave the teacher as it is.", "teacher")
        if self.by_prompt:
            raise DDMError("The objective ddm-paper promises no shares to correct prompts by. Give 0.", "by_prompt")

    def steps_of(self, images: int) -> int:
        """How many steps are made with so many images."""
        return self.epochs * -(-images // self.batch_size) if self.epochs else self.steps

    def settings(self, parameters: int) -> TrainSettings:
        """What the loop itself depends on, for a U-Net of so many parameters."""
        values = {one.name: getattr(self, one.name) for one in fields(TrainSettings)}
        shuffle = self.keep_tokens + bool(self.trigger.strip()) if self.shuffle_caption else None
        return TrainSettings(**values | {"learning_rate": self._learning_rate(parameters), "shuffle": shuffle})

    def _learning_rate(self, parameters: int) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        if self.optimizer == "prodigy":
            return 1.0
        return LARGE_RATE if parameters >= LARGE else TrainSettings.learning_rate
