"""`ddm base`: train the embedded model from the labelled example images."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from .options import DeviceOption


def base(
    folder: Annotated[Path, typer.Argument(help="Images with role, gender and skin_tone in metadata.jsonl.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the diffusers folder goes.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of the U-Net.")] = 1900,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step of the U-Net.")] = 512,
    learning_rate: Annotated[float, typer.Option(min=0, help="Learning rate of the U-Net.")] = 1e-3,
    vae_steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of the VAE.")] = 8000,
    vae_batch_size: Annotated[int, typer.Option(min=1, help="Images per step of the VAE.")] = 64,
    one_way: Annotated[
        bool,
        typer.Option("--one-way", help="Every role leans to men and light tones; if not given, each has its own lean."),
    ] = False,
    resume: Annotated[bool, typer.Option(help="Resume from the weights in DIR; its VAE stays as it is.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile (on a CPU it needs g++).")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as one JSON object.")] = False,
) -> None:
    """Train a Stable Diffusion in miniature on a biased draw of the images, and write its model card.

    Example: ddm base examples/people_emoji --out examples/tiny_people
    """
    import torch

    from ..data.read_folder import read_folder
    from ..embedded import small_model, tiny_people, train_small_model
    from ..embedded.model_card import write_card
    from ..loop.progress_bars import steps_progress
    from ..models.load_base import load_base, resolve_device

    images = read_folder(folder)
    place = resolve_device(device)
    torch.manual_seed(seed)
    pixels = torch.as_tensor(images.array(64), device=place).permute(0, 3, 1, 2).float() / 127.5 - 1
    draw = tiny_people.Draw.of(images, one_way)
    card = out / "training.json"
    log = json.loads(card.read_text("utf-8")) if resume and card.exists() else {"runs": []}
    began = time.monotonic()
    if resume:
        start = load_base(out, place, torch.float32)
        vae, unet, text_encoder, tokenizer = start.vae, start.denoiser, start.text_encoder, start.tokenizer
        for part in (unet, text_encoder):
            part.requires_grad_(True)
    else:
        with steps_progress("autoencoder") as report:
            vae, losses = train_small_model.train_autoencoder(
                pixels, vae_steps, batch_size=vae_batch_size, progress=report
            )
        log["runs"].append({"part": "autoencoder", "steps": vae_steps, "batch_size": vae_batch_size, "losses": losses})
        log["runs"][-1] |= {"seconds": round(time.monotonic() - began), "device": _hardware(place), "seed": seed}
        tokenizer = small_model.build_tokenizer(out / "tokenizer", tiny_people.all_captions(draw))
        text_encoder = small_model.build_text_encoder(tokenizer).to(place)
        unet = small_model.build_denoiser().to(place)
    mean, deviation, scale = small_model.latent_moments(vae, pixels)
    from diffusers import DDPMScheduler

    schedule = DDPMScheduler(**small_model.SCHEDULE).alphas_cumprod
    training = train_small_model.DenoiserTraining(
        (mean, deviation),
        draw,
        text_encoder,
        tokenizer,
        unet,
        schedule,
        steps,
        seed=seed,
        batch_size=batch_size,
        learning_rate=learning_rate,
        compiled=compiled,
    )
    began, losses = time.monotonic(), []
    with steps_progress("denoiser") as report:
        while training.step < steps:
            training.advance()
            if training.step % 50 == 0 or training.step == steps:
                losses.append((training.step, round(training.loss.item(), 4)))
                report(training.step, steps, losses[-1][1])
    unet, text_encoder = training.averaged()
    log["runs"].append(
        {"part": "denoiser", "steps": steps, "batch_size": batch_size, "losses": losses, "learning_rate": learning_rate}
    )
    log["runs"][-1] |= {"seconds": round(time.monotonic() - began), "device": _hardware(place), "seed": seed}
    log["runs"][-1]["men"] = tiny_people.GENDER_SHARES["man"] if one_way else None
    small_model.save_pipeline(out, vae, unet, text_encoder, tokenizer, scale)
    write_card(out, log)
    if as_json:
        typer.echo(
            json.dumps({"base": str(out), "runs": [{**run, "losses": run["losses"][-1]} for run in log["runs"]]})
        )


def _hardware(device: object) -> str:
    import torch

    return torch.cuda.get_device_name(device) if str(device) != "cpu" else f"CPU, {torch.get_num_threads()} threads"
