"""What other trainers (kohya's sd-scripts, diffusers' examples) call an option, and what they mean otherwise by it."""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache

from ...debias.core.error import DDMError
from ...debias.core.option import settings_of
from .config import TrainConfig

SCALE = "A fair adapter has no such scale: it is calibrated so that strength 1 is the target. Leave it out."
# What means something else there, or is given in another way here.
OTHERWISE = {
    "network-alpha": SCALE,
    "lora-alpha": SCALE,
    "output-dir": "Give folder and name as one file: out = DIR/NAME.safetensors.",
    "output-name": "Give folder and name as one file: out = DIR/NAME.safetensors.",
    "resume-from-checkpoint": "A stopped run is found by the adapter's name: give resume, without a value.",
    "cache-latents": "Encoded images are always kept; with no-cache, in memory only. Leave it out.",
    "cache-latents-to-disk": "Encoded images are always kept on disk, unless no-cache is given. Leave it out.",
    "xformers": "PyTorch's own attention is used, which is as fast. Leave it out.",
    "sdpa": "PyTorch's own attention is always used. Leave it out.",
    "instance-prompt": "Give it as caption, for images that have none, or as trigger, before every caption.",
    "network-module": "The adapter is always a LoRA. Leave it out.",
}


@cache
def _names() -> dict[str, str]:
    return {name: one.key for one in settings_of(TrainConfig).values() for name in (one.key, *one.option.names)}


def our_name(name: str) -> str:
    """The name here of an option that is given by any name that is known, with dashes or underscores.

    Raises:
        DDMError: it is not known, or means something else elsewhere.
    """
    name, known = name.strip("-").replace("_", "-"), _names()
    if name in OTHERWISE:
        raise DDMError(OTHERWISE[name])
    if name not in known:
        near = get_close_matches(name, known, 1)
        raise DDMError(f"Did you mean {near[0]}?" if near else f"There are {', '.join(dict.fromkeys(known.values()))}.")
    return known[name]


def as_ours(arguments: Sequence[str]) -> list[str]:
    """A command line in our names; what is not known is left for the command to refuse.

    Raises:
        DDMError: an option means something else elsewhere.
    """
    ours = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        plain = name.strip("-").replace("_", "-")
        if name.startswith("--") and plain in OTHERWISE:
            raise DDMError(f"{name} is not given here. {OTHERWISE[plain]}")
        if name.startswith("--"):
            name = f"--{_names().get(plain, plain)}"
        if name != "--folder":
            ours.append(name + equals + value)
        elif equals:  # the folder of images has no option's name here
            ours.append(value)
    return ours
