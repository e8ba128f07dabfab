"""The cases: each claim as a function of the bench that gives figures, in one table."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..debias.adapter.lora_file import load_adapter
from ..debias.core.error import DDMError
from ..debias.evaluation.kid import kid
from ..debias.evaluation.metrics import fairness_distance
from ..training.data.dataset import folder_set
from ..training.embedded.tiny_people import TONE_WORDS, caption
from ..training.loop.settings import TrainSettings
from ..training.models.load_base import load_base
from ..training.models.lora import load_lora_into
from ..training.objectives.ddm_run import Run
from ..training.sampling.generate import generate
from .cache import cache_costs
from .host import host_costs
from .imbalance import IMBALANCES, OCCUPATIONS
from .kill import kill_survival
from .measure import Bench, Sample
from .memory import estimated_memory
from .nodes import node_costs, verdict_costs
from .package import ROOT
from .recipe import SKEWED, Recipe, image_folders
from .result import Figure
from .train_speed import training_speed

DIAL = (0.0, 0.25, 0.5, 0.75, 1.0)
# What is said, and which class of which attribute obeys it.
EXPLICIT = {"a woman …": ("gender", "woman"), "a man …": ("gender", "man"), "a dark skin …": ("skin_tone", "dark")}
OBEYED = 0.9
MEN = ("gender", ("man",))
EXACT_STEPS = 30


@dataclass(frozen=True)
class Case:
    """A named claim: what it is about, what measures it, and whether that needs a GPU."""

    title: str
    run: Callable[[Bench], list[Figure]]
    gpu: bool = False


def base(bench: Bench) -> list[Figure]:
    """The embedded model: recognisable, as biased as it was trained to be, obedient, quick and small."""
    neutral = bench.sample()
    men = neutral.by_role(*MEN)
    size = sum(path.stat().st_size for path in bench.base.rglob("*") if path.is_file()) / 2**20
    return [
        neutral.figure("role recognised", neutral.recognised, 0.85),
        neutral.figure("men, all neutral prompts", men.mean(), 0.80, 0.90),
        Figure("men, role with the fewest", float(men.min()), 0.65, 0.97),
        Figure("men, role with the most", float(men.max()), 0.65, 0.97),
        *obeyed(bench, None, tuple(EXPLICIT)),
        Figure("sampling speed", bench.speed(), 4, unit="images/s"),
        Figure("size on disk", size, at_most=16, unit="MiB"),
    ]


def obeyed(bench: Bench, recipe: Recipe | None, sentences: tuple[str, ...]) -> list[Figure]:
    """Explicit prompts, a third as many images of each as of a neutral one, at α = 1 where there is an adapter.

    The base must obey each sentence; of an adapter the target is for all of them together.
    """
    figures = []
    for sentence in sentences:
        attribute, value = EXPLICIT[sentence]
        say = (value, "") if attribute == "gender" else ("", value)
        sample = bench.sample(recipe, 1.0, say, max(1, bench.per_prompt // 3))
        share = float(sample.by_role(attribute, (value,)).mean())
        figures.append(sample.figure(f"“{sentence}” obeyed", share, None if recipe else OBEYED))
    if recipe:
        together = float(np.mean([figure.value for figure in figures]))
        figures.append(Figure("explicit prompts obeyed", together, OBEYED))
    return figures


def dial(bench: Bench, source: str) -> list[Figure]:
    """A label-free source on six men to one woman, without a style: the whole dial, its price in time and memory."""
    recipe = Recipe("men", source)
    facts = bench.train(recipe).facts
    samples = {alpha: bench.sample(recipe, alpha) for alpha in DIAL}
    men = {alpha: sample.by_role(*MEN) for alpha, sample in samples.items()}
    shares = np.array([men[alpha].mean() for alpha in DIAL])
    worst = {alpha: float(np.abs(men[alpha] - 0.5).max()) for alpha in (0.0, 1.0)}
    targets = {0.0: (0.78, None), 1.0: (0.40, 0.60)}
    return [
        *(
            samples[alpha].figure(f"men at α {alpha:g}", share, *targets.get(alpha, (None, None)))
            for alpha, share in zip(DIAL, shares, strict=True)
        ),
        Figure("largest rise from one α to the next", float(np.diff(shares).max()), at_most=0.0),
        Figure("worst role at α 0, distance from one half", worst[0.0]),
        Figure("worst role at α 1, distance from one half", worst[1.0], at_most=worst[0.0]),
        *distances(samples[0.0], samples[1.0], *MEN),
        training_time(bench, recipe),
        Figure("of which finding groups", facts["grouping_seconds"], unit="s"),
        Figure("peak memory of the training", facts["peak_mib"] / 1024, at_most=3, unit="GB"),
    ]


def training_time(bench: Bench, recipe: Recipe) -> Figure:
    """Seconds from the folder to the file; the target is for a CPU."""
    most = 150 if bench.device == "cpu" else None
    return Figure("training, groups included", bench.train(recipe).facts["seconds"], at_most=most, unit="s")


def distances(
    before: Sample, after: Sample, column: str, side: tuple[str, ...], most: float | None = None
) -> list[Figure]:
    """FD of two sides (the values, and all others) to one half each, at α 0 and α 1, and their ratio."""
    first, last = (
        float(fairness_distance(np.array([share, 1 - share]), np.array([0.5, 0.5])))
        for share in (float(sample.by_role(column, side).mean()) for sample in (before, after))
    )
    return [
        Figure("FD at α 0", first),
        Figure("FD at α 1", last),
        Figure("FD at α 1 over FD at α 0", last / max(first, 1e-9), at_most=most, unit="×"),
    ]


def styled(bench: Bench, source: str, name: str) -> list[Figure]:
    """A label-free source with --style on an imbalance that nothing was tuned for; α = 0 is base and style.

    Tones have two sides here, as the set was drawn: default, light and medium-light against the other three.
    """
    recipe = Recipe(name, source, style=True)
    column, side = IMBALANCES[name]
    samples = {alpha: bench.sample(recipe, alpha) for alpha in (0.0, 0.5, 1.0)}
    # A style is part of the images' look: it may stay, but must not be turned round.
    lowest = {1.0: 0.35} if column == "art_style" else {}
    return [
        *(
            sample.figure(f"majority at α {alpha:g}", float(sample.by_role(column, side).mean()), lowest.get(alpha))
            for alpha, sample in samples.items()
        ),
        *distances(samples[0.0], samples[1.0], column, side, None if column == "art_style" else 0.5),
    ]


def reached(bench: Bench, recipe: Recipe, low: float, high: float) -> list[Figure]:
    """Men at α 0 and, where the target is met, at α 1."""
    samples = [bench.sample(recipe, alpha) for alpha in (0.0, 1.0)]
    before, after = (float(sample.by_role(*MEN).mean()) for sample in samples)
    return [
        samples[0].figure("men at α 0", before),
        samples[1].figure("men at α 1", after, low, high),
        training_time(bench, recipe),
    ]


def tones(bench: Bench) -> list[Figure]:
    """Skin tones from labels, trained on a set with the tones as skewed as in the base (see `draw_skewed`).

    The target is uniform over the set's six classes: the emoji's yellow (“default”) and five tones. FD is given over
    the six, and over the five alone, as shares of the images that show one of them.
    """
    recipe = Recipe(SKEWED, "labels:skin_tone")
    samples = [bench.sample(recipe, alpha) for alpha in (0.0, 1.0)]
    names = tuple(TONE_WORDS)
    figures = []
    for what, chosen in (("six classes", names), ("five tones", names[1:])):
        shares = [sample.shares("skin_tone", chosen) for sample in samples]
        uniform = np.full(len(chosen), 1 / len(chosen))
        before, after = (float(fairness_distance(one / max(one.sum(), 1e-9), uniform)) for one in shares)
        figures += [
            Figure(f"FD at α 0, {what}", before),
            Figure(f"FD at α 1, {what}", after),
            Figure(f"FD at α 1 over FD at α 0, {what}", after / max(before, 1e-9), at_most=0.25, unit="×"),
        ]
    last = samples[1].shares("skin_tone", names)
    return figures + [
        samples[1].figure(f"{name} at α 1", float(share)) for name, share in zip(names, last, strict=True)
    ]


def price(bench: Bench, groups: str) -> list[Figure]:
    """What α = 1 costs: recognition, likeness to the real images, and obedience.

    KID is on the role probe's features, to the set's own images of the twenty occupations; the ordinary LoRA learnt
    the same set with the same settings, by plain draws.
    """
    recipe = Recipe("men", groups)
    before, after = bench.sample(recipe, 0.0), bench.sample(recipe, 1.0)
    ordinary = bench.sample(Recipe("men", "labels:gender", ordinary=True))
    images, roles = bench.images("men")
    asked = set(OCCUPATIONS)
    real = bench.probe("role").features(images[[role in asked for role in roles]])
    fair, plain, none = (kid(sample.features, real) for sample in (after, ordinary, before))
    figures = [
        before.figure("role recognised at α 0", before.recognised),
        after.figure("role recognised at α 1", after.recognised),
        Figure("recognised less often, share of images", before.recognised - after.recognised, at_most=0.03),
    ]
    if fair and plain and none:
        # As many subsets as the smaller side holds without sharing an image are independent.
        least = plain.spread / np.sqrt(max(1, min(len(ordinary), len(real)) // plain.subset_size))
        figures += [
            Figure("KID at α 0 (the base)", none.value),
            Figure("KID of an ordinary LoRA", plain.value),
            Figure("KID at α 1", fair.value),
            Figure("KID that these numbers resolve", least),
            Figure(
                "KID at α 1 over that of an ordinary LoRA, each at least what is resolved",
                max(fair.value, least) / max(plain.value, least),
                at_most=1.2,
                unit="×",
            ),
        ]
    return figures + obeyed(bench, recipe, tuple(EXPLICIT)[:2])


def exactness(bench: Bench) -> list[Figure]:
    """α = 0 is the base bit for bit, a saved file gives the same images, a seed gives the same file (30 steps)."""
    prompts = [caption(role) for role in OCCUPATIONS[:4]]
    # The file's name is in its metadata, so both have the same.
    files = [bench.folder / f"exact-{number}" / "fair.safetensors" for number in (1, 2)]

    def images(model: object, alpha: float, bf16: bool = False) -> np.ndarray:
        return generate(model, prompts, list(range(len(prompts))), alpha=alpha, bf16=bf16)

    plain = load_base(bench.base)
    untouched = [images(plain, 0.0, bf16) for bf16 in (False, bench.bf16)]
    for file in files:
        model = load_base(bench.base)
        encoded = folder_set(model, image_folders("men", bench.work))
        Run(model, encoded, file, groups="labels:gender", settings=TrainSettings(steps=EXACT_STEPS)).train()
    still = [
        np.array_equal(images(model, 0.0, bf16), one) for bf16, one in zip((False, bench.bf16), untouched, strict=True)
    ]
    trained = images(model, 1.0)
    load_lora_into(plain.denoiser, load_adapter(files[1]), "debias", plain.hash)
    return [
        Figure("α 0 is the base, bit for bit", all(still), 1),
        Figure("α 1 is not", not np.array_equal(trained, untouched[0]), 1),
        Figure("a saved and loaded file gives the same images", np.array_equal(images(plain, 1.0), trained), 1),
        Figure("one seed, trained twice, gives the same bytes", files[0].read_bytes() == files[1].read_bytes(), 1),
    ]


def demo(_: Bench) -> list[Figure]:
    """The whole demo, in a Python that has what it needs.

    The system counts the memory that this process held when it started the demo as the demo's too, so the figure may
    be too high, never too low.
    """
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "training", "demo"], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise DDMError("The demo ended with an error; see above.")
    return [
        Figure("the whole demo", time.monotonic() - began, at_most=480, unit="s"),
        Figure("peak memory of the demo", used.ru_maxrss / 2**20, at_most=3, unit="GB"),
    ]


def loops(bench: Bench, name: str) -> list[Figure]:
    """How fast a model is learnt, by our loop and by others."""
    return training_speed(name, bench.base, bench.device, bench.threads)


SOURCES = ("auto", "discovered")
CASES: dict[str, Case] = {
    "base": Case("the embedded model", base),
    "host": Case("in ComfyUI", lambda bench: host_costs()),
    "cache": Case("a folder of 10,000 images", lambda bench: cache_costs(bench.base)),
    "train-speed": Case(
        "the training loop beside two others, by processor time",
        lambda bench: loops(bench, "the embedded model"),
    ),
    "memory": Case("the memory that full shapes need, estimated", lambda bench: estimated_memory()),
    "train-speed-sd15": Case(
        "the same loops on Stable Diffusion 1.5", lambda bench: loops(bench, "SD 1.5, 512 px"), gpu=True
    ),
    "train-speed-sdxl": Case("our loop on SDXL", lambda bench: loops(bench, "SDXL, 1024 px"), gpu=True),
    "kill": Case(
        "killed at random and gone on with", lambda bench: kill_survival(bench.base, image_folders("men", bench.work))
    ),
    "verdict": Case("*Measure my model* in ComfyUI", lambda bench: verdict_costs()),
    "nodes": Case("the report and sweep nodes", lambda bench: node_costs()),
    **{f"{source}-men": Case(f"{source} on men 6:1, the dial", partial(dial, source=source)) for source in SOURCES},
    **{
        f"{source}-{name}-style": Case(
            f"{source} with a style on {name} 6:1", partial(styled, source=source, name=name)
        )
        for name in ("women", "light", "noto")
        for source in SOURCES
    },
    "words-men": Case(
        'words:"man|woman" on men 6:1', partial(reached, recipe=Recipe("men", "words:man|woman"), low=0.43, high=0.57)
    ),
    "labels-gender": Case(
        "labels:gender on men 6:1", partial(reached, recipe=Recipe("men", "labels:gender"), low=0.46, high=0.54)
    ),
    "labels-skin-tone": Case("labels:skin_tone on tones as skewed as the base's", tones),
    "target-75-25": Case(
        "labels:gender with a target of 75 to 25",
        partial(reached, recipe=Recipe("men", "labels:gender", "man=.75,woman=.25"), low=0.70, high=0.80),
    ),
    "price-discovered": Case("the price of α 1, discovered on men 6:1", partial(price, groups="discovered")),
    "price-labels": Case("the price of α 1, labels:gender on men 6:1", partial(price, groups="labels:gender")),
    "exactness": Case("what must be exact", exactness),
    "demo": Case("the demo, in time and memory", demo),
}
