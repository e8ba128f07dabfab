"""Objective `alignment`: the model is taught through its own sampling until a probe sees the target (2311.07604).

Each step makes a batch of images of one prompt, lets the probes say who is in them, asks optimal transport who should
be (see `optimal_assignment`), and moves the model towards that, while images stay like those that the frozen model
makes of the same noise. All randomness of a step is a function of (seed, step), so a resumed run gives the same file.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...debias.core.error import DDMError
from ...debias.methods.optimal_assignment import aims
from ..loop.objective import Objective
from ..models.lora import ATTENTION, add_lora, lora_parameters, set_alpha
from ..models.soft_tokens import SoftTokens
from ..models.text import Text
from ..sampling.differentiable_sampling import drawn_steps, roll_out
from ..sampling.generate import ADAPTER, default_batch_size, noise_of

if TYPE_CHECKING:
    import torch

    from ...debias.groups.target import Target
    from ...debias.probes.probe import Probe
    from ..models.base import Base
    from ..sampling.differentiable_sampling import Trajectory

# What can be trained, at which learning rate by default: tried on the embedded model. The paper has 5e-5 for SD 1.5.
TRAINED = {"unet": 2e-3, "text-encoder": 2e-3, "both": 2e-3, "tokens": 5e-3}
# λ_img of features or, for soft tokens, of latents; a LoRA that keeps its images' latents so much hardly moves.
KEEP, KEEP_LATENTS = 8.0, 1.0

Extractor = Callable[["torch.Tensor"], "torch.Tensor"]  # float images [N, 3, H, W] in 0…1 → features [N, D]


@dataclass(frozen=True)
class AlignmentSettings:
    """What a run depends on, besides base, probes, targets and prompts.

    Attributes:
        train: one of `TRAINED`: a LoRA on the U-Net, on the text encoders, on both, or soft tokens before the prompt.
        steps: optimizer steps.
        batch_size: images of one prompt per step; the assignment is over these.
        rank: of the LoRAs.
        tokens: how many soft tokens.
        learning_rate: learning rate, constant after a warm-up over 10 steps; None for the default of what is trained.
        guidance: guidance scale, at which the model will be used.
        sampling: sampling steps; each training step draws a number within 2 of it, 19–23 in the paper.
        through: sampling steps that gradients go through, drawn anew each time; 0 for all.
        confidence: images whose class is less sure than this are not pushed.
        keep: λ_img, weight of likeness to the frozen model's image.
        keep_changed: its factor for images that are to show another class than the frozen model's.
        average: decay of the running average of the weights, which is what is saved.
        seed: of everything.
    """

    train: str = "unet"
    steps: int = 60
    batch_size: int = 16
    rank: int = 8
    tokens: int = 5
    learning_rate: float | None = None
    guidance: float = 3.0
    sampling: int = 21
    through: int = 4
    confidence: float = 0.8
    keep: float = KEEP
    keep_changed: float = 0.2
    average: float = 0.996
    seed: int = 0

    def __post_init__(self) -> None:
        if self.train not in TRAINED:
            raise DDMError(f"There is no {self.train!r} to train. Choose among {', '.join(TRAINED)}.")
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", TRAINED[self.train])


def usual_keep(train: str, extractors: int) -> float:
    """λ_img for what is trained, with so many extractors; without one it is the latents that are kept."""
    return KEEP if extractors or train == "tokens" else KEEP_LATENTS


@dataclass(frozen=True)
class Draw:
    """What a step makes: a prompt, a seed for each image, sampling steps, and which of them are learnt through."""

    step: int
    prompt: str
    seeds: Sequence[int]
    sampling_steps: int
    through: Sequence[int]


@dataclass(frozen=True)
class Original:
    """The frozen model's images of a step: features [N, D] to keep, and the class [N] that each probe sees."""

    features: "Sequence[torch.Tensor]"
    classes: Sequence[np.ndarray]


class Alignment(Objective):
    """The base, what is trained on it, and the probes that it is trained by.

    Args:
        base: opened by `load_base`; it gets the LoRA "debias" or the soft tokens.
        probes: one per attribute; differentiable (see `Probe.logits`). Attributes are aligned jointly.
        targets: one per probe.
        families: lists of prompts. A step draws a family, then a prompt of it, so that all families come equally often
            however many prompts they have.
        settings: see `AlignmentSettings`.
        keep: extractors whose features the images shall keep; without one, their latents are compared.
    """

    weight_decay, smoothing = 1e-2, 0.1

    def __init__(
        self,
        base: "Base",
        probes: "Sequence[Probe]",
        targets: "Sequence[Target]",
        families: Sequence[Sequence[str]],
        settings: AlignmentSettings,
        keep: Sequence[Extractor] = (),
    ):
        if settings.train != "unet":
            base.family.check_text_targets()
        self.base, self.probes, self.families, self.settings, self.keep = base, probes, families, settings, keep
        self.targets = [goal.ordered_as(probe.names).shares for probe, goal in zip(probes, targets, strict=True)]
        unet, texts = {"": base.denoiser}, base.text_encoders
        self.parts = {"unet": unet, "text-encoder": texts, "both": base.parts, "tokens": {}}[settings.train]
        for number, (part, model) in enumerate(self.parts.items()):
            add_lora(
                model,
                ADAPTER,
                settings.rank,
                base.family.text_targets if part else ATTENTION,
                seed=settings.seed * 3 + number,
            )
        learning = [p for model in self.parts.values() for p in lora_parameters(model, ADAPTER)]
        if settings.train == "tokens":
            base.soft_tokens = SoftTokens.from_vocabulary(base, settings.tokens, settings.seed)
            learning = list(base.soft_tokens.rows.values())
        self.learning, self.ema = {ADAPTER: learning}, settings.average
        self.scheduler = base.family.solver(base)
        self.cell = base.native_size // base.vae_factor
        self.images = settings.batch_size
        # With gradients an image takes several times the memory that sampling it does.
        rows = max(1, default_batch_size(base, self.cell) // (1 if base.device.type == "cpu" else 8))
        self.micro_batches = -(-self.images // rows)

    def learning_rate(self, step: int) -> float:
        """Constant after a warm-up over 10 steps."""
        return self.settings.learning_rate * min(1.0, (step + 1) / 10)

    def draw(self, step: int) -> Draw:
        """Draw what a step makes; stateless."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, step])
        # Families take turns, and so do the prompts of each, in an order that is drawn anew for every round.
        round_of, turn = divmod(step, len(self.families))
        family = self.families[turn]
        lap, place = divmod(round_of, len(family))
        order = np.random.default_rng([settings.seed, 1, turn, lap]).permutation(len(family))
        steps = int(rng.integers(max(1, settings.sampling - 2), settings.sampling + 3))
        first = 4_000_000 + settings.seed * 10_000_019 + step * settings.batch_size
        return Draw(
            step,
            family[order[place]],
            range(first, first + settings.batch_size),
            steps,
            drawn_steps(rng, steps, settings.through),
        )

    def backward(
        self, step: int, micro_batches: int, scale: "torch.Tensor", stop: Callable[[], bool] | None = None
    ) -> "torch.Tensor":
        """Make a step's images, and pass the gradient of their loss on through the sampling; see `Objective`."""
        settings, drawn = self.settings, self.draw(step)
        rows = -(-self.images // micro_batches)
        original = self._original(drawn, rows)
        texts, empty = self._encode([drawn.prompt, ""])
        text, none = (_leaf(part[[0] * self.images]) for part in (texts, empty))
        made = self._roll_out(drawn, text, none, rows)
        loss = self.loss(drawn, made, original) * scale
        loss.backward()
        made.backward(self.base, text, none, settings.guidance, drawn.through, rows)
        _pass_on((texts, text), (empty, none))
        return loss.detach()

    def loss(self, drawn: Draw, made: "Trajectory", original: Original) -> "torch.Tensor":
        """L_align + λ_img · w · Σ (1 − cos f): of images against their aims, and of features against the original.

        L_align is the mean of the cross-entropy over the images that are sure (c ≥ .8), summed over attributes; w is
        1 where an image is to show what the original shows, else `keep_changed`.
        """
        import torch
        import torch.nn.functional as F

        settings = self.settings
        images = self._decode(made.latents)
        logits = [probe.logits(images) for probe in self.probes]
        seen = [part.detach().double().softmax(1).cpu().numpy() for part in logits]
        rng = np.random.default_rng([settings.seed, 2, drawn.step])
        wanted = aims(seen, self.targets, rng)
        loss = made.latents.new_zeros(())
        for part, aim in zip(logits, wanted, strict=True):
            sure = torch.as_tensor(aim.confidence >= settings.confidence, device=part.device)
            if sure.any():
                classes = torch.as_tensor(aim.classes, device=part.device)
                loss = loss + F.cross_entropy(part[sure].float(), classes[sure])
        if settings.keep:
            stays = np.all([aim.classes == was for aim, was in zip(wanted, original.classes, strict=True)], axis=0)
            weight = torch.where(torch.as_tensor(stays, device=loss.device), 1.0, settings.keep_changed)
            for now, then in zip(self._features(made.latents, images), original.features, strict=True):
                loss = loss + settings.keep * (weight * (1 - F.cosine_similarity(now, then))).mean()
        return loss

    def _original(self, drawn: Draw, rows: int) -> Original:
        import torch

        with torch.no_grad(), self._off():
            texts = self.base.encode_text([drawn.prompt, ""])
            text, none = (texts[[row] * self.images] for row in range(2))
            latents = self._roll_out(drawn, text, none, rows).latents
            images = self._decode(latents)
            classes = [probe.logits(images).argmax(1).cpu().numpy() for probe in self.probes]
            return Original(self._features(latents, images), classes)

    def _roll_out(self, drawn: Draw, text: Text, none: Text, rows: int) -> "Trajectory":
        import torch

        guidance = self.settings.guidance
        noise = torch.stack([noise_of(seed, self.base.latent_channels, self.cell) for seed in drawn.seeds])
        unconditional = none if guidance != 1 else None
        return roll_out(self.base, self.scheduler, noise, drawn.sampling_steps, text, unconditional, guidance, rows)

    def _encode(self, prompts: Sequence[str]) -> list[Text]:
        """The prompt as the trained model reads it, and the empty one, which has no soft tokens."""
        base = self.base
        learns = self.settings.train != "unet"
        chunks = 1 if base.soft_tokens else base.chunks(prompts)
        prompt = base.encode_text(prompts[:1], base.soft_tokens, learns, chunks)
        return [prompt, base.encode_text(prompts[1:], None, learns, chunks)]

    @contextmanager
    def _off(self) -> Iterator[None]:
        """The base as it was; soft tokens are left out."""
        for model in self.parts.values():
            set_alpha(model, ADAPTER, 0.0)
        try:
            yield
        finally:
            for model in self.parts.values():
                set_alpha(model, ADAPTER, 1.0)

    def _features(self, latents: "torch.Tensor", images: "torch.Tensor") -> "list[torch.Tensor]":
        return [extract(images) for extract in self.keep] or [latents.flatten(1)]

    def _decode(self, latents: "torch.Tensor") -> "torch.Tensor":
        """Images float [N, 3, H, W] in 0…1; of those that do not fit at once, the VAE's activations are made anew."""
        import torch
        from torch.utils.checkpoint import checkpoint

        def decode(part: "torch.Tensor") -> "torch.Tensor":
            return (self.base.family.pixels(self.base, part) / 2 + 0.5).clamp(0, 1)

        factor = self.base.vae_factor
        parts = latents.split(self.base.vae_batch(latents.shape[2] * factor, latents.shape[3] * factor))
        if len(parts) == 1:
            return decode(latents)
        return torch.cat([checkpoint(decode, part, use_reentrant=False) for part in parts])


def _leaf(text: Text) -> Text:
    """The same text, at which gradients stop and gather if there are any."""
    learns = text.tokens.requires_grad

    def stop(part: "torch.Tensor") -> "torch.Tensor":
        return part.detach().clone().requires_grad_(learns)

    return text.each(stop)


def _pass_on(*pairs: tuple[Text, Text]) -> None:
    """Pass what gathered at leaves [N] on into the one text that each was made of."""
    import torch

    for text, leaf in pairs:
        parts = [(whole, leaf.parts[name]) for name, whole in text.parts.items()]
        known = [(whole, part.grad) for whole, part in parts if part.grad is not None]
        if known:
            wholes, gradients = zip(*known, strict=True)
            torch.autograd.backward(wholes, [gradient.sum(0, keepdim=True) for gradient in gradients])
