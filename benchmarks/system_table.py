"""The table of the systems as Markdown, and FD against its price as a chart."""

from collections.abc import Sequence
from pathlib import Path

from ..debias.chart import LIGHT, MUTED, RULE
from ..debias.storage import atomic_path, write_text
from .result import Figure, Result, named_machine
from .system import SYSTEMS

FD, PRICE = "FD, mean over prompts", "KID to the base"


def write_table(results: Sequence[Result], title: str, folder: Path) -> Path:
    """Write README.md, and systems.png if there is more than one row; return the former's path."""
    columns = list(dict.fromkeys(figure.name for result in results for figure in result.figures))
    machines = list(dict.fromkeys(named_machine(result.machine) for result in results))
    lines = [f"# The systems side by side: {title}", ""]
    lines += [f"| system | needs | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    for result in results:
        found = {figure.name: figure.shown for figure in result.figures}
        cells = [result.title, SYSTEMS[result.case].needs, *(found.get(column, "") for column in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "FD is the distance of the shares to equal ones; at few pictures a fair model has some too.", ""]
    lines += [
        f"- `{one.command}` ({one.settings['per_prompt']} pictures × 20 prompts × {one.settings['seeds']} seeds)"
        for one in results
    ]
    lines += ["", "Machines: " + "; ".join(machines) + ".", ""]
    if len(results) > 1:
        _draw(results, folder / "systems.png")
        lines += ["![FD of each system, and what it costs](systems.png)", ""]
    write_text(folder / "README.md", "\n".join(lines))
    return folder / "README.md"


def _draw(results: Sequence[Result], path: Path) -> None:
    from matplotlib.figure import Figure as Canvas

    rows = [(result.title, *(_found(result, name) for name in (FD, PRICE))) for result in reversed(results)]
    canvas = Canvas(figsize=(9, 1.2 + 0.34 * len(rows)), layout="constrained")
    distance, price = canvas.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for place, (_, fd, cost) in enumerate(rows):
        if fd.interval:
            distance.plot(fd.interval, (place, place), color=LIGHT[0], linewidth=2)
        distance.plot(fd.value, place, "o", color=LIGHT[0])
        price.plot(cost.value, place, "s", color=LIGHT[1])
    distance.set_yticks(range(len(rows)), [title for title, _, _ in rows])
    distance.set_xlim(left=0)
    for axes, label in ((distance, "FD, mean over prompts, 95%"), (price, "KID to the base")):
        axes.set_xlabel(label, color=MUTED)
        axes.grid(axis="x", color=RULE)
        axes.spines[["top", "right", "left"]].set_visible(False)
    with atomic_path(path) as temporary:
        canvas.savefig(temporary, format="png", dpi=120)


def _found(result: Result, name: str) -> Figure:
    return next(figure for figure in result.figures if figure.name == name)
