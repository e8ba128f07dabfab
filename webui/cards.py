"""The cards of adapters, in the accordion and in the tab."""

from collections.abc import Sequence

from ..debias.adapter.lora_file import AdapterCard
from ..debias.core.error import DDMError
from ..debias.core.io import read_metadata
from ..debias.rendering.panel_html import fragment, problem, sentence
from ..hosts import head_training
from ..hosts.adapter_card import LoadedCard
from . import files, host


def card_html(name: str) -> str:
    """What an adapter says of itself, and of the checkpoint that is selected; nothing for none."""
    try:
        card = _card(name)
        if card is None:
            return ""
        warning = _about_base(card.base_hash, "trained on")
        return fragment(LoadedCard(name, card.recommended_alpha, card, warning).panel())
    except DDMError as error:
        return problem(str(error))


def recommended_alpha(name: str) -> float | None:
    """The α that an adapter recommends; None for none."""
    try:
        card = _card(name)
    except DDMError:
        return None
    return None if card is None else card.recommended_alpha


def heads_html(names: Sequence[str]) -> str:
    """What chosen heads of guidance tell apart, and whether each was made for the selected checkpoint."""
    from ..debias.methods.h_space_classifier import HSpaceClassifier

    said = []
    try:
        for name in names or ():
            head = HSpaceClassifier.load(files.head_path(name))
            about = _about_base(head.base_hash, "made for") or "It was made for the selected checkpoint."
            said.append(sentence(f"{name}: {about} {head_training.told(head)}"))
    except DDMError as error:
        said.append(problem(str(error)))
    return "".join(said)


def _card(name: str) -> AdapterCard | None:
    return AdapterCard.from_metadata(read_metadata(files.adapter_path(name))) if files.chosen(name) else None


def _about_base(digest: str, how: str) -> str | None:
    """What there is to say of the checkpoint that a file was made for, by its hash; None if it is the selected one."""
    if digest and digest == host.selected_hash():
        return None
    base = host.checkpoint_of(digest)
    if base is None:
        return (
            f"It was {how} a checkpoint that is not known here. Select the one that it was {how}: its effect on others "
            "was never measured."
        )
    return f"It was {how} {base.name}, which is not selected: its effect on other checkpoints was never measured."
