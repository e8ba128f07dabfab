"""Every odd and hostile input is used rightly, named as left out, or refused in a sentence."""

import re
from pathlib import Path

import pytest
from comfyui_ddm.debias.core.error import DDMError

from .corpus import KINDS, all_cases

HERE = Path(__file__).parent
# Where the tests of a kind are that needs a model, a host or a command; they are not built again here.
ELSEWHERE = {
    "A": ["test_generate.py::test_images_that_are_not_finite_are_an_error_and_not_black"],
    "B": [
        "test_base_kind.py::test_fp8_weights_are_multiplied_by_their_scale",
        "test_base_kind.py::test_other_quantizations_are_refused",
        "test_base_kind.py::test_v_is_told_by_metadata_by_the_yaml_beside_or_by_a_schedule_without_signal",
        "test_base_kind.py::test_a_name_that_speaks_of_v_is_asked_about",
        "test_base_kind.py::test_inpainting_and_guidance_as_an_input_are_refused_in_both",
        "test_base_kind.py::test_a_folders_configuration_is_read_before_its_weights",
        "test_base_kind.py::test_a_file_of_another_kind_is_called_by_its_name",
        "test_base_kind.py::test_a_folder_of_another_kind_is_called_by_its_name",
        "test_base_kind.py::test_the_refiner_is_no_base",
    ],
    "J": [
        "test_base_kind.py::test_a_base_that_is_not_finite_is_refused",
        "test_base_kind.py::test_a_tokenizer_without_a_length_reads_as_much_as_its_text_encoder",
        "test_base_kind.py::test_another_models_tokenizer_is_refused",
    ],
    "N": [
        "test_accumulator.py::test_the_same_image_of_another_prompt_or_strength_counts_again",
        "webui/test_report.py::test_a_report_tells_guided_images_from_others",
        "webui/test_report.py::test_images_made_otherwise_are_not_pooled",
        "webui/test_report.py::test_images_of_two_adapters_and_of_a_schedule_are_told_apart",
        "webui/test_adapter.py::test_the_axis_takes_no_strength_that_would_not_be_applied",
        "webui/test_guidance.py::test_an_image_that_guidance_left_alone_claims_none_and_says_why",
    ],
    "P": [
        "test_dataset_audit.py::test_a_balanced_set_needs_no_correction",
        "test_dataset_audit.py::test_subjects_that_lean_either_way_are_not_called_balanced",
        "test_dataset_audit.py::test_the_summary_and_the_recommendation_agree",
    ],
    "O": [
        "test_distribution_guidance.py::test_a_prompt_that_says_who_is_meant_is_left_alone",
        "test_distribution_guidance.py::test_a_class_leaves_prompts_alone_that_say_it_as_a_word",
        "test_distribution_guidance.py::test_words_are_whole_ones_and_others_than_the_classes_can_be_given",
    ],
}


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_an_odd_input_is_used_rightly_named_or_refused(case, tmp_path):
    if case.outcome == "refused":
        with pytest.raises(DDMError, match=case.says) as error:
            case.run(tmp_path)
        said = [str(error.value)]
    else:
        found = case.run(tmp_path)
        said = [] if found is True else [found] if isinstance(found, str) else list(found or ())
        assert (found is True) if case.outcome == "used" else any(re.search(case.says, one) for one in said), found
    for sentence in said:
        assert sentence.encode("utf-8") and not re.search(r"[\x00-\x1f]", sentence)


def test_what_is_tested_elsewhere_is_there():
    for name in (name for names in ELSEWHERE.values() for name in names):
        file, _, test = name.partition("::")
        assert re.search(rf"def {test}\b", (HERE / file).read_text("utf-8")), name


def test_every_kind_has_cases():
    assert {case.kind for case in all_cases()} | set(ELSEWHERE) == set(KINDS)
