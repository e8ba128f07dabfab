"""What a report is made from: images with their prompt, seed and condition, and what a probe says of them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..core.error import DDMError
from ..groups.target import Target

CONFIDENCE = 0.6


@dataclass(frozen=True)
class Condition:
    """One setting that images were made with.

    Attributes:
        alpha: strength of the adapter, None if it does not apply.
        cfg: guidance scale, where it tells conditions apart.
        made: what else they were made with, where it tells conditions apart: `checkpoint a, adapter b`.
        name: a name to show in place of all these.
    """

    alpha: float | None = None
    cfg: float | None = None
    name: str = ""
    made: str = ""

    @property
    def label(self) -> str:
        """`α = 0.5`, `α = 0.5, CFG 3`, or the name."""
        parts = [] if self.alpha is None else [f"α = {self.alpha:g}"]
        parts += [] if self.cfg is None else [f"CFG {self.cfg:g}"]
        return self.name or ", ".join([*parts, *filter(None, [self.made])]) or "images"

    def beside(self, other: "Condition") -> bool:
        """Whether nothing but α can tell the two apart, so that they are points of one curve."""
        return (self.cfg, self.made) == (other.cfg, other.made)


@dataclass(frozen=True, eq=False)
class Attribute:
    """What a probe says of all images.

    Attributes:
        name: as in `gender`, always as *perceived* by the probe.
        classes: the K class names.
        probabilities: [N, K], rows sum to 1. A row of zeros or NaN is undetermined; NaN says that the image is unlike
            those that the probe was made for.
        target: the shares asked for; None for an attribute that should stay as it was.
        accuracy: the probe's share of right answers on images kept from it, 0 to 1.
        confusion: [K, K], rows are the true classes.
        made_for: which images the probe was made for, in words.
        confusion_draws: [B, K, K], what else `confusion` may be, where it is known from few images.
    """

    name: str
    classes: tuple[str, ...]
    probabilities: np.ndarray
    target: Target | None = None
    accuracy: float | None = None
    confusion: np.ndarray | None = None
    made_for: str = ""
    confusion_draws: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "probabilities", np.asarray(self.probabilities, dtype=np.float64))
        if self.probabilities.ndim != 2 or self.probabilities.shape[1] != len(self.classes):
            raise DDMError(
                f"The probe for '{self.name}' gives probabilities {list(self.probabilities.shape)}, "
                f"which is not one for each of its {len(self.classes)} classes."
            )
        if self.target is not None:
            object.__setattr__(self, "target", self.target.ordered_as(self.classes))

    @property
    def unlike(self) -> np.ndarray:
        """Which images [N] are unlike those that the probe was made for."""
        return np.isnan(self.probabilities).any(1)

    def decided(self, confidence: float = CONFIDENCE) -> np.ndarray:
        """Class indices [N]; −1 where no probability reaches `confidence` (undetermined)."""
        probabilities = np.nan_to_num(self.probabilities, nan=0.0)
        surest = probabilities.max(1)
        return np.where((surest >= confidence) & (surest > 0), probabilities.argmax(1), -1)

    def onehot(self, confidence: float = CONFIDENCE) -> np.ndarray:
        """Indicators [N, K]; rows of zeros where undetermined."""
        return (self.decided(confidence)[:, None] == np.arange(len(self.classes))).astype(np.float64)


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """Plain arrays over N images.

    Attributes:
        prompts: the P prompts.
        conditions: the C conditions, in the order to show them.
        prompt: [N] indices into `prompts`.
        condition: [N] indices into `conditions`.
        seed: [N] integers; images of one seed share their noise.
        attributes: one for each probe.
        features: [N, D] or None.
        paths: a file for each image, for the contact sheets, or None.
        notes: remarks for the page.
        thumbnails: in place of files, a data URI for each image (see `contact_sheet.thumbnail`), or None.
        names: what to call each image in a caption; `seed N` without.
    """

    prompts: Sequence[str]
    conditions: Sequence[Condition]
    prompt: np.ndarray
    condition: np.ndarray
    seed: np.ndarray
    attributes: Sequence[Attribute]
    features: np.ndarray | None = None
    paths: Sequence[str | os.PathLike | None] | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    thumbnails: Sequence[str] | None = None
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not len(self.prompt):
            raise DDMError("There are no images to report on. Give a folder with images in it.")
        if not self.attributes:
            raise DDMError("A report needs a probe: something that says who is in an image.")
        columns = {"condition": self.condition, "seed": self.seed, "features": self.features, "paths": self.paths}
        columns |= {"thumbnails": self.thumbnails, "names": self.names}
        columns |= {attribute.name: attribute.probabilities for attribute in self.attributes}
        for name, column in columns.items():
            if column is not None and len(column) != len(self.prompt):
                raise ValueError(f"{name} has {len(column)} rows for {len(self.prompt)} images")

    @classmethod
    def of(
        cls,
        prompt: Sequence[str],
        attributes: Sequence[Attribute],
        condition: Sequence[Condition] | None = None,
        seed: Sequence[int] | None = None,
        **rest: object,
    ) -> "EvaluationData":
        """Make records from one prompt, condition and seed per image.

        Conditions are ordered by guidance scale, by what else they were made with, and by α. Without seeds every image
        is its own.
        """
        conditions = list(condition) if condition is not None else [Condition()] * len(prompt)
        order = sorted(dict.fromkeys(conditions), key=lambda c: (c.cfg or 0, c.made, c.alpha or 0))
        names = list(dict.fromkeys(prompt))
        place = {name: i for i, name in enumerate(names)}
        rank = {one: i for i, one in enumerate(order)}
        return cls(
            names,
            order,
            np.array([place[one] for one in prompt], dtype=np.int64),
            np.array([rank[one] for one in conditions], dtype=np.int64),
            np.arange(len(prompt)) if seed is None else np.asarray(seed, dtype=np.int64),
            attributes,
            **rest,
        )

    @cached_property
    def base(self) -> int:
        """The condition that others are compared with: α = 0, or the first."""
        return next((i for i, one in enumerate(self.conditions) if one.alpha == 0), 0)

    @cached_property
    def after(self) -> int:
        """The condition that the summary speaks of: α = 1 beside the base, or the last one there.

        Where there is none beside it, the last of all.
        """
        base = self.conditions[self.base]
        same = [i for i, one in enumerate(self.conditions) if one.beside(base)]
        if len(same) == 1:
            same = list(range(len(self.conditions)))
        return next((i for i in same if self.conditions[i].alpha == 1), same[-1])

    def reference(self, condition: int) -> int:
        """The condition that this one is compared with: α = 0 beside it, or else the base."""
        own = self.conditions[condition]
        same = (i for i, one in enumerate(self.conditions) if one.alpha == 0 and one.beside(own))
        return next(same, self.base)

    def pairs(self, condition: int) -> np.ndarray:
        """Rows [M, 2] of an image and the base condition's image of the same prompt and seed."""
        of_base = {
            (self.prompt[i], self.seed[i]): i for i in np.flatnonzero(np.asarray(self.condition) == self.base)[::-1]
        }
        rows = [
            (i, of_base[key])
            for i in np.flatnonzero(np.asarray(self.condition) == condition)
            if (key := (self.prompt[i], self.seed[i])) in of_base
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, 2)
