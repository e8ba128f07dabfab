"""Collections that a host keeps while it runs, so that reports grow from one run to the next."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..debias.core.last_used import LastUsed

if TYPE_CHECKING:
    from ..debias.evaluation.accumulator import Accumulator
    from ..debias.probes.probe import Probe

# The one that was used longest ago goes first.
KEPT = 32


@dataclass
class Session:
    """A collection and, once there is a report on it, its place: every run writes it anew."""

    collection: "Accumulator"
    place: Any = None


class SessionStore:
    """The collections of a host: one for each owner, with the probes and the target that it was started with."""

    def __init__(self) -> None:
        self._kept: LastUsed[tuple, Session] = LastUsed(KEPT)

    def get(self, owner: Hashable, probes: "Sequence[Probe]", target: str, collect: bool = True) -> Session:
        """The collection that an owner gathers with these probes and this target; a new one if there is none.

        Args:
            owner: whose it is.
            probes: the first is for the attribute that the report is on.
            target: of the first probe's classes.
            collect: False forgets what was collected, and starts again.

        Raises:
            DDMError: a target over other classes than the probe's, or two probes for one attribute.
        """
        from ..debias.evaluation.accumulator import Accumulator
        from ..debias.groups.target import Target

        asked = Target.parse(target or "uniform", probes[0].names)
        key = (owner, asked, *(probe.digest for probe in probes))
        if not collect:
            self._kept.pop(key, None)
        return self._kept.use(key, lambda: Session(Accumulator(probes, [asked, *(None for _ in probes[1:])])))

    def drop(self, owner: Hashable) -> None:
        """Forget all that an owner has gathered."""
        for key in [key for key in self._kept if key[0] == owner]:
            del self._kept[key]
