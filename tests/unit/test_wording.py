"""What a host's page shows of the trainer's sentences: the names of its own inputs, and of no option."""

import ast
import re
from pathlib import Path

import pytest
from comfyui_ddm import install
from comfyui_ddm.hosts.wording import INPUTS, as_inputs

ROOT = Path(install.__file__).parent


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        (
            "Train again with a rate lower than 0.0003 (--learning-rate and --restart).",
            "Train again with a rate lower than 0.0003 (learning_rate and overwrite switched on).",
        ),
        ("Choose a lower --rank, or --text-encoder.", "Choose a lower rank, or text_encoder."),
        ("Free some space (or choose another place with --cache).", "Free some space."),
        ("Give another folder (--tokenizer).", "Give another folder."),
        ("Make one with `ddm probe FOLDER --labels COLUMN`.", "Make one with `ddm probe FOLDER --labels COLUMN`."),
        ("Skipped a--b.png (it is empty).", "Skipped a--b.png (it is empty)."),
    ],
)
def test_options_become_inputs_and_what_no_input_stands_for_is_left_out(sentence, shown):
    assert as_inputs(sentence) == shown


def reached(path, seen):
    """The module and all that it imports of ours, lazily too."""
    if path in seen or not path.is_file():
        return
    seen.add(path)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for one in (folder.with_suffix(".py"), *(folder / f"{alias.name}.py" for alias in node.names)):
                reached(one, seen)


def sentences(path):
    """All texts of a module that have several words, without docstrings and the help of options."""
    tree = ast.parse(path.read_text("utf-8"))
    silent = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        for part in ast.walk(node.value)
        if isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Option", "Argument"):
            silent |= {id(part) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in silent:
            continue
        if isinstance(node, ast.JoinedStr):
            silent |= {id(part) for part in ast.walk(node)}
            yield "".join(part.value if isinstance(part, ast.Constant) else "1" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_sentence_of_a_training_names_an_option_to_somebody_who_has_inputs():
    modules = set()
    reached(ROOT / "training" / "commands" / "job.py", modules)
    assert {"fair_training.py", "ddm.py", "cache.py", "ddm_paper.py", "image_writer.py"} <= {
        path.name for path in modules
    }
    named = [text for path in modules for text in sentences(path) if " " in text and "--" in text]
    assert len(named) > 15
    assert [text for text in named if "--" in re.sub("`[^`]*`", "", as_inputs(text))] == []


def test_the_names_are_those_of_the_node():
    files = (ROOT / "nodes" / name for name in ("train.py", "train_options.py", "training_set.py"))
    calls = (
        node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call)
    )
    inputs = {call.args[0].value for call in calls if getattr(call.func, "attr", "") == "Input" and call.args}
    said = {name for option, name in INPUTS.items() if option not in ("--restart", "--resume")}
    assert said <= inputs and "overwrite" in inputs
