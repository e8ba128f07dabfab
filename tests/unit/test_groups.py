import numpy as np
import pytest
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.groups.groups import Groups, concepts, peers


def test_labels_become_hard_groups_and_an_empty_one_is_undetermined():
    groups = Groups.from_labels(["woman", "man", "", "man"], "labels:gender")
    assert groups.names == ("man", "woman")
    assert groups.membership.tolist() == [[0, 1], [1, 0], [0, 0], [1, 0]]
    assert groups.undetermined == 1
    assert groups.shares == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize(("labels", "found"), [(["man", "man"], "only 'man'"), (["", ""], "no label at all")])
def test_fewer_than_two_labels_are_refused_with_what_was_found(labels, found):
    with pytest.raises(DDMError, match=found):
        Groups.from_labels(labels, "labels:gender")


def test_equal_captions_are_one_concept_whatever_their_case():
    names, index = concepts(["a Doctor", "a pilot ", "a doctor"])
    assert names == ["a doctor", "a pilot"]
    assert index.tolist() == [0, 1, 0]


def test_captions_with_few_images_are_weighed_together():
    concept = np.array([0] * 5 + [1] * 6 + [2, 3, 3, 4])
    found = peers(concept)
    assert len(set(found[:5])) == len(set(found[5:11])) == len(set(found[11:])) == 1
    assert sorted(set(found.tolist())) == [0, 1, 2]


def test_captions_with_enough_images_stay_apart():
    concept = np.repeat(np.arange(4), 5)
    assert peers(concept).tolist() == concept.tolist()
