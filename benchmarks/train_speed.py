"""How fast the loop learns, beside two others on the same model: each in a process of its own, one after another.

The images are random and in memory, so nothing is measured but the loops; ours has encoded them before it begins, as
it does for every image once. Full shapes have random weights: their speed is that of a trained model.

Like all cases it is run by `claims.py`: `python benchmarks/claims.py train-speed`, and on a GPU
`python benchmarks/claims.py train-speed-sd15 train-speed-sdxl --device cuda`.
"""

import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..debias.core.error import DDMError
from .recipe import peak_mib
from .result import Figure

if TYPE_CHECKING:
    import torch

    from ..training.models.base import Base

IMAGES, TOKENS = 24, 77
# Steps that are not measured: ours compiles and records in them.
WARM, RIVAL_WARM = 8, 2


@dataclass(frozen=True)
class Rival:
    """A loop that encodes image and text at every step, one image at a time, four to an optimizer step.

    Attributes:
        rank, alpha: of its LoRA; the update is alpha / rank · up @ down.
        layers: of the U-Net that have one.
        text_layers: of the text encoder.
        indicator: share of the cross-entropy of a classifier on the flattened ε̂ in the loss; None for no classifier.
        rate: of AdamW.
        half: whether base and VAE compute in half precision where the hardware does.
        by_value: whether gradients are clipped by value after every image, else by norm before a step.
    """

    rank: int
    alpha: int
    layers: tuple[str, ...]
    text_layers: tuple[str, ...]
    indicator: float | None
    rate: float
    half: bool
    by_value: bool


RIVALS = {
    # The trainer of the paper's authors (arXiv 2503.12536).
    "the paper's loop": Rival(8, 32, ("to_q", "to_v"), ("q_proj", "v_proj"), 0.05, 1e-5, False, True),
    # diffusers' train_text_to_image_lora.py as its documentation runs it.
    "diffusers' LoRA example": Rival(4, 4, ("to_k", "to_q", "to_v", "to_out.0"), (), None, 1e-4, True, False),
}
OURS, SAVING = "our loop", "our loop, saving memory"


@dataclass(frozen=True)
class Shape:
    """A model to learn with.

    Attributes:
        family: a random one of these shapes (see training/families); None for the embedded model.
        batch: images in a step of our loop.
        steps: measured, of our loop.
        rivals: whether the other loops are measured too.
        speed: target of our loop, in images/s.
        times: target of our loop's speed over that of the paper's.
        memory: target in GB of our loop with one image at a time and checkpointing.
    """

    family: str | None
    batch: int
    steps: int
    rivals: bool
    speed: float | None = None
    times: float | None = None
    memory: float | None = None

    @property
    def loops(self) -> list[str]:
        """What is measured, in order."""
        return [OURS, *(RIVALS if self.rivals else ()), *([SAVING] if self.memory else ())]


SHAPES = {
    "the embedded model": Shape(None, 32, 12, True, times=3.0),
    "SD 1.5, 512 px": Shape("sd1", 32, 12, True, speed=138.0, times=7.0, memory=6.0),
    "SDXL, 1024 px": Shape("sdxl", 8, 12, False, speed=17.0, memory=12.0),
}


def training_speed(name: str, base: Path, device: str, threads: int) -> list[Figure]:
    """Images that each loop learns from in a second, and the memory that it holds.

    Args:
        name: a key of `SHAPES`.
        base: the embedded model.

    Raises:
        DDMError: a loop failed; it has printed why.
    """
    shape = SHAPES[name]
    with ExitStack() as running:
        loops = {loop: running.enter_context(_Alone(base, shape, loop, device, threads)) for loop in shape.loops}
        found = {loop: alone.measured() for loop, alone in loops.items()}
    return _figures(name, shape, found)


def _figures(name: str, shape: Shape, found: Mapping[str, tuple[float, float]]) -> list[Figure]:
    """Of one shape, whose loops were found to learn from so many images per second in so many MiB."""
    figures = []
    for loop, (speed, memory) in found.items():
        if loop == SAVING:
            value = memory * 2**20 / 1e9
            figures.append(Figure(f"{name}: one image, checkpointing", value, at_most=shape.memory, unit="GB"))
            continue
        target = shape.speed if loop == OURS else None
        figures.append(Figure(f"{name}: {loop}", speed, at_least=target, unit="images/s"))
        figures.append(Figure(f"{name}: {loop}, peak memory", memory, unit="MiB"))
        if loop in RIVALS:
            target = shape.times if loop == next(iter(RIVALS)) else None
            figures.append(Figure(f"{name}: {OURS} over {loop}", found[OURS][0] / speed, at_least=target, unit="×"))
    return figures


class _Alone:
    """A loop in a process of its own, which imports what it needs and waits for its turn.

    Args:
        loop: its name.
        base, shape, device, threads: what it learns with.
    """

    def __init__(self, base: Path, shape: Shape, loop: str, device: str, threads: int):
        context = multiprocessing.get_context("spawn")
        self.loop = loop
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_measure, args=(there, base, vars(shape), loop, device, threads))
        self.process.start()
        there.close()

    def __enter__(self) -> "_Alone":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()

    def measured(self) -> tuple[float, float]:
        """Its images per second and peak MiB, measured now.

        Raises:
            DDMError: it ended with an error.
        """
        try:
            self.pipe.recv()
            self.pipe.send("go")
            speed, memory = self.pipe.recv()
        except EOFError as error:
            raise DDMError(f"The measurement of {self.loop} ended with an error; see above.") from error
        self.process.join()
        print(f"{self.loop}: {speed:.1f} images/s, {memory:,.0f} MiB", file=sys.stderr)
        return speed, memory


def _measure(parent: Connection, path: Path, given: Mapping[str, Any], loop: str, device: str, threads: int) -> None:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401  (takes long)
    from peft import inject_adapter_in_model  # noqa: F401
    from transformers import CLIPTextModel  # noqa: F401

    parent.send("ready")
    parent.recv()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape, place = Shape(**given), torch.device(device)
    rival = RIVALS.get(loop)
    half = (rival is None or rival.half) and place.type != "cpu"
    base = _open(path, shape, place, torch.bfloat16 if half else torch.float32)
    if rival:
        step, batch, steps, warm = _rival_step(base, rival), 4, 6, RIVAL_WARM
    else:
        batch = 1 if loop == SAVING else shape.batch
        step, steps, warm = _our_step(base, batch, loop), shape.steps, WARM
    for _ in range(warm):
        step()
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    began = _seconds(place, threads)
    for _ in range(steps):
        step()
    seconds = _seconds(place, threads) - began
    parent.send((steps * batch / seconds, _peak_mib(place)))


def _peak_mib(device: "torch.device") -> float:
    """Peak memory of the process, or of its tensors on a GPU."""
    import torch

    if device.type == "cpu":
        return peak_mib()
    return torch.cuda.max_memory_allocated(device) / 2**20


def _seconds(device: "torch.device", threads: int) -> float:
    """Time so far; on a CPU the processor's for each thread, which other work on the machine hardly changes."""
    import torch

    if device.type == "cpu":
        return time.process_time() / threads
    torch.cuda.synchronize(device)
    return time.monotonic()


def _open(path: Path, shape: Shape, device: "torch.device", dtype: "torch.dtype") -> "Base":
    """The embedded model, or a random one of full shape."""
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from ..training.models.base import Base
    from ..training.models.family import FAMILIES, named_family
    from ..training.models.load_base import load_base

    if shape.family is None:
        return load_base(path, device, dtype)
    family = named_family(shape.family)
    config = json.loads((FAMILIES / f"{family.name}.json").read_text(encoding="utf-8"))
    with torch.device(device):
        parts = {
            "unet": UNet2DConditionModel.from_config(config["unet"]).to(dtype),
            "vae": AutoencoderKL.from_config(config["vae"]),
        }
        texts = {
            name: (CLIPTextModelWithProjection if text.projected else CLIPTextModel)(CLIPTextConfig(**config[name]))
            for name, text in family.text_encoders.items()
        }
    for part in (*parts.values(), *texts.values()):
        part.eval().requires_grad_(False)
    texts = {name: model.to(dtype) for name, model in texts.items()}
    scheduler = DDPMScheduler.from_config(config["scheduler"])
    about = {"path": path, "hash": "", "device": device, "dtype": dtype}
    return Base(family, **parts, text_encoders=texts, tokenizers={}, scheduler=scheduler, **about)


def _our_step(base: "Base", batch: int, loop: str) -> Callable[[], None]:
    """A step of the trainer, with its own settings, on labels of four to one."""
    import torch

    from ..debias.groups.groups import Groups
    from ..debias.groups.target import Target
    from ..debias.groups.weighting import Weighting
    from ..training.data.caption_table import CaptionTable
    from ..training.data.latents import Latents
    from ..training.data.text_cache import Texts
    from ..training.loop.settings import TrainSettings
    from ..training.loop.training import Training
    from ..training.objectives.ddm import DDM

    groups = Groups.from_labels(["man", "man", "man", "man", "woman", "man"] * (IMAGES // 6), "bench")
    weighting = Weighting.of_groups(groups, Target.uniform(groups.names), np.zeros(IMAGES, dtype=int))
    side = base.image_size // base.vae_factor
    moments = torch.randn(2, IMAGES, base.latent_channels, side, side)
    width = base.denoiser.config.cross_attention_dim
    width = width if isinstance(width, int) else width[0]
    widths = [base.text_encoders[name].config.projection_dim for name in list(base.text_encoders)[1:]]
    pooled = [torch.randn(width) for width in widths]
    texts = Texts(base.device, [(torch.randn(TOKENS, width), *pooled) for _ in range(3)])
    said = np.full((IMAGES, 1), 2)
    table = CaptionTable(texts, np.full((IMAGES, 1), 1), 0, said)
    latents = Latents.of(moments[0].to(base.device), moments[1].abs().to(base.device) * 0.1)
    training = Training(DDM(base, latents, table, weighting, TrainSettings(batch_size=batch)))
    if loop == SAVING:
        training.save_memory()

    def step() -> None:
        training.advance()
        if training.step % 10 == 0:
            training.loss.item()

    return step


def _rival_step(base: "Base", rival: Rival) -> Callable[[], None]:
    """An optimizer step of a rival: four images, each encoded, learnt from and waited for."""
    import torch
    from peft import LoraConfig

    device, generator = base.device, torch.Generator().manual_seed(0)
    half = torch.bfloat16 if rival.half and base.half_is_native else torch.float32
    for part in (base.denoiser, base.text_encoder, base.vae):
        part.to(half)
    side = base.image_size
    pixels = torch.randint(0, 256, (IMAGES, 3, side, side), dtype=torch.uint8, generator=generator)
    ids = torch.randint(0, base.text_encoder.config.vocab_size, (IMAGES, TOKENS), generator=generator)
    labels = torch.randint(0, 2, (IMAGES,), generator=generator)
    for model, layers in ((base.denoiser, rival.layers), (base.text_encoder, rival.text_layers)):
        if layers:
            model.add_adapter(LoraConfig(r=rival.rank, lora_alpha=rival.alpha, target_modules=list(layers)))
    learning = [p for model in (base.denoiser, base.text_encoder) for p in model.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.data = parameter.data.float()
    classifier = None
    if rival.indicator is not None:
        cells = base.latent_channels * (side // base.vae_factor) ** 2
        layers = [torch.nn.Linear(cells, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 512), torch.nn.ReLU()]
        classifier = torch.nn.Sequential(*layers, torch.nn.Linear(512, 2)).to(device)
        learning += classifier.parameters()
    optimizer = torch.optim.AdamW(learning, lr=rival.rate)
    count = 0

    def learn(row: int) -> "torch.Tensor":
        image = pixels[row : row + 1].to(device, half) / 127.5 - 1
        with torch.no_grad():
            latents = base.vae.encode(image).latent_dist.sample() * base.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        t = torch.randint(0, base.scheduler.config.num_train_timesteps, (1,), device=device)
        noisy = base.scheduler.add_noise(latents, noise, t)
        with torch.set_grad_enabled(bool(rival.text_layers)):
            text = base.text_encoder(ids[row : row + 1].to(device)).last_hidden_state
        with torch.autocast(device.type, half, enabled=half != torch.float32):
            predicted = base.denoiser(noisy, t, text).sample.float()
        loss = (predicted - noise.float()).square().mean()
        if classifier is not None:
            judged = torch.nn.functional.cross_entropy(
                classifier(predicted.flatten(1)), labels[row : row + 1].to(device)
            )
            loss = (1 - rival.indicator) * loss + rival.indicator * judged
        return loss

    def step() -> None:
        nonlocal count
        optimizer.zero_grad()
        for _ in range(4):
            loss = learn(count % IMAGES)
            (loss / 4).backward()
            if rival.by_value:
                torch.nn.utils.clip_grad_value_(learning, 1.0)
            loss.item()
            count += 1
        if not rival.by_value:
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()

    return step
