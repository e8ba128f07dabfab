"""How the embedded model is trained: its VAE, then its U-Net and its text encoder together."""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..loop.ema import Ema
from ..loop.min_snr import min_snr_weight
from .small_model import build_autoencoder
from .tiny_people import Draw

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int, float], None]


def rate_factor(step: int, steps: int, warmup: int = 200, decay: float = 0.35, floor: float = 0.01) -> float:
    """Factor on the learning rate: linear warm-up, constant, cosine decay to `floor` over the last share `decay`.

    Constant until late, so a run can be prolonged from any checkpoint before its decay.
    """
    start = steps * (1 - decay)
    late = max(0.0, (step - start) / max(steps - start, 1))
    return min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * late)))


def augment(images: "torch.Tensor") -> "torch.Tensor":
    """Shift, turn, mirror and recolour images [B, 3, H, W] in −1…1, for a VAE that also serves new images."""
    import torch
    import torch.nn.functional as F

    count, device = len(images), images.device
    scale, angle = 1 + 0.3 * (torch.rand(count, device=device) - 0.6), 0.3 * (torch.rand(count, device=device) - 0.5)
    mirror = (torch.rand(count, device=device) < 0.5).float() * 2 - 1
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 0, 1] = scale * mirror * angle.cos(), -scale * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = scale * mirror * angle.sin(), scale * angle.cos()
    theta[:, :, 2] = 0.3 * (torch.rand(count, 2, device=device) - 0.5)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = 1 - F.grid_sample(1 - images, grid, align_corners=False)  # what comes in from outside is white
    order = torch.stack([torch.randperm(3, device=device) for _ in range(count)])[:, :, None, None].expand_as(moved)
    recoloured = torch.where(torch.rand(count, 1, 1, 1, device=device) < 0.5, moved.gather(1, order), moved)
    return torch.where(torch.rand(count, 1, 1, 1, device=device) < 0.15, -recoloured, recoloured)


def train_autoencoder(
    images: "torch.Tensor", steps: int, *, batch_size: int = 64, learning_rate: float = 1.5e-3, progress: Progress
) -> tuple[Any, list[tuple[int, float]]]:
    """Train the VAE on images [N, 3, 64, 64] in −1…1.

    The loss is L1 + ½ L1 of the image gradients + ½ L2 + .003 KL per latent: the KL is heavy for a VAE, so the
    posterior keeps a deviation of about .1, and the decoder forgives what a small U-Net gets wrong.

    Returns:
        The VAE with its averaged weights (EMA), and (step, L1) points of the run.
    """
    import torch

    losses, vae = [], build_autoencoder().to(images.device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, weight_decay=1e-4, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: rate_factor(s, steps, 100, 1.0))
    ema = Ema(vae.state_dict(), 0.998)
    for step in range(steps):
        x = images[torch.randint(0, len(images), (batch_size,), device=images.device)].clone()
        x[: batch_size // 4] = augment(x[: batch_size // 4])
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample.float()
        slopes = sum((x.diff(dim=dim) - y.diff(dim=dim)).abs().mean() for dim in (-1, -2))
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        absolute = (y - x).abs().mean()
        loss = absolute + 0.5 * slopes + 0.5 * (y - x).square().mean() + 3e-3 * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update()
        if step % 50 == 0 or step == steps - 1:
            losses.append((step, round(absolute.item(), 4)))
            progress(step + 1, steps, losses[-1][1])
    vae.load_state_dict(ema.state)
    return vae.eval(), losses


class DenoiserTraining:
    """Trains U-Net and text encoder together on the biased draw; a step's randomness depends on (seed, step) only.

    Args:
        moments: scaled latent means and deviations [N, 4, 8, 8]; every draw samples them anew.
        draw: which image comes how often, and its captions.
        text_encoder, tokenizer, unet: the parts, trained in place; the text encoder is fixed after 40% of the steps.
        alphas_cumprod: [T] ᾱ of the noise schedule.
        steps: optimizer steps in all.
        seed: of everything.
        batch_size: images per step.
        learning_rate: learning rate before its decay.
        compiled: run the U-Net through `torch.compile` (needs a C++ compiler on the CPU).

    Attributes:
        averages: the U-Net's and the text encoder's EMA, which is what is kept.
        loss: smoothed loss, on the device.
    """

    def __init__(
        self,
        moments: tuple["torch.Tensor", "torch.Tensor"],
        draw: Draw,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        alphas_cumprod: "torch.Tensor",
        steps: int,
        *,
        seed: int = 0,
        batch_size: int = 512,
        learning_rate: float = 1e-3,
        compiled: bool = False,
    ):
        import torch

        self.moments, self.draw = moments, draw
        self.unet, self.text_encoder = unet.train(), text_encoder.train()
        self.steps, self.seed, self.batch_size, self.step = steps, seed, batch_size, 0
        self.alphas_cumprod = alphas_cumprod.to(moments[0].device)
        self.weights = min_snr_weight(self.alphas_cumprod, 5.0)
        self.parameters = [*unet.parameters(), *text_encoder.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.99), fused=True
        )
        self.learning_rate = learning_rate
        self.averages = Ema(unet.state_dict(), 0.999), Ema(text_encoder.state_dict(), 0.999)
        self.forward = torch.compile(unet) if compiled else unet
        padded = {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "pt"}
        self._tokens = functools.cache(lambda text: tokenizer(text, **padded).input_ids[0])
        self.loss = torch.zeros((), device=moments[0].device)

    def advance(self) -> None:
        """Make one optimizer step."""
        import torch

        mean, deviation = self.moments
        device, rng = mean.device, np.random.default_rng([self.seed, self.step])
        generator = torch.Generator(device).manual_seed((self.seed << 32) + self.step)
        indices = rng.choice(len(self.draw.weights), self.batch_size, p=self.draw.weights)
        texts, inverse = np.unique(self.draw.captions(indices, rng), return_inverse=True)
        tokens = torch.stack([self._tokens(text) for text in texts.tolist()]).to(device)
        picked = torch.as_tensor(indices, device=device)
        shape = (self.batch_size, *mean.shape[1:])
        jitter, noise = (torch.randn(shape, generator=generator, device=device) for _ in range(2))
        latents = mean[picked] + deviation[picked] * jitter
        t = torch.as_tensor(rng.integers(len(self.alphas_cumprod), size=self.batch_size), device=device)
        signal = self.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
        noisy = signal * latents + (1 - signal.square()).sqrt() * noise
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):  # a CPU is slower with it
            with torch.set_grad_enabled(self.step < 0.4 * self.steps):
                embedded = self.text_encoder(tokens)[0]
            embedded = embedded[torch.as_tensor(inverse, device=device)]
            predicted = self.forward(noisy, t, embedded, return_dict=False)[0]
        loss = (self.weights[t] * (predicted.float() - noise).square().mean((1, 2, 3))).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * rate_factor(self.step, self.steps)
        self.optimizer.step()
        for average in self.averages:
            average.update()
        self.loss = torch.lerp(self.loss, loss.detach(), 0.02) if self.step else loss.detach()
        self.step += 1

    def state(self) -> dict[str, "torch.Tensor"]:
        """All that the next step depends on, by name."""
        import torch

        parts = {"unet": self.unet.state_dict(), "text": self.text_encoder.state_dict()}
        parts |= {f"average{number}": average.state for number, average in enumerate(self.averages)}
        for key in ("exp_avg", "exp_avg_sq", "step"):
            moments = [self.optimizer.state[parameter].get(key) for parameter in self.parameters]
            parts[key] = {f"{number:04}": value for number, value in enumerate(moments) if value is not None}
        tensors = {f"{part}:{name}": value for part, values in parts.items() for name, value in values.items()}
        return tensors | {"step": torch.tensor(self.step), "loss": self.loss}

    def restore(self, state: "dict[str, torch.Tensor]") -> None:
        """Take up a `state` of a training like this one."""

        def part(name: str) -> dict[str, "torch.Tensor"]:
            return {key.split(":", 1)[1]: value for key, value in state.items() if key.startswith(f"{name}:")}

        self.unet.load_state_dict(part("unet"))
        self.text_encoder.load_state_dict(part("text"))
        self.step, self.loss = int(state["step"]), state["loss"].to(self.loss)
        for number, average in enumerate(self.averages):
            average.step = self.step
            for name, value in part(f"average{number}").items():
                average.state[name].copy_(value)
        moments = {key: part(key) for key in ("exp_avg", "exp_avg_sq", "step")}
        for number, parameter in enumerate(self.parameters):
            own = {key: values[f"{number:04}"] for key, values in moments.items() if f"{number:04}" in values}
            if own:
                self.optimizer.state[parameter] = {
                    key: value.clone().to("cpu" if key == "step" else parameter.device) for key, value in own.items()
                }

    @contextmanager
    def average_in_use(self) -> Iterator[tuple[Any, Any]]:
        """U-Net and text encoder with their averaged weights meanwhile."""
        for average in self.averages:
            average.swap()
        try:
            yield self.unet, self.text_encoder
        finally:
            for average in self.averages:
                average.swap()

    def averaged(self) -> tuple[Any, Any]:
        """Put the averaged weights into U-Net and text encoder, and return both."""
        self.unet.load_state_dict(self.averages[0].state)
        self.text_encoder.load_state_dict(self.averages[1].state)
        return self.unet.eval(), self.text_encoder.eval()
