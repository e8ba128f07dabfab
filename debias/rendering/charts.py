"""Charts as matplotlib figures, made without pyplot's global state, for a page (SVG) and for files (PNG).

In SVG every colour becomes a CSS variable, so that a page can be light or dark. The palette keeps its hues apart for
colour-blind eyes (after Okabe & Ito 2008); markers and labels at the end of each line say the same again without
colour.
"""

import io
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..core.io import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT = ("#0067a5", "#c8500a", "#00805c", "#a8558a", "#a87400", "#3a8fc4", "#6a5aa8", "#6b6b6b")
DARK = ("#5cb0ec", "#f58a4b", "#35c79c", "#e59fc8", "#eab84a", "#9ad2f5", "#b3a6ec", "#b4b4b4")
INK, MUTED, RULE, SURFACE = "#24272c", "#6a6e75", "#dcdad5", "#fffffe"
MARKERS = "os^Dv*PX"
VARIABLES = {colour: f"var(--series-{i})" for i, colour in enumerate(LIGHT)} | {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    SURFACE: "var(--surface)",
}


def shares_over_alpha(
    alpha: Sequence[float],
    shares: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    names: Sequence[str],
    target: Sequence[float] | None = None,
    axes: "Axes | None" = None,
) -> "Figure":
    """Shares [A, K] over α [A] with their intervals as bands and the target as dotted lines."""
    figure, axes = canvas(axes, "Share of images", "α (strength of the adapter)")
    shares, low, high = (np.asarray(one, dtype=float) for one in (shares, low, high))
    for level in sorted({round(float(one), 6) for one in target}) if target is not None else ():
        axes.axhline(level, color=MUTED, linewidth=1, linestyle=(0, (1, 3)), zorder=1)
    ground = 0.14 if len(names) <= 3 else 0.06
    for k in range(len(names)):
        colour = LIGHT[k % len(LIGHT)]
        axes.fill_between(alpha, low[:, k], high[:, k], color=colour, alpha=ground, linewidth=0)
        axes.plot(alpha, shares[:, k], color=colour, marker=MARKERS[k % len(MARKERS)], **_line(k))
    _percent_axis(axes, float(np.nanmax(high)))
    _label_ends(axes, alpha[-1], shares[-1], names)
    _alpha_axis(axes, alpha)
    return figure


def distance_over_alpha(
    alpha: Sequence[float],
    distance: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    floor: Sequence[float] | None = None,
    floor_high: Sequence[float] | None = None,
    axes: "Axes | None" = None,
) -> "Figure":
    """FD [A] over α [A]; the shaded ground is what a perfectly fair model would score with as many images."""
    figure, axes = canvas(axes, "FD by prompt: distance to the target", "α (strength of the adapter)")
    if floor is not None and floor_high is not None:
        axes.fill_between(alpha, 0, floor_high, color=LIGHT[2], alpha=0.14, linewidth=0)
        axes.plot(alpha, floor, color=LIGHT[2], linewidth=1, linestyle=(0, (1, 2)))
        _text(axes, alpha[0], float(floor_high[0]), "a fair model scores this", LIGHT[2], (4, 4), size=9)
    axes.fill_between(alpha, low, high, color=LIGHT[0], alpha=0.14, linewidth=0)
    axes.plot(alpha, distance, color=LIGHT[0], marker="o", **_line(0))
    axes.set_ylim(0, max(0.1, 1.12 * float(np.nanmax(np.asarray(high, dtype=float)))))
    _alpha_axis(axes, alpha)
    return figure


def share_bars(
    labels: Sequence[str],
    shares: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    names: Sequence[str],
    target: Sequence[float] | None = None,
    axes: "Axes | None" = None,
) -> "Figure":
    """Shares [C, K] of conditions that lie on no common scale, as dots with intervals; open ticks mark the target."""
    figure, axes = canvas(axes, "", "Share of images")
    shares, low, high = (np.asarray(one, dtype=float) for one in (shares, low, high))
    place, ticks = 0.0, []
    for c in range(len(labels)):
        for k, name in enumerate(names):
            colour = LIGHT[k % len(LIGHT)]
            axes.plot([low[c, k], high[c, k]], [place, place], color=colour, linewidth=5, alpha=0.3)
            axes.plot(shares[c, k], place, color=colour, marker=MARKERS[k % len(MARKERS)], markersize=7)
            if target is not None:
                axes.plot(target[k], place, color=MUTED, marker="|", markersize=15)
            ticks.append((place, name if len(labels) == 1 else f"{labels[c]} · {name}"))
            place += 1
        place += 0.6
    axes.set_yticks([at for at, _ in ticks], [_shortened(name) for _, name in ticks])
    axes.set_ylim(place - 0.9, -0.7)
    axes.xaxis.set_major_formatter(_percent)
    axes.set_xlim(-0.02, 1.02)
    return _literal(figure)


def pareto(
    fairness: Sequence[float],
    quality: Sequence[float],
    labels: Sequence[str],
    quality_name: str = "KID",
    fairness_name: str = "FD by prompt: distance to the target",
    lower_is_better: bool = True,
    percent: bool = False,
    axes: "Axes | None" = None,
) -> "Figure":
    """Fairness against quality, one labelled point per α or guidance scale.

    The line joins the points that no other beats in both. `percent` writes the quality as a share.
    """
    figure, axes = canvas(axes, quality_name, fairness_name)
    x, y = np.asarray(fairness, dtype=float), np.asarray(quality, dtype=float)
    cost = y if lower_is_better else -y
    best = [
        i
        for i in range(len(x))
        if not any((x[j] <= x[i] and cost[j] <= cost[i] and (x[j], cost[j]) != (x[i], cost[i])) for j in range(len(x)))
    ]
    best.sort(key=lambda i: x[i])
    axes.plot(x[best], y[best], color=LIGHT[0], linewidth=1.5, alpha=0.5)
    for i, label in enumerate(labels):
        colour = LIGHT[0] if i in best else MUTED
        axes.plot(x[i], y[i], color=colour, marker="o", markersize=8)
        _text(axes, x[i], y[i], label, INK, (8, 5))
    axes.margins(0.14)
    axes.set_xlim(left=0)
    if percent:
        axes.yaxis.set_major_formatter(_percent)
        axes.set_ylim(min(0.895, float(y.min()) - 0.03), 1.01)
    return _literal(figure)


def line_over_alpha(alpha: Sequence[float], values: Sequence[float], title: str, factor: bool = False) -> "Figure":
    """One quantity [A] over α [A], from 0 up; a factor from 1 up, on a logarithmic scale."""
    figure, axes = canvas(None, title, "α (strength of the adapter)")
    axes.plot(alpha, values, color=LIGHT[0], marker="o", **_line(0))
    if factor:
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}×")
        axes.set_ylim(0.9, max(2.2, 1.5 * max(values)))
    else:
        axes.set_ylim(0, 1.12 * max(values))
    _alpha_axis(axes, alpha)
    return _literal(figure)


def mark_alpha(figure: "Figure", alpha: float) -> "Figure":
    """Mark the recommended α in every axes."""
    for axes in figure.axes:
        axes.axvline(alpha, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        left = alpha > 0.6 * axes.get_xlim()[1]
        offset, anchor = ((-5, -9), "right") if left else ((5, -9), "left")
        _text(axes, alpha, axes.get_ylim()[1], f"recommended α = {alpha:g}", MUTED, offset, size=9, anchor=anchor)
    return figure


def loss_curve(steps: Sequence[float], loss: Sequence[float], smooth: int = 25) -> "Figure":
    """Training loss over steps, faint as it was and plain as a running mean of `smooth` values."""
    figure, axes = canvas(None, "Loss", "Step")
    values = np.asarray(loss, dtype=float)
    axes.plot(steps, values, color=LIGHT[0], linewidth=0.8, alpha=0.3)
    window = max(1, min(smooth, len(values)))
    total = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values))])
    start = np.maximum(np.arange(1, len(values) + 1) - window, 0)
    mean = (total[1:] - total[start]) / (np.arange(1, len(values) + 1) - start)
    axes.plot(steps, mean, color=LIGHT[0], linewidth=2)
    return _literal(figure)


def to_svg(figure: "Figure", label: str = "") -> str:
    """The figure as an SVG element for a page: colours are CSS variables, text stays text, no ids, nothing random."""
    from html import escape

    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ddm"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(
        r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg role="img" aria-label="{escape(label)}" \1>', text, count=1
    )
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    return re.sub("|".join(VARIABLES), lambda found: VARIABLES[found.group()], text)


def to_png(figure: "Figure", dpi: int = 160) -> bytes:
    """The figure as the bytes of a PNG file, light."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def save_png(figure: "Figure", path: str | os.PathLike, dpi: int = 160) -> None:
    """Write the figure to `path` atomically."""
    write_bytes(path, to_png(figure, dpi))


def pair() -> tuple["Figure", tuple["Axes", "Axes"]]:
    """Two charts side by side."""
    figure = row(2)
    left, right = figure.subplots(1, 2)
    return figure, (left, right)


def row(count: int) -> "Figure":
    """An empty figure with room for some charts side by side."""
    from matplotlib.figure import Figure

    return Figure(figsize=(5.2 * count, 3.9), layout="constrained")


def canvas(axes: "Axes | None", vertical: str, horizontal: str) -> tuple["Figure", "Axes"]:
    """Bare axes: no box, faint horizontal rules, the vertical axis named above instead of sideways."""
    from matplotlib.figure import Figure

    if axes is None:
        axes = Figure(figsize=(5.6, 3.9), layout="constrained").subplots()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=9.5, length=0, pad=5)
    axes.set_title(vertical, loc="left", fontsize=10.5, color=INK, pad=10, parse_math=False)
    axes.set_xlabel(horizontal, fontsize=9.5, color=MUTED, labelpad=6, parse_math=False)
    return axes.figure, axes


def _line(k: int) -> dict[str, object]:
    """Colours repeat after eight classes; the dashes then tell them apart."""
    return {"linewidth": 2, "markersize": 5.5, "linestyle": ("-", "--", ":", "-.")[(k // len(LIGHT)) % 4]}


def _label_ends(axes: "Axes", x: float, values: Sequence[float], names: Sequence[str]) -> None:
    """Names at the ends of lines, pushed apart where they would overlap."""
    values = np.nan_to_num(np.asarray(values, dtype=float))
    order = np.argsort(values, kind="stable")
    gap = min(0.062, 1 / max(len(values), 1)) * float(np.ptp(axes.get_ylim()))
    places = values.copy()
    for before, here in pairwise(order):
        places[here] = max(places[here], places[before] + gap)
    places[order] -= max(0.0, places[order].mean() - values.mean())
    for k, name in enumerate(names):
        text = _text(axes, x, float(places[k]), _shortened(name), LIGHT[k % len(LIGHT)], (10, 0), size=10)
        text.set_verticalalignment("center")


def _text(
    axes: "Axes",
    x: float,
    y: float,
    words: str,
    colour: str,
    offset: tuple[float, float],
    size: float = 9.5,
    anchor: str = "left",
) -> object:
    """Words at a data point; `$` and friends are plain characters."""
    return axes.annotate(
        words,
        (x, y),
        offset,
        textcoords="offset points",
        color=colour,
        fontsize=size,
        horizontalalignment=anchor,
        parse_math=False,
        annotation_clip=False,
    )


def _alpha_axis(axes: "Axes", alpha: Sequence[float]) -> None:
    if len(alpha) <= 9:
        axes.set_xticks(list(alpha), [f"{one:g}" for one in alpha])


def _percent_axis(axes: "Axes", highest: float) -> None:
    """All of 0 to 100%, or the lower part if nothing lies above a half."""
    top = 1.0 if highest > 0.5 else max(0.1, np.ceil(highest * 11.5) / 10)
    axes.set_ylim(-0.02 * top, 1.02 * top)
    axes.yaxis.set_major_formatter(_percent)


def _percent(value: float, _: object = None) -> str:
    return f"{100 * value:.1f}".removesuffix(".0") + "%"


def _shortened(name: str, length: int = 28) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _literal(figure: "Figure") -> "Figure":
    """Tick labels may be users' words: no mathematics in them."""
    for axes in figure.axes:
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set_parse_math(False)
    return figure
