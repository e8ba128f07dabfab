"""The strength α of an adapter over the course of sampling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.error import DDMError

# How far α goes in training.
ALPHA_MAX = 1.5
# What the sliders of the nodes allow.
LOWEST, HIGHEST = -1.0, 2.0
SHAPES = ("constant", "ramp", "early", "custom")
# Into how many steps of constant strength the whole course is cut where α changes gradually.
PIECES = 20


@dataclass(frozen=True)
class AlphaSchedule:
    """α over the course of sampling: straight lines between points, constant before the first and after the last.

    Attributes:
        points: (position, α). Positions run from 0 (pure noise) to 1 (the finished image) over the model's timesteps,
            in ascending order; two points at the same position are a jump, and from there on the later one counts.

    Raises:
        DDMError: no points, or a position or α out of range.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise DDMError("The schedule has no points. Write position:α pairs, such as 0:1, .4:.5, 1:0.")
        for position, alpha in self.points:
            if not 0 <= position <= 1:  # also refuses NaN
                raise DDMError(
                    f"The position {position:g} is outside of the course of sampling, which runs from 0, pure noise, "
                    "to 1, the finished image."
                )
            if not LOWEST <= alpha <= HIGHEST:
                raise DDMError(f"The strength {alpha:g} is out of range. Choose α between {LOWEST:g} and {HIGHEST:g}.")
        # Stable, so points at the same position keep their order.
        object.__setattr__(self, "points", tuple(sorted(self.points, key=lambda point: point[0])))

    @classmethod
    def constant(cls, alpha: float) -> "AlphaSchedule":
        """The same α all the time."""
        return cls(((0.0, alpha),))

    @classmethod
    def ramp(cls, alpha: float, end: float) -> "AlphaSchedule":
        """From α to `end`, evenly."""
        return cls(((0.0, alpha), (1.0, end)))

    @classmethod
    def early(cls, alpha: float, end: float, switch: float) -> "AlphaSchedule":
        """α up to the position `switch`, `end` from there on."""
        return cls(((0.0, alpha), (switch, alpha), (switch, end)))

    @classmethod
    def parse(cls, text: str) -> "AlphaSchedule":
        """Read points such as `0:1, .4:.5, 1:0`.

        Raises:
            DDMError: a part that is no position:α pair, or one out of range.
        """
        points = []
        for part in filter(None, (one.strip() for one in text.replace(";", ",").split(","))):
            try:
                position, alpha = (float(number) for number in part.split(":"))
            except ValueError:
                raise DDMError(
                    f"{part!r} is not a point of the schedule. Write position:α pairs with a point as decimal sign, "
                    "such as 0:1, .4:.5, 1:0."
                ) from None
            points.append((position, alpha))
        return cls(tuple(points))

    def at(self, position: float) -> float:
        """α at a position."""
        before = [point for point in self.points if point[0] <= position]
        after = [point for point in self.points if point[0] > position]
        if not before or not after:
            return before[-1][1] if before else after[0][1]
        (left, low), (right, high) = before[-1], after[0]
        return low + (high - low) * (position - left) / (right - left)

    def steps(self, pieces: int = PIECES) -> list[tuple[float, float]]:
        """The schedule in steps of constant strength: (start, α), the first at 0; jumps and constants are exact.

        Where α changes gradually, the course is cut into `pieces` and each takes the α of its middle.
        """
        edges = {0.0, *(position for position, _ in self.points if position < 1)}
        for (left, low), (right, high) in zip(self.points, self.points[1:], strict=False):
            if low != high and left != right:
                inside = range(math.floor(left * pieces) + 1, math.ceil(right * pieces))
                edges |= {cut / pieces for cut in inside}
        starts = sorted(edges)
        steps: list[tuple[float, float]] = []
        for start, end in zip(starts, [*starts[1:], 1.0], strict=True):
            alpha = self.at((start + end) / 2)
            if not steps or steps[-1][1] != alpha:
                steps.append((start, alpha))
        return steps

    def curve(self) -> list[dict[str, float]]:
        """The points as plain values, with the ends at 0 and 1, for a panel to draw."""
        ends: Sequence[tuple[float, float]] = [(0.0, self.points[0][1]), *self.points, (1.0, self.points[-1][1])]
        return [{"position": position, "alpha": alpha} for position, alpha in dict.fromkeys(ends)]


def make_schedule(shape: str, alpha: float, alpha_end: float, switch: float, points: str) -> AlphaSchedule:
    """The schedule of a shape: constant and ramp from `alpha`, early up to `switch`, custom by `points`.

    Raises:
        DDMError: an unknown shape, or points that cannot be read.
    """
    if shape == "constant":
        return AlphaSchedule.constant(alpha)
    if shape == "ramp":
        return AlphaSchedule.ramp(alpha, alpha_end)
    if shape == "early":
        return AlphaSchedule.early(alpha, alpha_end, switch)
    if shape == "custom":
        return AlphaSchedule.parse(points)
    raise DDMError(f"The shape {shape!r} is unknown. Choose {', '.join(SHAPES)}.")
