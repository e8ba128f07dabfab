"""Panels as pieces of HTML, for hosts whose pages are written by the server. Every user string is escaped."""

from collections.abc import Mapping
from typing import Any

from .report_html import environment

SAME_SEEDS = "The same seeds without the adapter and with it"


def fragment(panel: Mapping[str, Any], link: str = "", preview: str = "", caption: str = SAME_SEEDS) -> str:
    """The HTML of a panel; its looks are in `style.css`, by classes that begin with `ddm-`.

    Args:
        panel: of a report, an audit, an adapter's card or a training, as `panel` and the like make them.
        link: address of the whole report, if there is one.
        preview: address of an image of a training or a report, or a data URI.
        caption: what the image shows.
    """
    losses = [loss for _, loss in panel.get("losses", [])]
    template = environment().get_template("fragment.html.j2")
    return template.render(panel=panel, link=link, preview=preview, caption=caption, curve=_curve(losses))


def sentence(text: str) -> str:
    """The HTML of a sentence; nothing for no text."""
    from markupsafe import escape

    return f'<p class="ddm-panel">{escape(text)}</p>' if text else ""


def problem(text: str) -> str:
    """The HTML of a sentence about something that could not be done; nothing for no text."""
    return sentence(text).replace('class="ddm-panel"', 'class="ddm-panel ddm-problem" role="alert"', 1)


def _curve(values: list[float], width: int = 300, height: int = 60) -> str:
    """Points of an SVG polyline in a box of that size."""
    if len(values) < 2:
        return ""
    low, span = min(values), max(max(values) - min(values), 1e-9)
    across = width / (len(values) - 1)
    return " ".join(f"{i * across:.1f},{height * (1 - (one - low) / span):.1f}" for i, one in enumerate(values))
