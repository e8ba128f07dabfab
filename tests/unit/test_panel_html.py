"""Panels as HTML in the pages of hosts."""

import pytest
from comfyui_ddm.debias.adapter.lora_file import AdapterCard
from comfyui_ddm.debias.rendering.panel_html import fragment, problem
from comfyui_ddm.hosts.adapter_card import LoadedCard
from comfyui_ddm.hosts.progress_panel import TrainPanel
from comfyui_ddm.training.commands.reporters import TITLES
from markupsafe import escape

EVIL = "<img src=x onerror=alert(1)>"


def report(**more):
    group = {"name": EVIL, "share": 0.75, "low": 0.5, "high": 0.9, "target": 0.5, "before": {"share": 0.9}}
    rest = {"name": "woman", "share": None, "low": None, "high": None, "target": None}
    attribute = {"name": "gender", "groups": [group, rest], "undetermined": 3, "accuracy": 0.97}
    row = {"prompt": EVIL, "n": 4, "groups": [group]}
    panel = {"kind": "report", "verdict": {"tone": "unfair", "text": EVIL}, "summary": EVIL, "remarks": [EVIL]}
    return panel | {"attributes": [attribute], "prompts": [row, row]} | more


def test_a_report_says_shares_intervals_verdict_and_prompts():
    made = fragment(report(), link="./page/1")
    for part in ("75%", "50% to 90%", "before 90%", "width: 75.0%", "undetermined", "2 prompts", 'href="./page/1"'):
        assert part in made, part


@pytest.mark.parametrize("panel", [report(), report(kind="audit"), report(kind="card", concepts=[EVIL])])
def test_nothing_that_a_user_wrote_is_taken_for_html(panel):
    assert "<img" not in fragment(panel) and "&lt;img" in fragment(panel)


def test_a_card_says_what_the_adapter_is_for():
    card = AdapterCard(target={"man": 0.5, "woman": 0.5}, concepts=["a doctor"], recommended_alpha=0.8)
    made = fragment(LoadedCard("fair", 0.8, card, None).panel())
    assert "man 50%, woman 50%" in made and "Recommended α: 0.8" in made and "a doctor" in made


@pytest.mark.parametrize(("scale", "said"), [(1.2, False), (3.0, True)])
def test_a_card_says_it_when_the_training_hardly_moved_the_shares(scale, said):
    card = AdapterCard(training={"calibration": {"scale": scale}})
    assert ("hardly moved the shares" in LoadedCard("fair", 1.0, card, None).text) is said


def test_a_report_shows_its_images_with_what_they_are():
    made = fragment(report(), preview="./ddm/page/0a", caption=EVIL)
    assert '<img src="./ddm/page/0a"' in made and "&lt;img src=x" in made


def test_a_training_shows_how_far_it_is_and_in_the_end_what_it_made():
    panel = TrainPanel(EVIL, lambda file: {"filename": file.name})
    assert "Starting" in fragment(panel.values)
    for step in (10, 20):
        panel.take({"phase": "training", "done": step, "total": 40, "seconds_left": 200.0, "loss": 1 / step, "ess": 1})
    made = fragment(panel.values, preview="data:image/png;base64,AA==")
    assert "Training, 20 of 40, 3.3 min left" in made and "0.0,0.0 300.0,60.0" in made
    for phase, doing in TITLES.items():
        panel.take({"phase": phase, "done": 1, "total": 4, "seconds_left": 2.0})
        assert f"{escape(doing)}, 1 of 4, 2 s left" in fragment(panel.values)
    panel.finish({}, "There it is.")
    made = fragment(panel.values)
    assert "Done" in made and "There it is." in made and "<progress" not in made and "<img src=x" not in made


def test_a_problem_is_a_sentence_and_none_is_nothing():
    assert 'role="alert"' in problem("No.") and "&lt;b&gt;" in problem("<b>") and problem("") == ""
