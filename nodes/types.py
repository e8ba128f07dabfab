"""What all nodes share: the types of the wires between them, and a schema that fits every supported host."""

from dataclasses import fields

from comfy_api.latest import io

CATEGORY = "DDM"

Probe = io.Custom("DDM_PROBE")
Report = io.Custom("DDM_REPORT")
Card = io.Custom("DDM_CARD")


def advanced(*inputs: io.Input) -> tuple[io.Input, ...]:
    """Inputs that a node hides until one asks for advanced ones, where the host's page can do so."""
    for one in inputs:
        # Older hosts have no argument for it, but hand this on to the page, which knows the word.
        one.extra_dict = {**one.extra_dict, "advanced": True}
    return inputs


def schema(**values: object) -> io.Schema:
    """An `io.Schema` of our category, without the fields that this host's version does not know."""
    known = {item.name for item in fields(io.Schema)}
    return io.Schema(category=CATEGORY, **{name: value for name, value in values.items() if name in known})
