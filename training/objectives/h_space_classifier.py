"""From images to a head for distribution guidance: groups from any source, or as a probe sees them, and h-space."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ...debias.core.batching import fitting_rows, in_batches
from ...debias.core.error import DDMError
from ...debias.groups.diffusion_classifier import ATTRIBUTES
from ...debias.groups.groups import NOTHING, Groups, concepts, peers
from ...debias.methods.h_space_classifier import TIMESTEPS, HSpaceClassifier, fit_head
from ..data.group_images import Grouper

if TYPE_CHECKING:
    import torch

    from ...debias.probes.probe import Probe
    from ..data.dataset import ImageSet
    from ..models.base import Base

Report = Callable[[str, int, int], None]
# The most images whose h-space is read at a time.
MOST = 64


def make_head(
    base: "Base",
    images: "ImageSet",
    groups: str = "",
    probe: "Probe | None" = None,
    seed: int = 0,
    report: Report | None = None,
) -> HSpaceClassifier:
    """Fit a head on images that are grouped by a source, or by a probe.

    Args:
        base: whose h-space is read, under each image's caption.
        images: of a folder, or made by the base.
        groups: as `Grouper.group` takes it; of several attributes that are found, the one furthest from balance counts.
        probe: says instead who is in the images.
        seed: of the noises.
        report: called with (what, done, total).

    Raises:
        DDMError: an unknown source, a source that finds nothing out of balance, or a class with too few images.
    """
    import torch

    report = report or (lambda what, done, total: None)
    captions = images.captions
    latents = images.squares[torch.arange(len(captions))]
    if probe is not None:
        found, attribute = Groups(probe.names, probe.predict(base.decode(latents)), "probe"), probe.attribute
    else:
        grouper = Grouper(base, images.squares, captions, seed, report, images.cache)
        grouping = grouper.group(groups, labels=images.column)
        if grouping.weighting.by_indicator:
            raise DDMError(
                f"{NOTHING} So no head was made. To find more, “{groups}” needs a dozen images or more of each of "
                "eight captions. If you know what to balance, say it: words:man|woman, labels:COLUMN, or a probe.",
                "groups",
                "probe",
            )
        found = max(grouping.groups, key=grouper.imbalance)
        attribute = found.source.partition(":")[2] or found.source
    layers = h_space(base, latents, captions, seed, report)
    # Sides that were discovered may be those of any attribute, and wrong now and then.
    unnamed = found.source == "discovered"
    words = [word for words in ATTRIBUTES.values() for word in words] if unnamed else found.names
    caption = peers(concepts(captions)[1])
    return fit_head(layers, found.membership, found.names, attribute, base.hash, seed, caption, words, unnamed)


def h_space(
    base: "Base", latents: "torch.Tensor", captions: list[str], seed: int, report: Report
) -> "Iterator[tuple[int, torch.Tensor]]":
    """Per timestep the mid-block's output [N, C, H, W] (float32, on the CPU) of the noisy images."""
    import torch

    names, concept = concepts(captions)
    text, index = base.encode_text(names), torch.as_tensor(concept, device=base.device)
    generator = torch.Generator().manual_seed(seed)
    size = fitting_rows(base.device, latents.shape[2] * latents.shape[3], MOST)
    seen: list[torch.Tensor] = []
    space, timesteps = base.family.h_space(base.denoiser), base.family.along(base, TIMESTEPS)
    handle = space.module.register_forward_hook(
        lambda _module, _inputs, output: seen.append(space.read(output, tuple(latents.shape)).float().cpu())
    )

    def read(part: slice) -> torch.Tensor:
        seen.clear()
        rows = torch.arange(part.start, part.stop, device=base.device)
        base.denoise(noisy[rows], torch.full((len(rows),), t, device=base.device), text[index[rows]])
        return seen[0]

    try:
        for done, t in enumerate(timesteps):
            report("h-space", done, len(timesteps))
            signal, spread = base.rates(t)
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            noisy = signal * latents + spread * noise
            with torch.inference_mode():
                found = torch.cat(list(in_batches(len(latents), size, read)))
            yield t, found
        report("h-space", len(timesteps), len(timesteps))
    finally:
        handle.remove()
