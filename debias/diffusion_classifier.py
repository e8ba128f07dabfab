"""The base model classifies its own pictures: denoising error under "a man …" against "a woman …".

Diffusion classifier (Li et al. 2023, arXiv 2303.16203; Clark & Jaini 2023, arXiv 2303.15233): with common noise over
the words, log p(x | word) ≈ −Σ_t λ_t ‖ε̂(x_t, word) − ε‖² + const, so the difference of two words' errors is a
log-likelihood ratio. The ratios are calibrated to a posterior without any label, by a Gaussian mixture over the set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .error import DDMError

if TYPE_CHECKING:
    import torch
    from sklearn.mixture import GaussianMixture

TIMESTEPS = (150, 300, 450, 600, 700, 800)
FEWEST_SHARE = 0.02
PEOPLE = ("man", "woman", "boy", "girl")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "gender": ("man", "woman"),
    "skin tone": ("light skin", "dark skin"),
    "age": ("young", "old"),
    "hair": ("short hair", "long hair"),
    "glasses": ("without glasses", "with glasses"),
    "smile": ("serious", "smiling"),
    "style": ("photo", "drawing"),
    "colour": ("bright", "dark"),
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
    article, _, rest = caption.partition(" ")
    if article.lower() not in ("a", "an", "the") or not rest:
        article, rest = "a", caption
    parts = rest.split()
    if word.startswith("with"):
        phrase = f"{rest or 'person'} {word}"
    elif word in PEOPLE and "person" in parts:
        phrase = " ".join(word if part == "person" else part for part in parts)
    else:
        phrase = f"{word} {rest}".strip()
    if article.lower() != "the":
        article = "an" if phrase[0].lower() in "aeiou" else "a"
    return f"{article} {phrase}"


def denoising_errors(
    denoise: Denoise,
    alphas_cumprod: "torch.Tensor",
    latents: "torch.Tensor",
    embeddings: Sequence["torch.Tensor"],
    index: "torch.Tensor",
    *,
    timesteps: Sequence[int] = TIMESTEPS,
    noises: int = 2,
    seed: int = 0,
    batch: int = 128,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Measure how well the model denoises each picture under each word.

    Args:
        denoise: (noisy latents [B, C, h, w], timesteps [B], text [B, L, D]) → predicted ε.
        alphas_cumprod: [T] ᾱ of the base's training schedule.
        latents: [N, C, h, w] scaled latents.
        embeddings: one [M, L, D] text table per word; row m is the m-th concept with that word said.
        index: [N] concept of each picture.
        noises: noise draws per timestep; the same ones for every word (and for every picture).

    Returns:
        [N, words, timesteps, noises] mean squared errors.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    errors = torch.zeros(len(latents), len(embeddings), len(timesteps), noises)
    total, done = len(timesteps) * noises * len(embeddings), 0
    with torch.inference_mode():
        for column, t in enumerate(timesteps):
            signal = float(alphas_cumprod[t]) ** 0.5
            for draw in range(noises):
                noise = torch.randn(1, *latents.shape[1:], generator=generator).to(latents)
                noisy = signal * latents + (1 - signal**2) ** 0.5 * noise
                for word, table in enumerate(embeddings):
                    for rows in torch.arange(len(latents)).split(batch):
                        times = torch.full((len(rows),), t, device=latents.device)
                        predicted = denoise(noisy[rows], times, table[index[rows]])
                        errors[rows, word, column, draw] = (predicted - noise).square().mean((1, 2, 3)).float().cpu()
                    done += 1
                    if progress:
                        progress(done, total)
    return errors.double().numpy()


@dataclass(frozen=True)
class Verdict:
    """What the model can tell about one list of words.

    Attributes:
        posterior: [N, K] calibrated probability of each word for each picture.
        reliability: split-half correlation of the scores over noises, Spearman–Brown corrected; 1 is a perfect repeat.
        separation: Ashman's D of the two nearest groups; above 2 they are clearly apart.
    """

    posterior: np.ndarray
    reliability: float
    separation: float


def classify(errors: np.ndarray) -> Verdict:
    """Turn denoising errors into a posterior over the words, without labels.

    Each timestep's score (mean error over words minus the word's error) is standardised by the spread that the words
    make, then averaged; a Gaussian mixture with one component per word, started from the best word of each picture,
    calibrates it.

    Args:
        errors: [N, K, timesteps, noises] of `denoising_errors`.
    """
    scores = errors.mean(1, keepdims=True) - errors
    spread = np.maximum(scores.std((0, 1, 3), keepdims=True), 1e-12)
    scores = scores / spread
    halves = (
        [scores[..., part::2].mean((2, 3)) for part in (0, 1)] if scores.shape[3] > 1 else [scores.mean((2, 3))] * 2
    )
    flat = [half - half.mean(0) for half in halves]
    norm = np.sqrt(np.square(flat[0]).sum() * np.square(flat[1]).sum())
    correlation = float((flat[0] * flat[1]).sum() / max(norm, 1e-12))
    reliability = 2 * correlation / (1 + abs(correlation))
    score = scores.mean((2, 3))
    words = score.shape[1]
    mixture = _mixture(score)
    # The component that answers to a word is the one whose pictures the word suits best.
    order = _best_order(np.column_stack([mixture.means_, -mixture.means_.sum(1)]))
    posterior = mixture.predict_proba(score[:, :-1])[:, order]
    inverse = np.linalg.inv(np.atleast_2d(mixture.covariances_))
    gaps = mixture.means_[:, None] - mixture.means_[None]
    distance = np.sqrt(np.maximum(np.einsum("abi,ij,abj->ab", gaps, inverse, gaps), 0))
    return Verdict(posterior, reliability, float(distance[~np.eye(words, dtype=bool)].min()))


def _mixture(score: np.ndarray) -> "GaussianMixture":
    """Fit one Gaussian per word to scores [N, K] (rows sum to 0), with a common covariance.

    It starts from each picture's best word; from clusters, where a word that suits everything leaves another none.
    """
    from sklearn.mixture import GaussianMixture

    words = score.shape[1]
    best = np.eye(words)[score.argmax(1)]
    start = {"n_init": 4}
    if best.mean(0).min() >= FEWEST_SHARE:
        start = {"means_init": (best.T @ score[:, :-1]) / best.sum(0)[:, None]}
    mixture = GaussianMixture(words, covariance_type="tied", random_state=0, reg_covar=1e-4, **start)
    return mixture.fit(score[:, :-1])


def _best_order(means: np.ndarray) -> np.ndarray:
    """Which component [K] stands for which word, so that the sum of their mean scores [component, word] is largest."""
    from scipy.optimize import linear_sum_assignment

    component, word = linear_sum_assignment(-means)
    return component[np.argsort(word)]
