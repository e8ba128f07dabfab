"""The audit of a set of images as one object: what is in it, and what balancing it would cost."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ..core.strict_json import write_json
from .report import Estimate, Thumbnail

FORMAT = 1


@dataclass(frozen=True)
class AuditedGroup:
    """One group: how many images (a sum of probabilities), its share, its target, and the surest images of it.

    `target` is None for a third of an indicator's log-weight; `weight` is the mean weight of its images at α = 1.
    """

    name: str
    images: float
    share: Estimate
    target: float | None
    weight: float
    examples: list[Thumbnail]


@dataclass(frozen=True)
class ConceptRow:
    """A concept (or the captions with few images, together) and how many of its images are in each group."""

    name: str
    images: int
    counts: list[float]


@dataclass(frozen=True)
class AuditedAttribute:
    """One attribute of the set: its groups, how well they can be told apart, and what the weights promise for it.

    `shares` [A, K] and `distance` [A] belong to the α of the audit's curve, as means over concepts. `doubtful` are the
    images between two groups. `concepts` come furthest from the target first. Everything about targets is empty
    where an indicator weighs the images.
    """

    name: str
    source: str
    groups: list[AuditedGroup]
    undetermined: int
    reliability: float | None
    gain: float | None
    shares: list[list[float]]
    distance: list[float]
    recommended: float
    reached: bool
    concepts: list[ConceptRow]
    doubtful: list[Thumbnail]


@dataclass(frozen=True)
class Tried:
    """An attribute that `auto` tried: whether the model can tell its words apart here, and whether it is balanced."""

    attribute: str
    words: list[str]
    reliability: float
    gain: float
    told_apart: bool
    shares: list[float] | None
    used: bool


@dataclass(frozen=True)
class Price:
    """What balance costs over α [A]: the images that the set counts as (its effective sample size), and how many
    times as often as the third of lowest weight the third of highest weight is drawn."""

    alphas: list[float]
    images: list[float]
    ratio: list[float]

    def at(self, alpha: float) -> int:
        """Effective images at the α nearest to this one."""
        nearest = min(range(len(self.alphas)), key=lambda i: abs(self.alphas[i] - alpha))
        return round(self.images[nearest])


@dataclass(frozen=True)
class SkippedFile:
    """A file that is not used, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Audit:
    """Everything that an audit says. Made by `inspection.inspect`."""

    title: str
    summary: str
    advice: str
    remarks: list[str]
    source: str
    images: int
    captions: int
    attributes: list[AuditedAttribute]
    tried: list[Tried]
    price: Price
    recommended: float
    rare: list[Thumbnail]
    common: list[Thumbnail]
    skipped: list[SkippedFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def by_indicator(self) -> bool:
        """Whether an indicator weighs the images, and not groups with a name."""
        return all(group.target is None for one in self.attributes for group in one.groups)

    def to_dict(self, images: bool = True) -> dict[str, Any]:
        """Plain lists and dictionaries; without `images`, thumbnails keep their captions only."""
        data = {"format": FORMAT, **asdict(self)}
        return data if images else _without_images(data)

    def to_json(self, images: bool = True) -> str:
        """Strict JSON (no NaN)."""
        return write_json(self.to_dict(images), indent=1)


def _without_images(data: Any) -> Any:
    if isinstance(data, dict):
        return data["caption"] if set(data) == {"uri", "caption"} else {k: _without_images(v) for k, v in data.items()}
    return [_without_images(value) for value in data] if isinstance(data, list) else data
