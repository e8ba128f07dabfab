"""The training loop of a fair adapter: objective `ddm` over the whole α dial.

Every picture of a batch draws its own α ~ U(0, α_max] and is itself drawn with probability ∝ w_i(α); the model runs
with the debias LoRA at that strength, and its denoising loss is the weighted ERM whose minimiser is the score of q_α.
All randomness of a step is a function of (seed, step), so a run that was killed and resumed gives the same file, bit
for bit.

A style LoRA is learnt first, on the plain draw, and stays as it is from then on: the adapter starts from base and
style. Learnt side by side, the adapter takes up a part of what sets the pictures apart from the base, and its strength
then moves that too.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..debias.weight import ALPHA_MAX, Weighting
from .lora import add_lora, lora_parameters, set_alpha, set_trainable

if TYPE_CHECKING:
    import torch

    from .base import Base
    from .text import Text
    from .text_table import TextTable


@dataclass(frozen=True)
class Settings:
    """What a run depends on, besides base, pictures and groups.

    Attributes:
        steps: optimizer steps.
        batch: pictures per step (rows of all kinds).
        rank: rank of the LoRAs.
        rate: peak learning rate; linear warm-up over 20 steps, cosine decay to a twentieth, for style and adapter each.
        alpha_max: the dial is trained over (0, alpha_max].
        dropout: share of rows trained under the empty caption, which guidance needs (CFG amplifies what
            only one of its halves knows).
        keep: share of rows that keep explicit prompts: the target is the base's own answer to them. More of them hold
            everything else back as well (.125: men .68 at α = 1 instead of .58).
        style_share: share of the steps that teach the style LoRA, when there is one; they come first.
        calibrate: pictures per strength that `calibration` makes after training; 0 leaves the scale as it was trained.
        seed: of everything.
    """

    steps: int = 400
    batch: int = 32
    rank: int = 8
    rate: float = 2e-3
    alpha_max: float = ALPHA_MAX
    dropout: float = 0.15
    keep: float = 0.05
    style_share: float = 0.4
    calibrate: int = 160
    seed: int = 0

    def as_dict(self) -> dict[str, float]:
        """Give the settings as JSON, for the adapter's metadata."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """One step's rows [B]: pictures, strengths, timesteps, texts, and where the target comes from.

    Attributes:
        teacher: text row under which the base itself gives the target, or −1 where the pictures do.
        style: whether the step teaches the style LoRA, and it alone (α is 0).
    """

    picture: np.ndarray
    alpha: np.ndarray
    timestep: np.ndarray
    text: np.ndarray
    teacher: np.ndarray
    style: bool


class Draws:
    """Draws the rows of each step; stateless, so that step n is the same whether or not the run was resumed."""

    def __init__(self, weighting: Weighting, captions: "TextTable", settings: Settings, timesteps: int, style: bool):
        self.weighting, self.captions, self.settings = weighting, captions, settings
        self.timesteps = timesteps
        self.style_steps = round(settings.style_share * settings.steps) if style else 0
        self.grid = np.linspace(0, settings.alpha_max, 61)
        self.cumulative = np.stack([np.cumsum(weighting.weights(alpha)) for alpha in self.grid])

    def plan(self, step: int) -> Plan:
        """Draw the rows of one step, with α, timestep and picture stratified over the batch."""
        settings, captions = self.settings, self.captions
        rng = np.random.default_rng([settings.seed, step])
        count = settings.batch

        def stratified() -> np.ndarray:
            return rng.permutation((np.arange(count) + rng.random(count)) / count)

        style = step < self.style_steps
        alpha = np.zeros(count) if style else settings.alpha_max * (1 - stratified())
        rows = self.cumulative[np.round(alpha / settings.alpha_max * 60).astype(int)]
        position = stratified() * rows[:, -1]
        picture = np.minimum((rows < position[:, None]).sum(1), rows.shape[1] - 1)
        timestep = (stratified() * self.timesteps).astype(int)
        text = np.where(rng.random(count) < settings.dropout, captions.empty, captions.neutral[picture])
        teacher = np.full(count, -1)
        if captions.said_by_group is not None:
            membership = self.weighting.membership[picture] * np.exp(alpha[:, None] * self.weighting.log_ratio[picture])
            known = membership.sum(1) > 0
            share = np.cumsum(membership, 1) / np.maximum(membership.sum(1), 1e-12)[:, None]
            group = np.minimum((share < rng.random(count)[:, None]).sum(1), membership.shape[1] - 1)
            word = captions.said_by_group[picture, group]
            if style:
                text = np.where(known & (rng.random(count) < 0.5), word, text)
            else:
                teacher = np.where(known, word, teacher)
        if captions.said.shape[1] and not style:
            keep = stratified() < settings.keep
            said = captions.said[picture, rng.integers(captions.said.shape[1], size=count)]
            text, teacher = np.where(keep, said, text), np.where(keep, said, teacher)
        return Plan(picture, alpha.astype(np.float32), timestep, text, teacher, style)


class FairTraining:
    """A run: base with its LoRAs, optimizer, and one method that makes a step.

    Args:
        base: opened by `load_base`; its U-Net gets the LoRAs `debias` and, with `style`, `style`.
        moments: scaled latent means and deviations [N, C, h, w] of the pictures (every draw samples them anew).
        captions: text table and rows.
        weighting: the tempered weights.
        settings: see `Settings`.
        style: train a style LoRA before the adapter.
    """

    def __init__(
        self,
        base: "Base",
        moments: tuple["torch.Tensor", "torch.Tensor"],
        captions: "TextTable",
        weighting: Weighting,
        settings: Settings,
        style: bool = False,
    ):
        import torch

        self.base, self.moments, self.captions, self.settings = base, moments, captions, settings
        self.names = ("debias", "style") if style else ("debias",)
        for number, name in enumerate(self.names):
            add_lora(base.unet, name, settings.rank, seed=settings.seed * 2 + number)
        self.parameters = [p for name in self.names for p in lora_parameters(base.unet, name)]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings.rate, weight_decay=0.0, betas=(0.9, 0.99))
        self.schedule = base.scheduler.alphas_cumprod.to(base.device)
        self.draws = Draws(weighting, captions, settings, len(self.schedule), style)
        self.step = 0
        self.loss = torch.zeros((), device=base.device)

    def rate(self, step: int) -> float:
        """Learning rate at a step: warm-up over 20 steps, then cosine to a twentieth, for style and adapter each."""
        first = self.draws.style_steps
        done, steps = (step, first) if step < first else (step - first, self.settings.steps - first)
        late = 0.5 * (1 + np.cos(np.pi * done / steps))
        return self.settings.rate * min(1.0, (done + 1) / 20) * (0.05 + 0.95 * late)

    def advance(self) -> None:
        """Make one optimizer step."""
        import torch

        base, plan = self.base, self.draws.plan(self.step)
        generator = torch.Generator("cpu").manual_seed((self.settings.seed << 32) + self.step)
        mean, deviation = self.moments
        picture = torch.as_tensor(plan.picture, device=base.device)
        shape = (len(plan.picture), *mean.shape[1:])
        jitter, noise = (torch.randn(shape, generator=generator).to(base.device) for _ in range(2))
        latents = mean[picture] + deviation[picture] * jitter
        t = torch.as_tensor(plan.timestep, device=base.device)
        signal = self.schedule[t].sqrt().view(-1, 1, 1, 1)
        noisy = signal * latents + (1 - signal.square()).sqrt() * noise
        target = base.target(latents, noise, t)
        taught = np.flatnonzero(plan.teacher >= 0)
        if len(taught):
            rows = torch.as_tensor(taught, device=base.device)
            set_alpha(base.unet, "debias", 0.0)
            with torch.no_grad():
                answer = base.predict(noisy[rows], t[rows], self._text(plan.teacher[taught]))
            target = target.index_copy(0, rows, answer)
        set_alpha(base.unet, "debias", plan.alpha)
        if "style" in self.names:
            set_trainable(base.unet, "style", plan.style)
        predicted = base.predict(noisy, t, self._text(plan.text))
        loss = (predicted - target).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.loss = loss.detach() if self.step == 0 else torch.lerp(self.loss, loss.detach(), 0.02)
        self.step += 1

    def _text(self, rows: np.ndarray) -> "Text":
        import torch

        return self.captions.table[torch.as_tensor(rows, device=self.base.device)]
