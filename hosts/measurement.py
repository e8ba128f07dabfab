"""Generating the images of prompts that are not there yet, and measuring all of them: for one model, or for several."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, count, islice, zip_longest
from typing import TYPE_CHECKING, Any, Protocol

from ..debias.core.error import DDMError
from ..debias.core.last_used import LastUsed
from .image_store import ImageStore

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..debias.evaluation.accumulator import Look
    from ..debias.evaluation.compare import Evaluation
    from ..debias.evaluation.report import FairnessReport
    from ..debias.groups.target import Target
    from ..debias.probes.probe import Probe

# Images that are looked at together; the probes whose answers are kept, those used last.
AT_ONCE, PROBES = 32, 4
# What the gallery shows: images of a prompt, and prompts; and a sweep's grid: rows of each α, and images in one.
COLUMNS, PROMPTS = 12, 24
GRID_ROWS, GRID_COLUMNS = 3, 8
# Strengths of a sweep.
WEAKEST, STRONGEST, MOST = -2.0, 3.0, 12

Step = Callable[[Any], None]

# What some probes said of images, by the image's stamp: an image is looked at once while the host runs.
_looks: "LastUsed[tuple, dict[str, Look]]" = LastUsed(PROBES)


class Generator(Protocol):
    """A model, as a host samples with it.

    Attributes:
        steps: of sampling.
    """

    steps: int

    def batches(self, seeds: Sequence[int]) -> Sequence[Sequence[int]]:
        """The seeds in batches that fit into memory."""

    def generate(self, prompt: str, seeds: Sequence[int], step: Step) -> "Sequence[Image]":
        """Images of a batch of seeds; `step` is called after each sampling step with a preview, or None."""


class Progress(Protocol):
    """Told how many images are done, steps of a batch counting for parts; what it raises stops the work."""

    def __call__(self, done: float, *, preview: Any = None) -> None:
        """Tell it, with a preview if there is one."""


@dataclass(frozen=True)
class Variant:
    """A model whose images are measured.

    Attributes:
        alpha: strength of its adapter.
        store: where its images are kept.
        prepare: gives what generates; only called when an image is missing.
    """

    alpha: float
    store: ImageStore
    prepare: Callable[[], Generator]


def seeds_of(prompt: str, seed: int, count: int) -> range:
    """Seeds of the images of a prompt: its own, and the same whatever other prompts stand beside it."""
    own = blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    start = (seed + int.from_bytes(own, "little")) % 2**63
    return range(start, start + count)


def read_alphas(text: str) -> list[float]:
    """The strengths in "0, .5, 1", in order.

    Raises:
        DDMError: something else, 0 not among them, or strengths out of range.
    """
    from ..training.commands.numbers import read_numbers

    alphas = sorted(read_numbers(text, "alphas"))
    if 0.0 not in alphas:
        raise DDMError(f"alphas is {text!r}, but a sweep compares with α = 0. Put 0 among the strengths.")
    if alphas[0] < WEAKEST or alphas[-1] > STRONGEST or len(alphas) > MOST:
        raise DDMError(
            f"alphas is {text!r}. Give at most {MOST} strengths between {WEAKEST:g} and {STRONGEST:g}: 0, .5, 1."
        )
    return alphas


def generate(
    variants: Sequence[Variant], seeds: Mapping[str, Sequence[int]], begin: Callable[[int, int], Progress]
) -> None:
    """Make the images that are missing; each is kept as soon as its batch is done.

    Args:
        seeds: of every prompt.
        begin: given all images and those that are there already, gives what is told of the progress.
    """
    missing = [{name: _missing(one.store, name, own) for name, own in seeds.items()} for one in variants]
    wanted = len(variants) * sum(map(len, seeds.values()))
    made = wanted - sum(len(own) for names in missing for own in names.values())
    progress = begin(wanted, made)
    progress(made)
    for variant, names in zip(variants, missing, strict=True):
        if not any(names.values()):
            continue
        generator = variant.prepare()
        for name, batch in _rounds({name: generator.batches(own) for name, own in names.items()}):
            step = _counted(progress, made, len(batch) / generator.steps)
            for seed, image in zip(batch, generator.generate(name, batch, step), strict=True):
                variant.store.add(name, seed, image)
            made += len(batch)
            progress(made, preview=image)


def _counted(progress: Progress, made: int, images: float) -> Step:
    """A callback for the steps of a batch, each of which counts for so many images."""
    done = count(1)
    return lambda preview: progress(made + images * next(done), preview=preview)


def evaluate(
    probes: "Sequence[Probe]",
    targets: "Sequence[Target | None]",
    variants: Sequence[Variant],
    seeds: Mapping[str, Sequence[int]],
    title: str,
) -> "Evaluation":
    """Measure the images of these prompts and seeds that are there.

    Raises:
        DDMError: there is none; a probe or a target does not fit.
    """
    from ..debias.evaluation.accumulator import Accumulator, ImageMeta
    from ..debias.evaluation.compare import Evaluation

    seen = Accumulator(probes, targets)
    asked_of = tuple((probe.digest, target is None) for probe, target in zip(probes, targets, strict=True))
    known = _looks.use(asked_of, dict)
    for variant in variants:
        for name, own in seeds.items():
            asked = set(own)
            there = {seed: variant.store.stamp(name, seed) for seed in variant.store.seeds(name) if seed in asked}
            new = iter([seed for seed, stamp in there.items() if stamp not in known])
            while some := list(islice(new, AT_ONCE)):
                images = [variant.store.open(name, seed) for seed in some]
                looks = seen.look(probes, images, [name] * len(some))
                known.update(zip((there[seed] for seed in some), looks, strict=True))
            origins = [ImageMeta(name, variant.alpha, seed) for seed in there]
            seen.add_looks([known[stamp] for stamp in there.values()], origins)
    return Evaluation.of(seen.records(), title)


def sweep_panel(report: "FairnessReport", cfg: float, files: Mapping[str, Any], warning: str | None) -> dict[str, Any]:
    """What a page shows of a sweep at a guidance scale, with its files; `warning` is said besides."""
    from ..debias.rendering.panel import report_panel, sweep_points

    panel = report_panel(report, "sweep", files)
    panel |= {"points": sweep_points(report), "recommended_alpha": report.recommendation(cfg).alpha}
    panel["remarks"] += [warning] if warning else []
    return panel


def gallery(study: "Evaluation", store: ImageStore) -> "Image":
    """A row of images for each prompt under its shares, the worst prompt first."""
    from ..debias.rendering.image_grid import Block, draw_comparison

    first, blocks = study.report.attributes[0], []
    for row in first.prompts[:PROMPTS]:
        images = [store.open(row.prompt, seed) for seed in store.seeds(row.prompt)[:COLUMNS]]
        blocks.append(Block(row.prompt, f"{_shares(first.classes, row.shares)} of {row.images}", [images]))
    return draw_comparison([""] * max((len(block.rows[0]) for block in blocks), default=1), blocks)


def grid(study: "Evaluation", variants: Sequence[Variant], seeds: Mapping[str, Sequence[int]]) -> "Image":
    """One block for each α: the prompts side by side, each with as many seeds as there is room for."""
    from ..debias.rendering.image_grid import Block, draw_comparison

    first = study.report.attributes[0]
    shown = dict(list(seeds.items())[:GRID_COLUMNS])
    count = len(next(iter(shown.values())))
    room = min(GRID_COLUMNS // len(shown), count)
    blocks = []
    for variant, overall in zip(variants, first.overall, strict=True):
        rows = [
            [variant.store.open(prompt, seed) for prompt, own in shown.items() for seed in own[start : start + room]]
            for start in range(0, min(GRID_ROWS, count // room) * room, room)
        ]
        label = study.report.conditions[overall.condition].label
        blocks.append(Block(label, _shares(first.classes, overall.shares), rows))
    return draw_comparison([prompt for prompt in shown for _ in range(room)], blocks)


def _shares(classes: Sequence[str], shares: Sequence[Any]) -> str:
    from ..debias.evaluation.report_text import percent

    return ", ".join(f"{name} {percent(share.value)}" for name, share in zip(classes, shares, strict=True))


def _missing(store: ImageStore, prompt: str, seeds: Sequence[int]) -> list[int]:
    there = set(store.seeds(prompt))
    return [seed for seed in seeds if seed not in there]


def _rounds(batches: Mapping[str, Sequence[Sequence[int]]]) -> Iterator[tuple[str, Sequence[int]]]:
    """Batches of all prompts in turn, so that a cancel leaves about as many images of each."""
    named = ([(name, batch) for batch in own] for name, own in batches.items())
    return (one for one in chain.from_iterable(zip_longest(*named)) if one is not None)
