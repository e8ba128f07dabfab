"""Sets drawn from the example images: six to one, one way or both ways."""

import pytest
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.embedded.demo import EXAMPLES
from comfyui_ddm.training.embedded.imbalance import BOTH_WAYS, draw_imbalanced
from comfyui_ddm.training.embedded.tiny_people import leaning

PEOPLE = EXAMPLES / "people_emoji"


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_a_set_that_leans_both_ways_has_six_to_one_in_every_role_to_its_own_side(tmp_path, name):
    column, values, seed = BOTH_WAYS[name]
    folder = read_folder(draw_imbalanced(PEOPLE, name, tmp_path / "set"))
    leans = leaning({item.labels["role"] for item in folder.items}, seed)
    for role, share in leans.items():
        sides = [item.labels[column] in values for item in folder.items if item.labels["role"] == role]
        assert sorted((sides.count(True), sides.count(False))) == [2, 12]
        assert (sides.count(True) == 12) == (share > 0.5)
