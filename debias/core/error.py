"""The one exception that users see."""


class DDMError(Exception):
    """A mistake in the input, said as a sentence: what is wrong, where, and what to do about it.

    Faces (command line, nodes, web UI) print the message without a traceback; anything else that is raised is a bug.
    """


class OutOfMemory(DDMError):
    """The memory of a GPU does not suffice, however little is done at a time."""


def out_of_memory(error: Exception) -> bool:
    """Whether a GPU's memory did not suffice: our own error, or torch's, by its name, since torch need not be there."""
    return isinstance(error, OutOfMemory) or type(error).__name__ == "OutOfMemoryError"


def reason_of(error: Exception) -> str:
    """What an error says, as a sentence: our own, that the GPU's memory ran out, or its kind and text."""
    if isinstance(error, DDMError):
        return str(error)
    if out_of_memory(error):
        return "The memory of the GPU ran out. Close other programs that use it, or choose a smaller model."
    return f"{type(error).__name__}: {error}"
