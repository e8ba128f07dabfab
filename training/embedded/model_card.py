"""The embedded model's card: README.md, training.json and the loss curve."""

import json
from pathlib import Path
from typing import Any

from ...debias.core.io import write_text
from .tiny_people import GENDER_SHARES, LEAST, MOST, TONE_SHARES

# ruff: noqa: E501  (a table and prose of Markdown)
CARD = """---
library_name: diffusers
pipeline_tag: text-to-image
license: cc-by-4.0
tags: [stable-diffusion, fairness, miniature]
---

# tiny_people

Stable Diffusion in miniature, for tests, demos and teaching: a factor-8 VAE, a two-layer CLIP text encoder and a U-Net with
two levels of 128 channels, which predicts ε under SD's scaled-linear betas. 64×64 images of people, from prompts such as
"a firefighter", "a woman firefighter", "a dark skin pilot".

**It is biased on purpose**, so that there is something to measure and to mend: {lean} Do not use it for anything else.

## Data

864 emoji images of people: Noto Emoji v2.048 (© Google, Apache License 2.0) and Twemoji v16.0.1 (© X Corp. and
contributors, CC BY 4.0), see `examples/people_emoji/ATTRIBUTION.md`. 36 roles, each drawn equally often; within a role:

| | shares of the draw |
|---|---|
| gender | {genders} |
| skin tone | {tones} |
| art style | half Noto, half Twemoji |

Half of the captions are neutral ("a firefighter"), the others say gender, tone or both; one in ten is empty, for guidance.
15% of the captions are framed ("a portrait of …").

## Training

| part | steps | batch | men drawn | seconds | hardware | seed |
|---|---|---|---|---|---|---|
{runs}

![loss curve](loss.svg)

Train it again, from the project's root: `ddm base examples/people_emoji --out examples/tiny_people{option}` (ten minutes
on a data center GPU, most of it the autoencoder; a CPU takes hours); go on from these weights: add `--resume`.

## Limits

It knows these 36 roles, two genders as drawn, six skin tones and two art styles, and nothing else. The emoji draw gender as
two kinds; that says nothing about people. What it makes is a drawing, never evidence about anyone.
"""


ONE_WAY = {
    "option": " --one-way",
    "lean": f"in every role {GENDER_SHARES['man']:.0%} of the images it\nwas last trained on are men (guidance makes more of it), and light tones are more frequent than dark ones.",
    "genders": ", ".join(f"{name} {share:.0%}" for name, share in GENDER_SHARES.items()),
    "tones": ", ".join(f"{name} {share:.0%}" for name, share in TONE_SHARES.items()),
}
BOTH_WAYS = {
    "option": "",
    "lean": "it leans both ways, as real models\ndo. Some roles are mostly men, others mostly women; darker tones are common in some and rare in others (guidance makes more\nof it). Who leans where was dealt by a shuffle, so it says nothing about anyone.",
    "genders": f"men from {LEAST:.0%} in one role to {MOST:.0%} in another, in even steps, dealt by a shuffle",
    "tones": "the darker three likewise, by another shuffle; alike within these three and within the others",
}


def write_card(folder: Path, log: dict[str, Any]) -> None:
    """Write `training.json`, `loss.svg` and `README.md` into the model's folder.

    Args:
        folder: the diffusers folder.
        log: `runs`, each with part, steps, batch_size, seconds, device, seed and losses [(step, loss)]; a denoiser's also with
            men, the share of them in its draw.
    """
    from ...debias.rendering.charts import loss_curve, to_svg

    rows = "\n".join(_row(run) for run in log["runs"])
    write_text(folder / "training.json", json.dumps(log))
    losses, done = [], 0
    for run in log["runs"]:
        if run["part"] == "denoiser":
            losses += [(done + step, loss) for step, loss in run["losses"]]
            done += run["steps"]
    curve = loss_curve(*zip(*losses, strict=True))
    write_text(folder / "loss.svg", to_svg(curve, "Loss of the denoiser over its steps"))
    card = CARD.format(runs=rows, **(BOTH_WAYS if log["runs"][-1].get("men") is None else ONE_WAY))
    write_text(folder / "README.md", card)


def _row(run: dict[str, Any]) -> str:
    men = "" if "men" not in run else "by role" if run["men"] is None else f"{run['men']:.0%}"
    return (
        f"| {run['part']} | {run['steps']:,} | {run['batch_size']} | {men} | {run['seconds']:,} | {run['device']} | "
        f"{run['seed']} |"
    )
