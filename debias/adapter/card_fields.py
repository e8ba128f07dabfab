"""What the JSON values in an adapter's card hold; keys that are not named here are allowed, and ignored."""

from typing import TypedDict


class Predicted(TypedDict):
    """A point of the predicted curve: shares of the groups, distance to the target, effective share of the images."""

    alpha: float
    shares: list[float]
    fd: float
    ess: float


class Worst(TypedDict):
    """The prompt furthest from the target, and the class furthest above its target there."""

    prompt: str
    group: str
    share: float


class _Point(TypedDict):
    alpha: float
    images: int
    shares: list[float | None]
    fd: float | None
    fd_high: float | None
    floor_high: float | None


class Point(_Point, total=False):
    """What was measured at one α."""

    worst_prompt: Worst | None


class _Measurement(TypedDict):
    attribute: str
    classes: list[str]
    prompts: int
    steps: int
    cfg: float
    recommended_alpha: float | None
    points: list[Point]


class Measurement(_Measurement, total=False):
    """What a sweep measured."""

    probe_accuracy: float | None


class Found(TypedDict):
    """Groups that a training found, or was told, with their shares of the images."""

    source: str
    shares: dict[str, float]


class CalibratedOn(TypedDict):
    """Where a calibration's images were made: a model by its file's name, sampling steps, guidance scale."""

    model: str
    steps: int
    cfg: float


class _Scale(TypedDict):
    scale: float


class Scale(_Scale, total=False):
    """What a calibration found."""

    on: CalibratedOn


class LastLook(TypedDict):
    """FD by prompt without the adapter and at α = 1, at noises that nothing was chosen by; what speaks against it."""

    before: float
    after: float
    harm: str


class Training(TypedDict, total=False):
    """What a training was given and found; its settings beside this may be any JSON."""

    images: int
    fingerprint: str
    text_encoder: bool
    found: list[Found]
    calibration: Scale | None
    last_look: LastLook | None
