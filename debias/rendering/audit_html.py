"""The audit as a page."""

from typing import TYPE_CHECKING

from ..evaluation.dataset_audit import Audit, AuditedAttribute
from . import charts
from .report_html import environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVERY = 5  # of the α of the curve, so that a chart has a mark every quarter


def render_audit(audit: Audit) -> str:
    """The self-contained page. Jinja escapes every string; charts escape their own text and go in as they are."""
    from markupsafe import Markup

    def svg(figure: "Figure", label: str) -> Markup:
        return Markup(charts.to_svg(figure, label))

    named = [] if audit.by_indicator else audit.attributes
    price = audit.price
    cost = [svg(_over_alpha(audit, price.images, "Images that the set counts as"), "Effective images over α")]
    if not named:
        title = "How many times as often the rarest third is drawn"
        cost.insert(0, svg(_over_alpha(audit, price.ratio, title, factor=True), "Ratio of the weights over α"))
    return (
        environment()
        .get_template("audit.html.j2")
        .render(
            audit=audit,
            bars=[svg(_bars(one), f"Shares of {one.name} against the target") for one in named],
            curves=[svg(_curve(audit, one), f"Predicted shares of {one.name} over α") for one in named],
            cost=cost,
            light=charts.LIGHT,
            dark=charts.DARK,
        )
    )


def overview(audit: Audit) -> "Figure":
    """One chart: the shares of the first attribute against its target, or the price of balance over α."""
    if audit.by_indicator:
        return _over_alpha(audit, audit.price.images, "Images that the set counts as")
    return _bars(audit.attributes[0])


def _bars(attribute: AuditedAttribute) -> "Figure":
    groups = attribute.groups
    figure, axes = charts.canvas(None, "", "")
    figure.set_size_inches(7.6, 1.2 + 0.36 * len(groups))
    values, low, high = ([[getattr(one.share, field) for one in groups]] for field in ("value", "low", "high"))
    names, target = [one.name for one in groups], [one.target for one in groups]
    return charts.share_bars([""], values, low, high, names, target, axes)


def _curve(audit: Audit, attribute: AuditedAttribute) -> "Figure":
    shares = attribute.shares[::EVERY]
    groups = attribute.groups
    figure = charts.shares_over_alpha(
        audit.price.alphas[::EVERY],
        shares,
        shares,
        shares,
        [one.name for one in groups],
        [one.target for one in groups],
    )
    figure.axes[0].set_title(f"Predicted: {attribute.name}", loc="left", fontsize=10.5, pad=10, parse_math=False)
    return charts.mark_alpha(figure, audit.recommended)


def _over_alpha(audit: Audit, values: list[float], title: str, factor: bool = False) -> "Figure":
    figure = charts.line_over_alpha(audit.price.alphas[::EVERY], values[::EVERY], title, factor)
    return charts.mark_alpha(figure, audit.recommended)
