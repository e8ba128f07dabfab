"""Lists of prompts: those that come with the pack, and text files in the host's input folder."""

import re
from pathlib import Path

import folder_paths

from ..debias.core.error import DDMError
from .files import EXAMPLES

WRITTEN = "as written"
BUILT_IN = {path.stem.replace("_", " "): path for path in sorted((EXAMPLES / "prompts").glob("*.txt"), reverse=True)}


def names() -> list[str]:
    """What a node offers: the text that is written into it, the lists of the pack, text files in input/."""
    return [WRITTEN, *BUILT_IN, *_files()]


def path_of(name: str) -> Path | None:
    """The file behind a name of `names`; None for the text in the node.

    Raises:
        DDMError: there is no such list.
    """
    if name == WRITTEN:
        return None
    path = BUILT_IN.get(name) or _files().get(name)
    if path is None:
        raise DDMError(
            f"There is no list of prompts called {name!r}. Put a text file of that name into ComfyUI's input folder, "
            "one prompt in a line, or choose another list."
        )
    return path


def read(name: str, written: str) -> list[str]:
    """The prompts of a list, each once.

    Raises:
        DDMError: there is no such list, or no prompt in it.
    """
    from ..training.sampling.prompts import read_prompts

    path = path_of(name)
    return split(written) if path is None else read_prompts(str(path))


def split(text: str) -> list[str]:
    """Prompts as they are written into a node: one in a line, or with ';' between them.

    Raises:
        DDMError: there is none.
    """
    prompts = list(dict.fromkeys(" ".join(line.split()) for line in re.split(r"[;\n]", text) if line.strip()))
    if not prompts:
        raise DDMError("There is no prompt. Write what to generate into prompts, one in a line.")
    return prompts


def _files() -> dict[str, Path]:
    folder = Path(folder_paths.get_input_directory())
    return {path.name: path for path in sorted(folder.glob("*.txt"))} if folder.is_dir() else {}
