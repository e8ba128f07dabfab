"""A workflow as the front end saves it, turned into the graph that the API takes."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .server import EMBEDDED, PACK

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
# What tests give an example's nodes, where they have such inputs, to make less, of fewer images (see `write_few`).
FEWER = {"batch_size": 4, "count": 2, "steps": 5, "folder": "few"}
# What makes an example for a large model run on the small one, in little time; and what its head learns by.
SMALL = {"width": 64, "height": 64, "steps": 2, "batch_size": 2, "count": 4, "calibrate": 0, "prior_count": 4}
SMALL |= {"prompt_list": "as written", "prompts": "a man doctor\na woman doctor\na man pilot\na woman pilot"}
SMALL |= {"prior_prompts": "a doctor; a pilot", "classes": "man: a man\nwoman: a woman", "size": 64}
HEAD = {"probe": "gender.safetensors"}
WEIGHTS = {"class_type": "DDMLoadWeights", "inputs": {"weights": EMBEDDED}}
IN_PLACE_OF = {"CheckpointLoaderSimple": WEIGHTS, "UNETLoader": WEIGHTS}
# What examples for models of one's own take: nodes of the host that need a file, and ours.
CHECKPOINT, MEASURED = {"CheckpointLoaderSimple"}, {"DDMProbeFromWords", "DDMMeasurePrompts"}
NEEDS_DOWNLOAD = {
    "SD 1.5 with Load LoRA": (CHECKPOINT | {"LoraLoader"}, set()),
    "Measure my Z-Image model": ({"UNETLoader", "CLIPLoader", "VAELoader", "CLIPVisionLoader"}, MEASURED),
}
for kind in ("SDXL", "SD 1.5"):
    NEEDS_DOWNLOAD |= {
        f"Measure my {kind} model": (CHECKPOINT, MEASURED),
        f"Balance my {kind} model (guidance)": (CHECKPOINT, {"DDMTrainHead", "DDMDistributionGuidance"}),
        f"Train a fair adapter for my {kind} model": (CHECKPOINT, {"DDMTrain", "DDMLoadAdapter"}),
        f"Prove it ({kind})": (CHECKPOINT, MEASURED | {"DDMLoadAdapter", "DDMCompareReports"}),
    }


def on_the_small_model(graph: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A graph for a large model, with the small one, its own probe too, in place of what needs a download."""
    kinds = {key: node["class_type"] for key, node in graph.items()}
    whole = next(key for key, kind in kinds.items() if kind in IN_PLACE_OF)
    places = {"CLIPLoader": [whole, 1], "VAELoader": [whole, 2], "CLIPVisionLoader": None}
    made = {}
    for key, node in graph.items():
        if kinds[key] in places:
            continue
        inputs = node["inputs"] | {name: value for name, value in SMALL.items() if name in node["inputs"]}
        linked = {name: value for name, value in inputs.items() if isinstance(value, list)}
        inputs |= {name: places.get(kinds[value[0]], value) for name, value in linked.items()}
        inputs |= HEAD if kinds[key] == "DDMTrainHead" else {}
        inputs |= {"model": [whole, 0], "vae": [whole, 2]} if kinds[key] == "DDMProbeFromWords" else {}
        inputs = {name: value for name, value in inputs.items() if value is not None}
        made[key] = IN_PLACE_OF.get(kinds[key], {"class_type": kinds[key], "inputs": inputs})
    return made


def write_few(folder: Path) -> None:
    """Write two dozen of the example images, with captions, into a new folder of a server's input."""
    folder.mkdir()
    lines = (PACK / "examples" / "people_emoji" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines[:24]):
        source = PACK / "examples" / "people_emoji" / row["file_name"]
        (folder / source.name).write_bytes(source.read_bytes())
        (folder / source.with_suffix(".txt").name).write_text(f"a {row['role']}", encoding="utf-8")


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
