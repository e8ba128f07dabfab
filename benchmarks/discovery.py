"""The research log: every label-free variant on every imbalance, `python benchmarks/discovery.py [SET ...]`.

What is measured are weights, not generated images (those are in claims.py): the share of the majority among the
weighted images of a set at α = 1. The truth is read for that score alone.
"""

import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from package import ROOT, load_package

load_package()

if TYPE_CHECKING:
    from comfyui_ddm.benchmarks.image_set import ImageSet
    from comfyui_ddm.benchmarks.variant import Subject
    from comfyui_ddm.debias.groups.weighting import Weighting

HERE = ROOT / "benchmarks"


def discovery(
    names: Annotated[list[str] | None, typer.Argument(metavar="[SET ...]", help="Which sets; all of them.")] = None,
    variants: Annotated[str, typer.Option(help="Only variants whose names contain this.")] = "",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where discovery.json is.")] = HERE / "results",
    log: Annotated[Path, typer.Option(metavar="FILE", help="The log to write.")] = HERE / "discovery.md",
    base: Annotated[Path, typer.Option(metavar="DIR", help="The base model.")] = ROOT / "examples" / "tiny_people",
    work: Annotated[Path, typer.Option(metavar="DIR", help="Where features are kept.")] = HERE / "work",
    mnist: Annotated[Path | None, typer.Option(metavar="DIR", help="Where MNIST's test files are.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 for as many as cores.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
    again: Annotated[bool, typer.Option(help="Score again what is there (features are kept).")] = False,
    table: Annotated[bool, typer.Option(help="Only write the log of what is there.")] = False,
) -> None:
    """Score every variant on every set and write the log."""
    import torch
    from comfyui_ddm.benchmarks.discovery_log import Score, load_scores, write_log
    from comfyui_ddm.benchmarks.image_set import MNIST, SETS, read_set
    from comfyui_ddm.benchmarks.result import cores, machine
    from comfyui_ddm.benchmarks.variant import VARIANTS
    from comfyui_ddm.debias.core.error import DDMError
    from comfyui_ddm.debias.core.io import write_text
    from comfyui_ddm.training.models.load_base import load_base

    unknown = [name for name in names or [] if name not in SETS]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: there is no such set, but {', '.join(SETS)}")
    torch.set_num_threads(threads or cores())
    path = out / "discovery.json"
    scores, reasons, facts = load_scores(path)
    if not table:
        try:
            model = load_base(base, device, torch.float32)
        except DDMError as error:
            typer.echo(error, err=True)
            raise typer.Exit(2) from error
        if facts.get("base") != model.hash:
            scores, reasons = {}, {}
        facts = {"base": model.hash, "machine": machine(torch.get_num_threads(), str(model.device)), "reasons": reasons}

        def keep() -> None:
            rows = [vars(one) for one in scores.values()]
            write_text(path, json.dumps({**facts, "scores": rows}, ensure_ascii=False, indent=1) + "\n")

        for name in names or SETS:
            wanted = [one for one in VARIANTS if variants in one and (again or (name, one) not in scores)]
            if not wanted:
                typer.echo(f"{name}: scored already.", err=True)
                continue
            try:
                images = read_set(name, model.image_size, work, mnist or MNIST)
            except DDMError as error:
                reasons[name] = str(error)
                keep()
                typer.echo(f"{name} is left out: {error}", err=True)
                continue
            reasons.pop(name, None)
            subject = prepare(
                model, images, work / "features" / f"{name.replace(':', '-')}-{model.hash[:8]}.safetensors"
            )
            for variant in wanted:
                began = time.monotonic()
                weighting = VARIANTS[variant](subject)
                figures = score(weighting, images)
                scores[name, variant] = Score(name, variant, seconds=round(time.monotonic() - began, 1), **figures)
                typer.echo(
                    f"{name} · {variant}: {figures['before']:.2f} → {figures['after']:.2f}, ESS {figures['ess']:.2f}",
                    err=True,
                )
            keep()
    order = [(name, variant) for name in SETS for variant in VARIANTS if (name, variant) in scores]
    write_log(log, [scores[pair] for pair in order], reasons, facts)


def prepare(model: Any, images: "ImageSet", cache: Path) -> "Subject":
    """Encode a set and read its features at every place and noise level, or take them from the cache."""
    import torch
    from comfyui_ddm.benchmarks.variant import ALL_TIMESTEPS, Subject
    from comfyui_ddm.debias.core.io import load_tensors, save_tensors
    from comfyui_ddm.debias.groups.features import TIMESTEPS, centre, denoiser_features
    from comfyui_ddm.training.data.group_images import Grouper
    from comfyui_ddm.training.data.latents import Latents
    from comfyui_ddm.training.loop.progress_bars import image_progress

    latents = model.encode_images(images.images)
    grouper = Grouper(model, Latents.of(latents), images.captions)
    if not cache.exists():
        # The library's own timesteps first, so that its noises are the same and `discovered` is what `ddm train` does.
        timesteps = (*TIMESTEPS, *(t for t in ALL_TIMESTEPS if t not in TIMESTEPS))

        with image_progress(f"Features {cache.stem}") as report:
            found = denoiser_features(
                model.denoise,
                model.family.features(model.denoiser)
                | {"first": model.denoiser.down_blocks[0].resnets[0], "mid": model.denoiser.mid_block},
                partial(model.family.hidden, latents=latents.shape),
                model.rates,
                latents,
                model.encode_text(grouper.names),
                torch.as_tensor(grouper.concept, device=model.device),
                timesteps=timesteps,
                progress=report,
            )
        save_tensors(cache, {name: torch.as_tensor(values) for name, values in found.items()})
    features = {name: values.double().numpy() for name, values in load_tensors(cache)[0].items()}
    return Subject(centre(features, grouper.peers), grouper.peers, lambda: grouper.group("auto").weighting)


def score(weighting: "Weighting", images: "ImageSet") -> dict[str, Any]:
    """Shares at α = 0 and 1 of the majority, and of one side of every attribute that was balanced; ESS at α = 1."""

    def share(side: np.ndarray, alpha: float) -> float:
        return float(weighting.predicted_shares(alpha, np.stack([side, ~side], 1).astype(float))[0])

    def away(alpha: float) -> float:
        weights = weighting.weights(alpha)
        total = np.bincount(weighting.concept, weights)
        return float(np.abs(np.bincount(weighting.concept, weights * images.majority) / total - 0.5).mean())

    return {
        "away": [away(0.0), away(1.0)],
        "before": share(images.majority, 0.0),
        "after": share(images.majority, 1.0),
        "ess": weighting.effective_share(1.0),
        "others": {name: [share(side, alpha) for alpha in (0.0, 1.0)] for name, side in images.others.items()},
    }


if __name__ == "__main__":
    typer.run(discovery)
