"""What discovery finds in sets that lean one way, both ways or not at all: `python benchmarks/balance.py [SET ...]`.

Features are read once from all images; a set is a draw by a seed, of 14 of every role's 24 or of two digits, so that
many can be looked at in a minute. The truth is read for the scores alone. Writes balance.md, in which is also what was
tried. Digits need MNIST's test split in ../shared/data/mnist.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from package import ROOT, load_package

load_package()

HERE = ROOT / "benchmarks"
# Seeds below were looked at while the thresholds were chosen.
FIRST = 100
# Sets in balance: images of each gender in a role, and roles.
BALANCED = {
    "balanced": (7, 36),
    "balanced, 8 of each role": (4, 36),
    "balanced, 24 of 20 roles": (12, 20),
    "balanced, 14 of 12 roles": (7, 12),
}
# Two digits under one caption: images of each, the common one first.
DIGITS = {"four to one": (400, 100), "in balance": (250, 250)}


def balance(
    names: Annotated[list[str] | None, typer.Argument(metavar="[SET ...]", help="Which sets; all of them.")] = None,
    base: Annotated[Path, typer.Option(metavar="DIR", help="The base model.")] = ROOT / "examples" / "tiny_people",
    title: Annotated[str, typer.Option(help="What the base is called in the table.")] = "the small model",
    draws: Annotated[int, typer.Option(min=1, help="Draws of each set.")] = 12,
    first: Annotated[int, typer.Option(min=0, help="Seed of the first draw.")] = FIRST,
    work: Annotated[Path, typer.Option(metavar="DIR", help="Where features are kept.")] = HERE / "work",
    out: Annotated[Path, typer.Option(metavar="FILE", help="The figures; the page is beside the benchmarks.")] = HERE
    / "results"
    / "balance.json",
) -> None:
    """Draw sets, look for what is out of balance, and compare it with what was drawn."""
    import torch
    from comfyui_ddm.benchmarks.digits import PAIRS, enlarged, half
    from comfyui_ddm.benchmarks.imbalance import BOTH_WAYS, IMBALANCES
    from comfyui_ddm.debias.core.io import write_text
    from comfyui_ddm.debias.groups.components import skewed_components
    from comfyui_ddm.debias.groups.features import centre
    from comfyui_ddm.debias.groups.groups import concepts
    from comfyui_ddm.debias.groups.leaning import find_leaning
    from comfyui_ddm.training.data.dataset import folder_set
    from comfyui_ddm.training.data.image_features import image_features
    from comfyui_ddm.training.data.latents import Latents
    from comfyui_ddm.training.data.read_folder import read_folder
    from comfyui_ddm.training.embedded.tiny_people import caption
    from comfyui_ddm.training.models.load_base import load_base

    torch.set_num_threads(1)
    sets = {name: (column, values, False) for name, (column, values) in IMBALANCES.items()}
    sets |= {name: (column, values, True) for name, (column, values, _) in BOTH_WAYS.items()}
    sets |= {"styles both ways": ("art_style", ("noto",), True)} | dict.fromkeys(BALANCED, ("gender", ("man",), False))
    digits = {f"{name} {how}": (pair, how) for name, pair in PAIRS.items() for how in DIGITS}
    if unknown := set(names or ()) - sets.keys() - digits.keys():
        raise typer.BadParameter(f"{', '.join(unknown)}: there is no such set, but {', '.join(sets | digits)}")
    model, folder = load_base(base, "cpu", torch.float32), read_folder(ROOT / "examples" / "people_emoji")
    people, latents = [item.labels for item in folder.items], folder_set(model, folder).squares
    captions, index = concepts([caption(row["role"]) for row in people])
    features = image_features(model, latents, captions, index, 0, cache=work / "balance")
    found = json.loads(out.read_text("utf-8")) if out.exists() else {}
    for name in names or [*sets, *digits]:
        if name in digits:
            pair, how = digits[name]
            pixels, said = half(True, pair.digits)
            truth, where = said == pair.digits[0], np.zeros(len(said), dtype=int)
            encoded = Latents.of(model.encode_images(enlarged(pixels)))
            seen = image_features(model, encoded, [caption("digit")], where, 0, cache=work / "balance")
        else:
            column, values, both = sets[name]
            truth, where, seen = np.isin([row[column] for row in people], values), index, features
        rows = []
        for seed in range(first, first + draws):
            if name in digits:
                chosen = draw_digits(truth, *DIGITS[how], seed)
            elif name in BALANCED:
                chosen = draw_balanced(people, seed, *BALANCED[name])
            else:
                chosen = draw(people, truth, both, seed)
            centred = centre({place: values[chosen] for place, values in seen.items()}, where[chosen])
            pooled = skewed_components(centred)
            leaning = find_leaning(centred, where[chosen], rivals=[one.rare for one in pooled])
            rows.append(figures(pooled, leaning, truth[chosen]))
            typer.echo(f"{title} · {name} · {seed}: {rows[-1]}", err=True)
        found[f"{title} · {name}"] = {"seeds": [first, first + draws - 1], "base": model.hash, "draws": rows}
        write_text(out, json.dumps(found, indent=1) + "\n")
    page = HERE / "balance.md"
    text = page.read_text("utf-8").partition("<!-- figures -->")[0]
    write_text(page, text + "<!-- figures -->\n" + table(found))


def draw_digits(truth: np.ndarray, common: int, rare: int, seed: int) -> np.ndarray:
    """Rows of so many images of either digit; `truth` [N] says which are of the common one."""
    rng = np.random.default_rng(seed)
    sides = ((truth, common), (~truth, rare))
    return np.concatenate([rng.choice(np.flatnonzero(side), count, replace=False) for side, count in sides])


def draw(people: Sequence[dict[str, str]], truth: np.ndarray, both: bool, seed: int) -> np.ndarray:
    """Rows of a set: of every role all images of the common side and two of the other.

    Args:
        people: of each image its labels.
        truth: bool [N], whether it is of the one side, which is common in all roles or, if `both`, in half of them.
    """
    rng, roles = np.random.default_rng(seed), np.array([row["role"] for row in people])
    names, rows = sorted(set(roles)), []
    leans = dict(zip(names, rng.permutation(len(names)) % 2 == 0, strict=True))
    for name in names:
        common = truth == (leans[name] if both else True)
        rows += [*np.flatnonzero((roles == name) & common)]
        rows += [*rng.choice(np.flatnonzero((roles == name) & ~common), 2, replace=False)]
    return np.array(rows)


def draw_balanced(people: Sequence[dict[str, str]], seed: int, each: int = 7, roles: int = 36) -> np.ndarray:
    """Rows of a set with as many of each gender and style in every role, and each tone as often as can be.

    Args:
        each: images of each gender in a role, at most twelve.
        roles: how many of them.
    """
    rng, rows = np.random.default_rng(seed), []
    places = {
        tuple(row[key] for key in ("role", "gender", "skin_tone", "art_style")): n for n, row in enumerate(people)
    }
    genders, tones, styles = (sorted({row[key] for row in people}) for key in ("gender", "skin_tone", "art_style"))
    names = sorted({row["role"] for row in people})
    for role in sorted(rng.choice(names, roles, replace=False)):
        for number, gender in enumerate(genders):
            shuffled = list(rng.permutation(tones))
            # From the seventh on in another style than the tone has already; styles take turns between the genders.
            cells = [
                (tone, styles[(place + place // len(tones) + number) % 2]) for place, tone in enumerate(2 * shuffled)
            ]
            rows += [places[role, gender, tone, style] for tone, style in cells[:each]]
    return np.array(rows)


def figures(pooled: Sequence[Any], leaning: Any, truth: np.ndarray) -> dict[str, Any]:
    """Which statistic found something, and how well its sides agree with the truth."""
    side = leaning.side if leaning else pooled[0].rare if pooled else None
    if side is None:
        return {"found": None}
    right = float(((side > 0.5) == truth).mean())
    how = "within captions" if leaning else "pooled"
    return {"found": how, "agreement": round(max(right, 1 - right), 3)}


def table(found: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [
        "| base · set | draws | found within captions | pooled | nothing | agreement |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, result in found.items():
        draws = result["draws"]
        counts = [sum(one["found"] == what for one in draws) for what in ("within captions", "pooled", None)]
        agreed = [one["agreement"] for one in draws if one["found"]]
        shown = f"{np.mean(agreed):.2f} ({min(agreed):.2f}–{max(agreed):.2f})" if agreed else ""
        lines.append(f"| {name} | {len(draws)} | {counts[0]} | {counts[1]} | {counts[2]} | {shown} |")
    null = [one for name, result in found.items() if "balance" in name for one in result["draws"]]
    wrong = sum(bool(one["found"]) for one in null)
    lines += [
        "",
        f"Sets in balance: {len(null)}; something was found in {wrong} of them ({wrong / max(len(null), 1):.1%}).",
    ]
    seeds = sorted({tuple(result["seeds"]) for result in found.values()})
    lines += ["", "Seeds of the draws: " + "; ".join(f"{one} to {last}" for one, last in seeds) + "."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(balance)
