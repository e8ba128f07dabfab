"""The fairness report as one object: numbers and thumbnails that become JSON, a page or a chart."""

import types
import typing
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

import numpy as np

from ..core.error import DDMError, printable
from ..core.strict_json import fits, read_json, write_json

FORMAT = 2


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval; None where nothing could be counted."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, value: float, low: float, high: float) -> "Estimate":
        """Of plain floats; the interval is made to hold the value."""
        if not np.isfinite(value):
            return cls(None)
        return cls(finite(value), finite(min(low, value)), finite(max(high, value)))


def finite(value: float) -> float | None:
    """A plain float, or None for what is not finite (JSON has no NaN)."""
    return float(value) if np.isfinite(value) else None


def estimates(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[Estimate]:
    """Several values with their bounds, all [K]."""
    return [Estimate.of(*one) for one in zip(values, low, high, strict=True)]


@dataclass(frozen=True)
class Setting:
    """One condition: label, adapter strength, guidance scale, number of images, and what else they were made with."""

    label: str
    alpha: float | None
    cfg: float | None
    images: int
    made: str = ""


@dataclass(frozen=True)
class WorstPrompt:
    """The prompt furthest from the target, its distance, and the class furthest above its target with its share."""

    prompt: str
    fd: float
    group: str
    share: float


@dataclass(frozen=True)
class Shift:
    """How far an attribute's shares moved from α = 0, as a share of a prompt's images (total variation).

    `mean` is over the prompts, `floor` what images of a model that nothing moved would show; `worst` the prompt that
    moved most, by `worst_shift`.
    """

    mean: float
    floor: float
    worst: str
    worst_shift: float

    @property
    def beyond_chance(self) -> float:
        """What is left of the mean without the noise, whose squares add."""
        return max(self.mean**2 - self.floor**2, 0.0) ** 0.5


@dataclass(frozen=True)
class Recommendation:
    """The α to use at a guidance scale (None where the images cannot tell), and why, in a sentence."""

    cfg: float | None
    alpha: float | None
    reason: str


@dataclass(frozen=True)
class Diversity:
    """How different the images of one group are within a prompt, as means over the prompts that have enough.

    `vendi` is the Vendi score of ten images (1: all alike, 10: all different), `distance` the mean cosine distance of
    two images.
    """

    condition: int
    group: str
    vendi: float
    distance: float
    prompts: int


@dataclass(frozen=True)
class Overall:
    """An attribute under one condition, averaged over the prompts.

    `fd` is *FD by prompt*, the mean of the prompts' distances to the target: it alone decides the verdict, and `worst`
    stands beside it. `fd_of_mean` is the distance of the mean shares, which opposite prompts cancel; `floor` and
    `floor_high` are what a perfectly fair model scores as `fd` with as many images (mean, 95th percentile). `change` is
    the parity difference to the base condition, per class; `prompt_gap` the largest one between two prompts. Distances
    of an attribute without a target are to its shares under the base condition, and `shift` is how far it moved. Of the
    undetermined images, `unlike` are unlike those that the probe was made for.
    """

    condition: int
    images: int
    undetermined: int
    shares: list[Estimate]
    corrected: list[Estimate] | None
    change: list[Estimate]
    fd: Estimate
    worst: WorstPrompt | None
    fd_of_mean: Estimate
    floor: float | None
    floor_high: float | None
    pairwise_bias: Estimate
    parity_gap: Estimate
    kl: float | None
    normalised_entropy: float | None
    effective_groups: float | None
    prompt_gap: float | None
    verdict: str
    drift: str | None
    shift: Shift | None
    unlike: int = 0


@dataclass(frozen=True)
class PromptRow:
    """An attribute under one condition and prompt; shares with Wilson intervals."""

    condition: int
    prompt: str
    images: int
    undetermined: int
    counts: list[int]
    shares: list[Estimate]
    fd: float | None
    floor: float | None
    pairwise_bias: float | None
    parity_gap: float | None
    kl: float | None
    normalised_entropy: float | None
    effective_groups: float | None
    verdict: str


@dataclass(frozen=True)
class Measured:
    """One attribute: the probe it was read with, the overall figures per condition, the prompts worst first."""

    name: str
    classes: list[str]
    target: list[float]
    targeted: bool
    accuracy: float | None
    confusion: list[list[float]] | None
    overall: list[Overall]
    prompts: list[PromptRow]
    made_for: str = ""


@dataclass(frozen=True)
class Intersection:
    """Two attributes at once under one condition: shares [Ka][Kb], those expected, the cell furthest below."""

    condition: int
    attributes: list[str]
    rows: list[str]
    columns: list[str]
    shares: list[list[Estimate]]
    expected: list[list[float]]
    worst: list[int]
    images: int


@dataclass(frozen=True)
class Quality:
    """Quality of one condition: KID to a reference, distance to the base's image of each seed, recognition."""

    condition: int
    kid: float | None = None
    kid_spread: float | None = None
    kid_reference: str = ""
    paired_distance: float | None = None
    paired_images: int = 0
    recognised: Estimate | None = None


@dataclass(frozen=True)
class Thumbnail:
    """A small image as a data URI (empty if it could not be read) with the words that describe it."""

    uri: str
    caption: str


@dataclass(frozen=True)
class Sheet:
    """Same prompt, one row for each condition, one column for each seed."""

    title: str
    rows: list[str]
    images: list[list[Thumbnail]]


@dataclass(frozen=True)
class Cluster:
    """Images that look alike, without a name: share under every condition and the most typical ones."""

    images: int
    shares: list[Estimate]
    examples: list[Thumbnail]


@dataclass(frozen=True)
class FairnessReport:
    """Everything that a report says. Made by `measurement.build_report`."""

    title: str
    summary: str
    remarks: list[str]
    margin: float
    confidence: float
    base: int
    after: int
    prompts: int
    conditions: list[Setting]
    attributes: list[Measured]
    fidelity: str = ""
    intersections: list[Intersection] = field(default_factory=list)
    quality: list[Quality] = field(default_factory=list)
    diversity: list[Diversity] = field(default_factory=list)
    recommendations: list[Recommendation] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    clusters: list[Cluster] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Images of all conditions."""
        return sum(one.images for one in self.conditions)

    def recommendation(self, cfg: float | None = None) -> Recommendation:
        """The α to use at a guidance scale; a report of one scale does not name it."""
        known = {one.cfg: one for one in self.recommendations}
        return known.get(cfg) or known.get(None) or Recommendation(cfg, None, "No α was measured at this scale.")

    def to_dict(self, images: bool = True) -> dict[str, Any]:
        """Plain lists and dictionaries; without `images`, thumbnails keep their captions only."""
        data = {"format": FORMAT, **asdict(self)}
        return data if images else _without_images(data)

    def to_json(self, images: bool = True) -> str:
        """Strict JSON (no NaN), read back by `from_json`."""
        return write_json(self.to_dict(images), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "FairnessReport":
        """The report that `to_json` wrote.

        Raises:
            DDMError: the text is no report, or one of another version.
        """
        try:
            data = read_json(text, "It")
            written = int(data.pop("format"))
        except (DDMError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _no_report(error) from error
        if written != FORMAT:
            newer = written > FORMAT
            raise DDMError(
                f"This report was written by {'a newer' if newer else 'an older'} version. "
                + ("Update, then open it again." if newer else "Write it again.")
            )
        try:
            return _rebuild(cls, data)
        except (DDMError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _no_report(error) from error


def _no_report(error: Exception) -> DDMError:
    return DDMError(f"This is not a fairness report ({error}). Write it again.")


def _without_images(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: "" if key == "uri" else _without_images(value) for key, value in data.items()}
    return [_without_images(value) for value in data] if isinstance(data, list) else data


def _rebuild(kind: Any, data: Any) -> Any:
    """Undo `asdict` by the type hints: dataclasses, lists of them, and optional ones."""
    if isinstance(kind, types.UnionType):
        return None if data is None else _rebuild(next(k for k in kind.__args__ if k is not types.NoneType), data)
    if typing.get_origin(kind) is list:
        if not isinstance(data, list):
            raise TypeError("a list is missing")
        return [_rebuild(kind.__args__[0], value) for value in data]
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _rebuild(hints[name], value) for name, value in data.items()})
    if not fits(data, kind):
        raise TypeError(f"{printable(repr(data), 80)} is out of place")
    return data
