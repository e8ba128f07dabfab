"""The one exception that users see."""


class DDMError(Exception):
    """A mistake in the input, said as a sentence: what is wrong, where, and what to do about it.

    Faces (command line, nodes, web UI) print the message without a traceback; anything else that is raised is a bug.
    """
