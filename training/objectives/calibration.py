"""What a model makes, read without a label: where the base stands before training, and what scale α = 1 needs after.

Log-odds are linear in the strength, but a training under guidance reaches only part of the way, or too far. So the
model makes images at three strengths with the same seeds, a classifier learnt on the set reads their groups in the
base's own features, and the strength at which each prompt's shares are the target's, as nearly as one can serve all,
becomes the file's α = 1.

Prompts differ in where they start and in what an adapter makes of them. Where each is to be in balance by itself, their
shares are read before training ends, at the strength that would be α = 1, and the weights are corrected by what each
still lacks (`Weighting.corrected`) for the steps that follow.

Of two groups that is all there is to set right. Of more, one scale can set right one direction only, and the set's
shares f are not the base's b: an adapter that has learnt log(τ/f) would lead from b to τ b/f. So where an attribute has
more than two groups, b is read first, and the weights are made for it (`Weighting.starting_from`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...debias.adapter.lora_file import Adapter, kohya_name
from ...debias.core.error import DDMError
from ...debias.groups.features import centre
from ...debias.groups.groups import concepts
from ..data.image_features import image_features
from ..data.latents import Latents
from ..models.lora import (
    base_shapes,
    export_parts,
    load_lora_into,
    lora_names,
    start_lora,
    without_loras,
)
from .final_look import FinalLook, compared, shift

if TYPE_CHECKING:
    from ...debias.groups.groups import Groups
    from ..data.group_images import Grouping
    from ..models.base import Base

STRENGTHS = (0.0, 1.0, 2.0)
SCALES = (0.25, 3.0)
# Fewer images teach no classifier; less progress than this is rounding.
MIN_IMAGES, MIN_PROGRESS = 8, 1e-3
# The base's shares are read from so many times the images of a strength, and count as if a few more were the set's.
FIRST, PRIOR = 2, 20
# A prompt's shares are read from few images, and count as if so many more were as those of all prompts together:
# with a quarter of them, prompts were corrected by more than they lacked, and by chance.
PROMPT_PRIOR = 16
# The same where a prompt's shares are read again and again, each time by other images.
DOUBT = 4
ROUND_SEEDS, LOOK_SEEDS = 100_000, 5_000_000
# In the last look a prompt has so many images at least: of two, chance is as large as what an adapter does.
LOOKED = 4
# A goal at this distance from the shares at strength 0 is reached: 160 images tell no better.
NEAR = 0.08


@dataclass(frozen=True)
class Calibration:
    """What calibration found.

    Attributes:
        scale: factor on the LoRA, within SCALES; 1 where it found no effect.
        strengths: the strengths that were tried.
        progress: how far the shares are on their way from those at strength 0 to the goal, at each; 1 is the goal.
        shares: shares of every group at each strength, all attributes after one another.
        goal: the target's shares; where an indicator made the weights, those that they promise at α = 1.
    """

    scale: float
    strengths: tuple[float, ...]
    progress: tuple[float, ...]
    shares: tuple[tuple[float, ...], ...]
    goal: tuple[float, ...]

    @property
    def warning(self) -> str:
        """What to know of an adapter that hardly learnt what it should; empty where it did."""
        if self.scale < SCALES[1]:
            return ""
        return (
            f"The training hardly moved the shares ({max(0, self.progress[1]):.0%} of the way), so α = 1 is "
            f"{self.scale:g} times what was learnt, and what should stay may move as much. Train with more steps, or "
            "measure the adapter before you rely on it."
        )


def progress_of(shares: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Project shares [S, K] onto the way from the first of them to the goal [K]: 0 is the start, 1 the goal.

    All are 0 where the goal is so near that the way is chance.
    """
    way = goal - shares[0]
    far = float(way @ way)
    return (shares - shares[0]) @ way / far if far > NEAR**2 else np.zeros(len(shares))


def progress_by_prompt(seen: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """As `progress_of`, prompt by prompt, so that prompts which start on opposite sides do not make up for each other.

    Half of a prompt's images say which way it has to go, the other half how far it went: of the same ones, chance would
    be both.

    Args:
        seen: [S, C, n, K] what the images show, one-hot in each attribute; n is at least 2.
    """
    one, other = seen[:, :, ::2].mean(2), seen[:, :, 1::2].mean(2)
    moved = sum(((a - a[0]) * (goal - b[0])).sum((1, 2)) for a, b in ((one, other), (other, one)))
    far = 2 * float(((goal - one[0]) * (goal - other[0])).sum())
    return moved / far if far > 2 * seen.shape[1] * NEAR**2 else np.zeros(len(seen))


def scale_of(strengths: Sequence[float], progress: Sequence[float]) -> float:
    """The strength of progress 1, within SCALES: between those that were tried, or on the line through first and last.

    It is 1 where nothing moves towards the goal.
    """
    moved = np.maximum.accumulate(progress)
    if moved[-1] <= MIN_PROGRESS:
        return 1.0
    beyond = strengths[0] + (strengths[-1] - strengths[0]) / moved[-1]
    return float(np.clip(np.interp(1.0, moved, strengths) if moved[-1] >= 1 else beyond, *SCALES))


@dataclass(frozen=True)
class Sampling:
    """How images are made whose groups are read: as the adapter will be used.

    Attributes:
        base: another model than the one that is trained, such as its distilled sibling; None for the trained one.
        steps: sampling steps; to count groups, images need not be finished to the last detail.
        guidance_scale: of classifier-free guidance; 1 is none.
    """

    base: "Base | None" = None
    steps: int = 10
    guidance_scale: float = 3.0

    def check(self, trained: "Base") -> None:
        """Refuse a model that an adapter of the trained one does not fit.

        Raises:
            DDMError: it is of another family, or has other layers or latents.
        """
        if self.base is None:
            return
        ours, theirs = (
            (base.family.name, base.latent_channels, base_shapes(base.denoiser)) for base in (trained, self.base)
        )
        if ours != theirs:
            raise DDMError(
                f"An adapter of {trained.path.name} does not fit {self.base.path.name}, so it cannot be calibrated "
                "there. Give a model that was made from the same base.",
                "calibrate_on",
            )

    @contextmanager
    def of(self, trained: "Base") -> "Iterator[Base]":
        """The model that makes images, with the trained one's LoRAs as they are now."""
        if self.base is None:
            yield trained
            return
        loras = {name: export_parts(trained.parts, name) for name in lora_names(trained.denoiser)}
        for name, modules in loras.items():
            adapter = Adapter({kohya_name(module): lora for module, lora in modules.items()})
            if name in lora_names(self.base.denoiser):
                start_lora(self.base.parts, name, adapter)
            else:
                load_lora_into(self.base.denoiser, adapter, name, text_encoders=self.base.text_encoders)
        self.base.size = trained.size
        yield self.base


@dataclass(frozen=True)
class GroupReader:
    """Lets a model make images of a set's captions, and reads which groups they show.

    Attributes:
        base: with the LoRA "debias", trained or not.
        latents: of the set, all of one shape.
        captions: [N]; images are made of captions drawn from them.
        grouping: the groups and weights that are trained towards.
        images: how many to make at each strength.
        seed: of captions and noise.
        progress: called with (done, total).
        cache: a folder that keeps the set's features and encoded captions.
        sampling: how images are made.
    """

    base: "Base"
    latents: Latents
    captions: Sequence[str]
    grouping: "Grouping"
    images: int
    seed: int
    progress: Callable[[int, int], None] | None = None
    cache: Path | None = None
    sampling: Sampling = Sampling()

    def base_shares(self) -> np.ndarray:
        """Shares [K] of every group in what the base makes without the LoRA, all attributes after one another.

        They are read from `FIRST` times as many images as are made at a strength otherwise.
        """
        count, grouping = FIRST * self.images, self.grouping
        (seen,) = self._read((0.0,), self._drawn(count)).mean(1)
        own = [grouping.weighting.predicted_shares(0.0, part.membership) for part in grouping.groups]
        return (count * seen + PRIOR * np.concatenate(own)) / (count + PRIOR)

    def calibrate(self, base_shares: np.ndarray | None = None) -> Calibration:
        """Measure the trained LoRA and find the factor that makes α = 1 what was promised, prompt by prompt.

        Where an indicator made the weights, or the base's shares are known of all prompts together, it is that of all
        together.

        Args:
            base_shares: the shares at strength 0, if the method of that name has read them.
        """
        weighting = self.grouping.weighting
        by_prompt = base_shares is None and not weighting.by_indicator
        drawn, prompts = self._pairs() if by_prompt else (self._drawn(self.images), 1)
        seen = self._read(STRENGTHS if base_shares is None else STRENGTHS[1:], drawn)
        shares = seen.mean(1)
        if base_shares is not None:
            shares = np.concatenate([base_shares[None], shares])
        pairs = zip(self.grouping.groups, self.grouping.targets, strict=True)
        promised = [
            weighting.predicted_shares(1.0, part.membership) if weighting.by_indicator else target.shares
            for part, target in pairs
        ]
        goal = np.concatenate(promised)
        by = seen.reshape(len(seen), prompts, -1, seen.shape[2])
        way = progress_by_prompt(by, goal) if by_prompt else progress_of(shares, goal)
        return Calibration(
            scale_of(STRENGTHS, way), STRENGTHS, tuple(way.tolist()), tuple(map(tuple, shares.tolist())), tuple(goal)
        )

    def shares_by_prompt(self, count: int) -> np.ndarray:
        """Shares [C, K] of every group, all above 0, at the strength that would be α = 1, all attributes in a row.

        Captions of few images are counted together, as they are weighed (`peers`).

        Args:
            count: images to make of each of them, at each strength.
        """
        drawn = self._of_each(count)
        size = len(drawn) // count
        shares = self._read(STRENGTHS, drawn).reshape(len(STRENGTHS), size, count, -1).mean(2)
        goal = np.concatenate([target.shares for target in self.grouping.targets])
        scale = scale_of(STRENGTHS, progress_of(shares.mean(1), goal))
        seen = np.apply_along_axis(partial(np.interp, scale, STRENGTHS), 0, shares)
        common = np.maximum(seen.mean(0), 1 / (count * size))
        return (count * seen + PROMPT_PRIOR * common) / (count + PROMPT_PRIOR)

    def shares_at(self, strength: float, count: int, round_: int) -> np.ndarray:
        """Shares [C, K] of every group in `count` images of each prompt at a strength, all attributes in a row.

        They count as if `DOUBT` images more had shown the target: of few images, chance is believed only in part.

        Args:
            round_: other images are made in each.
        """
        drawn = self._of_each(count, round_)
        (seen,) = self._read((strength,), drawn, ROUND_SEEDS * (1 + round_))
        seen = seen.reshape(-1, count, seen.shape[1]).mean(1)
        goal = np.concatenate([target.shares for target in self.grouping.targets])
        return (count * seen + DOUBT * np.maximum(goal, 1 / (count * len(seen)))) / (count + DOUBT)

    def last_look(self, others: "Sequence[Groups]" = ()) -> FinalLook:
        """Compare the adapter at strength 1 with none, by images of noises that nothing was chosen by.

        Args:
            others: groups of attributes that nobody asked to change.
        """
        drawn, prompts = self._pairs(3, LOOKED)
        groups = [*self.grouping.groups, *others]
        seen = self._read((0.0, 1.0), drawn, LOOK_SEEDS, groups).reshape(2, prompts, len(drawn) // prompts, -1)
        parts = np.split(seen, np.cumsum([len(part.names) for part in groups])[:-1], axis=-1)
        asked = np.concatenate(parts[: len(self.grouping.groups)], axis=-1)
        goal = np.concatenate([target.shares for target in self.grouping.targets])
        shifts = {part.source: shift(own) for part, own in zip(others, parts[len(self.grouping.groups) :], strict=True)}
        return FinalLook(len(drawn), prompts, *compared(asked, goal, self.seed), shifts)

    def _pairs(self, draw: int = 2, fewest: int = 2) -> tuple[np.ndarray, int]:
        """Rows of the set that have the captions of a strength's images, prompt by prompt, and of how many prompts.

        Each has as many images, an even number; where there are too many prompts for `fewest`, some are drawn.
        """
        concept, rng = self.grouping.weighting.concept, np.random.default_rng([self.seed, 77, draw])
        size = concept.max() + 1
        count = max(fewest, self.images // size // 2 * 2)
        prompts = np.sort(rng.permutation(size)[: max(1, self.images // count)])
        rows = [rng.choice(np.flatnonzero(concept == one), count) for one in prompts]
        return np.concatenate(rows), len(prompts)

    def _of_each(self, count: int, round_: int = 0) -> np.ndarray:
        """Which rows of the set have the captions of `count` images of each prompt."""
        concept = self.grouping.weighting.concept
        rng = np.random.default_rng([self.seed, 78 + round_])
        return np.concatenate([rng.choice(np.flatnonzero(concept == one), count) for one in range(concept.max() + 1)])

    def _drawn(self, images: int) -> np.ndarray:
        """Which rows of the set have the captions of so many images."""
        return np.sort(np.random.default_rng([self.seed, 77]).integers(len(self.captions), size=images))

    def _read(
        self,
        strengths: Sequence[float],
        drawn: np.ndarray,
        seeds: int = 0,
        groups: "Sequence[Groups] | None" = None,
    ) -> np.ndarray:
        """Groups [S, M, K] (1 where an image is of one) of images at each strength, all attributes in a row.

        Args:
            drawn: [M] rows of the set whose captions they have.
            seeds: how much further than usual the seeds of the images begin.
            groups: attributes to read; by default the grouping's.
        """
        import torch

        from ..sampling.generate import generate_batches

        base, captions, seed, sampling = self.base, self.captions, self.seed, self.sampling
        prompts, first = [captions[row] for row in drawn], seed + 2_000_000 + seeds
        made, last = [], (0, 1)

        def sampled(done: int, total: int) -> None:
            nonlocal last
            last = (done, total)
            reading()

        def reading(*_: int) -> None:
            # The images are there by then, but whoever watches can still stop.
            if self.progress:
                self.progress(*last)

        with sampling.of(base) as maker:
            for number, strength in enumerate(strengths):
                batches = generate_batches(
                    maker,
                    prompts,
                    range(first, first + len(drawn)),
                    alpha=strength,
                    steps=sampling.steps,
                    guidance_scale=sampling.guidance_scale,
                    decode=False,
                    bf16=base.half_is_native,
                    progress=lambda done, total, n=number: sampled(n * total + done, len(strengths) * total),
                )
                made.append(torch.cat([batch.latents for batch in batches]))
        with without_loras([base.denoiser]):
            own = image_features(base, self.latents, *concepts(captions), seed, reading, self.cache)
            new = [image_features(base, Latents.of(part), *concepts(prompts), seed, reading) for part in made]
        centred = centre(own, self.grouping.weighting.concept)
        x = np.concatenate(list(centred.values()), 1)
        shift = np.concatenate([own[name] - centred[name] for name in own], 1)[drawn]
        y = [np.concatenate(list(part.values()), 1) - shift for part in new]
        parts = self.grouping.groups if groups is None else groups
        return np.concatenate([groups_of(x, part.membership, y) for part in parts], 2)


def groups_of(x: np.ndarray, membership: np.ndarray, made: Sequence[np.ndarray]) -> np.ndarray:
    """Groups [S, M, K] (1 where an image is of one) of images [S][M, D].

    Args:
        x, membership: the set [N, D] and its groups [N, K], on which a logistic regression is learnt.
        made: the images.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known = membership.sum(1) > 0.5
    group = membership.argmax(1)
    present = np.unique(group[known])
    if len(present) < 2:
        # Nothing to tell apart: in a few images, all may be of one group.
        return np.broadcast_to(np.eye(membership.shape[1])[present], (len(made), len(made[0]), membership.shape[1]))
    # Balanced: a majority in the set must not read itself into what is made.
    reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000))
    reader.fit(x[known], group[known])
    return np.eye(membership.shape[1])[np.stack([reader.predict(part) for part in made])]
