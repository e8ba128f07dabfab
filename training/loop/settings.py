"""What a run depends on, besides base, images and groups."""

from dataclasses import asdict, dataclass

from ...debias.adapter.alpha_schedule import ALPHA_MAX
from ...debias.core.option import option
from .optimizer import OPTIMIZERS, SCHEDULERS

# The usual rate for a base of Stable Diffusion's size (parameters of its U-Net). The other was found on the embedded
# model, which is two hundred times smaller.
LARGE, LARGE_RATE = 100_000_000, 3e-4
MEASURING = "Calibration and measuring"


@dataclass(frozen=True)
class TrainSettings:
    """What a run depends on, besides base, images and groups; what is an option says itself what it does.

    Attributes:
        learning_rate: at its peak; style and adapter each have the whole schedule, and the steps that correct each
            prompt have it once more with half the peak.
        alpha_max: the dial is trained over (−alpha_max, alpha_max).
        keep: share of rows that keep explicit prompts: the target is the base's own answer to them. More of them hold
            everything else back as well (.125: men .68 at α = 1 instead of .58).
        style_share: share of the steps that teach the style LoRA, when there is one; they come first.
        prompt_share: share of the adapter's steps that correct each prompt (`by_prompt`).
        shuffle: how many parts of a caption stay at its beginning while the others, between commas, are shuffled; None
            leaves captions as they are.
    """

    steps: int = option(300, "Optimizer steps. More take longer.", least=1, names=("max-train-steps",), expert=False)
    batch_size: int = option(
        32,
        "Images per step, of all processes and all accumulation steps together.",
        least=1,
        names=("train-batch-size",),
    )
    rank: int = option(8, "Rank of the LoRA: 8 is enough for most.", least=1, names=("network-dim",), expert=False)
    text_encoder: bool = option(
        False,
        "Let the text encoders learn as well: the LoRA then changes both, at one α. Where it is loaded, it then "
        "needs CLIP too.",
        expert=False,
    )
    learning_rate: float = 3e-3
    lr_scheduler: str = option(
        "cosine_with_min_lr",
        "How the learning rate falls: cosine_with_min_lr to a twentieth of its peak, the others as in diffusers.",
        choices=SCHEDULERS,
    )
    lr_warmup_steps: int = option(20, "Steps over which the learning rate rises to its peak.", least=0)
    alpha_max: float = ALPHA_MAX
    caption_dropout_rate: float = option(
        0.15,
        "Share of the images that are learnt without their caption, which guidance (CFG) needs.",
        "Images",
        least=0.0,
        most=0.9,
    )
    keep: float = 0.05
    style_share: float = 0.4
    by_prompt: int = option(
        0,
        "Correct each prompt by itself in the last steps, so that not only all together are in balance: so many images "
        "of each are looked at, at three strengths. 16 are enough; give more steps then, such as 500. 0: all prompts "
        "together.",
        MEASURING,
        least=0,
        expert=False,
    )
    prompt_share: float = 0.4
    calibrate: int = option(
        160,
        "Images to make at each of three strengths after training, so that α = 1 is what it should be, and in a last "
        "look that tells whether the adapter helps. 0: none, which is faster and less exact.",
        MEASURING,
        least=0,
        expert=False,
    )
    calibrate_steps: int = option(
        10,
        "Sampling steps of the images that calibration looks at; as many as you sample with, for a distilled model.",
        MEASURING,
        least=1,
    )
    calibrate_cfg: float = option(
        3.0,
        "Guidance scale of these images. 1: none, as distilled models are used.",
        MEASURING,
        least=0.0,
    )
    shuffle: int | None = None
    optimizer: str = option(
        "adamw",
        "adamw8bit needs bitsandbytes, prodigy needs prodigyopt.",
        choices=OPTIMIZERS,
        names=("optimizer-type",),
    )
    max_grad_norm: float = option(
        1.0, "Longest gradient of a step; longer ones are shortened to it. 0: any length.", least=0.0
    )
    prior_loss_weight: float = option(
        1.0,
        "How much the loss of regularisation images and of the model's own images counts, beside that of your own.",
        "Images",
        least=0.0,
    )
    noise_offset: float = option(
        0.0,
        "Shift the noise of each channel as a whole, so that very dark and bright images are learnt (.05). 0: not.",
        least=0.0,
    )
    multires_noise_iterations: int = option(
        0,
        "Add coarser noise, at up to so many scales (6), so that light and colour of the whole image are learnt too. "
        "0: none.",
        least=0,
    )
    min_snr_gamma: float = option(
        0.0,
        "Min-SNR weights of the loss over timesteps, with this γ (5 is usual). 0: all weigh alike.",
        least=0.0,
        names=("snr-gamma",),
    )
    ema: float = option(
        0.0, "Save the average of the weights with this decay (.99). 0: the last weights.", least=0.0, most=0.9999
    )
    objective: str = option(
        "ddm",
        "ddm; or ddm-paper, the published method with one fixed α, to compare with.",
        "Groups",
        choices=("ddm", "ddm-paper"),
    )
    teacher: str = option(
        "images",
        "What an adapter learns from: images, weighted; or model, its own answers, tilted for each prompt until its "
        "images show the target, which moves little else. Images then only say who is meant.",
        "Groups",
        choices=("images", "model"),
    )
    paper_alpha: float = option(
        0.05,
        "ddm-paper: how much its indicator counts in the loss; it is not the adapter's strength α.",
        "Groups",
        least=0.0,
        most=1.0,
    )
    seed: int = option(0, "Seed of everything: the same options give the same file.", least=0, expert=False)

    def as_dict(self) -> dict[str, float | str | None]:
        """Give the settings as JSON, for the adapter's metadata."""
        return asdict(self)
