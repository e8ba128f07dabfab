"""From a folder of images to its audit: group them by any source, then say what is rare and what balance costs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...debias.core.error import printable
from ...debias.evaluation.build_audit import AuditedSet, inspect
from ...debias.evaluation.dataset_audit import Audit
from .group_images import Grouper, Grouping, Report, check_source
from .image_folder import ImageFolder


def audit_folder(
    images: ImageFolder,
    base: Path,
    groups: str = "discovered",
    target: str = "uniform",
    *,
    title: str | None = None,
    seed: int = 0,
    device: str = "auto",
    report: Report | None = None,
    **opening: Any,
) -> Audit:
    """Audit a folder.

    Args:
        images: from `read_folder`.
        base: a pipeline folder or a checkpoint; it is not opened for labels.
        groups: the source, as in `Grouper.group`.
        target: `uniform`, or shares; named groups only.
        title: what stands above the page.
        seed: of the noises, and of the choice of examples.
        device: as in `load_base`.
        report: called with (what, done, total) while the base looks at the images.
        opening: tokenizer, prediction and vae, as in `load_base`.

    Raises:
        DDMError: a source that is not known, a target that it cannot have, or a base that cannot be opened.
    """
    check_source(groups, target)
    found = _group(images, base, groups, target, seed, device, report, opening)
    return inspect(
        AuditedSet(
            files=[item.path for item in images.items],
            names=[_name(item.path, images.root) for item in images.items],
            captions=images.captions,
            skipped=[(_name(one.path, images.root), one.reason) for one in images.skipped],
            notes=images.notes,
        ),
        found.groups,
        found.targets,
        found.weighting,
        source=groups,
        tried=found.tried,
        title=title or f"What is in {images.root.resolve().name}",
        random_seed=seed,
    )


def _group(
    images: ImageFolder,
    base: Path,
    groups: str,
    target: str,
    seed: int,
    device: str,
    report: Report | None,
    opening: Mapping[str, Any],
) -> Grouping:
    if groups.startswith("labels:"):
        return Grouper(None, None, images.captions, seed).group(groups, target, images.column)
    from ..models.load_base import load_base
    from .latents import square_latents

    model = load_base(base, device, **opening)
    latents = square_latents(model, images, report and (lambda done, total: report("encoding", done, total)))
    return Grouper(model, latents, images.captions, seed, report).group(groups, target)


def _name(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())
