"""What lies above an input of a node in the graph that runs: which model, and α, prompt and seed of images.

The page hands graphs over without reroutes and subgraphs, so neither matters here.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import folder_paths

from ..debias.core.error import DDMError
from . import adapter_file, files
from .native import BASE_HASH

# Nodes that only hold a value, and under which name.
PRIMITIVES = ("PrimitiveInt", "PrimitiveFloat", "PrimitiveString", "PrimitiveStringMultiline")
SEEDS = ("noise_seed", "seed")
TEXTS = ("text", "text_g", "text_l", "t5xxl", "clip_l", "prompt")
# What does not change an image, or is told otherwise.
NO_SETTINGS = (*SEEDS, "batch_size", "image", "upload", "counts", "keep_counts")
# Nodes that put an adapter on: where they name it, and its strength.
ADAPTERS = {
    "DDMLoadAdapter": ("adapter", "alpha"),
    "DDMAlphaSchedule": ("adapter", "alpha"),
    "LoraLoader": ("lora_name", "strength_model"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
}


@dataclass(frozen=True)
class Origin:
    """Prompt, strength of the adapter, and seed of images; None what is not known.

    `adapter` names the file that the strength is of, and `made` everything else that is written in the graph above.
    """

    prompt: str | None = None
    alpha: float | None = None
    seed: int | None = None
    adapter: str = ""
    made: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        parts = [
            None if self.alpha is None else f"α = {self.alpha:g}",
            None if self.seed is None else f"seed {self.seed}",
            None if self.prompt is None else f"prompt “{self.prompt}”",
        ]
        return ", ".join(filter(None, parts))


class Upstream:
    """The graph above one node.

    Args:
        graph: the host's DYNPROMPT.
        node: id of the node.
    """

    def __init__(self, graph: Any, node: str) -> None:
        self._graph, self._node = graph, node

    def digest(self, *inputs: str) -> str:
        """A digest of everything that is wired to some inputs: kinds of nodes, values, and the state of named files."""
        known: dict[str, str] = {}

        def of_value(value: Any) -> Any:
            if (link := _link(value)) is not None:
                return [of_node(link[0]), link[1]]
            return [value, _file_stamp(value)]

        def of_node(name: str) -> str:
            if name not in known:
                node = self._graph.get_node(name)
                values = {key: of_value(value) for key, value in sorted(node["inputs"].items())}
                known[name] = _digest([node["class_type"], values])
            return known[name]

        own = self._inputs()
        return _digest([of_value(own.get(name)) for name in inputs])

    def origin(self, name: str) -> Origin:
        """Where the images at an input come from, as far as the graph says it.

        What is wired to the node's own inputs prompt, alpha and seed is left to them.
        """
        prompt, seed = self.prompt(name), self.seed(name)
        # Images that no node above has sampled were not made by the models above.
        if prompt is seed is None:
            return Origin()
        found = {"prompt": prompt, "seed": seed, "alpha": self.alpha(name)}
        known = {key: value for key, value in found.items() if _link(self._inputs().get(key)) is None}
        file = self._adapter(name)[2]
        return Origin(**known, adapter=_with_stamp(file, file), made=tuple(self.settings(name).items()))

    def alpha(self, name: str) -> float | None:
        """Strength of the adapter nearest above an input; 0 where none is, None where it comes from another node."""
        node, strength, file = self._adapter(name)
        if node is None:
            return 0.0
        if self._value(node["inputs"].get("strength_from")) == "recommended":
            return adapter_file.recommended_alpha(file)
        alpha = self._value(node["inputs"].get(strength))
        return float(alpha) if isinstance(alpha, int | float) else None

    def settings(self, name: str) -> dict[str, str]:
        """What is written in the graph above an input, by kind of node and name; with a digest of files.

        Left out are seeds, the texts of the positive side, the strength and the file of the adapter, and what does not
        change an image.
        """
        found: dict[str, str] = {}
        adapter, *_ = self._adapter(name)
        waiting, seen = deque([(self._inputs().get(name), "")]), set()
        while waiting:
            wire, side = waiting.popleft()
            link = _link(wire)
            if link is None or link[0] in seen:
                continue
            seen.add(link[0])
            node = self._graph.get_node(link[0])
            told = (*ADAPTERS[node["class_type"]], "strength_from", "strength_clip") if node is adapter else ()
            for key, given in sorted(node["inputs"].items()):
                value = self._value(given)
                if key in NO_SETTINGS or key in told or (key in TEXTS and side != "negative"):
                    continue
                if value is None or _link(value) is not None:
                    below = {"positive": "positive", "conditioning": side or "positive", "negative": "negative"}
                    waiting.append((given, below.get(key, side)))
                    continue
                text = value if isinstance(value, str) else json.dumps(value, default=str)
                named, number = "negative prompt" if key in TEXTS else f"{node['class_type']} {key}", 2
                while named in found:
                    named, number = f"{node['class_type']} {number} {key}", number + 1
                found[named] = _with_stamp(" ".join(text.split()), value)
        return found

    def _adapter(self, name: str) -> tuple[Mapping[str, Any] | None, str, str]:
        """The node that puts the adapter nearest above an input on, the name of its strength, and the file."""
        for node in self._above(name):
            adapter, strength = ADAPTERS.get(node["class_type"], ("", ""))
            file = self._value(node["inputs"].get(adapter))
            if isinstance(file, str) and _is_adapter(node["class_type"], file):
                return node, strength, file
        return None, "", ""

    def weights(self, name: str) -> Path | None:
        """The checkpoint or folder that the model at an input was loaded from; None if that is none, or more than one.

        Raises:
            DDMError: it is not there any more.
        """
        found = (
            self._value(node["inputs"].get("weights" if node["class_type"] == "DDMLoadWeights" else "ckpt_name"))
            for node in self._above(name)
        )
        names = {one for one in found if isinstance(one, str)}
        return files.resolve_weights(names.pop()) if len(names) == 1 else None

    def base_hash(self, name: str, model: Any) -> str:
        """What tells the base of a MODEL at an input apart from others; empty if that is not known.

        The host's own loaders do not say it: then it is that of their file (see `hash_files`).
        """
        from ..training.models.file_hash import hash_files

        if known := model.attachments.get(BASE_HASH, ""):
            return known
        try:
            path = self.weights(name)
        except DDMError:
            return ""
        return hash_files([path]) if path is not None and path.is_file() else ""

    def seed(self, name: str) -> int | None:
        """Seed of the sampling nearest above an input; None where none can be read."""
        found = (self._value(node["inputs"].get(key)) for node in self._above(name) for key in SEEDS)
        return next((seed for seed in found if isinstance(seed, int)), None)

    def prompt(self, name: str) -> str | None:
        """Text of the positive conditioning of the sampling nearest above an input; None where none can be read."""
        for node in self._above(name):
            for wire in ("positive", "conditioning"):
                if (link := _link(node["inputs"].get(wire))) is not None:
                    return self._text(link)
        return None

    def _text(self, link: tuple[str, int]) -> str | None:
        """The text behind a conditioning; through nodes that change both, that of the same side."""
        inputs = self._graph.get_node(link[0])["inputs"]
        for name in TEXTS:
            if isinstance(text := self._value(inputs.get(name)), str) and text.strip():
                return text
        sides = [one for one in ("positive", "negative") if _link(inputs.get(one))]
        wires = [inputs[sides[min(link[1], len(sides) - 1)]]] if sides else inputs.values()
        found = (self._text(above) for one in wires if (above := _link(one)) is not None)
        return next((text for text in found if text is not None), None)

    def _inputs(self) -> Mapping[str, Any]:
        return self._graph.get_node(self._node)["inputs"]

    def _value(self, value: Any) -> Any:
        """A value as it is written in the graph, in the input itself or in a node that holds only it; else None."""
        link = _link(value)
        if link is None:
            return value
        node = self._graph.get_node(link[0])
        return self._value(node["inputs"].get("value")) if node["class_type"] in PRIMITIVES else None

    def _above(self, name: str) -> Iterator[Mapping[str, Any]]:
        """All nodes above an input, the nearest first."""
        waiting, seen = deque([self._inputs().get(name)]), set()
        while waiting:
            link = _link(waiting.popleft())
            if link is None or link[0] in seen:
                continue
            seen.add(link[0])
            node = self._graph.get_node(link[0])
            yield node
            waiting.extend(node["inputs"].values())


def _is_adapter(kind: str, file: str) -> bool:
    """Whether a LoRA is a fair adapter: ours, or put on as one."""
    try:
        return kind.startswith("DDM") or adapter_file.read_card(file) is not None
    except DDMError:
        return False


def _link(value: Any) -> tuple[str, int] | None:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2 and isinstance(value[0], str):
        return value[0], value[1]
    return None


def _digest(value: Any) -> str:
    return blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def _with_stamp(text: str, value: Any) -> str:
    """The text, with a digest of the file that a value names, so that one that was written anew is another one."""
    stamp = _file_stamp(value)
    return f"{text} ({_digest(stamp)[:8]})" if stamp else text


def _file_stamp(value: Any) -> str | None:
    """What changes when the file of one of the host's folders that a value names is another one."""
    if not isinstance(value, str) or "." not in value or len(value) > 255:
        return None
    for folder in folder_paths.folder_names_and_paths:
        if folder != "custom_nodes" and (path := folder_paths.get_full_path(folder, value)):
            return files.stamp(Path(path))
    return None
