"""Every text of the nodes is there in every language, and says in English what the nodes themselves say.

`DDM_WRITE=1 pytest tests/comfy/test_locales.py` writes the English file anew from the nodes.
"""

import json
import os
import re

import pytest

from .server import PACK

LOCALES = PACK / "locales"
# The front end would read these as its own message syntax, and there is no escape that all of its versions know. So a
# text with one of them stays out of the files, and the front end shows that of the node itself.
SYNTAX = re.compile(r"[{}@|]")


@pytest.fixture(scope="module")
def nodes(server):
    """What the server says of our nodes, by id."""
    return {name: node for name, node in server.get("/object_info").items() if name.startswith("DDM")}


def english(node):
    """The texts of a node as a locale file holds them."""
    inputs = {name: spec for kind in ("required", "optional") for name, spec in node["input"].get(kind, {}).items()}
    texts = {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {
            name: {"name": more.get("display_name") or name, "tooltip": more.get("tooltip")}
            for name, (_, more) in ((name, (*spec, {})[:2]) for name, spec in inputs.items())
        },
        "outputs": {
            str(i): {"name": name, "tooltip": tooltip}
            for i, (name, tooltip) in enumerate(
                zip(node["output_name"], node.get("output_tooltips") or [None] * 99, strict=False)
            )
        },
    }
    return plain(texts)


def plain(texts):
    """Without missing texts and those that the front end cannot show from a file."""
    if isinstance(texts, dict):
        return {key: kept for key, value in texts.items() if (kept := plain(value)) is not None}
    return None if texts is None or SYNTAX.search(texts) else texts


def keys(texts, before=()):
    """The places of all texts in a file."""
    for key, value in texts.items():
        if isinstance(value, dict):
            yield from keys(value, (*before, key))
        else:
            yield ".".join((*before, key))


def read(language, name="nodeDefs"):
    return json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))


def test_the_english_file_says_what_the_nodes_say(nodes):
    texts = {name: english(node) for name, node in sorted(nodes.items())}
    if os.environ.get("DDM_WRITE"):
        file = LOCALES / "en" / "nodeDefs.json"
        file.write_text(json.dumps(texts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    assert read("en") == texts


@pytest.mark.parametrize("language", sorted(path.name for path in LOCALES.iterdir()))
def test_a_language_has_every_text_and_no_message_syntax(language):
    texts = read(language)
    # Options of a training show in English until somebody translates them.
    missing = {key for key in set(keys(read("en"))) - set(keys(texts)) if not key.startswith("DDMTrain.inputs.")}
    unknown = {key.split(".")[0] for key in keys(texts)} - set(read("en"))
    assert (sorted(missing), sorted(unknown)) == ([], [])
    assert plain(texts) == texts
    assert "DDM" in read(language, "main")["nodeCategories"]["DDM"]


def test_every_input_of_every_node_has_a_tooltip(nodes):
    without = [
        f"{node}.{name}"
        for node, known in nodes.items()
        for kind in ("required", "optional")
        for name, (_, *more) in known["input"].get(kind, {}).items()
        if not (more and more[0].get("tooltip"))
    ]
    assert without == []


def test_the_server_hands_out_every_language(server):
    served = server.get("/i18n")
    for path in LOCALES.iterdir():
        assert set(read(path.name)) <= set(served[path.name]["nodeDefs"])
