"""Trains and samples the systems of the table, and measures them; whatever was made once is kept."""

import hashlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ..debias.adapter import AdapterCard, content_hash
from ..debias.error import DDMError
from ..debias.metric import fairness_distance, pairwise_bias
from ..debias.quality import kid, paired_distance
from ..debias.storage import load_tensors, read_metadata, write_text
from ..training.model import Model, load_model
from ..training.sampler import generate
from ..training.steering import Steering, load_steering
from ..training.tiny_people import caption
from .imbalance import OCCUPATIONS
from .measure import ATTRIBUTES, CFG, PROBES, STEPS, Bench, Sample
from .package import ROOT
from .recipe import picture_folder
from .result import Figure
from .system import SYSTEMS, System, Task

# Pictures of the next seed begin here: no two samples share a noise.
SEED_STEP = 100_000
# Pictures of a round in which the sampling time is measured.
TIMED = 32


@dataclass(frozen=True)
class Trained:
    """The files of a system, one for each attribute where a file is for one only, and the seconds they took."""

    files: Sequence[Path]
    seconds: float


class SystemBench:
    """One task with one base.

    Args:
        bench: base, probes, work folder, pictures per prompt.
        task: what is to be balanced.
        seeds: how many samples of each row.
        steps: training steps; None for the commands' own.
        rounds: how often the sampling time is measured; 0 for not at all.
        cfgs: guidance scales at which FD is measured besides.
    """

    def __init__(
        self, bench: Bench, task: Task, seeds: int, steps: int | None, rounds: int = 3, cfgs: Sequence[float] = ()
    ):
        self.bench, self.task, self.seeds, self.steps = bench, task, seeds, steps
        self.rounds, self.cfgs = rounds, cfgs
        self.classes = {name: bench.probe(name).names for name in task.words}

    def figures(self, name: str) -> list[Figure]:
        """All columns of a row.

        Raises:
            DDMError: the row cannot be made; the message says why.
        """
        system = SYSTEMS[name]
        if len(self.task.words) > 1 and not system.joint:
            raise DDMError(f"{system.title}: it balances one attribute.")
        samples = [self.sample(name, seed) for seed in range(self.seeds)]
        base = [self.sample("base", seed) for seed in range(self.seeds)]
        shares = np.concatenate([self.shares(sample) for sample in samples])
        target = np.full(shares.shape[1], 1 / shares.shape[1])
        distances = fairness_distance(shares, target)
        roles = shares.reshape(self.seeds, -1, shares.shape[1]).mean(0)
        overall = np.stack([self.shares(sample).mean(0) for sample in samples])
        features, plain = (np.concatenate([one.features for one in part]) for part in (samples, base))
        quality = kid(features, plain)
        obeyed = [self.obeyed(name, word) for word in self.said]
        trained = self.train(name)
        figures = [
            Figure("FD, all prompts together", float(fairness_distance(overall.mean(0), target))),
            Figure("FD, mean over prompts", float(distances.mean()), interval=_interval(distances)),
            Figure("pairwise bias, mean over prompts", float(pairwise_bias(shares).mean())),
            Figure("worst prompt, FD", float(fairness_distance(roles, target).max())),
            Figure("KID to the base", quality.value if quality else float("nan")),
            Figure("distance to the base's picture of the seed", float(paired_distance(features, plain).mean())),
            Figure("role recognised", float(np.mean([sample.recognised for sample in samples]))),
            Figure("explicit prompts obeyed", float(np.mean(obeyed))),
            Figure("training", trained.seconds, unit="s"),
        ]
        if self.rounds:
            figures.append(Figure("time added to sampling, share", self.overhead(name)))
        figures += [
            Figure(f"FD, all prompts together, CFG {cfg:g}", float(fairness_distance(shares, target)))
            for cfg in self.cfgs
            for shares in [self.shares(self.sample(name, 0, cfg=cfg)).mean(0)]
        ]
        return figures + self._entropy(trained)

    @property
    def said(self) -> list[str]:
        """Words that explicit prompts say: the last class of each attribute, which is among the rare ones."""
        return [words.split("|")[-1] for words in self.task.words.values()]

    def shares(self, sample: Sample) -> np.ndarray:
        """Share [P, K] of each class, or of each cell of several attributes, by occupation."""
        cells = np.zeros(len(sample), dtype=int)
        size = 1
        for name, classes in self.classes.items():
            cells = cells * len(classes) + np.searchsorted(classes, sample.seen[name])
            size *= len(classes)
        return np.eye(size)[cells].reshape(len(OCCUPATIONS), -1, size).mean(1)

    def obeyed(self, name: str, word: str) -> float:
        """Share of pictures that show what a prompt says explicitly, a third as many of each role."""
        count = max(1, self.bench.per_prompt // 3)
        sample = self.sample(name, 0, say=word, per_prompt=count)
        column = next(key for key, words in self.task.words.items() if word in words.split("|"))
        return float(sample.by_role(column, (word.removesuffix(" skin"),)).mean())

    def train(self, name: str) -> Trained:
        """Train a row by its command, if its files are not there."""
        system, files, seconds = SYSTEMS[name], [], 0.0
        columns = list(self.task.words) if system.command else []
        if "{column}" not in system.command and "{probe}" not in system.command and "{words}" not in system.command:
            columns = columns[:1]
        for column in columns:
            place = self.bench.folder / "systems" / "-".join(self.task.words) / name
            out, facts = place / f"{column}.safetensors", place / f"{column}.json"
            if not (out.exists() and facts.exists()):
                out.parent.mkdir(parents=True, exist_ok=True)
                began = time.monotonic()
                self._command(system, column, out)
                write_text(facts, json.dumps({"seconds": round(time.monotonic() - began, 1)}))
            files.append(out)
            seconds += json.loads(facts.read_text("utf-8"))["seconds"]
        return Trained(files, seconds)

    def sample(self, name: str, seed: int, say: str = "", cfg: float = CFG, per_prompt: int = 0) -> Sample:
        """Sample every occupation and look at the pictures; a seed has the same noises in every row."""
        bench, system, count = self.bench, SYSTEMS[name], per_prompt or self.bench.per_prompt
        prompts = [
            caption(role, *self._said(system, say, place + number))
            for place, role in enumerate(OCCUPATIONS)
            for number in range(count)
        ]
        files = self.train(name).files
        adapters = self.train(system.with_adapter).files if system.with_adapter else ()
        probes = {attribute: bench.probe(attribute) for attribute in ATTRIBUTES}
        depends = {
            "base": bench.hash,
            "files": [content_hash(file) for file in (*files, *adapters)],
            "system": [system.uses, system.mode] if files else "",
            "prompts": prompts,
            "settings": [seed, STEPS, cfg, bench.bf16, bench.device],
            "probes": [hashlib.sha256(probe.head.weight.numpy().tobytes()).hexdigest() for probe in probes.values()],
        }
        key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
        path = bench.work / "samples" / f"{key}.safetensors"
        if not path.exists():
            model, alpha, steering = self._open(name)
            images = generate(
                model.base,
                prompts,
                range(seed * SEED_STEP, seed * SEED_STEP + len(prompts)),
                alpha=alpha,
                steps=STEPS,
                guidance_scale=cfg,
                bf16=bench.bf16,
                steering=steering,
            )
            bench.keep(path, images, probes, {"system": name, "prompts": prompts[::count]})
        tensors, _ = load_tensors(path)
        seen = {attribute: np.array(probe.names)[tensors[attribute].numpy()] for attribute, probe in probes.items()}
        return Sample(seen, tensors["features"].double().numpy(), count)

    def overhead(self, name: str) -> float:
        """Processor time that a row adds to the base's sampling, as a share; the two take turns."""
        prompts = [caption(OCCUPATIONS[number % len(OCCUPATIONS)]) for number in range(TIMED)]

        def seconds(model: Model, alpha: float, steering: Steering) -> float:
            began = time.process_time()
            generate(
                model.base, prompts, range(TIMED), alpha=alpha, steps=STEPS, bf16=self.bench.bf16, steering=steering
            )
            return time.process_time() - began

        pair = [self._open("base"), self._open(name)]
        for one in pair:
            seconds(*one)
        rounds = [[seconds(*one) for one in pair] for _ in range(self.rounds)]
        return median(row / base for base, row in rounds) - 1

    def _open(self, name: str) -> tuple[Model, float, Steering]:
        """The base with what a row puts on it, the adapter's strength, and guidance."""
        system, files = SYSTEMS[name], self.train(name).files
        adapter = files[0] if files and system.uses == "adapter" else None
        alpha = 1.0 if adapter else 0.0
        if system.with_adapter:
            adapter, alpha = self.train(system.with_adapter).files[0], 0.5
        model = load_model(self.bench.base, adapter, device=self.bench.device)
        heads = files if system.uses == "guide" else ()
        module = files[0] if files and system.uses == "invariant" else None
        return model, alpha, load_steering(model.base, heads, mode=system.mode, invariant=module)[0]

    def _said(self, system: System, word: str, number: int) -> tuple[str, str]:
        """Gender and skin tone that a picture is asked for; the pictures of a prompt are numbered."""
        if system.alternate and not word:
            words = next(iter(self.task.words.values())).split("|")
            word = words[number % len(words)]
        word = word.removesuffix(" skin")
        return ("", word) if word and word not in ("man", "woman") else (word, "")

    def _command(self, system: System, column: str, out: Path) -> None:
        """Run a training command in a process of its own."""
        picture_folder(self.task.pictures, self.bench.work)  # drawn, if it is not there
        filled = system.command.format(
            pictures=shlex.quote(str(self.bench.work / "sets" / self.task.pictures)),
            out=shlex.quote(str(out)),
            column=column,
            words=self.task.words[column],
            probe=shlex.quote(str(PROBES / f"{column}.safetensors")),
            probes=" ".join(f"--probe {shlex.quote(str(PROBES / f'{name}.safetensors'))}" for name in self.task.words),
            prompts=shlex.quote(";".join(caption(role) for role in OCCUPATIONS)),
        )
        given = [*shlex.split(filled), "--base", str(self.bench.base), "--device", self.bench.device]
        if self.steps and given[0] != "head":
            given += ["--steps", str(self.steps)]
        done = subprocess.run([sys.executable, "-m", "training", *given], cwd=ROOT, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise DDMError(f"`ddm {given[0]}` ended with code {done.returncode}; see above.")

    def _entropy(self, trained: Trained) -> list[Figure]:
        """What the paper's indicator says of itself, where there is one."""
        cards: list[AdapterCard] = [
            card for file in trained.files if (card := AdapterCard.from_metadata(read_metadata(file))) is not None
        ]
        found: list[dict[str, Any]] = [entropy for card in cards if (entropy := card.training.get("indicator_entropy"))]
        return [
            Figure(f"the indicator's entropy, {part}", entropy[part])
            for entropy in found[:1]
            for part in ("mean", "deviation")
        ]


def _interval(values: np.ndarray) -> tuple[float, float] | None:
    """95% interval of a mean over prompts and seeds (bootstrap, percentiles)."""
    from scipy.stats import bootstrap

    if len(values) < 2 or np.ptp(values) == 0:
        return None
    found = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high)
