"""The research log as text: the question, the variants, the table, what it shows, how to run it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..debias.core.io import write_text

OVER = 0.35
QUESTION = """# Discovery: balancing what nobody labelled

**Question.** A set of images is six (or four) to one in some attribute. Nobody says which attribute, and no label is
read. Which way of weighting the images brings the weighted share of the majority nearest to one half at α = 1, over
several attributes and data sets, by one setting, and at what effective sample size?

**Sets.** Of the example images, one side whole and two random images of each role of the other (504 images, 6:1;
seed 0): men, women, light tones (default, light, medium-light), dark tones, Noto, Twemoji. Of MNIST's test digits 400
of one and 100 of another, as 64×64 colour images with the caption “a digit”; the base has never seen a digit.

**Measure.** The weighted share of the majority at α = 1, as mean over captions; before weighting it is what the head of
the table says. Behind the stroke is its distance from one half within a caption, the mean over captions: occupations
that are all of one side and others that are all of the other are no balance. The ratio is that distance at α = 1 over
the one at α = 0, the mean over the sets: 0 is a balance, 1 is no change. “Stirred” is the largest change of an
attribute that was balanced, on any set. What adapters make of such weights is measured by `claims.py`.

**Variants.** Features are activations of the base under the neutral caption, with each concept's mean subtracted.

- *auto*: the model tries a list of attribute words on the images; those that it tells apart and that are out of
  balance become groups (`ddm train --groups auto`). Where there is none it falls back to *discovered*.
- *discovered* (`--groups discovered`): an attribute out of balance is a skewed variable, so the independent components
  (FastICA) of the joint features at the first and the last up-block are searched for skewed ones that are two groups,
  and these are balanced as if they were labels. Where there is none, it is the *indicator* at the same places.
  *Another start*: of FastICA. Noise levels are 50, 250, 500, 850 (low: 50, 150, 250; high: 650, 750, 850).
- *indicator*: rarity (k-NN radius and Levina–Bickel dimension) at the first block and the last up-block, over the
  noise levels, averaged, then learnt by a cross-fitted kernel ridge regressor, scaled to an ESS of .28.
- *indicator, …*: the same with one thing changed: noise levels (eight: all of 50, 150, 250, 400, 500, 650, 750, 850),
  places, 8 components, 10 neighbours and an ESS of .28 else.
- *density alone*: the estimate itself, without a regressor.
- *k-means*, *Gaussian mixture*: clusters of the joint features, balanced.
- *sequential splits*: the axis with the strongest two-component mixture is balanced and projected out, and so on while
  there is one (Ashman's D ≥ 2, better by BIC), at an ESS of .28 or more.
"""


@dataclass(frozen=True)
class Score:
    """One variant on one set.

    Attributes:
        before, after: weighted share of the majority at α = 0 and 1.
        away: its distance from one half within a caption at α = 0 and 1, the mean over captions.
        ess: effective share of the images at α = 1.
        others: per balanced attribute the share of one side at α = 0 and 1.
        seconds: of the weighting; the features were there.
    """

    name: str
    variant: str
    before: float
    after: float
    away: Sequence[float]
    ess: float
    others: Mapping[str, Sequence[float]]
    seconds: float

    @property
    def ratio(self) -> float:
        """Distance from one half at α = 1 over the one at α = 0."""
        return self.away[1] / max(self.away[0], 1e-9)

    @property
    def stirred(self) -> float:
        """The largest change of an attribute that was balanced."""
        return max((abs(after - before) for before, after in self.others.values()), default=0.0)


def load_scores(path: Path) -> tuple[dict[tuple[str, str], Score], dict[str, str], dict[str, Any]]:
    """Read discovery.json: scores by set and variant, why sets were left out, and the other facts."""
    if not path.exists():
        return {}, {}, {}
    facts = json.loads(path.read_text("utf-8"))
    scores = [Score(**row) for row in facts.pop("scores")]
    return {(one.name, one.variant): one for one in scores}, facts.get("reasons", {}), facts


def write_log(path: Path, scores: Sequence[Score], reasons: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """Write the log, variants in the order of their mean ratio."""
    names = list(dict.fromkeys(one.name for one in scores))
    grouped: dict[str, dict[str, Score]] = {}
    for one in scores:
        grouped.setdefault(one.variant, {})[one.name] = one
    ranked = sorted(grouped.items(), key=lambda pair: _ratio(pair[1]))
    heads = [f"{name} ({_first(scores, name):.2f})" for name in names]
    columns = ["variant", *heads, "ratio", "worst", "ESS", "stirred", "s"]
    lines = [QUESTION, "## Table", "", _row(columns), _row(["---"] * len(columns))]
    for variant, row in ranked:
        ess = [one.ess for one in row.values()]
        cells = [f"{row[name].after:.2f} / {row[name].away[1]:.2f}" if name in row else "–" for name in names]
        cells += [f"{_ratio(row):.2f}", f"{max(one.ratio for one in row.values()):.2f}"]
        cells += [f"{min(ess):.2f}–{max(ess):.2f}", f"{max(one.stirred for one in row.values()):.2f}"]
        lines.append(_row([variant, *cells, f"{sum(one.seconds for one in row.values()):.0f}"]))
    lines += ["", *(f"Left out: {name}. {reason}" for name, reason in reasons.items() if name not in names)]
    lines += ["", "## What it shows", "", *findings(ranked, names), "", "## How to run it", ""]
    lines += [
        "`python benchmarks/discovery.py` (all), or with names of sets: `python benchmarks/discovery.py men light`."
    ]
    lines += ["Scores are in `results/discovery.json`; features are kept in `benchmarks/work`.", *_machine(facts)]
    write_text(path, "\n".join(lines) + "\n")


def findings(ranked: Sequence[tuple[str, Mapping[str, Score]]], names: Sequence[str]) -> list[str]:
    """Say in words which variant comes nearest, how the two of the library do, and who overdoes it."""
    whole = [(variant, row) for variant, row in ranked if len(row) == len(names)]
    if not whole:
        return []
    lines = [f"- Nearest on the whole: *{whole[0][0]}*, mean ratio {_ratio(whole[0][1]):.2f}."]
    steady = min(whole, key=lambda pair: max(one.ratio for one in pair[1].values()))
    lines.append(f"- Best where it is worst: *{steady[0]}*, {max(one.ratio for one in steady[1].values()):.2f}.")
    for place, (variant, row) in enumerate(whole, 1):
        if variant in ("auto", "discovered"):
            half = [name for name, one in row.items() if one.ratio <= 0.5]
            lines.append(
                f"- *{variant}* is number {place} of {len(whole)} (mean ratio {_ratio(row):.2f}); it at least halves "
                f"the distance on {len(half)} of {len(names)} sets" + (f": {', '.join(half)}." if half else ".")
            )
    for name in names:
        variant, row = min(whole, key=lambda pair: pair[1][name].ratio)
        lines.append(f"- {name}: nearest is *{variant}* ({row[name].before:.2f} → {row[name].after:.2f}).")
    over = [f"*{variant}* on {', '.join(found)}" for variant, row in whole if (found := _overdone(row))]
    if over:
        lines.append(f"- The majority falls below {OVER:.2f} (over-corrected): {'; '.join(over)}.")
    return lines


def _overdone(row: Mapping[str, Score]) -> list[str]:
    return [name for name, one in row.items() if one.after < OVER]


def _ratio(row: Mapping[str, Score]) -> float:
    return float(np.mean([one.ratio for one in row.values()]))


def _first(scores: Sequence[Score], name: str) -> float:
    return next(one.before for one in scores if one.name == name)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _machine(facts: Mapping[str, Any]) -> list[str]:
    if "machine" not in facts:
        return []
    one = facts["machine"]
    return [f"Base {facts['base'][:12]}; {one['cpu']}, {one['threads']} threads, torch {one['torch']}."]
