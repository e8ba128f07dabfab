"""Distribution guidance (arXiv 2402.18206): images are pushed in h-space, while they are made, towards a target.

Nothing here knows a sampler or a host. Whoever runs the model calls `begin` once for the images that are made
together, adds what `shift` returns to the output of the U-Net's mid-block for the conditional half at every step, and
calls `end` when the images are done. Gradients go through the head alone, and it is linear, so they are closed forms.

A prompt that says itself who is meant ("a woman doctor") is left alone: its images are neither pushed nor counted.
"""

import re
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from ..core.error import DDMError
from ..groups.synonyms import telling_words
from ..groups.target import Target
from .class_counts import ClassCounts
from .h_space_classifier import HSpaceClassifier

if TYPE_CHECKING:
    import torch

MODES = ("queue", "batch")
SCALE = 8.0
# Softmax makes the batch loss's gradient small where the head is sure; so much more lets one scale serve both modes.
BATCH_GAIN = 8.0
TEMPERATURE = 8.0  # the paper's; see `temperature`
# What a host says of a model without h-space.
NO_UNET = "This model has no U-Net to guide. Use a Stable Diffusion 1.x, 2.x or XL."


class Guidance:
    """Guides images of one attribute towards its target.

    Mode `queue` (sample guidance) gives every image a class and pushes it there. Which classes are wanted next, the
    tally says; which image gets which of them is decided by optimal transport, so that as little as possible has to
    change. It works with one image at a time.
    Mode `batch` (distribution guidance) pushes all images of a prompt that are made together, as far as their mean
    distribution is off: L = Σ_k (p̂_k − τ_k)² / τ_k.

    Args:
        head: reads h-space.
        target: over the head's classes.
        scale: how far to push; 0 changes nothing. Neither the number of images in a batch nor that of steps matters.
        mode: one of MODES.
        tally: counts to go on with; of the same target.
        words: prompts that say one of them, in whatever case, are left alone; None: the head's own, and what says the
            same (`telling_words`).

    Raises:
        DDMError: an unknown mode, or a target over other classes.
    """

    def __init__(
        self,
        head: HSpaceClassifier,
        target: Target | None = None,
        scale: float = SCALE,
        mode: str = "queue",
        tally: ClassCounts | None = None,
        words: Sequence[str] | None = None,
    ):
        if mode not in MODES:
            raise DDMError(f"The mode of guidance is {' or '.join(MODES)}, not {mode!r}.")
        self.head, self.scale, self.mode = head, scale, mode
        self.target = (target or Target.uniform(head.names)).ordered_as(head.names)
        self.tally = tally or ClassCounts(self.target.shares)
        self.words = tuple(head.words if words is None else words)
        saying = telling_words(head.words) if words is None else self.words
        listed = "|".join(map(_whole, sorted(saying, key=len, reverse=True)))
        self._saying = re.compile(listed, re.IGNORECASE) if listed else None
        self._prompts: list[Hashable] = []
        self._guided = np.array([], dtype=int)
        self._logits: np.ndarray | None = None
        self._temperature = TEMPERATURE

    @property
    def facts(self) -> dict[str, Any]:
        """What an image that was made with it should remember, as JSON."""
        return {
            "head": self.head.digest,
            "attribute": self.head.attribute,
            "target": str(self.target),
            "scale": self.scale,
            "mode": self.mode,
            "words": list(self.words),
        }

    def said(self, prompt: Hashable) -> str:
        """The word by which a prompt says who is meant, as it stands there; empty if there is none, or no text."""
        found = self._saying.search(prompt) if self._saying and isinstance(prompt, str) else None
        return found.group() if found else ""

    def begin(self, prompts: Sequence[Hashable], together: int = 1) -> None:
        """Start images.

        Args:
            prompts: of each, or whatever tells it apart from others where its text is not known.
            together: attributes that are guided at once: the more, the sooner each lets go of an image.
        """
        self._prompts, self._logits, self._temperature = list(prompts), None, temperature(together)
        self._guided = np.array([row for row, prompt in enumerate(self._prompts) if not self.said(prompt)], dtype=int)
        guided = [self._prompts[row] for row in self._guided]
        self._wanted = self.tally.wanted(guided, seed=int(self.head.digest, 16))

    def shift(self, h: "torch.Tensor", t: float) -> "torch.Tensor | None":
        """What to add to the conditional half's mid-block output h [B, C, H, W] at timestep t, in its dtype.

        None at scale 0 and where every prompt is left alone, so that the model computes what it always did.

        Raises:
            DDMError: other images than `begin` was told, or a model that the head was not made for.
        """
        import torch

        if len(h) != len(self._prompts):
            raise DDMError(
                f"Guidance was started for {len(self._prompts)} images, and the model is asked for {len(h)}. Sample "
                "all images of a batch together."
            )
        self._logits = self.head.logits(h, t).double().cpu().numpy()
        if not self.scale or not len(self._guided):
            return None
        gradient = torch.as_tensor(self.gradient(self._logits), dtype=torch.float32, device=h.device)
        return (self.scale * self.head.shift(gradient, h, t)).to(h.dtype)

    def gradient(self, logits: np.ndarray) -> np.ndarray:
        """The gradient [B, K] of the loss by each image's own logits, in units of one image."""
        gradient = np.zeros(logits.shape)
        gradient[self._guided] = self._gradient(logits[self._guided])
        return gradient

    def _gradient(self, logits: np.ndarray) -> np.ndarray:
        """The same of the images that are guided."""
        p = softmax(logits, 1)
        if self.mode == "queue":
            own = np.eye(p.shape[1])[self._assigned(p)]
            # As hard as −log p_y would push if it were softened, and away from the rivals that the head sees now. Of
            # two classes this is that gradient; of more, it would push away from all alike, and miss those between.
            hard = 1 - (softmax(logits / self._temperature, 1) * own).sum(1, keepdims=True)
            way = softmax(np.where(own, -np.inf, logits), 1) - own
            return hard * way * np.sqrt(2) / np.linalg.norm(way, axis=1, keepdims=True)
        gradient = np.zeros_like(p)
        for rows in self._by_prompt():
            excess = p[rows].mean(0) - self.target.shares
            slope = 2 * excess / np.maximum(self.target.shares, 1 / (4 * len(rows)))
            gradient[rows] = BATCH_GAIN * p[rows] * (slope - (p[rows] * slope).sum(1, keepdims=True))
        return gradient

    def end(self) -> np.ndarray | None:
        """Count the images as what the head saw last, and return these classes [B]; None if it saw none."""
        if self._logits is None:
            return None
        classes = self._logits.argmax(1)
        self.count(self._prompts, classes)
        self._prompts, self._logits = [], None
        return classes

    def count(self, prompts: Sequence[Hashable], classes: Sequence[int]) -> None:
        """Count images that are done, but for those whose prompts are left alone."""
        own = [(prompt, index) for prompt, index in zip(prompts, classes, strict=True) if not self.said(prompt)]
        self.tally.add([prompt for prompt, _ in own], [index for _, index in own])

    def _assigned(self, p: np.ndarray) -> np.ndarray:
        """The class of each image that is guided: those that are wanted of its prompt, at the least cost −Σ log p."""
        from scipy.optimize import linear_sum_assignment

        classes = np.empty(len(p), dtype=int)
        for rows in self._by_prompt():
            wanted = self._wanted[rows]
            order, slots = linear_sum_assignment(-np.log(np.maximum(p[rows][:, wanted], 1e-12)))
            classes[rows[order]] = wanted[slots]
        return classes

    def _by_prompt(self) -> list[np.ndarray]:
        """Rows among the images that are guided, prompt by prompt."""
        places: dict[Hashable, list[int]] = {}
        for row, place in enumerate(self._guided):
            places.setdefault(self._prompts[place], []).append(row)
        return [np.array(rows) for rows in places.values()]


def begin_together(guides: Sequence[Guidance], prompts: Sequence[Hashable]) -> None:
    """Start the same images with several attributes; those of scale 0 do not count."""
    together = sum(bool(guide.scale) for guide in guides)
    for guide in guides:
        guide.begin(prompts, together)


def _whole(word: str) -> str:
    """Pattern of a whole word, also of one in a tag, where others are joined to it: “1girl”, “old_man”."""
    before = r"(?<![^\W_])" if word[:1].isdigit() else r"(?<![^\W\d_])"
    return rf"{before}{re.escape(word)}(?![^\W_])"


def temperature(together: int) -> float:
    """Of the softmax through which single images are pushed, where so many heads guide them at once.

    A head that is sure must not stop the push, since a push in h-space convinces the head before it convinces anyone
    who looks at the image. Several heads share it, or together they would push images so far that these lose their
    subject.
    """
    return TEMPERATURE / max(1, together)


def guides_for(
    heads: Sequence[HSpaceClassifier],
    targets: Sequence[str] = (),
    scale: float = SCALE,
    mode: str = "queue",
    words: Sequence[str] = (),
) -> list[Guidance]:
    """Guidance by several heads at once.

    Args:
        heads: one for each attribute.
        targets: one for each head, or none for uniform ones.
        scale: of all of them.
        mode: of all of them.
        words: as `read_words` takes them, one text for each head; none for the heads' own.

    Raises:
        DDMError: targets or words that do not fit, two heads for one attribute, or an unknown mode.
    """
    for what, given in (("targets", targets), ("lists of words", words)):
        if given and len(given) != len(heads):
            raise DDMError(f"There are {len(given)} {what} for {len(heads)} heads. Give one for each, or none at all.")
    if len({head.attribute for head in heads}) < len(heads):
        raise DDMError("Two of the heads are for one attribute. Give one for each attribute.")
    return [
        Guidance(head, Target.parse(target, head.names), scale, mode, words=read_words(listed))
        for head, target, listed in zip(
            heads, targets or ["uniform"] * len(heads), words or [""] * len(heads), strict=True
        )
    ]


def read_words(text: str) -> list[str] | None:
    """Read "man, woman, boy"; None, for the head's own, if the text is empty, and no word at all for "-"."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    return [] if words == ["-"] else words or None
