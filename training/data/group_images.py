"""From a folder to weights: `labels`, `words`, `discovered` and `auto`, as the command line names them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...debias.core.error import DDMError
from ...debias.groups.components import Component, skewed_components
from ...debias.groups.diffusion_classifier import (
    ATTRIBUTES,
    MOST,
    TIMESTEPS,
    Verdict,
    classify,
    denoising_errors,
    parse_words,
    say,
)
from ...debias.groups.features import centre
from ...debias.groups.groups import Groups, concepts, peers
from ...debias.groups.leaning import Leaning, find_leaning
from ...debias.groups.rarity import indicate
from ...debias.groups.target import Target
from ...debias.groups.weighting import Weighting
from .cache import Memory, Progress, TensorCache, filled, gather, settle
from .image_features import content_keys, image_features
from .text_cache import encode_texts, encoders_hash

if TYPE_CHECKING:
    from ..models.base import Base
    from .latents import Latents

HINT, KNOWN, SCREENED, IMBALANCE, FEWEST = 1.5, 4.0, 96, 0.15, 4
# Noise draws per timestep with which images are classified.
NOISES = 2
Report = Callable[[str, float, int], None]


@dataclass(frozen=True)
class Grouping:
    """What the trainer and the audit know of a set.

    Attributes:
        source: as on the command line.
        groups: one grouping per attribute to show; `discovered` shows clusters of its log-weight.
        targets: the target of each.
        weighting: the tempered weights of the images.
        tried: what `auto` found for each attribute it tried: words, shares, reliability, gain, used or not.
    """

    source: str
    groups: Sequence[Groups]
    targets: Sequence[Target]
    weighting: Weighting
    tried: Sequence[dict[str, object]] = ()

    @property
    def found(self) -> list[dict[str, Any]]:
        """Where each attribute's groups come from, and their shares in the set by name."""
        return self.named([part.shares for part in self.groups])

    def by_attribute(self, shares: np.ndarray) -> list[np.ndarray]:
        """Shares [..., ΣK] of all attributes after one another, as [..., K] of each."""
        ends = np.cumsum([len(part.names) for part in self.groups])[:-1]
        return np.split(shares, ends, axis=-1)

    def named(self, shares: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Shares [K] of each attribute by name, JSON-able, and where its groups come from."""
        return [
            {"source": part.source, "shares": dict(zip(part.names, own.round(4).tolist(), strict=True))}
            for part, own in zip(self.groups, shares, strict=True)
        ]


class Grouper:
    """Groups the images of one set by any source.

    Args:
        base: the base model, which classifies its own images (`words`, `auto`) or lends its features (`discovered`);
            None will do for `labels`.
        latents: scaled latents [N, C, h, w] of one shape; None will do for `labels`.
        captions: [N] captions; equal ones are one concept, and those of few images are weighed together (`peers`).
        seed: of the noises.
        report: called with (what, done, total) while the model works.
        cache: a folder that keeps encoded captions, and what the base sees in the images.
    """

    def __init__(
        self,
        base: "Base | None",
        latents: "Latents | None",
        captions: Sequence[str],
        seed: int = 0,
        report: Report | None = None,
        cache: Path | None = None,
    ):
        self.base, self.latents, self.seed, self.cache = base, latents, seed, cache
        self.names, self.concept = concepts(captions)
        self.peers = peers(self.concept)
        self.report = report or (lambda what, done, total: None)

    def group(
        self, source: str, target: str = "uniform", labels: Callable[[str], list[str | None]] | None = None
    ) -> Grouping:
        """Group by a source as the command line writes it.

        Args:
            source: `labels:COLUMN`, `words:man|woman`, `discovered` or `auto`; several columns or lists of words are
                separated by commas, and balanced jointly.
            target: `uniform`, or shares such as `man=.75,woman=.25` (labels and words only); one for each attribute,
                separated by semicolons.
            labels: gives a metadata column, one entry per image.

        Raises:
            DDMError: for a source that is none of these, or a target that it cannot have.
        """
        check_source(source, target)
        kind = source.partition(":")[0]
        if kind == "labels":
            columns = {name: labels(name) if labels else [] for name in attributes(source)}
            found = [
                Groups.from_labels([label or "" for label in given], f"labels:{name}")
                for name, given in columns.items()
            ]
            return self._balanced(source, found, target)
        if len(self.concept) < FEWEST:
            raise DDMError(
                f"The source “{source}” compares images with each other, and {len(self.concept)} are too few for "
                f"that. Add images (at least {FEWEST}, better some hundred), or say who is who with labels:COLUMN."
            )
        if kind == "words":
            lists = {f"words:{part}": parse_words(part) for part in attributes(source)}
            found = [self._groups(name, words, self.classify(words)) for name, words in lists.items()]
            return self._balanced(source, found, target)
        return self.discover() if source == "discovered" else self.auto()

    def classify(self, words: Sequence[str], rows: np.ndarray | None = None) -> Verdict:
        """Let the base tell which of the words fits each image (all images, or only `rows`)."""
        rows = np.arange(len(self.concept)) if rows is None else rows
        errors = [self._errors(word, rows) for word in words]
        return classify(np.stack(errors, 1), self._errors("", rows))

    @cached_property
    def _measured(self) -> Memory | TensorCache:
        """The denoising errors of images under what was said, wherever they are kept."""
        if self.cache is None:
            return Memory()
        maker = f"{self.base.identity} {encoders_hash(self.base)} {self.seed} {TIMESTEPS} {NOISES}"
        return TensorCache(self.cache, "errors", maker, ("errors",))

    def _errors(self, word: str, rows: np.ndarray) -> np.ndarray:
        """Measure denoising errors [rows, timesteps, noises] with a word said; each is measured only once."""
        import torch

        said = [say(name, word) if word else name for name in self.names]
        latents, concept = self.latents.take(rows), self.concept[rows]
        text = encode_texts(self.base, said, self.cache)

        def measure(places: list[int], told: Progress) -> list[torch.Tensor]:
            found = denoising_errors(
                self.base.denoise,
                self.base.rates,
                latents.take(places),
                [text],
                torch.as_tensor(concept[places]),
                timesteps=self.base.family.along(self.base, TIMESTEPS),
                noises=NOISES,
                seed=self.seed,
                progress=told,
            )
            return [torch.as_tensor(found[:, 0], dtype=torch.float32)]

        found = filled(
            self._measured,
            content_keys(latents, said, concept),
            measure,
            MOST,
            lambda done, total: self.report(word or "plain caption", done, total),
        )
        return gather(settle(found), torch.device("cpu"))[0].double().numpy()

    def auto(self) -> Grouping:
        """Try the built-in attribute words; those that the model can tell apart and that are out of balance are groups.

        Falls back to `discovered` where there is none.
        """
        rng = np.random.default_rng(self.seed)
        count = len(self.concept)
        some = np.sort(rng.choice(count, min(SCREENED, count), replace=False))
        tried, found = [], []
        for name, words in ATTRIBUTES.items():
            verdict = self.classify(words, some)
            clear = bool(verdict.gain.max() >= HINT)
            row: dict[str, object] = {"attribute": name, "words": words, "told_apart": clear, "used": False}
            row |= {"reliability": verdict.reliability, "gain": round(float(verdict.gain.max()), 2)}
            if clear:
                verdict = self.classify(words)
                groups = self._groups(f"auto:{name}", words, verdict)
                row |= {"gain": round(float(verdict.gain.max()), 2), "shares": groups.shares.round(4).tolist()}
                row["told_apart"] = bool(verdict.gain.max() >= KNOWN)
                row["used"] = bool(row["told_apart"] and self.imbalance(groups) >= IMBALANCE)
                if row["used"]:
                    found.append(groups)
            tried.append(row)
        if not found:
            grouping = self.discover()
            return Grouping("auto", grouping.groups, grouping.targets, grouping.weighting, tried)
        grouping = self._balanced("auto", found, "uniform")
        return Grouping("auto", found, grouping.targets, grouping.weighting, tried)

    def imbalance(self, groups: Groups) -> float:
        """How far groups are from equal shares: among all images, or within captions beyond chance, whichever is more.

        Within captions it is the root of the mean square distance, less the variance of a share of so few images.
        """
        equal = 1 / len(groups.names)
        own = np.stack([np.bincount(self.peers, column) for column in groups.membership.T], 1)
        own = own[own.sum(1) > 0]
        images = own.sum(1, keepdims=True)
        beyond = np.square(own / images - equal).mean(0) - equal * (1 - equal) * (1 / images).mean()
        return float(max(np.abs(groups.shares - equal).max(), np.sqrt(max(0.0, beyond.max()))))

    def discover(self) -> Grouping:
        """Balance the attributes that show in the features, among all images or within captions.

        Those of `skewed_components`, or the one of `find_leaning`: whichever makes the images likelier. Where there is
        none, α = 0 is recommended; what is trained all the same has the rarity indicator's weights, and the groups
        shown are thirds of its log-weight.
        """
        features = image_features(
            self.base,
            self.latents,
            self.names,
            self.concept,
            self.seed,
            lambda done, total: self.report("features", done, total),
            self.cache,
        )
        centred = centre(features, self.peers)
        found = skewed_components(centred, self.seed)
        leaning = find_leaning(centred, self.peers, self.seed, [component.rare for component in found])
        if leaning:
            return self._balanced("discovered", [_sides(leaning)], "uniform")
        if found:
            return self._balanced("discovered", [_rare_and_common(*pair) for pair in enumerate(found, 1)], "uniform")
        level = indicate(centred)
        thirds = 3 * level.argsort(kind="stable").argsort() // len(level)
        names = ("common", "between", "rare")
        groups = Groups.from_labels([f"{2 - third} {names[third]}" for third in thirds], "discovered")
        return Grouping(
            "discovered", [groups], [Target.uniform(groups.names)], Weighting.of_indicator(level, self.peers)
        )

    def _balanced(self, source: str, groups: Sequence[Groups], target: str) -> Grouping:
        uniform = target.strip().lower() == "uniform"
        wanted = [target] * len(groups) if uniform else target.split(";")
        if len(wanted) != len(groups):
            raise DDMError(
                f"There are {len(groups)} attributes in “{source}”, but {len(wanted)} in the target “{target}”. Give "
                "one for each, separated by semicolons, or leave the target uniform."
            )
        targets = [Target.parse(text, part.names) for text, part in zip(wanted, groups, strict=True)]
        return Grouping(source, groups, targets, Weighting.of_attributes(groups, targets, self.peers))

    def _groups(self, source: str, words: tuple[str, ...], verdict: Verdict) -> Groups:
        evidence = {"reliability": verdict.reliability, "gain": float(verdict.gain.max())}
        return Groups(words, verdict.posterior, source, words, evidence)


def attributes(source: str) -> list[str]:
    """The columns of `labels:gender,skin_tone`, or the lists of `words:man|woman,old|young`."""
    return [part.strip() for part in source.partition(":")[2].split(",")]


def _rare_and_common(number: int, component: Component) -> Groups:
    """The two groups along a component; they have a number, as there may be more of them, and no words."""
    membership = np.stack([component.rare, 1 - component.rare], 1)
    evidence = {"skewness": component.skewness, "apart": component.apart}
    return Groups((f"rare {number}", f"common {number}"), membership, "discovered", evidence=evidence)


def _sides(leaning: Leaning) -> Groups:
    """The two sides to which captions lean; neither is rare in all of them, and they have no words."""
    membership = np.stack([leaning.side, 1 - leaning.side], 1)
    evidence = {"spread": leaning.spread, "told": leaning.told}
    return Groups(("side A", "side B"), membership, "discovered", evidence=evidence)


def check_source(source: str, target: str = "uniform") -> None:
    """Refuse a source that is not known, or a target that it cannot have, before any work is done."""
    kind, _, rest = source.partition(":")
    if kind == "words" and rest:
        for part in attributes(source):
            parse_words(part)
    elif source in ("discovered", "auto"):
        if target != "uniform":
            raise DDMError(
                f"The target {target} needs named groups, and “{source}” finds its own. "
                "Use words:… or labels:… as the source of groups, or leave the target uniform."
            )
    elif kind != "labels" or not all(attributes(source)):
        raise DDMError(
            f"The source of groups “{source}” is not known. Use discovered, auto, words:man|woman (any words the "
            "model knows), or labels:COLUMN (a column of metadata.jsonl, or folder). Several columns or lists of words "
            "are separated by commas."
        )


def said_by_group(grouping: Grouping, caption: str) -> list[str]:
    """Write a caption once per cell of the grouping (the product of its attributes), all words said."""

    def cross(sentences: list[str], part: Groups) -> list[str]:
        return [say(sentence, word) for sentence in sentences for word in part.words]

    return reduce(cross, grouping.groups, [caption])
