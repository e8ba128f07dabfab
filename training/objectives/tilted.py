"""Objective `ddm` with the model as its own teacher: its answer to a prompt is tilted until its images are balanced.

Who is in an image makes the base's answer to a caption c a mixture over groups k, f(x_t, c) = Σ_k π_k(x_t) f_k(x_t).
Other shares of the groups only change the posterior: π'_k ∝ π_k exp(b_k), with b the prompt's tilt in log-odds. So the
answer of the balanced model is f(x_t, c) + Σ_k (π'_k − π_k) f_k(x_t): no group and no image is drawn at random, and the
target has none of the noise that images have. It holds for ε, v and flow matching alike, all linear in the mean of the
images. At strength α the tilt is α b, so that log-odds are linear in α.

Where groups have words, f_k is the base's answer with the word said, and π is read from the answers themselves. Where
they have none, a head reads π in h-space, and pushes there, as distribution guidance does (arXiv 2402.18206).

What tilt balances a prompt under guidance (CFG) is not computed but tried: before the first step and on the way each
prompt's images are counted, and its b moves by log(τ/p) (Robbins & Monro 1951). Images of the set are only noised.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...debias.core.error import DDMError
from ...debias.groups.weighting import LEAST_SHARE
from ...debias.methods.distribution_guidance import SCALE
from ...debias.methods.h_space_classifier import fit_head
from ..loop.batch_sampler import Batch
from .calibration import Calibration
from .ddm import DDM
from .ddm_run import Progress, Run
from .h_space_classifier import h_space

if TYPE_CHECKING:
    import torch

    from ...debias.methods.h_space_classifier import HSpaceClassifier
    from ..data.caption_table import CaptionTable
    from ..loop.fit import Stop
    from ..models.base import Base

# A group is never so unlikely that its odds could not be raised.
LEAST = 0.02
# Keeps mixture weights near equal ones where the groups are hardly answered differently.
RIDGE = 1e-3
# The most that a timestep counts.
MOST = 20.0
# How often the tilts are set by what the prompts show: before the first step, and on the way.
ROUNDS = 4
# Images of each prompt that are counted in each round, if nothing else is said.
COUNTED = 8


class Teacher(Protocol):
    """Answers for noisy images the odds of whose groups are to be others."""

    def __call__(self, batch: Batch, noisy: "torch.Tensor", t: "torch.Tensor", tilts: "torch.Tensor") -> "torch.Tensor":
        """The answers [B, C, h, w] to noisy latents at timesteps [B], with log-odds further by `tilts` [B, ΣK].

        No LoRA that learns acts on the base meanwhile.
        """


class WordsTeacher:
    """Tilts by what the base answers when each group's word is said.

    Args:
        base: the base.
        captions: with the words of the groups, or of the cells of several attributes, said.
        sizes: how many groups each attribute has.
    """

    def __init__(self, base: "Base", captions: "CaptionTable", sizes: Sequence[int]):
        self.base, self.captions, self.sizes = base, captions, list(sizes)

    def __call__(self, batch: Batch, noisy: "torch.Tensor", t: "torch.Tensor", tilts: "torch.Tensor") -> "torch.Tensor":
        """See `Teacher`."""
        import torch

        said = self.captions.said_by_group[batch.image]
        rows, times = (torch.cat([part, part.repeat_interleave(said.shape[1], 0)]) for part in (noisy, t))
        answers = self.base.predict(rows, times, self.captions.table[np.concatenate([batch.text, said.ravel()])])
        plain, groups = answers[: len(noisy)], answers[len(noisy) :].unflatten(0, said.shape)
        cells = reduce(lambda one, two: (one[:, :, None] + two[:, None]).flatten(1), tilts.split(self.sizes, 1))
        posterior = mixture_weights(plain.flatten(1), groups.flatten(2))
        moved = tilted(posterior, cells) - posterior
        return plain + torch.einsum("bk,bkchw->bchw", moved, groups)


class HeadTeacher:
    """Tilts by a push in h-space, as far as the posteriors of heads move.

    Args:
        base: the base.
        captions: of the rows.
        heads: one for each attribute; each was fitted to groups that count alike.
    """

    def __init__(self, base: "Base", captions: "CaptionTable", heads: "Sequence[HSpaceClassifier]"):
        self.base, self.captions, self.heads = base, captions, heads

    def __call__(self, batch: Batch, noisy: "torch.Tensor", t: "torch.Tensor", tilts: "torch.Tensor") -> "torch.Tensor":
        """See `Teacher`."""
        import torch

        space, shape = self.base.family.h_space(self.base.denoiser), tuple(noisy.shape)
        by_head = tilts.split([len(head.names) for head in self.heads], 1)

        def push(_module: object, _inputs: tuple, output: "torch.Tensor | tuple") -> "torch.Tensor | tuple":
            h = space.read(output, shape)
            shift = torch.zeros_like(h)
            for one in t.unique():
                rows = t == one
                for head, tilt in zip(self.heads, by_head, strict=True):
                    even = head.logits(h[rows], float(one)).softmax(1)
                    # To a head its groups are alike, as they are to be; the prompt's own odds are a tilt away.
                    moved = even - tilted(even, -tilt[rows])
                    shift[rows] += SCALE * head.shift(-moved, h[rows], float(one)).to(h.dtype)
            return space.push(output, h, h + shift, shape)

        handle = space.module.register_forward_hook(push)
        try:
            return self.base.predict(noisy, t, self.captions.table[batch.text])
        finally:
            handle.remove()


class TiltedDDM(DDM):
    """The base with its LoRA, the teacher, and the loss.

    Args:
        teacher: says what is right.
        groups: how many groups all attributes have together.
        given: what `DDM` takes.

    Attributes:
        tilt: [prompts, groups] log-odds that each prompt is to be moved by at α = 1, all attributes in a row.
        rounds: how often the tilt was set.
    """

    def __init__(self, teacher: Teacher, groups: int, *given: Any):
        import torch

        super().__init__(*given)
        self.teacher, self.concept = teacher, self.sampler.weighting.concept
        # Words said are anchors to `BatchSampler` where images teach.
        self.captions = replace(self.captions, said_by_group=None)
        self.sampler = self._sampler(self.sampler.weighting)
        self.tilt = torch.zeros(self.concept.max() + 1, groups, device=self.base.device)
        self.rounds = torch.zeros((), device=self.base.device)
        self.correction_start_step = self.settings.steps

    def state(self) -> "dict[str, torch.Tensor]":
        """The tilts, how often they were set, and what the prompts' shares were before."""
        return super().state() | {"tilt": self.tilt, "rounds": self.rounds}

    def due(self, step: int) -> int:
        """How many rounds there are to be before a step."""
        first, last = self.sampler.style_steps, self.settings.steps
        return sum(first + number * (last - first) // ROUNDS <= step < last for number in range(ROUNDS))

    def loss(
        self, batch: Batch, latents: "torch.Tensor", noise: "torch.Tensor", mask: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        """Each row's (σ/s)² ‖ε(x_t, t, c; α) − ε'‖² with x_t = s x + σ ε: the distance of the images that they mean.

        ε' is the teacher's answer, to explicit prompts and the empty one the base's own. A timestep of much noise
        counts `MOST` at the most. While a style is learnt, the loss is that of `DDM`.
        """
        import torch

        if batch.style:
            return super().loss(batch, latents, noise, mask)
        base, empty = self.base, self.captions.empty
        t = base.moved(torch.as_tensor(batch.timestep))
        noisy, anchor = base.noisy(latents, noise, t), np.where(batch.text == empty, empty, batch.anchor)
        target = torch.empty_like(noisy)
        self._set_alpha(0.0)
        with torch.no_grad():
            if len(kept := np.flatnonzero(anchor >= 0)):
                rows = base.moved(torch.as_tensor(kept))
                target[rows] = base.predict(noisy[rows], t[rows], self.captions.table[anchor[kept]])
            if len(taught := np.flatnonzero(anchor < 0)):
                rows, part = base.moved(torch.as_tensor(taught)), batch[taught]
                concept, alpha = (base.moved(torch.as_tensor(one)) for one in (self.concept[part.image], part.alpha))
                target[rows] = self.teacher(part, noisy[rows], t[rows], alpha[:, None] * self.tilt[concept])
        self._set_alpha(batch.alpha)
        answer = base.predict(noisy, t, self._text(batch.text))
        error = base.family.noise(base, answer, noisy, t) - base.family.noise(base, target, noisy, t)
        signal, spread = np.array([base.rates(one) for one in batch.timestep.tolist()]).T
        counts = np.minimum((spread / np.maximum(signal, 1e-6)) ** 2, MOST).astype(np.float32)
        return error.square().mean((1, 2, 3)) * base.moved(torch.as_tensor(counts))


class TiltedRun(Run):
    """A training in which the model is its own teacher; the set says who is meant."""

    needs_base_shares = False  # a prompt's own are found in the first round
    needs_prompt_shares = True
    _rounds = None  # the objective's, known without waiting for the device

    def _objective(self, captions: "CaptionTable") -> TiltedDDM:
        grouping = self.grouping
        if grouping.weighting.by_indicator:
            raise DDMError(
                f"Nothing is out of balance here, as far as “{self.groups}” can see, so there is nothing that the "
                "model could teach itself. Say what to balance, by words:man|woman or labels:COLUMN.",
                "groups",
                "teacher",
            )
        sizes = [len(part.names) for part in grouping.groups]
        words = captions.said_by_group is not None
        teacher = WordsTeacher(self.base, captions, sizes) if words else HeadTeacher(self.base, captions, self._heads())
        given = self.base, self.images.latents, captions, grouping.weighting, self.settings, self.style is not None
        return TiltedDDM(teacher, sum(sizes), *given, self.ranks)

    def _heads(self) -> "list[HSpaceClassifier]":
        """A head for each attribute, of the groups that were found; errors as in `fit_head`."""
        import torch

        base, captions, seed = self.base, list(self.images.captions), self.settings.seed
        latents = self.images.squares[torch.arange(len(captions))]
        layers = list(h_space(base, latents, captions, seed, lambda *_: None))
        concept = self.grouping.weighting.concept
        return [
            fit_head(
                layers,
                part.membership,
                part.names,
                part.source,
                base.hash,
                seed,
                concept,
                noisy=part.source == "discovered",
            ).to(base.device)
            for part in self.grouping.groups
        ]

    def _adjust(self, stop: "Stop", base_progress: Progress, prompts_progress: Progress) -> bool:
        """Tilt each prompt by what its images lack, where it is time for that; False if that was stopped."""
        import torch

        objective = self.objective
        if self._rounds is None:
            self._rounds = int(objective.rounds)
        round_ = self._rounds
        if round_ >= objective.due(self.training.step):
            return True

        def count(told: Callable[[int, int], None]) -> np.ndarray:
            with self.training.averaged():
                return self._reader(told).shares_at(float(round_ > 0), self.settings.by_prompt or COUNTED, round_)

        shares, complete = self.ranks.agreed(lambda: self._watched(count, stop, prompts_progress))
        if complete:
            goal = np.concatenate([np.maximum(target.shares, LEAST_SHARE) for target in self.grouping.targets])
            further = torch.as_tensor(np.log(goal) - np.log(shares), dtype=torch.float32)
            objective.tilt = objective.tilt + self.base.moved(further)
            objective.rounds = objective.rounds + 1
            self._rounds += 1
            if not round_:
                objective.prompt_group_shares = self.base.moved(torch.as_tensor(shares, dtype=torch.float32))
        return complete

    def _promised_alpha(self) -> float:
        """1, which is what was counted."""
        return 1.0

    def calibrate(self, progress: Progress = None, base_shares: np.ndarray | None = None) -> Calibration | None:
        """None: strength 1 is what was counted."""
        return None


def tilted(posterior: "torch.Tensor", tilt: "torch.Tensor") -> "torch.Tensor":
    """The posterior [B, K] whose log-odds are further by a tilt [B, K]."""
    return (posterior.clamp(min=LEAST).log() + tilt).softmax(1)


def mixture_weights(answer: "torch.Tensor", groups: "torch.Tensor") -> "torch.Tensor":
    """Weights [B, K] of the groups' answers [B, K, D] whose mixture is nearest to an answer [B, D]; none below `LEAST`.

    They are least squares around equal weights, then cut to the simplex.
    """
    import torch

    groups, count = groups.float(), groups.shape[1]
    centre = groups.mean(1, keepdim=True)
    apart = groups - centre
    gram = apart @ apart.transpose(1, 2)
    size = gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    along = apart @ (answer[:, None] - centre).transpose(1, 2)
    ridge = RIDGE * size[:, None, None] * torch.eye(count, device=gram.device)
    weights = 1 / count + torch.linalg.solve(gram + ridge, along)[..., 0]
    weights = weights.clamp(min=LEAST)
    return weights / weights.sum(1, keepdim=True)
