"""The values of the accordion's controls, as the page or a call gives them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..debias.core.error import DDMError
from ..debias.methods.distribution_guidance import MODES, SCALE
from ..hosts.infotext import Dial, parse_alphas
from . import files

# What a control of a type may hold, and what that is called. Numbers and names may be written: they are read where
# they act.
_KINDS = {
    float: ((int, float, str), "number"),
    bool: (int, "yes or no"),
    str: (str, "text"),
    Sequence[str]: ((list, tuple, str), "list of names"),
}


@dataclass
class Settings:
    """The values of the controls, in their order; what a call over the API leaves out is as it is at the start."""

    adapter: str = files.NONE
    alpha: float = 1.0
    each: str = ""
    same_seed: bool = True
    shape: str = "constant"
    end: float = 0.0
    switch: float = 0.5
    points: str = ""
    probe: str = files.NONE
    watch: str = files.NONE
    target: str = "uniform"
    collect: bool = True
    heads: Sequence[str] = ()
    scale: float = SCALE
    mode: str = MODES[0]
    targets: str = "uniform"
    keep_counts: bool = True
    words: str = ""

    @classmethod
    def of(cls, values: Sequence[Any]) -> "Settings":
        """The settings of what a page or a call gives; nothing (None) stands for the value at the start.

        Raises:
            DDMError: a value is of another kind, or there are more values than controls.
        """
        controls = fields(cls)
        if len(values) > len(controls):
            raise DDMError(f"There are {len(values)} values for {len(controls)} controls; give fewer.")
        given = {control.name: value for control, value in zip(controls, values, strict=False) if value is not None}
        for control in controls:
            kinds, called = _KINDS[control.type]
            if not isinstance(given.get(control.name, control.default), kinds):
                raise DDMError(f"The control '{control.name}' holds no {called}.")
        if not all(isinstance(one, str) for one in given.get("heads", ())):
            raise DDMError("The control 'heads' holds no list of names.")
        return cls(**given)

    def dial(self, alpha: float | None) -> Dial:
        """The strengths that are asked for; `alpha` is the X/Y/Z plot's, which goes before all others.

        Raises:
            DDMError: see `Dial.of`.
        """
        alphas = [alpha] if alpha is not None else parse_alphas(self.each) or parse_alphas(str(self.alpha))
        return Dial.of(alphas, self.shape, float(self.end), float(self.switch), self.points)
