"""Probes as commands name them: files, the CLIP model that they read with, and a target for each."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...debias.core.error import DDMError

if TYPE_CHECKING:
    import torch

    from ...debias.groups.target import Target
    from ...debias.probes.probe import Probe


def open_probes(paths: Sequence[Path], clip: Path | None, device: "str | torch.device") -> "list[Probe]":
    """Open probe files; those that read CLIP features get the model in the folder `clip`.

    Raises:
        DDMError: a file is no probe; a probe reads CLIP features and no folder, or that of another model, is given.
    """
    from ...debias.probes.probe import Probe

    extractor = None
    if clip is not None:
        from ..models.clip import ClipImages

        extractor = ClipImages(clip, device)
    probes = [Probe.load(path, extractor, device) for path in paths]
    for probe in probes:
        # Now rather than after the images were made.
        probe.check_extractor()
    return probes


def words_probe(words: str, base: Path, device: "str | torch.device") -> "Probe":
    """A probe of classes in words, as `man | woman`, by a base model itself.

    Raises:
        DDMError: there are no two words, no such base, or it does not tell the words apart.
    """
    from ...debias.groups.diffusion_classifier import article, parse_words
    from ...debias.probes.denoising_probe import probe_from_denoising
    from ..models.load_base import load_base
    from .base_denoiser import BaseDenoiser

    classes = {word: [f"{article(word)} {word}"] for word in parse_words(words)}
    denoiser = BaseDenoiser(load_base(base, device))
    return probe_from_denoising(classes, " or ".join(classes), denoiser, denoiser.make)


def targets_of(probes: "Sequence[Probe]", given: Sequence[str] | None) -> "list[Target | None]":
    """One target or None per probe: those given in order, a uniform one for the first if none is.

    Raises:
        DDMError: more targets than probes, or one that does not fit its probe's classes (both lists are named).
    """
    from ...debias.groups.target import Target

    given = list(given or ["uniform"])
    if len(given) > len(probes):
        raise DDMError(f"There are {len(given)} targets for {len(probes)} probes. Give one target per probe, in order.")
    given += [""] * (len(probes) - len(given))
    return [Target.parse(text, probe.names) if text else None for text, probe in zip(given, probes, strict=True)]


def targets_for(probes: "Sequence[Probe]", trained: "Sequence[Target]") -> "list[Target | None]":
    """What each probe measures against: the target that was trained for, where it is over the probe's classes.

    The first probe's is uniform if there is none, and the others have none.
    """
    from ...debias.groups.target import Target

    fitting = [next((goal for goal in trained if set(goal.names) == set(probe.names)), None) for probe in probes]
    found = [goal and goal.ordered_as(probe.names) for goal, probe in zip(fitting, probes, strict=True)]
    return [found[0] or Target.uniform(probes[0].names), *found[1:]]
