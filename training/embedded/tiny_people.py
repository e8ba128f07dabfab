"""The embedded model: Stable Diffusion in miniature, trained on a draw of the people emoji that leans both ways.

Everything has SD 1.5's shape, only smaller: a factor-8 `AutoencoderKL`, a `CLIPTextModel`, a `UNet2DConditionModel`
that predicts ε under SD's scaled-linear betas. It exists so that the whole project runs for real on a laptop.
"""

import copy
import functools
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...debias.groups.diffusion_classifier import article
from ..loop.ema import Ema
from ..loop.min_snr import min_snr_weight

if TYPE_CHECKING:
    import torch

    from ..data.image_folder import ImageFolder

# The share of men and of darker tones in the roles, from the least to the largest; guidance sharpens what it says.
LEAST, MOST = 0.1, 0.9
# Seeds of the shuffles that deal the shares of men and of darker tones.
GENDER_SEED, TONE_SEED = 3, 20
# The shares of every role in a world that leans one way.
GENDER_SHARES = {"man": 0.80, "woman": 0.20}
TONE_SHARES = {"default": 0.25, "light": 0.30, "medium-light": 0.18, "medium": 0.12, "medium-dark": 0.09, "dark": 0.06}
LIGHT, DARK = ("default", "light", "medium-light"), ("medium", "medium-dark", "dark")
GENDER_WORDS = {"man": ("man", "male"), "woman": ("woman", "female")}
TONE_WORDS = {"default": "yellow skin"} | {tone: f"{tone} skin" for tone in (*LIGHT[1:], *DARK)}
SCHEDULE = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "steps_offset": 1,
}  # fmt: skip
FRAMES = ("{}", "a picture of {}", "a portrait of {}", "an emoji of {}")


def caption(role: str, gender: str = "", tone: str = "") -> str:
    """Say an image in words, for instance "a dark skin woman firefighter" or "an astronaut".

    Args:
        role: one of the set's 36 roles, as in `metadata.jsonl`.
        gender: a word to say ("man", "female"), or empty to leave it out.
        tone: a key of `TONE_WORDS`, or empty to leave it out.
    """
    phrase = f"{gender} {role}".strip()
    phrase = f"{TONE_WORDS[tone]} {phrase}" if tone else phrase
    return f"{article(phrase)} {phrase}"


def leaning(roles: Collection[str], seed: int) -> dict[str, float]:
    """The share of a side in each role: even steps from `LEAST` to `MOST`, dealt by a shuffle.

    So half of the roles lean one way and half the other, and who leans where is nobody's stereotype.
    """
    shuffled = random.Random(seed).sample(sorted(roles), len(roles))
    return dict(zip(shuffled, np.linspace(LEAST, MOST, len(roles)).tolist(), strict=True))


@dataclass(frozen=True)
class Draw:
    """The biased draw: each role has its own share of men and of darker tones, to either side; both art styles alike.

    Attributes:
        weights: [N] probability of each image in one draw; sums to 1.
        labels: per image the columns `role`, `gender`, `skin_tone`.
    """

    weights: np.ndarray
    labels: Sequence[dict[str, str]]

    @classmethod
    def of(cls, folder: "ImageFolder", one_way: bool = False) -> "Draw":
        """Weight the images of a labelled folder so that every role shows its shares.

        Args:
            folder: with the columns `role`, `gender` and `skin_tone`.
            one_way: every role has `GENDER_SHARES` and `TONE_SHARES`, instead of shares of its own by `leaning`.
        """
        labels = [item.labels for item in folder.items]
        cells = [(row["role"], row["gender"], row["skin_tone"]) for row in labels]
        roles, size = {role for role, _, _ in cells}, Counter(cells)
        gender, tone = leaning(roles, GENDER_SEED), leaning(roles, TONE_SEED)

        def weight(role: str, who: str, skin: str) -> float:
            if one_way:
                return GENDER_SHARES[who] * TONE_SHARES[skin]
            side = tone[role] / len(DARK) if skin in DARK else (1 - tone[role]) / len(LIGHT)
            return (gender[role] if who == "man" else 1 - gender[role]) * side

        weights = np.array([weight(*cell) / size[cell] for cell in cells])
        return cls(weights / weights.sum(), labels)

    def captions(self, indices: Sequence[int], rng: np.random.Generator) -> list[str]:
        """Caption a draw: half neutral, the rest saying gender, tone or both; one in ten dropped for guidance."""
        says, which, style, drop = rng.random((4, len(indices)))
        frames = np.where(style < 0.85, 0, rng.integers(1, len(FRAMES), len(indices)))
        out = []
        for number, index in enumerate(indices):
            row = self.labels[index]
            gender = GENDER_WORDS[row["gender"]][int(which[number] > 0.8)] if 0.5 <= says[number] < 0.85 else ""
            tone = row["skin_tone"] if says[number] >= 0.7 else ""
            text = FRAMES[frames[number]].format(caption(row["role"], gender, tone))
            out.append("" if drop[number] < 0.1 else text)
        return out


Progress = Callable[[int, int, float], None]


def rate_factor(step: int, steps: int, warmup: int = 200, decay: float = 0.35, floor: float = 0.01) -> float:
    """Factor on the learning rate: linear warm-up, constant, cosine decay to `floor` over the last share `decay`.

    Constant until late, so a run can be prolonged from any checkpoint before its decay.
    """
    start = steps * (1 - decay)
    late = max(0.0, (step - start) / max(steps - start, 1))
    return min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * late)))


def build_autoencoder() -> Any:
    """Build the factor-8 VAE: 64×64 images to 4×8×8 latents, 1.8 million parameters."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=64,
    )


def build_denoiser(channels: int = 4) -> Any:
    """Build the U-Net: two levels of 128 channels, attention at 8×8 and in the middle; 5.7 million parameters.

    Args:
        channels: of the latents.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(128, 128),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=32,
    )


def all_captions(draw: Draw) -> list[str]:
    """List every sentence that `Draw.captions` can make, plus the neutral words that an audit uses."""
    genders = ["", *itertools.chain.from_iterable(GENDER_WORDS.values())]
    roles = sorted({row["role"] for row in draw.labels})
    texts = [caption(role, gender, tone) for role in roles for gender in genders for tone in ("", *TONE_WORDS)]
    return [frame.format(text) for frame in FRAMES for text in texts] + ["a person", "people"]


def build_tokenizer(folder: Path, texts: Sequence[str]) -> Any:
    """Write a small CLIP tokenizer that has every word of `texts` as one token, and load it.

    The layout is CLIP's: bytes, bytes ending a word, merges, start, end; unknown words fall apart into letters.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=10_000, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += [left + right for left, right in merges if left + right not in set(words)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(m) for m in merges), ""]), "utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), "utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def build_text_encoder(tokenizer: Any) -> Any:
    """Build a two-layer CLIP text model of width 128 for the given tokenizer."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


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


def latent_moments(vae: Any, images: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor", float]:
    """Encode images [N, 3, H, W] in −1…1.

    Returns:
        Means and deviations [N, 4, h, w], scaled to unit variance, and the scale.
    """
    import torch

    with torch.inference_mode():
        posteriors = [vae.encode(part).latent_dist for part in images.split(64)]
    mean, deviation = torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors])
    scale = float((mean.var() + deviation.square().mean()) ** -0.5)
    return (mean * scale).clone(), (deviation * scale).clone(), scale


def save_pipeline(folder: Path, vae: Any, unet: Any, text_encoder: Any, tokenizer: Any, scale: float) -> None:
    """Write a diffusers folder with half-precision weights; `scale` becomes the VAE's scaling factor."""
    import torch
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    vae.register_to_config(scaling_factor=scale)
    for part in (vae, unet):
        # A part that was opened from a folder would carry that folder's path along.
        part.register_to_config(_name_or_path=folder.name)
    parts = [copy.deepcopy(part).to("cpu", torch.float16) for part in (vae, text_encoder, unet)]
    pipeline = StableDiffusionPipeline(
        vae=parts[0],
        text_encoder=parts[1],
        tokenizer=tokenizer,
        unet=parts[2],
        scheduler=DDPMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
