"""Lists of prompts: those that come with the project, and text files in a folder of the host."""

import re
from collections.abc import Sequence
from pathlib import Path

from ..debias.core.error import DDMError

WRITTEN = "as written"
PROMPTS = Path(__file__).resolve().parent.parent / "examples" / "prompts"
BUILT_IN = {path.stem.replace("_", " "): path for path in sorted(PROMPTS.glob("*.txt"), reverse=True)}


def names(folder: Path | None = None) -> list[str]:
    """What a page offers: the text that is written there, the lists of the project, text files in a folder."""
    return [WRITTEN, *BUILT_IN, *_files(folder)]


def path_of(name: str, folder: Path | None = None) -> Path | None:
    """The file behind a name of `names`; None for the text in the page.

    Raises:
        DDMError: there is no such list.
    """
    if name == WRITTEN:
        return None
    path = BUILT_IN.get(name) or _files(folder).get(name)
    if path is None:
        place = (
            f"Put a text file of that name into the folder {folder.name}, one prompt in a line, or choose"
            if folder
            else "Choose"
        )
        raise DDMError(f"There is no list of prompts called {name!r}. {place} another list.")
    return path


def read(name: str, written: str, folder: Path | None = None) -> list[str]:
    """The prompts of a list, each once.

    Raises:
        DDMError: there is no such list, or no prompt in it.
    """
    from ..training.sampling.prompts import read_prompts

    path = path_of(name, folder)
    return split(written) if path is None else read_prompts(str(path))


def split(text: str) -> list[str]:
    """Prompts as they are written into a page: one in a line, or with ';' between them.

    Raises:
        DDMError: there is none.
    """
    prompts = list(dict.fromkeys(" ".join(line.split()) for line in re.split(r"[;\n]", text) if line.strip()))
    if not prompts:
        raise DDMError("There is no prompt. Write what to generate into prompts, one in a line.")
    return prompts


def as_option(prompts: Sequence[str]) -> str:
    """Prompts as an option of `ddm` takes them; the semicolon at the end makes it a list, whatever files there are."""
    return ";".join(prompts) + ";"


def _files(folder: Path | None) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.glob("*.txt"))} if folder and folder.is_dir() else {}
