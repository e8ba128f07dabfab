"""Distribution guidance (arXiv 2402.18206): pictures are pushed in h-space, while they are made, towards a target.

Nothing here knows a sampler or a host. Whoever runs the model calls `begin` once for the pictures that are made
together, adds what `shift` returns to the output of the U-Net's mid-block for the conditional half at every step, and
calls `end` when the pictures are done. Gradients go through the head alone, and it is linear, so they are closed forms.
"""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .attribute_head import AttributeHead
from .error import DDMError
from .tally import Tally
from .target import Target

if TYPE_CHECKING:
    import torch

MODES = ("queue", "batch")
SCALE = 8.0
# Softmax makes the batch loss's gradient small where the head is sure; so much more lets one scale serve both modes.
BATCH_GAIN = 8.0
# Of the softmax through which single pictures are pushed (the paper's value): a head that is sure must not stop the
# push, since a push in h-space convinces the head before it convinces anyone who looks at the picture.
TEMPERATURE = 8.0
# What a host says of a model without h-space.
NO_UNET = "This model has no U-Net to guide. Use a Stable Diffusion 1.x, 2.x or XL."


class Guidance:
    """Guides pictures of one attribute towards its target.

    Mode `queue` (sample guidance) gives every picture a class and pushes it there. Which classes are wanted next, the
    tally says; which picture gets which of them is decided by optimal transport, so that as little as possible has to
    change. It works with one picture at a time.
    Mode `batch` (distribution guidance) pushes all pictures of a prompt that are made together, as far as their mean
    distribution is off: L = Σ_k (p̂_k − τ_k)² / τ_k.

    Args:
        head: reads h-space.
        target: over the head's classes.
        scale: how far to push; 0 changes nothing. Neither the number of pictures in a batch nor that of steps matters.
        mode: one of MODES.
        tally: counts to go on with; of the same target.

    Raises:
        DDMError: an unknown mode, or a target over other classes.
    """

    def __init__(
        self,
        head: AttributeHead,
        target: Target | None = None,
        scale: float = SCALE,
        mode: str = "queue",
        tally: Tally | None = None,
    ):
        if mode not in MODES:
            raise DDMError(f"The mode of guidance is {' or '.join(MODES)}, not {mode!r}.")
        self.head, self.scale, self.mode = head, scale, mode
        self.target = (target or Target.uniform(head.names)).ordered_as(head.names)
        self.tally = tally or Tally(self.target.shares)
        self._prompts: list[Hashable] = []
        self._logits: np.ndarray | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What a picture that was made with it should remember, as JSON."""
        return {
            "head": self.head.digest,
            "attribute": self.head.attribute,
            "target": str(self.target),
            "scale": self.scale,
            "mode": self.mode,
        }

    def begin(self, prompts: Sequence[Hashable]) -> None:
        """Start pictures: whatever tells the prompt of each apart from others."""
        self._prompts, self._logits = list(prompts), None
        self._wanted = self.tally.wanted(self._prompts)

    def shift(self, h: "torch.Tensor", t: float) -> "torch.Tensor | None":
        """What to add to the conditional half's mid-block output h [B, C, H, W] at timestep t, in its dtype.

        None at scale 0, so that the model computes what it always did.

        Raises:
            DDMError: other pictures than `begin` was told, or a model that the head was not made for.
        """
        import torch

        if len(h) != len(self._prompts):
            raise DDMError(
                f"Guidance was started for {len(self._prompts)} pictures, and the model is asked for {len(h)}. Sample "
                "all pictures of a batch together."
            )
        self._logits = self.head.logits(h, t).double().cpu().numpy()
        if not self.scale:
            return None
        gradient = torch.as_tensor(self.gradient(self._logits), dtype=torch.float32, device=h.device)
        return (self.scale * self.head.shift(gradient, h, t)).to(h.dtype)

    def gradient(self, logits: np.ndarray) -> np.ndarray:
        """The gradient [B, K] of the loss by each picture's own logits, in units of one picture."""
        p = _softmax(logits)
        if self.mode == "queue":
            own = np.eye(p.shape[1])[self._assigned(p)]
            # As hard as −log p_y would push if it were softened, and away from the rivals that the head sees now. Of
            # two classes this is that gradient; of more, it would push away from all alike, and miss those between.
            hard = 1 - (_softmax(logits / TEMPERATURE) * own).sum(1, keepdims=True)
            way = _softmax(np.where(own, -np.inf, logits)) - own
            return hard * way * np.sqrt(2) / np.linalg.norm(way, axis=1, keepdims=True)
        gradient = np.zeros_like(p)
        for rows in self._by_prompt():
            excess = p[rows].mean(0) - self.target.shares
            slope = 2 * excess / np.maximum(self.target.shares, 1 / (4 * len(rows)))
            gradient[rows] = BATCH_GAIN * p[rows] * (slope - (p[rows] * slope).sum(1, keepdims=True))
        return gradient

    def end(self) -> np.ndarray | None:
        """Count the pictures as what the head saw last, and return these classes [B]; None if it saw none."""
        if self._logits is None:
            return None
        classes = self._logits.argmax(1)
        self.tally.add(self._prompts, classes)
        self._prompts, self._logits = [], None
        return classes

    def _assigned(self, p: np.ndarray) -> np.ndarray:
        """The class [B] of each picture: those that are wanted of its prompt, at the least cost −Σ log p."""
        from scipy.optimize import linear_sum_assignment

        classes = np.empty(len(p), dtype=int)
        for rows in self._by_prompt():
            wanted = self._wanted[rows]
            order, slots = linear_sum_assignment(-np.log(np.maximum(p[rows][:, wanted], 1e-12)))
            classes[rows[order]] = wanted[slots]
        return classes

    def _by_prompt(self) -> list[np.ndarray]:
        """Rows of the pictures, prompt by prompt."""
        places: dict[Hashable, list[int]] = {}
        for row, prompt in enumerate(self._prompts):
            places.setdefault(prompt, []).append(row)
        return [np.array(rows) for rows in places.values()]


def guides_for(
    heads: Sequence[AttributeHead], targets: Sequence[str] = (), scale: float = SCALE, mode: str = "queue"
) -> list[Guidance]:
    """Guidance by several heads at once.

    Args:
        heads: one for each attribute.
        targets: one for each head, or none for uniform ones.
        scale: of all of them.
        mode: of all of them.

    Raises:
        DDMError: targets that do not fit, two heads for one attribute, or an unknown mode.
    """
    if targets and len(targets) != len(heads):
        raise DDMError(f"There are {len(targets)} targets for {len(heads)} heads. Give one for each, or none at all.")
    if len({head.attribute for head in heads}) < len(heads):
        raise DDMError("Two of the heads are for one attribute. Give one for each attribute.")
    return [
        Guidance(head, Target.parse(target, head.names), scale, mode)
        for head, target in zip(heads, targets or ["uniform"] * len(heads), strict=True)
    ]


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
