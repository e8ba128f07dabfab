"""Sampling and probing: what a base or an adapter makes of twenty occupations, as probes see it."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..debias.adapter.lora_file import content_hash
from ..debias.core.error import DDMError
from ..debias.core.io import atomic_path, load_tensors, save_tensors
from ..debias.evaluation.intervals import wilson
from ..debias.probes.fit_probe import fit_probe
from ..debias.probes.probe import Probe
from ..training.embedded.tiny_people import caption
from ..training.models.diffusers_folder import check_folder
from ..training.models.file_hash import hash_files
from ..training.models.load_base import resolve_device
from ..training.models.model import load_model
from ..training.sampling.generate import generate
from .imbalance import OCCUPATIONS
from .package import ROOT
from .recipe import Recipe, Trained, image_folders, train
from .result import Figure, Result, command, machine
from .subject import PERSONS, SIZE, Subject

PROBES = ROOT / "examples" / "probes"
STEPS, CFG = 20, 3.0
SHEET_COLUMNS = 12


@dataclass(frozen=True)
class Sample:
    """Images of every concept (for people: occupations), `per_prompt` of each in turn, as the probes see them.

    Attributes:
        seen: per attribute the class [N] that its probe finds most likely.
        features: [N, D] of the judge, for people the role probe.
        per_prompt: images of each concept.
        recognised: share of images in which the judge sees what was asked for.
    """

    seen: dict[str, np.ndarray]
    features: np.ndarray
    per_prompt: int
    recognised: float

    def __len__(self) -> int:
        return len(self.features)

    def by_role(self, attribute: str, values: Sequence[str]) -> np.ndarray:
        """Share [P] of images of each concept that show one of the values."""
        return np.isin(self.seen[attribute], values).reshape(-1, self.per_prompt).mean(1)

    def shares(self, attribute: str, names: Sequence[str]) -> np.ndarray:
        """Share [K] of each class, as mean over the concepts."""
        return np.array([self.by_role(attribute, (name,)).mean() for name in names])

    def figure(self, name: str, share: float, at_least: float | None = None, at_most: float | None = None) -> Figure:
        """A share of all images, with its Wilson interval."""
        low, high = wilson(share * len(self), len(self))
        return Figure(name, float(share), at_least, at_most, (float(low), float(high)))


class Bench:
    """One base, its probes, adapters and samples; what was made once is kept in the work folder.

    Args:
        base: folder of the base model; None for the subject's own.
        work: folder for sets, probes, adapters and samples.
        per_prompt: images of each concept.
        steps: training steps; None for the command's own.
        threads: of torch.
        device: "auto", "cpu" or "cuda".
        subject: what the base makes images of.
    """

    def __init__(
        self,
        base: Path | None,
        work: Path,
        per_prompt: int = 60,
        steps: int | None = None,
        threads: int = 1,
        device: str = "cpu",
        subject: Subject = PERSONS,
    ):
        import torch

        torch.set_num_threads(threads)
        self.work, self.per_prompt, self.steps, self.threads, self.subject = work, per_prompt, steps, threads, subject
        self.device = str(resolve_device(device))
        self.base = base or subject.base(work, self.device)
        self.hash = hash_files(check_folder(self.base)["unet"])
        avx = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        self.bf16 = bool(avx()) if self.device == "cpu" else torch.cuda.is_bf16_supported()
        self.folder = work / f"{self.hash[:8]}-{steps or 'default'}-steps-{self.device}"
        self._probes: dict[str, Probe] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What the figures depend on."""
        return {
            "base": self.hash,
            "per_prompt": self.per_prompt,
            "train_steps": self.steps,
            "sampling_steps": STEPS,
            "cfg": CFG,
            "bf16": self.bf16,
            "probe_accuracy": {name: round(probe.accuracy, 4) for name, probe in self._probes.items()},
        }

    def probe(self, attribute: str) -> Probe:
        """The probe that measures an attribute."""
        if attribute not in self._probes:
            self._probes[attribute] = Probe.load(self.probe_file(attribute))
        return self._probes[attribute]

    def probe_file(self, attribute: str, seed: int = 0) -> Path:
        """The shipped probe of an attribute, or one of that seed, which is fitted if it is not there."""
        shipped = PROBES / f"{attribute}.safetensors"
        if shipped.exists() and not seed:
            return shipped
        made = self.work / "probes" / f"{attribute}{seed or ''}.safetensors"
        if not made.exists():
            fit_probe(*self.subject.labelled(attribute), attribute, seed, self.subject.probe_steps).save(made)
        return made

    def images(self, name: str) -> tuple[np.ndarray, list[str]]:
        """Images uint8 [N, H, W, 3] of a set and their roles."""
        folder = image_folders(name, self.work)
        return folder.array(SIZE), [role or "" for role in folder.column("role")]

    def train(self, recipe: Recipe) -> Trained:
        """The files of a recipe, trained if need be."""
        return train(recipe, self.base, self.work, self.folder, self.steps, self.threads, self.device)

    def sample(
        self, recipe: Recipe | None = None, alpha: float = 0.0, say: tuple[str, str] = ("", ""), per_prompt: int = 0
    ) -> Sample:
        """Sample every occupation and look at the images.

        Without a style, α = 0 is the base itself (the case `exactness` shows it bit for bit), so that one sample
        serves all adapters. Image i of prompt p has the seed p · per_prompt + i, the same at every α.

        Args:
            recipe: of the adapter; None for the base.
            alpha: its strength.
            say: gender and skin tone to say in the prompts.
            per_prompt: images of each occupation; 0 for the bench's own number.
        """
        made = self.train(recipe) if recipe else None
        adapter = made.adapter if made and alpha else None
        style = made.style if made else None
        count = per_prompt or self.per_prompt
        prompts = [caption(role, *say) for role in OCCUPATIONS for _ in range(count)]
        depends = {
            "adapter": adapter and content_hash(adapter),
            "style": style and content_hash(style),
            "alpha": alpha if adapter else 0.0,
            "prompts": list(dict.fromkeys(prompts)),
            "per_prompt": count,
            "settings": [STEPS, CFG, self.bf16, self.device],
        }

        def make() -> np.ndarray:
            model = load_model(self.base, adapter, style, self.device)
            seeds = list(range(len(prompts)))
            return generate(model.base, prompts, seeds, alpha=alpha, steps=STEPS, guidance_scale=CFG, bf16=self.bf16)

        return self.look(depends, OCCUPATIONS, make, {"recipe": recipe and recipe.name})

    def look(
        self,
        depends: dict[str, Any],
        concepts: Sequence[str],
        make: Callable[[], np.ndarray],
        facts: dict[str, Any],
    ) -> Sample:
        """What the probes see in images, which are made if they were not looked at before.

        Args:
            depends: what the images depend on besides base and probes.
            concepts: what is asked for, with as many images of each in turn.
            make: gives the images, uint8 [N, H, W, 3].
            facts: what shall stand in the file besides.
        """
        probes = {name: self.probe(name) for name in self.subject.attributes}
        digests = [hashlib.sha256(probe.head.weight.numpy().tobytes()).hexdigest() for probe in probes.values()]
        depends = {"base": self.hash, **depends, "probes": digests}
        key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
        path = self.work / "samples" / f"{key}.safetensors"
        if not path.exists():
            self._keep(path, make(), concepts, probes, facts)
        tensors, _ = load_tensors(path)
        seen = {name: np.array(probe.names)[tensors[name].numpy()] for name, probe in probes.items()}
        features = tensors["features"].double().numpy()
        recognised = self.subject.recognised(seen[self.subject.judge], concepts)
        return Sample(seen, features, len(features) // len(concepts), recognised)

    def record(
        self,
        name: str,
        title: str,
        script: str,
        run: Callable[[], list[Figure]],
        out: Path,
        again: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> bool:
        """Measure a case and write its result, unless it is there for this base; says how it goes.

        Args:
            script: the file that is running.
            run: measures.
            out: folder of the results.
            again: measure what is there as well.
            settings: what the figures depend on besides the bench's own.

        Returns:
            False if it could not be measured.
        """
        path = out / f"{name}.json"
        if path.exists() and not again and Result.load(path).settings["base"] == self.hash:
            print(f"{name}: measured already.", file=sys.stderr)
            return True
        print(f"{name}: {title} …", file=sys.stderr)
        began, place = time.monotonic(), machine(self.threads, self.device)
        try:
            figures = run()
        except DDMError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return False
        seconds = round(time.monotonic() - began, 1)
        depends = self.settings | dict(settings or {})
        Result(name, title, command(name, script), figures, seconds, depends, place).save(out)
        return True

    def speed(self, count: int = 128) -> float:
        """Neutral images per second that the base makes now, text and decoding included."""
        base = load_model(self.base, device=self.device).base
        prompts = [caption(OCCUPATIONS[number % len(OCCUPATIONS)]) for number in range(count)]
        began = time.monotonic()
        generate(base, prompts, list(range(count)), steps=STEPS, guidance_scale=CFG, bf16=self.bf16)
        return count / (time.monotonic() - began)

    def _keep(
        self,
        path: Path,
        images: np.ndarray,
        concepts: Sequence[str],
        probes: dict[str, Probe],
        facts: dict[str, Any],
    ) -> None:
        """Keep what the probes see in images of the concepts, and a contact sheet."""
        import torch
        from PIL import Image

        tensors = {name: torch.as_tensor(probe.predict(images).argmax(1)) for name, probe in probes.items()}
        tensors["features"] = torch.as_tensor(probes[self.subject.judge].features(images)).float()
        rows = images.reshape(len(concepts), -1, *images.shape[1:])[:, :SHEET_COLUMNS]
        sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows])
        with atomic_path(path.with_suffix(".png")) as temporary:
            Image.fromarray(sheet).save(temporary, format="png")
        save_tensors(path, tensors, {"sample": json.dumps(facts)})
