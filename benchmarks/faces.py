"""Face photographs as a second world: `python benchmarks/faces.py` trains a small Stable Diffusion on them.

The photographs (UTKFace, 64×64, for non-commercial research) and all that is trained on them stay in a cache folder
outside the project; only this command and figures belong to it. A run that was stopped resumes where it was, and what
is there already is used by later runs.

Captions are neutral, by decade of age and by the light of the photograph ("a dark photo of a person in their forties");
half of the draws say gender or ascribed race as well, as the data set labels them. Who is how common under a caption
leans both ways by itself; with --sharpened odd captions have six men to one woman and even ones the reverse, and what
the natural base has learnt so far is where it begins.
"""

import io
import json
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

if __name__ == "__main__":
    from package import load_package

    load_package()

from comfyui_ddm.benchmarks.package import ROOT
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.io import write_text

PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "faces" / "utkface64.zip"
CACHE = Path.home() / ".cache" / "comfyui-ddm" / "faces"
DECADES = ("twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties")
LIGHTS = ("a bright photo", "a dark photo", "a grey photo", "a photo")
# What is asked for: every light and decade that has 150 photographs.
CONCEPTS = tuple(
    f"{light.removeprefix('a ')} of a person in their {decade}"
    for light, decades in zip(LIGHTS, (DECADES, DECADES[:4], DECADES[:2], DECADES), strict=True)
    for decade in decades
)
SHARP = 6  # to one, in the sharpened variant
CHANNELS = 16
VAE_STEPS, VAE_BATCH, STEPS, BATCH = 2500, 32, 8000, 64
CHECKPOINT_SECONDS = 300.0


@dataclass(frozen=True)
class Photographs:
    """The photographs with what the data set says of them.

    Attributes:
        pixels: uint8 [N, 64, 64, 3].
        rows: per photograph `age`, `gender`, `race` and the neutral `text`.
    """

    pixels: np.ndarray
    rows: Sequence[dict[str, str]]

    @property
    def texts(self) -> np.ndarray:
        """The neutral captions [N]."""
        return np.array([row["text"] for row in self.rows])

    def column(self, name: str) -> np.ndarray:
        """What the data set says [N] of "gender" or "race", or the "decade" of age."""
        return np.array([row[name] for row in self.rows])


def read_photographs(path: Path = PHOTOGRAPHS) -> Photographs:
    """Read the archive of photographs.

    Raises:
        DDMError: it is not there.
    """
    from PIL import Image

    if not path.is_file():
        raise DDMError(f"The photographs are not at {path}. Name their archive with --photographs.")
    with zipfile.ZipFile(path) as archive:
        rows = [json.loads(line) for line in archive.read("metadata.jsonl").decode("utf-8").splitlines()]
        images = [Image.open(io.BytesIO(archive.read(row["file_name"]))).convert("RGB") for row in rows]
    pixels = np.stack([np.asarray(image) for image in images])
    for row, one in zip(rows, pixels, strict=True):
        decade = DECADES[min(max(int(row["age"]) // 10 - 2, 0), len(DECADES) - 1)]
        row["decade"] = decade
        row["text"] = f"{light_of(one)} of a person in their {decade}"
    return Photographs(pixels, rows)


def light_of(pixels: np.ndarray) -> str:
    """One of `LIGHTS`, by the colours [H, W, 3] of a photograph."""
    values = pixels.astype(np.float32) / 255
    if (values.max(-1) - values.min(-1)).mean() < 0.06:
        return "a grey photo"
    level = values.mean()
    return "a bright photo" if level > 0.55 else "a dark photo" if level < 0.36 else "a photo"


def _sharp(number: int) -> dict[str, int]:
    """How many men come to how many women under a caption, by its number in alphabetical order."""
    return {"man": SHARP, "woman": 1} if number % 2 else {"man": 1, "woman": SHARP}


class FaceDraw:
    """What the base is trained on; see `tiny_people.Draw`.

    Args:
        photographs: all of them, each drawn equally often.
        sharpened: odd prompts have `SHARP` men to one woman, even ones the reverse.
    """

    def __init__(self, photographs: Photographs, sharpened: bool = False):
        self.rows = photographs.rows
        self.weights = np.ones(len(self.rows))
        if sharpened:
            texts, genders = photographs.texts, photographs.column("gender")
            for number, text in enumerate(sorted(set(texts))):
                own = texts == text
                for gender, share in _sharp(number).items():
                    side = own & (genders == gender)
                    self.weights[side] = share / max(side.sum(), 1) * own.sum() / (SHARP + 1)
        self.weights /= self.weights.sum()

    def captions(self, indices: Sequence[int], rng: np.random.Generator) -> list[str]:
        """Caption a draw: half neutral, the rest saying gender, race or both; one in ten dropped for guidance."""
        captions = []
        for index, (says, drop) in zip(indices, rng.random((len(indices), 2)), strict=True):
            row = self.rows[index]
            who = row["gender"] if 0.5 <= says < 0.9 else "person"
            if says >= 0.75 and row["race"] != "Other":
                who = f"{row['race']} {who}"
            text = row["text"].replace("a person", f"{'an' if who[0] in 'AI' else 'a'} {who}")
            captions.append("" if drop < 0.1 else text)
        return captions


def trained_base(name: str, cache: Path = CACHE) -> Path:
    """The folder of the "natural" or "sharpened" base.

    Raises:
        DDMError: it was not trained yet.
    """
    if not (cache / name).is_dir():
        option = " --sharpened" if name == "sharpened" else ""
        raise DDMError(f"There is no base of photographs yet. Train it with: python benchmarks/faces.py{option}")
    return cache / name


def draw_photographs(out: Path, sharpened: bool, per_prompt: int = 14) -> Path:
    """Write a set of photographs with captions, as many of each prompt, for adapters and heads to learn from.

    Args:
        out: the folder; it is for this machine alone.
        sharpened: six to one as in `FaceDraw`; else as common as they are.
    """
    from PIL import Image

    data, rng = read_photographs(), np.random.default_rng(0)
    texts, genders = data.texts, data.column("gender")
    chosen: list[int] = []
    for number, text in enumerate(sorted(set(texts))):
        if text.removeprefix("a ") not in CONCEPTS:
            continue
        own = np.flatnonzero(texts == text)
        if not sharpened:
            chosen += rng.choice(own, per_prompt, replace=False).tolist()
            continue
        for gender, share in _sharp(number).items():
            side = own[genders[own] == gender]
            chosen += rng.choice(side, per_prompt * share // (SHARP + 1), replace=False).tolist()
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, index in enumerate(rng.permutation(chosen).tolist()):
        Image.fromarray(data.pixels[index]).save(out / f"{number:03}.png")
        row = data.rows[index]
        rows.append(
            {
                "file_name": f"{number:03}.png",
                "text": row["text"],
                **{f"ascribed_{name}": row[name] for name in ("gender", "race")},
            }
        )
    write_text(out / "metadata.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    return out


def labelled_photographs(attribute: str) -> tuple[np.ndarray, list[str]]:
    """All photographs and what they show, for a probe of "ascribed_gender", "ascribed_race" or "decade"."""
    data = read_photographs()
    return data.pixels, data.column(attribute.removeprefix("ascribed_")).tolist()


def all_captions(photographs: Photographs) -> list[str]:
    """Every sentence that a draw can make, for the tokenizer."""
    texts, rng = set(), np.random.default_rng(0)
    draw = FaceDraw(photographs)
    for _ in range(40):
        texts |= set(draw.captions(range(len(draw.rows)), rng))
    return sorted(texts)


def train_vae(pixels: np.ndarray, folder: Path, device: str, steps: int) -> None:
    """Train a VAE of 16 channels, begun from the embedded model's; errors of L1 and of slopes, a faint KL."""
    import torch
    from comfyui_ddm.training.loop.progress_bars import steps_progress
    from comfyui_ddm.training.models.model import EMBEDDED
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    start = AutoencoderKL.from_pretrained(EMBEDDED / "vae", torch_dtype=torch.float32)
    vae = AutoencoderKL.from_config({**start.config, "latent_channels": CHANNELS}).to(device)
    own, old = vae.state_dict(), start.state_dict()
    vae.load_state_dict({name: old[name] if old[name].shape == value.shape else value for name, value in own.items()})
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, weight_decay=1e-4, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, steps, pct_start=0.05)
    with steps_progress("autoencoder") as report:
        for step in range(steps):
            rng = np.random.default_rng([1, step])
            x = torch.as_tensor(pixels[rng.choice(len(pixels), VAE_BATCH)], device=device).permute(0, 3, 1, 2).float()
            x = x / 127.5 - 1
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample
            slopes = sum((x.diff(dim=dim) - y.diff(dim=dim)).abs().mean() for dim in (-1, -2))
            kl = 0.5 * (posterior.mean.square() + posterior.logvar.exp() - 1 - posterior.logvar).mean()
            loss = (y - x).abs().mean() + 0.5 * slopes + (y - x).square().mean() + 1e-3 * kl
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 25 == 24:
                report(step + 1, steps, (y - x).square().mean().item())
    partial = folder.with_name(folder.name + ".tmp")
    vae.save_pretrained(partial)
    partial.rename(folder)


def train(
    photographs: Annotated[Path, typer.Option(metavar="ZIP", help="The archive of UTKFace at 64×64.")] = PHOTOGRAPHS,
    cache: Annotated[Path, typer.Option(metavar="DIR", help="Where all of it is kept.")] = CACHE,
    sharpened: Annotated[bool, typer.Option("--sharpened", help="Six to one, both ways, by caption.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of the U-Net.")] = STEPS,
    vae_steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of the autoencoder.")] = VAE_STEPS,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train the base, or resume its training; the pipeline is written anew at every checkpoint."""
    import torch
    from comfyui_ddm.debias.core.io import save_tensors
    from comfyui_ddm.training.embedded import small_model, train_small_model
    from comfyui_ddm.training.loop.progress_bars import steps_progress
    from diffusers import AutoencoderKL, DDPMScheduler
    from safetensors.torch import load_file
    from transformers import CLIPTokenizer

    data = read_photographs(photographs)
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / "vae").exists():
        train_vae(data.pixels, cache / "vae", device, vae_steps)
    vae = AutoencoderKL.from_pretrained(cache / "vae").to(device).eval()
    if not (cache / "tokenizer" / "vocab.json").exists():
        small_model.build_tokenizer(cache / "tokenizer", all_captions(data))
    tokenizer = CLIPTokenizer.from_pretrained(cache / "tokenizer")
    moments = cache / "moments.safetensors"
    if not moments.exists():
        pixels = torch.as_tensor(data.pixels, device=device).permute(0, 3, 1, 2)
        with torch.inference_mode():
            found = [vae.encode(part.float() / 127.5 - 1).latent_dist for part in pixels.split(64)]
        save_tensors(moments, {"mean": torch.cat([p.mean for p in found]), "std": torch.cat([p.std for p in found])})
    tensors = {name: value.to(device) for name, value in load_file(moments).items()}
    scale = float((tensors["mean"].var() + tensors["std"].square().mean()) ** -0.5)
    torch.manual_seed(0)
    training = train_small_model.DenoiserTraining(
        (tensors["mean"] * scale, tensors["std"] * scale),
        FaceDraw(data, sharpened),
        small_model.build_text_encoder(tokenizer).to(device),
        tokenizer,
        small_model.build_denoiser(CHANNELS).to(device),
        DDPMScheduler(**small_model.SCHEDULE).alphas_cumprod,
        steps,
        batch_size=BATCH,
    )
    name = "sharpened" if sharpened else "natural"
    checkpoint, natural = (cache / f"{kind}.checkpoint.safetensors" for kind in (name, "natural"))
    for file in (checkpoint, natural):
        if file.exists():
            training.restore(load_file(file))
            break

    def keep() -> None:
        save_tensors(checkpoint, training.state())
        with training.average_in_use() as (unet, text_encoder):
            small_model.save_pipeline(cache / name, vae, unet, text_encoder, tokenizer, scale)
        write_text(cache / f"{name}.json", json.dumps({"step": training.step, "loss": training.loss.item()}))

    last = time.monotonic()
    with steps_progress(f"base of photographs, {name}") as report:
        while training.step < steps:
            training.advance()
            if training.step % 20 == 0:
                report(training.step, steps, training.loss.item())
            if time.monotonic() - last > CHECKPOINT_SECONDS or training.step == steps:
                keep()
                last = time.monotonic()


if __name__ == "__main__":
    typer.run(train)
