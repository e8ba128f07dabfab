"""Inputs that all nodes have that generate images and measure them."""

from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import types
from .generation import sampler_inputs

if TYPE_CHECKING:
    from ..debias.groups.target import Target
    from ..debias.probes.probe import Probe


def settings(about_seeds: str, new_seeds: bool) -> list[io.Input]:
    """How to sample (see `sampler_inputs`), and what is asked of the images: inputs that need no wire."""
    target = io.String.Input(
        "target", default="uniform", tooltip="The shares asked for: 'uniform', or 'man=.5,woman=.5'."
    )
    return [*sampler_inputs(about_seeds, new_seeds), target]


def wires() -> list[io.Input]:
    """What else may be connected to a node that measures."""
    return [
        io.Conditioning.Input("negative", optional=True, tooltip="Without it, the empty prompt."),
        types.Probe.Input(
            "watch",
            optional=True,
            tooltip="A second probe, for what should stay as it was; one for roles tells how often the subject is "
            "recognised.",
        ),
    ]


def asked(probe: "Probe", watch: "Probe | None", target: str) -> "tuple[list[Probe], list[Target | None]]":
    """The probes of a node, and a target or None for each.

    Raises:
        DDMError: the target is none, or over other classes than the probe's.
    """
    from ..debias.groups.target import Target

    probes = [probe, *([] if watch is None else [watch])]
    return probes, [Target.parse(target.strip() or "uniform", probe.names), *(None for _ in probes[1:])]
