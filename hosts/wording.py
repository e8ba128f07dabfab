"""The trainer's sentences for a host's page, which has inputs where the command line has options."""

import re

# Inputs of DDM Train, each called as its option is.
_ALIKE = (
    "groups target caption style steps rank calibrate seed overwrite trigger shuffle-caption flip masks buckets "
    "text-encoder by-prompt resolution batch-size gradient-accumulation-steps gradient-checkpointing "
    "learning-rate reg-data prior-prompts prior-count probe measure"
)
INPUTS = {f"--{name}": name.replace("-", "_") for name in _ALIKE.split()} | {
    "--out": "name",
    "--base": "weights",
    "--restart": "overwrite switched on",
    "--resume": "the same inputs",
}
_OPTION = re.compile(r"--[a-z][a-z-]*[a-z]")
# A command to type, a remark in parentheses, or an option.
_NAMED = re.compile(rf"`[^`]*`| \([^()]*--[^()]*\)|{_OPTION.pattern}")


def as_inputs(sentence: str) -> str:
    """A sentence with the names of inputs in place of those of options.

    A remark in parentheses is left out if it names an option that no input stands for, so sentences name such options
    nowhere else. What stands between backticks is to be typed, and stays.
    """
    return _NAMED.sub(_said, sentence)


def _said(found: re.Match) -> str:
    text = found[0]
    if text.startswith("`"):
        return text
    if text.startswith(" (") and not all(option in INPUTS for option in _OPTION.findall(text)):
        return ""
    return _OPTION.sub(lambda option: INPUTS.get(option[0], option[0]), text)
