"""A probe checked by eye: what people say of some images, and what that tells of all shares that the probe gives.

Images are drawn by what the probe says of them, equally many of each class, so that P(truth | said) is read from the
answers directly; with how often each class is said, that gives the confusion matrix P(said | truth), by which shares
are corrected (Rogan & Gladen 1978). How sure one can be of it is the posterior of the answers (Dirichlet, Jeffreys'
prior).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import zip_longest
from typing import Any

import numpy as np

from ..core.error import DDMError
from ..core.strict_json import read_json
from ..probes.records import Attribute, EvaluationData
from . import intervals

# Images to look at, and answers that each class needs before shares are corrected (all, if there are fewer images).
IMAGES, FEWEST = 30, 5
DRAWS = 500
UNCLEAR = "unclear"
_KEY = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Question:
    """An image to look at.

    Attributes:
        key: names the image.
        row: its row in the records.
        said: index of the class that the probe says.
    """

    key: str
    row: int
    said: int


@dataclass(frozen=True)
class Answer:
    """What the probe said of an image, and what a person says; `truth` is None where it shows none of the classes."""

    said: str
    truth: str | None


def questions(records: EvaluationData, attribute: Attribute, count: int = IMAGES) -> list[Question]:
    """Images to look at, about equally many that the probe calls each class, the same ones as long as they are there.

    Raises:
        DDMError: the probe was sure of no image, or there are none to show.
    """
    if records.thumbnails is None:
        raise DDMError("There are no images to show. Connect the report of DDM Measure Prompts or DDM Fairness Report.")
    said, by_class = attribute.decided(), [[] for _ in attribute.classes]
    for row in np.flatnonzero(said >= 0):
        key = blake2b(f"{records.thumbnails[row]}{records.seed[row]}".encode(), digest_size=8).hexdigest()
        by_class[said[row]].append(Question(key, int(row), int(said[row])))
    if not any(by_class):
        raise DDMError(
            f"The probe for {attribute.name} was sure of none of these images, so there is nothing to check."
        )
    for own in by_class:
        own.sort(key=lambda one: one.key)
    drawn = [one for place in zip_longest(*by_class) for one in place if one]
    return sorted(drawn[:count], key=lambda one: (one.said, one.key))


def read_answers(text: str, classes: Sequence[str]) -> dict[str, Answer]:
    """Answers as a panel keeps them: {"key": ["said", "truth"]}; those about other classes are left out.

    Raises:
        DDMError: the text is no such thing.
    """
    if not text.strip():
        return {}
    given, known = read_json(text, "What was answered"), {*classes}
    if not isinstance(given, dict) or not all(_is_answer(key, value) for key, value in given.items()):
        raise DDMError("What was answered cannot be read. Empty the field, and answer again.")
    answers = {key: Answer(said, None if truth == UNCLEAR else truth) for key, (said, truth) in given.items()}
    return {key: one for key, one in answers.items() if one.said in known and one.truth in {*known, None}}


def _is_answer(key: str, value: Any) -> bool:
    pair = isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value)
    return pair and _KEY.fullmatch(key) is not None


@dataclass(frozen=True, eq=False)
class Check:
    """What answers tell of a probe.

    Attributes:
        counts: [K, K] answers; row = said, column = truth. Images that show none of the classes are in none.
        unclear: [K] images that show none of the classes, by what was said.
        said: [K] share of the images of which each class was said.
        needed: [K] answers without which nothing is corrected.
    """

    classes: tuple[str, ...]
    counts: np.ndarray
    unclear: np.ndarray
    said: np.ndarray
    needed: np.ndarray

    @classmethod
    def of(cls, attribute: Attribute, answers: Mapping[str, Answer]) -> "Check":
        """Count the answers."""
        place = {name: i for i, name in enumerate(attribute.classes)}
        counts, unclear = np.zeros((len(place), len(place))), np.zeros(len(place))
        for one in answers.values():
            if one.truth is None:
                unclear[place[one.said]] += 1
            else:
                counts[place[one.said], place[one.truth]] += 1
        said = attribute.onehot().sum(0)
        return cls(attribute.classes, counts, unclear, said / max(said.sum(), 1), np.minimum(said, FEWEST))

    @property
    def enough(self) -> bool:
        """Whether every class that the probe says has the answers that a correction needs."""
        return bool(self.counts.sum()) and not (self.counts.sum(1) + self.unclear < self.needed).any()

    @property
    def accuracy(self) -> float:
        """Share of all images of which the probe is right."""
        total = self.counts.sum(1)
        right = np.divide(np.diag(self.counts), total, out=np.zeros_like(total), where=total > 0)
        return float((right * self.said).sum())

    def right(self) -> list[tuple[int, int, float, float]]:
        """Of every class: how many of the images that were called so are, of how many, and the 95% interval."""
        rows = []
        for k, total in enumerate(self.counts.sum(1)):
            low, high = intervals.wilson(self.counts[k, k], total)
            rows.append((int(self.counts[k, k]), int(total), float(low), float(high)))
        return rows

    def confusion(self, precision: np.ndarray | None = None) -> np.ndarray:
        """P(said | truth) [..., K, K], from P(truth | said) [..., K, K]; by default that of the answers."""
        if precision is None:
            total = self.counts.sum(1, keepdims=True)
            precision = np.divide(self.counts, total, out=np.eye(len(total)), where=total > 0)
        joint = np.swapaxes(precision * self.said[:, None], -1, -2)
        total = joint.sum(-1, keepdims=True)
        return np.where(total > 0, joint / np.where(total > 0, total, 1), np.eye(joint.shape[-1]))

    def draws(self, random_seed: int = 0) -> np.ndarray:
        """Confusion matrices [B, K, K] that the answers allow."""
        rng = np.random.default_rng(random_seed)
        return self.confusion(np.stack([rng.dirichlet(row + 0.5, DRAWS) for row in self.counts], axis=1))

    def sentences(self, name: str) -> list[str]:
        """What was found, in words."""
        told = [
            f"of {total} called {one}, {right} are ({100 * low:.0f}–{100 * high:.0f}%)"
            for one, (right, total, low, high) in zip(self.classes, self.right(), strict=True)
            if total
        ]
        said = [f"The probe for {name} was checked by eye on {int(self.counts.sum())} images: {'; '.join(told)}."]
        if self.unclear.sum():
            said.append(f"{int(self.unclear.sum())} more show none of its classes.")
        if not self.enough:
            said.append(f"Shares are corrected when {FEWEST} images of each class are answered.")
        return said


def corrected(records: EvaluationData, answers: Mapping[str, Answer]) -> tuple[EvaluationData, Check]:
    """The records with what answers tell of the probe of their first attribute, so that a report corrects by it."""
    first, *others = records.attributes
    check = Check.of(first, answers)
    if not check.counts.sum():
        return records, check
    notes = [*records.notes, *check.sentences(first.name)]
    if not check.enough:
        return replace(records, notes=notes), check
    first = replace(first, accuracy=check.accuracy, confusion=check.confusion(), confusion_draws=check.draws())
    return replace(records, attributes=[first, *others], notes=notes), check
