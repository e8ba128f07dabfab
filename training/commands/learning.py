"""What `ddm head` and `ddm invariant` learn from: a folder, the base's own images, or both."""

from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data.dataset import ImageSet
    from ..models.base import Base
    from .options import BaseChoice
    from .reporters import Reporter


def learning_set(
    base: "BaseChoice",
    device: str,
    folder: Path | None,
    caption: str | None,
    prior_prompts: str | None,
    prior_count: int,
    seed: int,
    reporter: "Reporter",
) -> "tuple[Base, ImageSet]":
    """The base, and the images as the commands' options name them.

    Args:
        reporter: told what goes on.

    Raises:
        DDMError: neither a folder nor prompts are given; or one of them cannot be used, which is found before the base
            is read.
    """
    from ...debias.core.error import DDMError
    from ..data.dataset import folder_set, self_set
    from ..data.read_folder import read_folder
    from ..models.load_base import load_base
    from ..sampling.prompts import read_prompts

    if folder is None and prior_prompts is None:
        raise DDMError(
            "There is nothing to learn from. Give a folder of images, or prompts for images of the model's own, or "
            "both.",
            "folder",
            "prior_prompts",
        )
    images = read_folder(folder, caption) if folder else None
    prompts = read_prompts(prior_prompts) if prior_prompts else []
    for line in images.remarks() if images else ():
        reporter.note(line)
    model = load_base(base.path, device, **base.opening)
    sets = []
    if images:
        with reporter.images("cache") as report:
            sets.append(folder_set(model, images, report))
    if prompts:
        with reporter.images("own") as report:
            sets.append(self_set(model, prompts, prior_count, seed, report))
    return model, reduce(add, sets)
