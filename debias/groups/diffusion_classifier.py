"""The base model classifies its own images: denoising error under "a man …" against "a woman …".

Diffusion classifier (Li et al. 2023, arXiv 2303.16203; Clark & Jaini 2023, arXiv 2303.15233): with common noise over
the words, log p(x | word) ≈ −Σ_t λ_t ‖ε̂(x_t, word) − ε‖² + const, so the difference of two words' errors is a
log-likelihood ratio. The ratio against its own noise gives a posterior without any label; and a word counts as known
only if saying it explains the images it fits better than the plain caption does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..core.batching import fitting_rows, in_batches
from ..core.error import DDMError
from .noise import LatentSet, Rates, noise_levels

if TYPE_CHECKING:
    import torch

TIMESTEPS = (500, 600, 700, 800, 900)
# The most images that are classified at a time.
MOST = 128
PEOPLE = ("man", "woman", "boy", "girl")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "gender": ("man", "woman"),
    "skin tone": ("light skin", "dark skin"),
    "age": ("young", "old"),
    "hair": ("short hair", "long hair"),
    "glasses": ("without glasses", "with glasses"),
    "smile": ("serious", "smiling"),
}
Denoise = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def parse_words(text: str) -> tuple[str, ...]:
    """Read `man | woman` into its words.

    Raises:
        DDMError: when there are fewer than two different words.
    """
    words = tuple(word.strip() for word in text.strip("\"'").split("|") if word.strip())
    if len(set(words)) < 2 or len(set(words)) < len(words):
        raise DDMError(
            f'words:"{text}" names no two different groups. Separate them by a bar, as in words:"man|woman".'
        )
    return words


def say(caption: str, word: str) -> str:
    """Put an attribute word into a caption: "a firefighter" becomes "a woman firefighter".

    A word for a person replaces "person" ("a bald person" → "a bald woman"); words that begin with "with" go last.
    """
    caption = caption.strip()
    first, _, rest = caption.partition(" ")
    if first.lower() not in ("a", "an", "the") or not rest:
        first, rest = "a", caption
    parts = rest.split()
    if word.startswith("with"):
        phrase = f"{rest or 'person'} {word}"
    elif word in PEOPLE and "person" in parts:
        phrase = " ".join(word if part == "person" else part for part in parts)
    else:
        phrase = f"{word} {rest}".strip()
    return f"{first if first.lower() == 'the' else article(phrase)} {phrase}"


def article(phrase: str) -> str:
    """ "a" or "an", by the first letter; "one" begins like "won"."""
    return "an" if phrase[0].lower() in "aeiou" and phrase.split()[0].lower() != "one" else "a"


def denoising_errors(
    denoise: Denoise,
    rates: Rates,
    latents: LatentSet,
    embeddings: Sequence["torch.Tensor"],
    index: "torch.Tensor",
    *,
    timesteps: Sequence[int] = TIMESTEPS,
    noises: int = 2,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[float, int], None] | None = None,
) -> np.ndarray:
    """Measure how well the model denoises each image under each word.

    Args:
        denoise: (noisy latents [B, C, h, w], timesteps [B], text [B, L, D]) → predicted ε.
        rates: of the base at a timestep (see `noise.Rates`).
        latents: [N, C, h, w] scaled latents.
        embeddings: one [M, L, D] text table per word; row m is the m-th concept with that word said.
        index: [N] concept of each image.
        noises: noise draws per timestep; the same ones for every word (and for every image).
        batch_size: images at a time; None: what fits. Besides rounding, it changes nothing.
        progress: called with (images done, of how many) after each noise level and word of a batch.

    Returns:
        [N, words, timesteps, noises] mean squared errors.

    Raises:
        OutOfMemory: the memory does not suffice for one image.
    """
    import torch

    count, passes = len(latents), len(timesteps) * noises * len(embeddings)

    def measure(part: slice) -> torch.Tensor:
        rows, done = torch.arange(part.start, part.stop), 0
        errors = torch.zeros(len(rows), len(embeddings), len(timesteps), noises)
        for level in noise_levels(latents, rates, timesteps, noises, seed):
            times = torch.full((len(rows),), timesteps[level.column], device=latents.device)
            noisy = level(latents[rows])
            for word, table in enumerate(embeddings):
                predicted = denoise(noisy, times, table[index[rows]])
                found = (predicted - level.noise).square().mean((1, 2, 3))
                errors[:, word, level.column, level.draw] = found.float().cpu()
                done += 1
                if progress:
                    progress(part.start + len(rows) * done / passes, count)
        return errors

    batch_size = batch_size or fitting_rows(latents.device, latents.shape[2] * latents.shape[3], MOST)
    with torch.inference_mode():
        return torch.cat(list(in_batches(count, batch_size, measure))).double().numpy()


@dataclass(frozen=True)
class Verdict:
    """What the model can tell about one list of words.

    Attributes:
        posterior: [N, K] probability of each word for each image.
        reliability: split-half correlation of the scores over noises, Spearman–Brown corrected; 1 is a perfect repeat.
        gain: [K] z-score of how much better each word explains the tenth of the images that it fits best than the
            plain caption does: chosen by one half of the noises, measured by the other.
    """

    posterior: np.ndarray
    reliability: float
    gain: np.ndarray


def classify(errors: np.ndarray, plain: np.ndarray) -> Verdict:
    """Turn denoising errors into a posterior over the words, without labels.

    Each timestep's score (mean error over words minus the word's error) is divided by its median size, then averaged.
    The posterior is the softmax of the scores times what `_evidence` says one of their units is worth.

    Args:
        errors: [N, K, timesteps, noises] of `denoising_errors`, at least two noises.
        plain: [N, timesteps, noises] errors under the caption with no word said, with the same noises.
    """
    scale = np.median(np.abs(errors - errors.mean(1, keepdims=True)), axis=(0, 1, 3))[:, None]
    scores = (errors.mean(1, keepdims=True) - errors) / np.maximum(scale, 1e-12)
    relative = (plain[:, None] - errors) / np.maximum(scale, 1e-12)
    halves = [scores[..., part::2].mean((2, 3)) for part in (0, 1)]
    flat = [half - half.mean(0) for half in halves]
    size = np.sqrt(np.square(flat[0]).sum() * np.square(flat[1]).sum())
    correlation = float((flat[0] * flat[1]).sum() / max(size, 1e-12))
    z = np.array([_gain(relative[:, word].mean(1)) for word in range(errors.shape[1])])
    posterior = _softmax(_evidence(*halves) * (halves[0] + halves[1]))
    return Verdict(posterior, 2 * correlation / (1 + abs(correlation)), z)


def _evidence(one: np.ndarray, other: np.ndarray) -> float:
    """Find what a unit of score is worth, in nats, from two halves of the noises that measured the same images.

    How often both halves name the same word tells how often one of them errs, ε (errors taken as independent and
    spread evenly over the other words): (1−ε)² + ε²/(K−1). The worth is the one under which each half's softmax, seen
    through that error, predicts the other half's word best (maximum likelihood).

    Args:
        one, other: scores [N, K] of the halves.
    """
    from scipy.optimize import minimize_scalar

    words = one.shape[1]
    same = float((one.argmax(1) == other.argmax(1)).mean())
    if same <= 1 / words or one.std() + other.std() < 1e-12:
        return 0.0
    # The smaller root of (1−ε)² + ε²/(K−1) = same.
    error = (words - 1) / words * (1 - np.sqrt(max(0.0, (same * words - 1) / (words - 1))))
    error = max(error, 0.5 / len(one))

    def surprise(log_worth: float) -> float:
        total = 0.0
        for half, judge in ((one, other), (other, one)):
            hit = _softmax(np.exp(log_worth) * half)[np.arange(len(half)), judge.argmax(1)]
            total -= np.log(hit * (1 - error) + (1 - hit) * error / (words - 1)).mean()
        return total

    unit = np.log((one.std() + other.std()) / 2)
    return float(np.exp(minimize_scalar(surprise, bounds=(np.log(0.1) - unit, np.log(50) - unit)).x))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _gain(relative: np.ndarray) -> float:
    """z-score of the gain [N, noises] of one word over the plain caption, on the tenth it fits best (cross-fitted)."""
    halves = [relative[:, part::2].mean(1) for part in (0, 1)]
    count = max(len(relative) // 10, 4)
    found = np.concatenate([halves[1 - part][halves[part].argsort()[-count:]] for part in (0, 1)])
    return float(found.mean() / max(found.std(ddof=1), 1e-12) * np.sqrt(count))
