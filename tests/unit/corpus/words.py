"""Prompts, targets, words, numbers, names and configurations."""

import re

from comfyui_ddm.debias.adapter.alpha_schedule import AlphaSchedule
from comfyui_ddm.debias.core.io import check_output, load_tensors, named_file, read_text
from comfyui_ddm.debias.evaluation.report import FairnessReport
from comfyui_ddm.debias.groups.target import Target, check_target
from comfyui_ddm.hosts.infotext import Dial, parse_alphas
from comfyui_ddm.training.commands.config_file import read_config
from comfyui_ddm.training.commands.numbers import read_numbers
from comfyui_ddm.training.data.group_images import check_source
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.models.clip import normalisation
from comfyui_ddm.training.models.diffusers_folder import read_config as read_model_config
from comfyui_ddm.training.models.ldm_checkpoint import V_CONFIGURATION
from comfyui_ddm.training.models.load_base import check_weights
from comfyui_ddm.training.models.tokenizer import is_of
from comfyui_ddm.training.sampling.prompts import read_prompts

from . import files, refused, used


def config(folder, text, encoding="utf-8"):
    (folder / "run.toml").write_bytes(text.encode(encoding))
    return read_config(folder / "run.toml")


@refused("A", "(?i)alpha")
def an_alpha_of_nan(folder):
    read_numbers("0,nan", "--alpha")


@refused("A", "is no α")
def an_alpha_of_infinity_in_a_web_page(folder):
    parse_alphas("0, 1e999")


@refused("A", "out of range|outside")
def a_schedule_of_nan(folder):
    AlphaSchedule.parse("0:nan, nan:1")


@used("I")
def a_configuration_that_powershell_wrote(folder):
    return config(folder, "steps = 30\n# α\n", "utf-16")["steps"] == 30


@used("I")
def prompts_in_the_encoding_of_windows(folder):
    (folder / "roles.txt").write_bytes("a café owner\r\n# remark\r\na doctor".encode("cp1252"))
    return read_prompts(str(folder / "roles.txt")) == ["a café owner", "a doctor"]


@refused("M", "There is no file")
def a_table_of_prompts_that_is_not_there(folder):
    read_prompts("roles.csv")


@refused("M", "There is no file")
def a_path_of_windows_that_is_not_there(folder):
    read_prompts("C:\\roles.txt")


@refused("M", "read from a text file")
def a_table_of_prompts(folder):
    (folder / "roles.csv").write_text("prompt\na doctor\n")
    read_prompts(str(folder / "roles.csv"))


@used("M")
def a_prompt_that_ends_in_a_full_stop(folder):
    return read_prompts("a doctor.;a man with a .22 rifle") == ["a doctor.", "a man with a .22 rifle"]


@refused("hostile", "TOML|known|number")
def a_configuration_of_nan(folder):
    config(folder, "learning-rate = nan")


@refused("hostile", "cannot be read as TOML")
def a_configuration_that_is_nested_deeply(folder):
    config(folder, "a = " + "[" * 100_000)


@refused("hostile", "whole number|at most|must be")
def a_configuration_of_huge_numbers(folder):
    config(folder, "steps = " + "9" * 40)


@refused("hostile", "longer than")
def a_configuration_that_never_ends(folder):
    config(folder, "#" * (2 << 20))


@refused("hostile", "which is not a number|not a share|share")
def a_target_of_nan(folder):
    Target.parse("man=nan,woman=.5", ("man", "woman"))


@refused("hostile", "share|number")
def a_target_beyond_every_number(folder):
    check_target("man=1e999,woman=.5")


@used("hostile")
def a_configuration_of_a_model_that_is_all_blank_lines(folder):
    return V_CONFIGURATION.search("\n" * 1_000_000) is None  # hours, where every line is looked at from every other


@refused("J", "nested too deeply")
def a_configuration_of_a_model_that_is_nested_deeply(folder):
    (folder / "config.json").write_text("[" * 100_000)
    read_model_config(folder, "", "config.json")


@refused("J", "does not say image_mean and image_std")
def colours_that_are_divided_by_nothing(folder):
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [0, 0, 0]}')
    normalisation(folder)


@used("J")
def a_tokenizer_that_does_not_know_what_it_is(folder):
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": 5}')
    return is_of(folder, "CLIPTokenizer")


@refused("hostile", "is not known")
def groups_of_no_source(folder):
    check_source("__import__:os")


@refused("hostile", "is no name")
def a_name_that_leads_elsewhere(folder):
    named_file(folder, "../../x")


@refused("hostile", "is no name")
def half_a_character_as_a_name(folder):
    named_file(folder, "\ud800")


@refused("hostile", "is longer than 200 bytes")
def a_name_that_no_result_can_have(folder):
    check_output(folder / f"{'é' * 110}.safetensors", "adapter")


@refused("hostile", "is no name of a file: it is too long")
def a_name_that_no_file_can_have(folder):
    load_tensors(folder / f"{'a' * 300}.safetensors")


@refused("hostile", "is no name of a file: it is too long")
def a_folder_that_is_too_deep(folder):
    read_folder(folder / ("x/" * 3000))


@refused("hostile", "is no name of a file: it is too long")
def a_base_by_a_sentence_instead_of_a_name(folder):
    check_weights("a model that draws everybody " * 20)


@refused("hostile", "is no name")
def a_device_of_windows(folder):
    named_file(folder, "CON")


@refused("hostile", "no α")
def a_dial_without_a_strength(folder):
    Dial.of([], "constant", 0.0, 0.5, "")


@refused("hostile", "not a fairness report")
def a_report_that_is_none(folder):
    FairnessReport.from_json('{"format": "x"}')


@refused("hostile", "not a fairness report")
def a_report_of_nan(folder):
    FairnessReport.from_json(re.sub('"margin": [0-9.]+', '"margin": NaN', files.report(), count=1))


@refused("hostile", "cannot be read")
def a_text_that_is_a_folder(folder):
    read_text(folder)
