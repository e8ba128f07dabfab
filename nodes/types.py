"""What all nodes share: their category, the types of the wires between them, and what older hosts do not know."""

from dataclasses import fields

from comfy_api.latest import io

CATEGORY = "DDM"

Probe = io.Custom("DDM_PROBE")
Report = io.Custom("DDM_REPORT")
Card = io.Custom("DDM_CARD")
# The name of a file that was made: a choice of the nodes that load it, and text.
Name = io.Custom("COMBO,STRING")


def advanced(*inputs: io.Input) -> tuple[io.Input, ...]:
    """Inputs that a node hides until one asks for advanced ones, where the host's page can do so."""
    for one in inputs:
        # Older hosts have no argument for it, but hand this on to the page, which knows the word.
        one.extra_dict = {**one.extra_dict, "advanced": True}
    return inputs


def known(**values: object) -> dict[str, object]:
    """Those of a schema's newer fields that this host knows.

    The rest of a schema is written out as `io.Schema(node_id="…", …)`: the extension manager reads the nodes' ids from
    the source, and finds them only there.
    """
    names = {item.name for item in fields(io.Schema)}
    return {name: value for name, value in values.items() if name in names}
