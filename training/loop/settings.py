"""What a run depends on, besides base, images and groups."""

from dataclasses import asdict, dataclass

from ...debias.adapter.alpha_schedule import ALPHA_MAX

# The usual rate for a base of Stable Diffusion's size (parameters of its U-Net). The other was found on the embedded
# model, which is two hundred times smaller.
LARGE, LARGE_RATE = 100_000_000, 3e-4


@dataclass(frozen=True)
class TrainSettings:
    """What a run depends on, besides base, images and groups.

    Attributes:
        steps: optimizer steps.
        batch_size: images per step (rows of all kinds).
        rank: rank of the LoRAs.
        text_encoder: put the LoRAs on the text encoders too, not on the U-Net alone.
        learning_rate: at its peak; linear warm-up over 20 steps, cosine decay to a twentieth, for style and adapter
            each; half of it for the steps that correct each prompt.
        alpha_max: the dial is trained over (−alpha_max, alpha_max).
        caption_dropout: share of rows trained under the empty caption, which guidance needs (CFG amplifies what
            only one of its halves knows).
        keep: share of rows that keep explicit prompts: the target is the base's own answer to them. More of them hold
            everything else back as well (.125: men .68 at α = 1 instead of .58).
        style_share: share of the steps that teach the style LoRA, when there is one; they come first.
        by_prompt: images per strength and prompt that are looked at before the last steps, which then correct each
            prompt by itself; 0 for none.
        prompt_share: share of the adapter's steps that follow then.
        calibrate: images per strength that `calibration` makes after training; 0 leaves the scale as it was trained.
        shuffle: how many parts of a caption stay at its beginning while the others, between commas, are shuffled; None
            leaves captions as they are.
        optimizer: see `build_optimizer`.
        max_grad_norm: a step's gradient is shortened to this length; 0 leaves it as it is.
        noise_offset: std of what is added to the noise of each channel as a whole; 0 for none.
        min_snr: γ of the loss's weights over timesteps (see `min_snr_weight`); 0 weighs all alike.
        ema: decay of the weights' average, which is then what is saved; 0 for none.
        objective: "ddm", or "ddm-paper", the published method, to compare with (see `paper`).
        paper_alpha: weight of the indicator in "ddm-paper"; it is fixed, and not the adapter's strength α.
        seed: of everything.
    """

    steps: int = 300
    batch_size: int = 32
    rank: int = 8
    text_encoder: bool = False
    learning_rate: float = 3e-3
    alpha_max: float = ALPHA_MAX
    caption_dropout: float = 0.15
    keep: float = 0.05
    style_share: float = 0.4
    by_prompt: int = 0
    prompt_share: float = 0.4
    calibrate: int = 160
    shuffle: int | None = None
    optimizer: str = "adamw"
    max_grad_norm: float = 1.0
    noise_offset: float = 0.0
    min_snr: float = 0.0
    ema: float = 0.0
    objective: str = "ddm"
    paper_alpha: float = 0.05
    seed: int = 0

    def as_dict(self) -> dict[str, float | str | None]:
        """Give the settings as JSON, for the adapter's metadata."""
        return asdict(self)
