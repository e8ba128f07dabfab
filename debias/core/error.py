"""The one exception that users see."""

import re
from collections.abc import Callable, Sequence

LONGEST = 2000  # characters of a message
# Control characters, line and paragraph separators, and what turns the direction of the text around it.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class DDMError(Exception):
    """A mistake in the input, said as a sentence: what is wrong, where, and what to do about it.

    Faces (command line, nodes, web UI) print the message without a traceback; anything else that is raised is a bug.
    The message can be shown everywhere, whatever names and values of a file are in it (see `printable`).

    Args:
        message: the sentence. It names no option, since each face has its own words for these.
        options: the fields of the configuration that it is about (see `named`).
    """

    def __init__(self, message: object = "", *options: str) -> None:
        super().__init__(printable(message))
        self.options = options


def named(sentence: str, options: Sequence[str], name: Callable[[str], str | None]) -> str:
    """A sentence with the options that it is about, as a face calls them: “Choose a lower rank (--rank).”

    Args:
        name: what the face calls an option; None if it has none, which is then left out.
    """
    words = [word for option in options if (word := name(option))]
    return f"{sentence.removesuffix('.')} ({', '.join(words)})." if words else sentence


class OutOfMemory(DDMError):
    """The memory of a GPU does not suffice, however little is done at a time."""


def printable(text: object, longest: int = LONGEST) -> str:
    """Text that every terminal, page and JSON file takes: valid UTF-8 without control characters, of limited length.

    Letters that UTF-8 does not have (of file names in another encoding) are written as `\\udce9`; what is too long
    loses its middle.
    """
    text = str(text)
    if len(text) > longest:
        text = f"{text[: longest // 2]} … {text[len(text) - longest // 2 + 3 :]}"
    text = _UNSEEN.sub(" ", text.encode("utf-8", "backslashreplace").decode("utf-8"))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def out_of_memory(error: Exception) -> bool:
    """Whether a GPU's memory did not suffice: our own error, or torch's, by its name, since torch need not be there."""
    return isinstance(error, OutOfMemory) or type(error).__name__ == "OutOfMemoryError"


def reason_of(error: Exception) -> str:
    """What an error says, as a sentence: our own, that the GPU's memory ran out, or its kind and text."""
    if isinstance(error, DDMError):
        return str(error)
    if out_of_memory(error):
        return "The memory of the GPU ran out. Close other programs that use it, or choose a smaller model."
    return printable(f"{type(error).__name__}: {error}")
