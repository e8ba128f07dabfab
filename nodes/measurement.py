"""Generating the images of prompts that are not there yet, and measuring all of them: for one model, or for several."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import chain, count, islice, zip_longest
from typing import TYPE_CHECKING, Any

from ..debias.core.error import DDMError
from .generation import Generator, SamplerSettings, Step
from .image_store import ImageStore
from .native import BASE_HASH
from .progress import Progress

if TYPE_CHECKING:
    from ..debias.evaluation.compare import Evaluation
    from ..debias.groups.target import Target
    from ..debias.probes.probe import Probe
    from .upstream import Upstream

# Images that are looked at together.
AT_ONCE = 32


@dataclass(frozen=True)
class Variant:
    """A model whose images are measured.

    Attributes:
        alpha: strength of its adapter.
        store: where its images are kept.
        prepare: gives the MODEL, and positive and negative conditioning of every prompt; only called when an image is
            missing.
    """

    alpha: float
    store: ImageStore
    prepare: Callable[[], tuple[Any, Mapping[str, tuple[list, list]]]]


def store_of(
    model: Any, upstream: "Upstream", settings: SamplerSettings, adapter: str = "", alpha: float = 0.0
) -> ImageStore:
    """Where the images of a node's model and settings are kept.

    Args:
        upstream: of a node with the inputs model, clip and vae, and perhaps positive and negative.
        adapter: stamp of a file that the node itself puts on at strength `alpha`.
    """
    above = upstream.digest("model", "clip", "vae", "positive", "negative")
    base = model.attachments.get(BASE_HASH, "")
    patched = {"adapter": adapter, "alpha": alpha} if alpha else {}
    return ImageStore({"model": above, "base": base, **asdict(settings), **patched})


def conditioning(
    names: Sequence[str], clip: Any, positive: list | None, negative: list | None
) -> dict[str, tuple[list, list]]:
    """Positive and negative conditioning of every prompt; without any for the negative, that of the empty prompt.

    Raises:
        DDMError: there is neither a CLIP nor a negative conditioning.
    """

    def encode(text: str) -> list:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    if negative is None:
        if clip is None:
            raise DDMError("There is no negative conditioning. Connect negative, or clip for an empty one.")
        negative = encode("")
    return {name: (positive if positive is not None else encode(name), negative) for name in names}


def seeds_of(prompt: str, seed: int, count: int) -> range:
    """Seeds of the images of a prompt: its own, and the same whatever other prompts stand beside it."""
    own = blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    start = (seed + int.from_bytes(own, "little")) % 2**63
    return range(start, start + count)


def generate(generator: Generator, variants: Sequence[Variant], seeds: Mapping[str, Sequence[int]], node: str) -> None:
    """Make the images that are missing; each is kept as soon as its batch is done.

    Args:
        seeds: of every prompt.
        node: id of the node whose panel shows the progress.

    Raises:
        InterruptProcessingException: the user cancelled.
    """
    from ..debias.core.image import from_pixels

    missing = [{name: _missing(one.store, name, own) for name, own in seeds.items()} for one in variants]
    wanted = len(variants) * sum(map(len, seeds.values()))
    made = wanted - sum(len(own) for names in missing for own in names.values())
    progress = Progress(wanted, node, "Generating", made)
    progress(made)
    for variant, names in zip(variants, missing, strict=True):
        if not any(names.values()):
            continue
        model, encoded = variant.prepare()
        for name, batch in _rounds({name: generator.batches(model, own) for name, own in names.items()}):
            step = _counted(progress, made, len(batch) / generator.settings.steps)
            pixels = generator.generate(model, *encoded[name], batch, step).cpu().numpy()
            for seed, image in zip(batch, map(from_pixels, pixels), strict=True):
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
    for variant in variants:
        for name, own in seeds.items():
            there = iter(sorted(set(variant.store.seeds(name)) & set(own)))
            while some := list(islice(there, AT_ONCE)):
                images = [variant.store.open(name, seed) for seed in some]
                seen.add(probes, images, [ImageMeta(name, variant.alpha, seed) for seed in some])
    return Evaluation.of(seen.records(), title)


def _missing(store: ImageStore, prompt: str, seeds: Sequence[int]) -> list[int]:
    there = set(store.seeds(prompt))
    return [seed for seed in seeds if seed not in there]


def _rounds(batches: Mapping[str, Sequence[Sequence[int]]]) -> Iterator[tuple[str, Sequence[int]]]:
    """Batches of all prompts in turn, so that a cancel leaves about as many images of each."""
    named = ([(name, batch) for batch in own] for name, own in batches.items())
    return (one for one in chain.from_iterable(zip_longest(*named)) if one is not None)
