"""The table of the systems as Markdown; FD and its price, and FD over guidance scales, as charts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..debias.core.io import atomic_path, write_text
from ..debias.rendering.charts import LIGHT, MARKERS, MUTED, RULE
from .expectation import expectations
from .measure import CFG
from .result import Figure, Result, named_machine
from .system import PRICE, SYSTEMS, TASKS, TOGETHER

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

FD, CELL = "FD, mean over prompts", "largest cell error, all prompts together"
# Short heads of the columns whose full names are explained below the table.
HEADS = {
    TOGETHER: "FD",
    CELL: "cell",
    FD: "FD by prompt",
    "pairwise bias, mean over prompts": "bias",
    "worst prompt, FD": "worst",
    PRICE: "KID",
    "distance to the base's image of the seed": "moved",
    "largest shift of other attributes": "shift",
    "recognised": "seen",
    "explicit prompts obeyed": "obeyed",
    "training": "training",
    "time added to sampling, share": "time",
    "recommended α": "α",
    "the indicator's entropy, mean": "entropy",
    "the indicator's entropy, deviation": "±",
}
NOTES = """
FD is the distance of the shares to the target; at few images a fair model has some too. *FD* and *cell*, the
largest error of a single class or combination of classes, are of all prompts together, *FD by prompt* and *bias*
(mean difference of two classes) are means over prompts, *worst* is the prompt with the largest FD. The 95% intervals
are what other prompts of this kind would give. A cell error of {cell} or less is in *italics*, and **bold** where its
whole interval is. *KID* is to the base's images, where digits are balanced mostly that of the balance itself;
*moved*, the distance to the base's image of the same seed; *shift*, the largest change of a share that was not asked
for, such as that of a skin tone where gender is balanced, and *by prompt* how far shares moved there, without what
chance moves (root mean square of half the change); *seen*, the share of images in which the subject is
recognised; *obeyed*, the share of images that show what an explicit prompt says, of the rare class; *training*, the
seconds that passed, beside other work; *time*, what sampling takes longer, as a share, with the adapter not merged;
*α*, what the adapter recommends: 0 where a last look after the training does not see that it helps.
"""

OVERVIEW = """
How far the share of one class, or of one combination of classes, is from what was asked for, at most: over all prompts
together, and in each family of prompts. Where prompts lean to either side, so that all together say nothing, it is FD
by prompt, the mean distance of a prompt's shares to the target, of which few images have some by chance; it has no
marks. {cell} or less is in *italics*, and **bold** where the whole 95% interval is; a system with a dash cannot be
asked for it, and an empty cell was not measured. The page of each task has the rest.
"""


def write_table(results: Sequence[Result], title: str, folder: Path) -> Path:
    """Write README.md and its charts; return the former's path.

    Of several rows there is systems.png, of rows that were measured at several guidance scales scales.png.
    """
    columns = list(dict.fromkeys(figure.name for result in results for figure in result.figures))
    machines = list(dict.fromkeys(named_machine(result.machine) for result in results))
    lines = [f"# The systems side by side: {title}", ""]
    heads = " | ".join(_head(column) for column in columns)
    lines += [f"| system | needs | {heads} |", f"|---|---|{'---:|' * len(columns)}"]
    for result in results:
        found = {figure.name: _marked(figure, figure.shown) for figure in result.figures}
        cells = [result.title, SYSTEMS[result.case].needs, *(found.get(column, "") for column in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [NOTES.format(cell=results[0].figure(CELL).target.removeprefix("≤ "))]
    lines += ["| system | images | command |", "|---|---:|---|"]
    for one in results:
        given = one.settings
        times = "" if given["seeds"] == 1 else f" × {given['seeds']} seeds"
        images = f"{given['per_prompt']} × {given['prompts']} prompts{times}"
        lines.append(f"| {one.title} | {images} | `{one.command}` |")
    lines += ["", "Machines: " + "; ".join(machines) + ".", ""]
    if len(results) > 1:
        _draw(results, folder / "systems.png")
        lines += ["![FD of each system, and what it costs](systems.png)", ""]
    if scaled := {result.title: scales for result in results if len(scales := _scales(result)) > 1}:
        _draw_scales(scaled, folder / "scales.png")
        lines += ["![FD of all prompts together over the guidance scale](scales.png)", ""]
    write_text(folder / "README.md", "\n".join(lines))
    return folder / "README.md"


def load_results(folder: Path) -> list[Result]:
    """The rows of a task that were measured, in their order."""
    files = [folder / f"{name}.json" for name in SYSTEMS]
    return [Result.load(file) for file in files if file.exists()]


def write_overview(folder: Path) -> Path:
    """Write the README.md of all tasks: how far each system is from what was asked for; return its path."""
    tasks = {name: found for name in TASKS if (found := load_results(folder / name))}
    errors = {
        name: {one.case: one.figure(FD).number if TASKS[name].both_ways else _error(one) for one in found}
        for name, found in tasks.items()
    }
    heads = " | ".join(f"[{name}]({name}/README.md){', by prompt' if TASKS[name].both_ways else ''}" for name in tasks)
    lines = ["# The systems side by side", "", f"| system | {heads} |", f"|---|{'---:|' * len(tasks)}"]
    for name, system in SYSTEMS.items():
        cells = [errors[task].get(name, "–" if system.refused(TASKS[task]) else "") for task in tasks]
        if any(name in found for found in errors.values()):
            lines.append(f"| {system.title} | {' | '.join(cells)} |")
    titles = [f"- *{name}*: {TASKS[name].title}" for name in tasks]
    lines += [OVERVIEW.format(cell=next(iter(tasks.values()))[0].figure(CELL).target.removeprefix("≤ ")), *titles, ""]
    lines += [expectations({name: {one.case: one for one in found} for name, found in tasks.items()}), ""]
    write_text(folder / "README.md", "\n".join(lines))
    return folder / "README.md"


def _error(result: Result) -> str:
    """The largest cell error, in the family of prompts where it is largest, if there are several."""
    found = [one for one in result.figures if one.name.startswith("largest cell error")]
    worst = max(found, key=lambda one: one.value)
    return _marked(worst, worst.number)


def _marked(figure: Figure, text: str) -> str:
    """Bold where the whole interval meets the target, in italics where only the number does."""
    mark = ("**" if figure.sure else "*") if figure.met else ""
    return f"{mark}{text}{mark}"


def _head(column: str) -> str:
    """A short head: "FD, CFG 6" for "FD, all prompts together, CFG 6", "cell, occupations" for one family."""
    for name, head in HEADS.items():
        if column == name or column.startswith(f"{name}, "):
            return head + column.removeprefix(name)
    return column.replace("largest cell error", "cell")


def _draw(results: Sequence[Result], path: Path) -> None:
    """Draw FD by prompt with its interval, the largest cell error with the line it should not pass, and KID."""
    from matplotlib.figure import Figure as Canvas

    shown = list(reversed(results))
    canvas = Canvas(figsize=(11, 1.4 + 0.32 * len(shown)), layout="constrained")
    panels = canvas.subplots(1, 3, sharey=True, width_ratios=(3, 2, 2))
    for axes, name, colour, marker in zip(panels, (FD, CELL, PRICE), LIGHT, "oDs", strict=False):
        for place, figure in enumerate(result.figure(name) for result in shown):
            if figure.interval:
                axes.plot(figure.interval, (place, place), color=colour, linewidth=2)
            axes.plot(figure.value, place, marker, color=colour, markersize=5, clip_on=False)
        axes.set_xlim(left=0 if name != PRICE else None)
        axes.set_title(name.partition(", all")[0], color=MUTED, fontsize=10, loc="left")
        axes.grid(axis="x", color=RULE)
        axes.tick_params(left=False)
        axes.locator_params(axis="x", nbins=6 if name == FD else 4)
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_yticks(range(len(shown)), [result.title for result in shown])
    panels[1].axvline(results[0].figure(CELL).at_most, color=MUTED, linewidth=1, linestyle=":")
    _save(canvas, path)


def _scales(result: Result) -> dict[float, float]:
    """FD of all prompts together by guidance scale, in their order."""
    begin = f"{TOGETHER}, CFG "
    other = {float(one.name.removeprefix(begin)): one.value for one in result.figures if one.name.startswith(begin)}
    return dict(sorted({CFG: result.figure(TOGETHER).value, **other}.items()))


def _draw_scales(scaled: Mapping[str, Mapping[float, float]], path: Path) -> None:
    """Draw FD over the guidance scale, a line for each title."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(8, 4.2), layout="constrained")
    axes = canvas.subplots()
    for number, (title, scales) in enumerate(scaled.items()):
        look = {"color": LIGHT[number % len(LIGHT)], "marker": MARKERS[number % len(MARKERS)]}
        axes.plot(list(scales), list(scales.values()), label=title, clip_on=False, **look)
    axes.set_xlabel("guidance scale", color=MUTED)
    axes.set_title("FD, all prompts together", color=MUTED, fontsize=10, loc="left")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=RULE)
    axes.spines[["top", "right"]].set_visible(False)
    canvas.legend(loc="outside right center", frameon=False)
    _save(canvas, path)


def _save(canvas: "Canvas", path: Path) -> None:
    with atomic_path(path) as temporary:
        canvas.savefig(temporary, format="png", dpi=120)
