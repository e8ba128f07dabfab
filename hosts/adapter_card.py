"""What an adapter says of itself, and what there is to say of using it: in sentences, and as a panel."""

from dataclasses import dataclass
from typing import Any

from ..debias.adapter.lora_file import AdapterCard

UNKNOWN_BASE = (
    "Which base the model comes from is not known here, only that the adapter fits it. If it is not the one that the "
    "adapter was trained on, its effect was never measured: make a report before you rely on it. (Models from DDM Load "
    "Weights are recognised.)"
)
NO_CARD = (
    "This LoRA was not made by ComfyUI-DDM: it works as an ordinary LoRA, and nothing is known about its fairness."
)


@dataclass(frozen=True)
class LoadedCard:
    """An adapter in use: its card, at which α, on which base.

    Attributes:
        name: of the file, as in the host's list.
        alpha: strength, or the strength at the start of a schedule.
        card: None for a LoRA that this project did not write.
        warning: sentences on what does not fit, or None when this is the base that the adapter was trained on.
    """

    name: str
    alpha: float
    card: AdapterCard | None
    warning: str | None

    @property
    def text(self) -> str:
        """All that a user should read, in sentences."""
        return " ".join(filter(None, (self._described(), self.warning)))

    def panel(self) -> dict[str, Any]:
        """What a panel shows of it, as plain values."""
        card, measured = self.card, (self.card.measured if self.card else None) or {}
        # As good as a perfectly fair model could look with as many images; nothing is said of what was not measured.
        fair = any(
            one["alpha"] == card.recommended_alpha
            and None not in (one["fd"], one["floor_high"])
            and one["fd"] <= one["floor_high"]
            for one in measured.get("points", [])
        )
        tone = "fair" if fair and not self.warning else "unknown"
        told = self.warning or (NO_CARD if not card else "Trained on this base.")
        panel: dict[str, Any] = {
            "kind": "card",
            "title": self.name,
            "verdict": {"tone": tone, "text": told},
            "summary": self._described(),
            "n": sum(point["images"] for point in measured.get("points", [])),
            "attributes": [],
            "prompts": [],
            "files": {},
            "alpha": self.alpha,
        }
        if card:
            panel |= {
                "points": measured.get("points") or card.predicted,
                "measured": bool(measured),
                "recommended_alpha": card.recommended_alpha,
                "alpha_max": card.alpha_max,
                "objective": card.objective,
                "groups": card.groups,
                "target": card.target,
                "concepts": card.concepts,
            }
        return panel

    def _described(self) -> str:
        card = self.card
        if card is None:
            return NO_CARD
        if card.objective == "style":
            return "The style learnt with a DDM adapter: use it at strength 1."
        goal = "equal shares of what it found by itself"
        if card.target:
            goal = ", ".join(f"{name} {share:.0%}" for name, share in card.target.items())
        best = (card.measured or {}).get("recommended_alpha")
        source = "predicted" if best is None else "measured"
        text = f"At α = 1 it aims at {goal}; trained up to α = {card.alpha_max:g}. "
        text += f"Recommended α: {card.recommended_alpha:g} ({source})."
        if best is None and (look := card.training.get("last_look")) and look["harm"]:
            text += f" {look['harm']}"
        text += _by_prompt(card.measured, card.recommended_alpha)
        text += _hardly_moved(card)
        if self.alpha > card.alpha_max:
            text += f" α = {self.alpha:g} is beyond what it was trained for."
        return text


def _hardly_moved(card: AdapterCard) -> str:
    """What to say of a training whose calibration took the largest scale that it may."""
    calibration = card.training.get("calibration")
    if not calibration:
        return ""
    from ..training.objectives.calibration import SCALES

    if calibration["scale"] < SCALES[1]:
        return ""
    return " The training hardly moved the shares: train with more steps, or measure it before you rely on it."


def _by_prompt(measured: dict[str, Any] | None, alpha: float) -> str:
    """FD by prompt with and without the adapter, and the worst prompt, as measured."""
    points = {one["alpha"]: one for one in (measured or {}).get("points", ())}
    if alpha not in points or 0 not in points or None in (points[alpha]["fd"], points[0]["fd"]):
        return ""
    now = points[alpha]
    text = f" FD by prompt is {now['fd']:.2f} there, {points[0]['fd']:.2f} without it."
    if worst := now.get("worst_prompt"):
        text += f" Worst is “{worst['prompt']}”: {worst['group']} {worst['share']:.0%}."
    return text
