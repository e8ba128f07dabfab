"""α as one asks for it in a web UI: over the course of sampling, and for each image of a run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..debias.adapter.alpha_schedule import AlphaSchedule, make_schedule
from ..debias.core.error import DDMError

# The model's timesteps: the first one of sampling is pure noise.
TIMESTEPS = 1000
# How an image's infotext names the settings.
ALPHA, SHAPE, END, SWITCH, POINTS = "DDM alpha", "DDM schedule", "DDM alpha end", "DDM switch", "DDM points"
SETTINGS = (ALPHA, SHAPE, END, SWITCH, POINTS)


@dataclass(frozen=True)
class Dial:
    """The strengths of a run.

    Attributes:
        schedules: one for all images, or several: image i has the one of i modulo their number.
        settings: what each of them says in an infotext, by its name in `SETTINGS`.
    """

    schedules: tuple[AlphaSchedule, ...]
    settings: tuple[Mapping[str, str], ...]

    @classmethod
    def of(cls, alphas: Sequence[float], shape: str, end: float, switch: float, points: str) -> "Dial":
        """The dial that α (one, or one for each image) and the settings of a schedule describe.

        Raises:
            DDMError: no α, one out of range, an unknown shape, points that cannot be read, or several α with points,
                which say α themselves.
        """
        if shape == "custom" and len(alphas) > 1:
            raise DDMError("The points of a custom schedule say α already: leave α per image empty, or take a ramp.")
        if not alphas:
            raise DDMError("There is no α. Write one, or several such as 0, .5, 1.")
        schedules, settings = [], []
        for alpha in alphas:
            schedules.append(make_schedule(shape, alpha, end, switch, points))
            said = {SHAPE: shape, POINTS: points.strip()} if shape == "custom" else {ALPHA: f"{alpha:g}", SHAPE: shape}
            said |= {END: f"{end:g}"} if shape in ("ramp", "early") else {}
            said |= {SWITCH: f"{switch:g}"} if shape == "early" else {}
            settings.append({name: value for name, value in said.items() if value != "constant"})
        return cls(tuple(schedules), tuple(settings))

    @property
    def constant(self) -> float | None:
        """α, if it is the same for all images all the time."""
        values = {alpha for one in self.schedules for _, alpha in one.points}
        return values.pop() if len(values) == 1 else None

    def label(self, image: int) -> str:
        """What a report says of the schedule of an image that has no single α; empty for one that has."""
        said = self.settings[image % len(self.settings)]
        named = {name.removeprefix("DDM ").removeprefix("schedule"): value for name, value in said.items()}
        return ", ".join(f"{name} {value}".strip() for name, value in named.items()) if SHAPE in said else ""

    def alpha(self, image: int) -> float:
        """α of an image at the start."""
        return self.schedules[image % len(self.schedules)].at(0.0)

    def infotext(self, name: str, images: int) -> str | list[str | None] | None:
        """What the infotexts of so many images say of a setting: the same for all, or one for each; None for none."""
        values = [self.settings[i % len(self.settings)].get(name) for i in range(images)]
        return values[0] if len(set(values)) == 1 else values

    def strengths(self, timestep: float, rows: int, images: Sequence[int]) -> list[float]:
        """α of each row of a call of the U-Net, which sees the images of a batch once or several times in a row.

        Args:
            timestep: of the call, TIMESTEPS − 1 for pure noise and 0 for the finished image.
            rows: of the call, a multiple of the images.
            images: their numbers in the run.

        Raises:
            DDMError: the rows are no multiple of the images.
        """
        copies, rest = divmod(rows, len(images))
        if rest:
            raise DDMError(
                f"The model is asked for {rows} images at once in a batch of {len(images)}, so which of them has "
                "which α cannot be told. Use one α for all of them."
            )
        position = min(max(1 - timestep / (TIMESTEPS - 1), 0.0), 1.0)
        return [self.schedules[i % len(self.schedules)].at(position) for i in images] * copies


def parse_alphas(text: str) -> list[float]:
    """Read numbers such as `0, .5, 1`.

    Raises:
        DDMError: a part that is no number.
    """
    alphas = []
    for part in filter(None, (one.strip() for one in text.replace(";", ",").split(","))):
        try:
            alphas.append(float(part))
        except ValueError:
            alphas.append(math.nan)
        if not math.isfinite(alphas[-1]):
            raise DDMError(f"{part!r} is no α. Write numbers with a point as decimal sign, such as 0, .5, 1.")
    return alphas
