"""Small folders and runs for the tests of training."""

import json
from pathlib import Path

import numpy as np
from comfyui_ddm.debias.probes.fit_probe import fit_probe
from comfyui_ddm.training.data.dataset import folder_set
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.loop.settings import TrainSettings
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.objectives.ddm_run import Run
from PIL import Image


def write_folder(root: Path, count: int = 8, rare: int = 4) -> Path:
    """Images of two subjects; each `rare`-th one is a woman, the others are men."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        gender = "woman" if i % rare == rare - 1 else "man"
        pixels = rng.integers(0, 80, (64, 64, 3), dtype=np.uint8)
        pixels[..., 0 if gender == "man" else 2] += 150
        Image.fromarray(pixels).save(root / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": f"a {('doctor', 'judge')[i % 2]}", "gender": gender})
    (root / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return root


def write_tones(folder: Path) -> None:
    """Say a skin tone of each image, one of three."""
    metadata = folder / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text("utf-8").splitlines()]
    for number, row in enumerate(rows):
        row["tone"] = ("light", "light", "light", "light", "medium", "dark")[number % 6]
    metadata.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def write_probe(path: Path, attribute: str = "gender") -> Path:
    """A probe for man and woman that knows nothing, is sure of it, and looks at any image."""
    images = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    images[::2] //= 2
    probe = fit_probe(images, ["man", "woman"] * 10, attribute, steps=2)
    probe.temperature, probe.typicality = 1e-4, None
    probe.save(path)
    return path


def settings(**changes: float) -> TrainSettings:
    return TrainSettings(**{"steps": 4, "batch_size": 4, "rank": 2, "calibrate": 0, **changes})


def prepare(
    base: Path, folder: Path, out: Path, groups: str = "labels:gender", kind: type[Run] = Run, **options: object
) -> Run:
    """A run on a freshly opened base; `changes` in options are those of the settings, `device` is where it runs."""
    model = load_base(base, options.pop("device", "cpu"))
    given = settings(**options.pop("changes", {}))
    return kind(model, folder_set(model, read_folder(folder)), out, groups=groups, settings=given, **options)
