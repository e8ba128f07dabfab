"""A workflow as the front end saves it, turned into the graph that the API takes."""

from collections.abc import Iterator, Mapping
from typing import Any

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def to_graph(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The graph in API format.

    Args:
        workflow: with `nodes` and `links`; nodes that the server does not know are notes.
        object_info: what the server answers at /object_info.
    """
    origins = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] not in object_info:
            continue
        inputs = dict(_values(node, object_info[node["type"]]))
        inputs |= {one["name"]: origins[one["link"]] for one in node["inputs"] if one.get("link") is not None}
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def widgets(known: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and options of every input that the front end draws as a widget, in its order."""
    for kind in ("required", "optional"):
        for name, (what, *more) in known["input"].get(kind, {}).items():
            options = more[0] if more else {}
            if (isinstance(what, list) or what in WIDGETS) and not options.get("forceInput"):
                yield name, options


def _values(node: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    values = iter(node.get("widgets_values", []))
    for name, options in widgets(known):
        try:
            yield name, next(values)
        except StopIteration:  # saved before the node had this input, which the page leaves as it is
            return
        if options.get("control_after_generate", name in ("seed", "noise_seed")):
            next(values)  # "fixed", "randomize", ...: the front end's own
        if options.get("image_upload"):
            next(values)
