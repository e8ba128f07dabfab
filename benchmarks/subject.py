"""What a base makes images of: people, or digits. Which probes look at them, and what those are fitted to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..training.data.read_folder import read_folder
from ..training.models.model import EMBEDDED
from .digits import PAIRS, labelled, pair_base
from .faces import CONCEPTS, DECADES, labelled_photographs, trained_base
from .recipe import PEOPLE

SIZE = 64


@dataclass(frozen=True)
class Subject:
    """A kind of images.

    Attributes:
        attributes: the probes that look at every image.
        judge: the one of them that tells whether an image shows what was asked for; its features are compared too.
        base: (work folder, device) gives the base's folder, trained if need be.
        labelled: gives images uint8 [N, 64, 64, 3] and the values of an attribute, to fit a probe to.
        probe_steps: what a probe needs to tell them apart.
        shown_by: by concept, the judge's classes that show it; those of the concept's own name where there is none.
    """

    attributes: tuple[str, ...]
    judge: str
    base: Callable[[Path, str], Path]
    labelled: Callable[[str], tuple[np.ndarray, Sequence[str]]]
    probe_steps: int
    shown_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def recognised(self, seen: np.ndarray, concepts: Sequence[str]) -> float:
        """Share of images, as many of each concept in turn, in which the judge sees (classes [N]) the concept."""
        rows = zip(seen.reshape(len(concepts), -1), concepts, strict=True)
        return float(np.mean([np.isin(row, self.shown_by.get(concept, (concept,))) for row, concept in rows]))


def _people(attribute: str) -> tuple[np.ndarray, Sequence[str]]:
    folder = read_folder(PEOPLE)
    return folder.array(SIZE), folder.column(attribute)


PERSONS = Subject(("gender", "skin_tone", "role", "art_style"), "role", lambda work, device: EMBEDDED, _people, 800)


def digits(name: str) -> Subject:
    """The digits of a pair, by its key; the judge tells all ten apart, so that it can see others than these two."""
    pair = PAIRS[name]

    def base(work: Path, device: str) -> Path:
        return pair_base(pair, work / "bases" / name, device)

    return Subject((pair.column, "digit"), "digit", base, labelled, 150, {"digit": pair.digits})


def photographs(name: str) -> Subject:
    """Faces from the "natural" or "sharpened" base; the judge tells decades of age, where a neighbour is right too."""
    near = {decade: DECADES[max(number - 1, 0) : number + 2] for number, decade in enumerate(DECADES)}
    shown = {concept: near[concept.split()[-1]] for concept in CONCEPTS}
    attributes = ("ascribed_gender", "ascribed_race", "decade")
    return Subject(attributes, "decade", lambda work, device: trained_base(name), labelled_photographs, 800, shown)
