"""Lists of prompts for nodes: those of `hosts.prompt_lists`, and text files in the host's input folder."""

from pathlib import Path

import folder_paths

from ..hosts import prompt_lists
from ..hosts.prompt_lists import WRITTEN, as_option, split

__all__ = ["WRITTEN", "as_option", "names", "path_of", "read", "split"]


def names() -> list[str]:
    """What a node offers."""
    return prompt_lists.names(_folder())


def path_of(name: str) -> Path | None:
    """The file behind a name of `names`; None for the text in the node.

    Raises:
        DDMError: there is no such list.
    """
    return prompt_lists.path_of(name, _folder())


def read(name: str, written: str) -> list[str]:
    """The prompts of a list, each once.

    Raises:
        DDMError: there is no such list, or no prompt in it.
    """
    return prompt_lists.read(name, written, _folder())


def _folder() -> Path:
    return Path(folder_paths.get_input_directory())
