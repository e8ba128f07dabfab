"""The report as a page, and its overview chart."""

import textwrap
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluation import intervals
from ..evaluation.report import Estimate, FairnessReport, Measured
from ..evaluation.report_text import percent, percent_range
from . import charts

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

TONES = {
    intervals.NOT_FAIR: "no",
    "moved": "no",
    intervals.CANNOT_TELL: "open",
    intervals.TOO_FEW: "open",
    "": "none",
}


def render_report(report: FairnessReport) -> str:
    """The self-contained page. Jinja escapes every string; charts escape their own text and go in as they are."""
    from markupsafe import Markup

    by_attribute = {
        one.name: [Markup(charts.to_svg(figure, label)) for figure, label in _figures(report, one)]
        for one in report.attributes
    }
    front = pareto(report)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            charts=by_attribute,
            pareto=Markup(charts.to_svg(front, "Fairness against quality")) if front else "",
            light=charts.LIGHT,
            dark=charts.DARK,
            fewest=intervals.FEWEST_IMAGES,
            undecided=intervals.CANNOT_TELL,
            needed=intervals.images_needed,
        )
    )


def overview(report: FairnessReport) -> "Figure":
    """Shares and distance of the first attribute under the summary sentence; what `to_png` writes."""
    first = report.attributes[0]
    if len(_on_dial(report, first)) < 2:
        return _titled(_bars(report, first), report)
    figure, (left, right) = charts.pair()
    _dial(report, first, left)
    _distance(report, first, right)
    return _titled(figure, report)


def sweep_overview(report: FairnessReport, recommended: float | None = None) -> "Figure":
    """The overview with the recommended α marked in it, and fairness against quality beside it."""
    first = report.attributes[0]
    if len(_on_dial(report, first)) < 2 or pareto(report) is None:
        return overview(report)
    figure = charts.row(3)
    _dial(report, first, figure.add_subplot(1, 3, 1))
    _distance(report, first, figure.add_subplot(1, 3, 2))
    if recommended is not None:
        charts.mark_alpha(figure, recommended)
    pareto(report, figure.add_subplot(1, 3, 3))
    return _titled(figure, report)


def _titled(figure: "Figure", report: FairnessReport) -> "Figure":
    """The figure under the summary sentence."""
    width = int(figure.get_figwidth() * 9)
    figure.suptitle(
        "\n".join(textwrap.wrap(report.summary, width)) + "\n",
        x=0.01,
        ha="left",
        fontsize=12,
        color=charts.INK,
        parse_math=False,
    )
    return figure


def tone(verdict: str | None) -> str:
    """`yes`, `no`, `open` or `none`: the look of a verdict (its words say the same)."""
    return TONES.get(verdict or "", "yes")


@cache
def environment() -> "Environment":
    """Templates with strict names, everything escaped, and the filters that pages share."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "range": percent_range,
        "decimal": _decimal,
        "decimals": _decimals,
        "points": _points,
        "tone": tone,
    }
    return environment


def _decimal(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _decimals(one: Estimate, digits: int = 2) -> str:
    return "" if one.low is None else f"{_decimal(one.low, digits)}–{_decimal(one.high, digits)}"


def _points(one: Estimate) -> str:
    """A difference of shares in percentage points, with its sign."""
    return (
        "–" if one.value is None else f"{100 * one.value:+.0f}".replace("-", "−").replace("+0", "0").replace("−0", "0")
    )


def _on_dial(report: FairnessReport, measured: Measured) -> list[int]:
    """Conditions that differ in α alone, in order of α."""
    base = report.conditions[report.base]
    same = [
        i
        for i, one in enumerate(report.conditions)
        if one.alpha is not None and (one.cfg, one.made) == (base.cfg, base.made)
        if measured.overall[i].fd.value is not None
    ]
    return sorted(same, key=lambda i: report.conditions[i].alpha)


def _figures(report: FairnessReport, measured: Measured) -> list[tuple["Figure", str]]:
    label = f"Shares of {measured.name}"
    if len(_on_dial(report, measured)) < 2:
        return [(_bars(report, measured), label)]
    figures = [(_dial(report, measured), f"{label} over α")]
    if measured.targeted:
        figures.append((_distance(report, measured), f"Distance of {measured.name} to its target over α"))
    return figures


def _dial(report: FairnessReport, measured: Measured, axes: Any = None) -> "Figure":
    index = _on_dial(report, measured)
    values, low, high = (
        [[getattr(one, field) for one in measured.overall[i].shares] for i in index]
        for field in ("value", "low", "high")
    )
    target = measured.target if measured.targeted else None
    return charts.shares_over_alpha(
        [report.conditions[i].alpha for i in index], values, low, high, measured.classes, target, axes
    )


def _distance(report: FairnessReport, measured: Measured, axes: Any = None) -> "Figure":
    index = _on_dial(report, measured)
    overall = [measured.overall[i] for i in index]
    return charts.distance_over_alpha(
        [report.conditions[i].alpha for i in index],
        [one.fd.value for one in overall],
        [one.fd.low for one in overall],
        [one.fd.high for one in overall],
        [one.floor for one in overall],
        [one.floor_high for one in overall],
        axes,
    )


def _bars(report: FairnessReport, measured: Measured) -> "Figure":
    index = [one.condition for one in measured.overall if one.fd.value is not None]
    values, low, high = (
        [[getattr(one, field) for one in measured.overall[i].shares] for i in index]
        for field in ("value", "low", "high")
    )
    count = max(1, len(index)) * len(measured.classes)
    figure, axes = charts.canvas(None, "", "")
    figure.set_size_inches(7.6, 1.2 + 0.36 * count)
    target = measured.target if measured.targeted else None
    return charts.share_bars(
        [report.conditions[i].label for i in index], values, low, high, measured.classes, target, axes
    )


def pareto(report: FairnessReport, axes: Any = None) -> "Figure | None":
    """FD of the first attribute against the first measure of quality that three conditions have, or None.

    These are: how often the subject is recognised, KID, and the distance to the base's image of the same seed.
    """
    first = report.attributes[0]
    if not first.targeted:
        return None
    measures = (
        (
            "Subject recognised",
            {one.condition: one.recognised.value for one in report.quality if one.recognised is not None},
            False,
        ),
        ("KID", {one.condition: one.kid for one in report.quality if one.kid is not None}, True),
        ("Distance to the image of the same seed", _moved(report), True),
    )
    for name, known, lower in measures:
        both = [i for i, value in known.items() if value is not None and first.overall[i].fd.value is not None]
        if len(both) >= 3:
            return charts.pareto(
                [first.overall[i].fd.value for i in both],
                [known[i] for i in both],
                [report.conditions[i].label for i in both],
                name,
                lower_is_better=lower,
                percent=not lower,
                axes=axes,
            )
    return None


def _moved(report: FairnessReport) -> dict[int, float]:
    """Distance of every condition to the base's images of the same seeds; none if there are no such pairs."""
    moved = {one.condition: one.paired_distance for one in report.quality if one.paired_distance is not None}
    return {report.base: 0.0, **moved} if moved else {}
