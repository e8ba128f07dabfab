"""The cards of adapters, in the accordion and in the tab."""

from ..debias.adapter.lora_file import AdapterCard
from ..debias.core.error import DDMError
from ..debias.core.io import read_metadata
from ..debias.rendering.panel_html import fragment, problem
from ..hosts.adapter_card import LoadedCard
from . import files

FOR_ITS_BASE = "Use it with the checkpoint that it was trained on: its effect on others was never measured."


def card_html(name: str) -> str:
    """What an adapter says of itself; nothing for none."""
    if not files.chosen(name):
        return ""
    try:
        card = AdapterCard.from_metadata(read_metadata(files.adapter_path(name)))
        return fragment(LoadedCard(name, card.recommended_alpha, card, FOR_ITS_BASE).panel())
    except DDMError as error:
        return problem(str(error))
