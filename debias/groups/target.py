"""The distribution over classes that a model is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.error import DDMError


@dataclass(frozen=True, eq=False)
class Target:
    """Class names and the share that each should have.

    Attributes:
        names: the K classes, in the order of the shares.
        shares: float64 [K], none negative, summing to 1.
    """

    names: tuple[str, ...]
    shares: np.ndarray

    def __post_init__(self) -> None:
        shares = np.asarray(self.shares, dtype=np.float64)
        if len(self.names) < 2 or len(set(self.names)) != len(self.names):
            raise DDMError(f"A target needs at least two different classes, but got {_listed(self.names)}.")
        if shares.shape != (len(self.names),) or not np.all(np.isfinite(shares)) or np.any(shares < 0):
            raise DDMError(f"A target needs one share of 0 or more for each of the classes {_listed(self.names)}.")
        if abs(shares.sum() - 1) > 1e-3:
            raise DDMError(
                f"The shares of the target sum to {shares.sum():g}, not to 1. "
                f"Give each of {_listed(self.names)} a share so that together they make 1."
            )
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "shares", shares / shares.sum())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and self.names == other.names and np.array_equal(self.shares, other.shares)

    def __hash__(self) -> int:
        return hash((self.names, self.shares.tobytes()))

    def __str__(self) -> str:
        return ",".join(f"{name}={share:.6g}" for name, share in zip(self.names, self.shares, strict=True))

    @classmethod
    def uniform(cls, names: Sequence[str]) -> "Target":
        """The same share for every class."""
        return cls(tuple(names), np.full(len(names), 1 / max(len(names), 1)))

    @classmethod
    def parse(cls, text: str, names: Sequence[str]) -> "Target":
        """Read `uniform` or `man=.75,woman=.25`.

        Raises:
            DDMError: an unknown, missing or repeated class, a share that is no number or negative, shares that do not
                sum to 1 (within 1e-3).
        """
        if text.strip().lower() == "uniform":
            return cls.uniform(names)
        shares: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = (piece.strip() for piece in part.rpartition("="))
            if not equals or not name:
                raise DDMError(
                    f"Cannot read '{part}' in the target '{text}'. "
                    f"Write 'uniform', or a share for each class: '{_example(names)}'."
                )
            if name in shares:
                raise DDMError(f"The target names '{name}' twice. Give each of {_listed(names)} one share.")
            try:
                shares[name] = float(value)
            except ValueError:
                raise DDMError(
                    f"The share of '{name}' in the target is '{value}', which is not a number. "
                    f"Write for instance '{_example(names)}'."
                ) from None
        if set(shares) != set(names):
            unknown = [name for name in shares if name not in names]
            missing = [name for name in names if name not in shares]
            wrong = f"leaves out {_listed(missing)}" if not unknown else f"names {_listed(unknown)}"
            raise DDMError(
                f"The target is over {_listed(tuple(shares))} and {wrong}, but the classes are {_listed(names)}. "
                "Give every class a share; it may be 0."
            )
        return cls(tuple(names), np.array([shares[name] for name in names]))

    def ordered_as(self, names: Sequence[str]) -> "Target":
        """The same target with its classes in the order of `names`.

        Raises:
            DDMError: the classes differ; both lists are named.
        """
        if sorted(names) != sorted(self.names):
            raise DDMError(
                f"The target is over {_listed(self.names)}, but the probe tells apart {_listed(names)}. "
                "Give a target over the probe's classes, or a probe for the target's."
            )
        return Target(tuple(names), self.shares[[self.names.index(name) for name in names]])


def check_target(text: str) -> None:
    """Refuse what is no target whatever the classes are, before they are known.

    Raises:
        DDMError: as in `Target.parse`.
    """
    named = [part.rpartition("=")[0].strip() for part in text.split(",") if part.strip()]
    Target.parse(text, list(dict.fromkeys(named)) if named and all(named) else ("man", "woman"))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _example(names: Sequence[str]) -> str:
    return ",".join(f"{name}={1 / max(len(names), 1):.3g}" for name in names)
