"""The target as a node's input."""

from ..debias.core.error import DDMError
from ..debias.groups import target


def check_target(text: str | None) -> bool | str:
    """A sentence if this can be no target of any probe, else True; None comes from another node."""
    try:
        if text is not None and text.strip():
            target.check_target(text)
    except DDMError as error:
        return str(error)
    return True
