"""Checks of a node's inputs before a graph runs, each said once."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from inspect import Signature, signature
from typing import Any

from comfy_execution.utils import get_executing_context

Check = Callable[..., bool | str]

# The graph that the host is about to check.
_graph: ContextVar[Mapping[str, Any] | None] = ContextVar("graph", default=None)


def watch_graphs() -> None:
    """Be told of every graph that comes in."""
    from server import PromptServer

    def remember(asked: dict[str, Any]) -> dict[str, Any]:
        _graph.set(asked.get("prompt") or {})
        return asked

    PromptServer.instance.add_on_prompt_handler(remember)


def said_once(check: Check) -> Check:
    """A `validate_inputs` that looks at several inputs, and whose sentence is said once.

    The host says it again for every input that the function names, so that is the first alone. The others are read from
    the graph; what is wired is None, as the host itself hands it over.
    """
    cls, first, *others = signature(check).parameters.values()

    def checked(cls: type, **given: Any) -> bool | str:
        context = get_executing_context()
        node = (_graph.get() or {}).get(context.node_id) if context else None
        inputs = node["inputs"] if node else {}
        known = {one.name: inputs[one.name] for one in others if one.name in inputs}
        return check(cls, **given, **{name: None if isinstance(one, list) else one for name, one in known.items()})

    checked.__signature__ = Signature([cls, first])
    checked.__doc__ = check.__doc__
    return checked
