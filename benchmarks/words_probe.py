"""How often two probes agree on one model's images: one made from words alone, by the model itself, and a labelled one.

`python benchmarks/words_probe.py` measures it on the embedded model's images of all its roles. Noise levels and the
number of noises were chosen on images of other seeds.
"""

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from package import ROOT, load_package

load_package()


def words_probe(
    base: Annotated[Path, typer.Option(metavar="DIR", help="The base model.")] = ROOT / "examples" / "tiny_people",
    probe: Annotated[Path, typer.Option(metavar="FILE", help="The labelled probe.")] = ROOT
    / "examples"
    / "probes"
    / "gender.safetensors",
    words: Annotated[str, typer.Option(help="Classes as DDM Probe from Words reads them, ';' between them.")] = (
        "man: a man;woman: a woman"
    ),
    per_role: Annotated[int, typer.Option(min=1, help="Images of each role.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="First seed of the images.")] = 1_000_000,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 1,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go.")] = ROOT
    / "benchmarks"
    / "results"
    / "words_probe.json",
) -> None:
    """Make the probe, generate the images, let both look at them, and write how often they agree."""
    import torch
    from comfyui_ddm.debias.core.io import write_text
    from comfyui_ddm.debias.evaluation.intervals import wilson
    from comfyui_ddm.debias.groups.diffusion_classifier import article
    from comfyui_ddm.debias.probes.denoising_probe import probe_from_denoising
    from comfyui_ddm.debias.probes.predict import read_images
    from comfyui_ddm.debias.probes.probe import Probe
    from comfyui_ddm.debias.probes.records import CONFIDENCE
    from comfyui_ddm.debias.probes.words_probe import parse_classes
    from comfyui_ddm.training.data.read_folder import read_folder
    from comfyui_ddm.training.evaluation.base_denoiser import BaseDenoiser
    from comfyui_ddm.training.models.load_base import load_base

    torch.set_num_threads(threads)
    denoiser, labelled = BaseDenoiser(load_base(base, "cpu", torch.float32)), Probe.load(probe)
    began = time.monotonic()
    made = probe_from_denoising(parse_classes(words.replace(";", "\n")), labelled.attribute, denoiser, denoiser.make)
    making = time.monotonic() - began
    roles = sorted(set(read_folder(ROOT / "examples" / "people_emoji").column("role")))
    prompts = [f"{article(role)} {role}" for role in roles for _ in range(per_role)]
    images = denoiser.make(prompts, seed)
    began = time.monotonic()
    (seen,) = read_images(list(images), [made], prompts=prompts).probabilities
    looking = time.monotonic() - began
    (truth,) = read_images(list(images), [labelled]).probabilities
    both = (np.nan_to_num(seen).max(1) >= CONFIDENCE) & (np.nan_to_num(truth).max(1) >= CONFIDENCE)
    agreed = int((seen[both].argmax(1) == truth[both].argmax(1)).sum())
    low, high = wilson(agreed, both.sum())
    facts = {
        "images": len(images),
        "told_by_both": int(both.sum()),
        "unlike_by_words": int(np.isnan(seen).any(1).sum()),
        "unlike_by_labels": int(np.isnan(truth).any(1).sum()),
        "agreement": round(agreed / int(both.sum()), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
        "recalls": {
            name: round(float((seen[both & (truth.argmax(1) == k)].argmax(1) == k).mean()), 4)
            for k, name in enumerate(labelled.names)
        },
        "made_for": made.made_for,
        "seconds_to_make": round(making, 1),
        "seconds_per_image": round(looking / len(images), 3),
        "seed": seed,
        "threads": threads,
    }
    write_text(out, json.dumps(facts, indent=1) + "\n")
    typer.echo(json.dumps(facts, indent=1))


if __name__ == "__main__":
    typer.run(words_probe)
