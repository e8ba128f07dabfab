"""Handwritten digits in pairs, four to one, as in the DDM paper: a set and a small base of each pair, and its judges.

The images are MNIST's test split. One half of it is what bases and adapters learn from, the other one is for probes.
"""

import gzip
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..debias.core.error import DDMError
from ..debias.core.io import write_text
from ..debias.groups.diffusion_classifier import say
from ..training.embedded.tiny_people import caption
from .package import ROOT

MNIST = ROOT.parent / "shared" / "data" / "mnist"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZE, COUNT, MAJORITY = 64, 500, 0.8
# As many as let the prompts be obeyed; some minutes on two cores.
STEPS, BATCH, RATE = 1200, 32, 7e-4


@dataclass(frozen=True)
class Pair:
    """Two digits, the common one first.

    Attributes:
        digits: their names.
        column: what tells them apart: a column of the set, and the name of a probe.
    """

    digits: tuple[str, str]

    @property
    def column(self) -> str:
        """For instance "zero_or_one"."""
        return "_or_".join(self.digits)


PAIRS = {"digits-0-1": Pair(("zero", "one")), "digits-7-8": Pair(("seven", "eight"))}


@cache
def read_digits(folder: Path = MNIST) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 28, 28], white on black, and their names [N].

    Raises:
        DDMError: the files are not there.
    """
    files = [folder / f"t10k-{end}.gz" for end in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    for file in files:
        if not file.is_file():
            raise DDMError(
                f"{file} is not there. Put the two files of MNIST's test split into {folder} to measure digits."
            )
    pixels, labels = (np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8) for file in files)
    return pixels[16:].reshape(-1, 28, 28), np.array(NAMES)[labels[8:]]  # after the headers of the IDX format


def half(learnt: bool, digits: Sequence[str] = NAMES) -> tuple[np.ndarray, np.ndarray]:
    """Images and names of one half of every digit: what is learnt from, or what probes are fitted to."""
    pixels, names = read_digits()
    place = np.zeros(len(names), dtype=int)
    for name in NAMES:
        place[names == name] = np.arange((names == name).sum())
    chosen = (place % 2 == (0 if learnt else 1)) & np.isin(names, digits)
    return pixels[chosen], names[chosen]


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """Images uint8 [N, 64, 64, 3], black on white (as the VAE knows its images), of digits [N, 28, 28]."""
    from PIL import Image

    padded = 255 - np.pad(pixels, ((0, 0), (2, 2), (2, 2)))
    rows = [Image.fromarray(one).resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB") for one in padded]
    return np.stack([np.asarray(row) for row in rows])


def labelled(attribute: str) -> tuple[np.ndarray, list[str]]:
    """Images that no base has seen, and their names, for the probe of a pair's column or of all digits ("digit")."""
    found = [pair.digits for pair in PAIRS.values() if pair.column == attribute]
    pixels, names = half(False, found[0] if found else NAMES)
    return enlarged(pixels), names.tolist()


def draw_pair(pair: Pair, out: Path) -> Path:
    """Write a set of 500 images of a pair, "a digit" each, with the true digit in its column."""
    from PIL import Image

    pixels, names = half(True, pair.digits)
    rng = np.random.default_rng(0)
    counts = [round(COUNT * MAJORITY), COUNT - round(COUNT * MAJORITY)]
    parts = [
        rng.permutation(np.flatnonzero(names == digit))[:count]
        for digit, count in zip(pair.digits, counts, strict=True)
    ]
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, index in enumerate(rng.permutation(np.concatenate(parts))):
        Image.fromarray(enlarged(pixels[index : index + 1])[0]).save(out / f"{number:03}.png")
        rows.append({"file_name": f"{number:03}.png", "text": caption("digit"), pair.column: str(names[index])})
    write_text(out / "metadata.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n")
    return out


class DigitDraw:
    """The biased draw that a base is trained on; see `tiny_people.Draw`.

    Args:
        names: [N] the digit of each image.
        pair: the common digit is drawn four times as often as the other, however many images there are of either.
    """

    def __init__(self, names: np.ndarray, pair: Pair):
        shares = dict(zip(pair.digits, (MAJORITY, 1 - MAJORITY), strict=True))
        self.names = names
        self.weights = np.array([shares[name] / (names == name).sum() for name in names])

    def captions(self, indices: Sequence[int], rng: np.random.Generator) -> list[str]:
        """Caption a draw: more than half "a digit", a quarter saying which; a fifth dropped for guidance.

        Guidance enlarges whatever "a digit" has learnt otherwise than the empty caption, so both are seen often.
        """
        said = rng.random(len(indices))
        return [
            "" if draw < 0.2
            else caption("digit") if draw < 0.75
            else say(caption("digit"), self.names[index]) if draw < 0.92
            else caption(self.names[index])
            for index, draw in zip(indices, said, strict=True)
        ]  # fmt: skip


def pair_base(pair: Pair, out: Path, device: str = "cpu", steps: int = STEPS) -> Path:
    """The base of a pair, trained if it is not there: the embedded model's U-Net and text encoder, taught digits.

    Args:
        out: a diffusers folder; if it is there, it is whole.
        steps: optimizer steps.

    Raises:
        DDMError: as in `read_digits`.
    """
    if not out.exists():
        _train_base(pair, out, device, steps)
    return out


def _train_base(pair: Pair, out: Path, device: str, steps: int) -> None:
    import torch

    from ..training.embedded.small_model import latent_moments, save_pipeline
    from ..training.embedded.train_small_model import DenoiserTraining
    from ..training.loop.progress_bars import steps_progress
    from ..training.models.load_base import load_base
    from ..training.models.model import EMBEDDED

    pixels, names = half(True, pair.digits)
    start = load_base(EMBEDDED, device, torch.float32)
    for part in (start.denoiser, start.text_encoder):
        part.requires_grad_(True)
    images = torch.as_tensor(enlarged(pixels), device=start.device).permute(0, 3, 1, 2).float() / 127.5 - 1
    *moments, scale = latent_moments(start.vae, images)
    training = DenoiserTraining(
        tuple(moments),
        DigitDraw(names, pair),
        start.text_encoder,
        start.tokenizer,
        start.denoiser,
        start.scheduler.alphas_cumprod,
        steps,
        batch_size=BATCH,
        learning_rate=RATE,
    )
    with steps_progress(f"base of {' and '.join(pair.digits)}") as report:
        while training.step < steps:
            training.advance()
            if training.step % 20 == 0 or training.step == steps:
                report(training.step, steps, training.loss.item())
    unet, text_encoder = training.averaged()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as place:
        save_pipeline(Path(place) / out.name, start.vae, unet, text_encoder, start.tokenizer, scale)
        (Path(place) / out.name).rename(out)
