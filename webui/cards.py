"""The cards of adapters, in the accordion and in the tab."""

from ..debias.adapter.lora_file import AdapterCard
from ..debias.core.error import DDMError
from ..debias.core.io import read_metadata
from ..debias.rendering.panel_html import fragment, problem
from ..hosts.adapter_card import LoadedCard
from . import files, host


def card_html(name: str) -> str:
    """What an adapter says of itself, and of the checkpoint that is selected; nothing for none."""
    try:
        card = _card(name)
        return (
            "" if card is None else fragment(LoadedCard(name, card.recommended_alpha, card, _about_base(card)).panel())
        )
    except DDMError as error:
        return problem(str(error))


def recommended_alpha(name: str) -> float | None:
    """The α that an adapter recommends; None for none."""
    try:
        card = _card(name)
    except DDMError:
        return None
    return None if card is None else card.recommended_alpha


def _card(name: str) -> AdapterCard | None:
    return AdapterCard.from_metadata(read_metadata(files.adapter_path(name))) if files.chosen(name) else None


def _about_base(card: AdapterCard) -> str | None:
    """What there is to say of the checkpoint that an adapter was trained on; None if it is the one that is selected."""
    base = host.checkpoint_of(card.base_hash)
    if base is None:
        return (
            "It was trained on a checkpoint that is not known here. Select the one that it was trained on: its effect "
            "on others was never measured."
        )
    if base == host.selected_checkpoint():
        return None
    return f"It was trained on {base.name}, which is not selected: its effect on other checkpoints was never measured."
