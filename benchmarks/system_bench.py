"""Trains and samples the systems of the table, and measures them; whatever was made once is kept."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ..debias.adapter.lora_file import AdapterCard, content_hash
from ..debias.core.error import DDMError
from ..debias.core.io import read_metadata, write_text
from ..debias.evaluation.kid import kid, paired_distance
from ..debias.evaluation.metrics import fairness_distance, pairwise_bias
from ..debias.groups.diffusion_classifier import say
from ..debias.methods.class_counts import ClassCounts
from ..debias.methods.distribution_guidance import temperature
from ..training.embedded.tiny_people import caption
from ..training.models.model import Model, load_model
from ..training.objectives.final_look import shift
from ..training.sampling.generate import generate
from ..training.sampling.guidance import SamplingGuidance, load_steering
from .measure import CFG, STEPS, Bench, Sample
from .package import ROOT
from .recipe import image_folders
from .result import Figure
from .system import SYSTEMS, TASKS, System

# Images of the next seed begin here: no two samples share a noise.
SEED_STEP = 100_000
# Images of a round in which the sampling time is measured.
TIMED = 32
# How far a cell may be from its share.
CELL = 0.05
# Images in a subset of the KID, as is usual where there are so many: of 50, chance would be as large as the figures.
KID_SUBSET = 1000
# What is trained by a probe learns its mistakes, so it is taught by another than the one that measures.
TEACHER = 1


@dataclass(frozen=True)
class Trained:
    """The files of a system, one for each attribute where a file is for one only, and the seconds they took."""

    files: Sequence[Path]
    seconds: float


class SystemBench:
    """One task with one base.

    Args:
        bench: base, probes, work folder, images per prompt.
        name: of the task, a key of `TASKS`.
        seeds: how many samples of each row.
        steps: training steps; None for the commands' own.
        rounds: how often the sampling time is measured; 0 for not at all.
        cfgs: guidance scales at which FD is measured besides, over half as many images of one sample.
    """

    def __init__(
        self, bench: Bench, name: str, seeds: int, steps: int | None, rounds: int = 3, cfgs: Sequence[float] = ()
    ):
        self.bench, self.task, self.seeds, self.steps = bench, TASKS[name], seeds, steps
        self.rounds, self.cfgs, self.place = rounds, cfgs, bench.folder / "systems" / name
        self.classes = {column: bench.probe(column).names for column in self.task.words}
        shares = [self.task.shares(column, classes) for column, classes in self.classes.items()]
        self.target = reduce(np.outer, shares).ravel()

    def figures(self, name: str) -> list[Figure]:
        """All columns of a row.

        Raises:
            DDMError: the row cannot be made; the message says why.
        """
        system = SYSTEMS[name]
        if why := system.refused(self.task):
            raise DDMError(f"{system.title}: {why}.")
        samples = [self.sample(name, seed) for seed in range(self.seeds)]
        base = [self.sample("base", seed) for seed in range(self.seeds)]
        shares = np.stack([self.shares(sample) for sample in samples])
        distances = fairness_distance(shares, self.target).mean(0)
        prompts = shares.mean(0)
        features, plain = (np.concatenate([one.features for one in part]) for part in (samples, base))
        quality = kid(features, plain, subset_size=KID_SUBSET, paired=True)
        obeyed = [self.obeyed(name, word) for word in self.said]
        trained = self.train(name)
        besides = self.train(system.with_adapter).seconds if system.with_adapter else 0.0
        figures = [
            *self._together(prompts, "all prompts together"),
            _over_prompts("FD, mean over prompts", distances, lambda part: part),
            Figure("pairwise bias, mean over prompts", float(pairwise_bias(shares).mean())),
            Figure("worst prompt, FD", float(fairness_distance(prompts, self.target).max())),
            Figure("KID to the base", quality.value if quality else float("nan")),
            Figure("distance to the base's image of the seed", float(paired_distance(features, plain).mean())),
            *self._shift(samples, base),
            Figure("recognised", float(np.mean([sample.recognised for sample in samples]))),
            Figure("explicit prompts obeyed", float(np.mean(obeyed))),
            Figure("training", trained.seconds + besides, unit="s"),
        ]
        if self.rounds:
            figures.append(Figure("time added to sampling, share", self.overhead(name)))
        fewer = max(1, self.bench.per_prompt // 2)
        for cfg in self.cfgs:
            shares = self.shares(self.sample(name, 0, cfg=cfg, per_prompt=fewer))
            together, apart = fairness_distance(shares.mean(0), self.target), fairness_distance(shares, self.target)
            figures.append(Figure(f"FD, all prompts together, CFG {cfg:g}", float(together)))
            figures.append(Figure(f"FD, mean over prompts, CFG {cfg:g}", float(apart.mean())))
        if len(self.task.families) > 1:
            ends = np.cumsum([len(family) for family in self.task.families.values()])[:-1]
            parts = (np.split(values, ends) for values in (prompts, distances))
            for family, part, own in zip(self.task.families, *parts, strict=True):
                figures += self._together(part, family)
                figures.append(_over_prompts(f"FD, mean over prompts, {family}", own, lambda values: values))
        return figures + self._of_cards(trained)

    @property
    def said(self) -> list[str]:
        """Words that explicit prompts say: the last class of each attribute, which is among the rare ones.

        Where prompts lean to either side, each class is rare in some.
        """
        rare = slice(None if self.task.both_ways else -1, None)
        return [word for words in self.task.words.values() for word in list(words.values())[rare]]

    def _together(self, prompts: np.ndarray, what: str) -> list[Figure]:
        """How far prompts are from the target as a whole; shares [P, K]."""

        def largest(shares: np.ndarray) -> np.ndarray:
            return np.abs(shares - self.target).max(-1).round(6)  # .05 shall not be missed by rounding

        return [
            _over_prompts(f"FD, {what}", prompts, partial(fairness_distance, target=self.target)),
            _over_prompts(f"largest cell error, {what}", prompts, largest, at_most=CELL),
        ]

    def _shift(self, samples: Sequence[Sample], base: Sequence[Sample]) -> list[Figure]:
        """The largest change of a share of other attributes, such as skin tones where gender is balanced.

        And how far the attribute that moved most did so prompt by prompt, as a share of a prompt's images (`shift`).
        """
        moved, apart = [], []
        for name in self.task.subject.attributes:
            if name not in self.task.words and name != self.task.subject.judge:
                names = self.bench.probe(name).names
                now, then = (np.mean([one.shares(name, names) for one in part], 0) for part in (samples, base))
                moved.append(np.abs(now - then).max())
                both = [np.concatenate([self._shown(one, name) for one in part], 1) for part in (base, samples)]
                apart.append(shift(np.stack(both)))
        if not moved:
            return []
        return [
            Figure("largest shift of other attributes", float(max(moved))),
            Figure("largest shift of other attributes, by prompt", float(max(apart))),
        ]

    def _shown(self, sample: Sample, name: str) -> np.ndarray:
        """What an attribute's probe sees in the images of each prompt, one-hot [P, n, K]."""
        names = np.array(self.bench.probe(name).names)
        return (sample.seen[name].reshape(len(self.task.concepts), -1, 1) == names).astype(float)

    def shares(self, sample: Sample) -> np.ndarray:
        """Share [P, K] of each class, or of each cell of several attributes, by prompt."""
        cells = np.zeros(len(sample), dtype=int)
        size = 1
        for name, classes in self.classes.items():
            cells = cells * len(classes) + np.searchsorted(classes, sample.seen[name])
            size *= len(classes)
        return np.eye(size)[cells].reshape(len(self.task.concepts), -1, size).mean(1)

    def obeyed(self, name: str, word: str) -> float:
        """Share of images that show what a prompt says explicitly, a third as many of each concept."""
        count = max(1, self.bench.per_prompt // 3)
        sample = self.sample(name, 0, word, per_prompt=count)
        (shown,) = (
            (column, name) for column, words in self.task.words.items() for name, said in words.items() if said == word
        )
        return float(sample.shares(shown[0], shown[1:])[0])

    def train(self, name: str) -> Trained:
        """Train a row by its command, if its files are not there."""
        system, files, seconds = SYSTEMS[name], [], 0.0
        columns = (list(self.task.words) if system.file_for_each else ["all"]) if system.command else []
        for column in columns:
            out, facts = (self.place / name / f"{column}{end}" for end in (".safetensors", ".json"))
            if not (out.exists() and facts.exists()):
                out.parent.mkdir(parents=True, exist_ok=True)
                given = self._command(system, column, out)
                began = time.monotonic()
                done = subprocess.run([sys.executable, "-m", "training", *given], cwd=ROOT, stdout=subprocess.DEVNULL)
                if done.returncode:
                    raise DDMError(f"`ddm {given[0]}` ended with code {done.returncode}; see above.")
                write_text(facts, json.dumps({"seconds": round(time.monotonic() - began, 1)}))
            files.append(out)
            seconds += json.loads(facts.read_text("utf-8"))["seconds"]
        return Trained(files, seconds)

    def sample(self, name: str, seed: int, word: str = "", cfg: float = CFG, per_prompt: int = 0) -> Sample:
        """Sample every concept and look at the images; a seed has the same noises in every row.

        Args:
            word: to say in every prompt.
        """
        bench, system, concepts = self.bench, SYSTEMS[name], self.task.concepts
        prompts = [one for one in self.task.prompts(word) for _ in range(per_prompt or bench.per_prompt)]
        if system.alternate and not word:
            prompts = self._in_turn(prompts)
        files = self.train(name).files
        adapters = self.train(system.with_adapter).files if system.with_adapter else ()
        how = [system.uses, system.mode, self._guide_targets(system)]
        if system.uses == "guide" and len(files) > 1:  # heads at once share it
            how.append(temperature(len(files)))
        how += ["singly"] * system.singly
        depends = {
            "files": [content_hash(file) for file in (*files, *adapters)],
            "system": how if files else "",
            "prompts": prompts,
            "settings": [seed, STEPS, cfg, bench.bf16, bench.device],
        }

        def make() -> np.ndarray:
            model, alpha, steering = self._open(name)
            seeds = range(seed * SEED_STEP, seed * SEED_STEP + len(prompts))
            return generate(
                model.base,
                prompts,
                seeds,
                alpha=alpha,
                steps=STEPS,
                guidance_scale=cfg,
                batch_size=1 if system.singly else None,
                bf16=bench.bf16,
                steering=steering,
            )

        return bench.look(depends, concepts, make, {"system": name, "prompts": list(dict.fromkeys(prompts))})

    def overhead(self, name: str) -> float:
        """Time that a row adds to the base's sampling, as a share; the two take turns. On a CPU, the processor's."""
        clock = time.process_time if self.bench.device == "cpu" else time.monotonic
        asked = self.task.prompts()
        prompts = [asked[number % len(asked)] for number in range(TIMED)]

        def seconds(model: Model, alpha: float, steering: SamplingGuidance) -> float:
            began = clock()
            generate(
                model.base, prompts, range(TIMED), alpha=alpha, steps=STEPS, bf16=self.bench.bf16, steering=steering
            )
            return clock() - began

        pair = [self._open("base"), self._open(name)]
        for one in pair:
            seconds(*one)
        rounds = [[seconds(*one) for one in pair] for _ in range(self.rounds)]
        return median(row / base for base, row in rounds) - 1

    def _open(self, name: str) -> tuple[Model, float, SamplingGuidance]:
        """The base with what a row puts on it, the adapter's strength, and guidance."""
        system, files = SYSTEMS[name], self.train(name).files
        adapter = files[0] if files and system.uses == "adapter" else None
        alpha = 1.0 if adapter else 0.0
        if system.with_adapter:
            adapter, alpha = self.train(system.with_adapter).files[0], 0.5
        model = load_model(self.bench.base, adapter, device=self.bench.device)
        heads = files if system.uses == "guide" else ()
        module = files[0] if files and system.uses == "invariant" else None
        targets = self._guide_targets(system)
        return model, alpha, load_steering(model.base, heads, targets, mode=system.mode, invariant=module)[0]

    def _guide_targets(self, system: System) -> list[str]:
        said = "{word}" in system.command
        return [self.task.target_of(column, said) for column in self.task.words] if system.uses == "guide" else []

    def _in_turn(self, prompts: list[str]) -> list[str]:
        """The prompts with the words of each cell said as often as its share asks for."""
        words = [[self.task.words[column][name] for name in classes] for column, classes in self.classes.items()]
        cells = list(product(*words))
        wanted = ClassCounts(self.target).wanted(prompts)
        return [reduce(say, cells[cell], prompt) for prompt, cell in zip(prompts, wanted, strict=True)]

    def _command(self, system: System, column: str, out: Path) -> list[str]:
        """What trains a file, as `ddm` takes it; the set and the probes that it needs are made, if they are not there.

        What a run that was stopped has left is thrown away: the seconds are to be those of a whole training.
        """
        image_folders(self.task.images, self.bench.work)  # drawn, if it is not there
        task, lists = self.task, {name: "|".join(words.values()) for name, words in self.task.words.items()}
        taught = list(task.words) if "{probe" in system.command else []
        taught += [task.subject.judge] if "{judge}" in system.command else []
        probes = {name: shlex.quote(str(self.bench.probe_file(name, TEACHER))) for name in taught}
        families = [";".join(map(caption, dict.fromkeys(family))) for family in task.families.values()]
        filled = system.command.format(
            images=shlex.quote(str(self.bench.work / "sets" / task.images)),
            out=shlex.quote(str(out)),
            column=column,
            word=lists.get(column),
            probe=probes.get(column),
            columns=",".join(task.words),
            words=",".join(lists.values()),
            targets=task.targets(),
            said=task.targets(said=True),
            probes=" ".join(f"--probe {probes[name]} --target {task.target_of(name)}" for name in task.words if probes),
            judge=probes.get(task.subject.judge),
            prompts=" ".join(f"--prompts {shlex.quote(family)}" for family in families),
        )
        given = [*shlex.split(filled), "--base", str(self.bench.base), "--device", self.bench.device]
        if given[0] == "head":
            return given
        return [*given, "--restart", *(["--steps", str(self.steps)] if self.steps else [])]

    def _of_cards(self, trained: Trained) -> list[Figure]:
        """What adapters say of themselves: the α that they recommend, and the entropy of the paper's indicator."""
        cards: list[AdapterCard] = [
            card for file in trained.files if (card := AdapterCard.from_metadata(read_metadata(file))) is not None
        ]
        found: list[dict[str, Any]] = [entropy for card in cards if (entropy := card.training.get("indicator_entropy"))]
        return [Figure("recommended α", card.recommended_alpha) for card in cards[:1]] + [
            Figure(f"the indicator's entropy, {part}", entropy[part])
            for entropy in found[:1]
            for part in ("mean", "deviation")
        ]


def _over_prompts(
    name: str, values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], at_most: float | None = None
) -> Figure:
    """A statistic of the mean over prompts of values [P, ...], with its 95% interval.

    What the model thinks of a prompt is the same in every sample, so prompts are resampled (bootstrap, percentiles).
    """
    from scipy.stats import bootstrap

    value, interval = float(statistic(values.mean(0))), None
    if len(values) > 1 and np.ptp(values, axis=0).any():

        def resampled(drawn: np.ndarray, axis: int) -> np.ndarray:
            return statistic(values[drawn].mean(axis if axis >= 0 else drawn.ndim + axis))

        found = bootstrap((np.arange(len(values)),), resampled, method="percentile", rng=np.random.default_rng(0))
        interval = float(found.confidence_interval.low), float(found.confidence_interval.high)
    return Figure(name, value, at_most=at_most, interval=interval)
