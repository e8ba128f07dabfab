"""The bench of the systems: what a task asks for, how commands are filled in, and what is measured."""

import shlex
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from comfyui_ddm.benchmarks import system_bench
from comfyui_ddm.benchmarks.expectation import expectations
from comfyui_ddm.benchmarks.measure import Sample
from comfyui_ddm.benchmarks.recipe import image_folders
from comfyui_ddm.benchmarks.result import Figure, Result
from comfyui_ddm.benchmarks.system import GESTURES, LOOKS, SYSTEMS, TASKS
from comfyui_ddm.benchmarks.system_bench import SystemBench
from comfyui_ddm.benchmarks.system_table import CELL, FD, PRICE, write_overview, write_table
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.embedded.tiny_people import TONE_WORDS

CLASSES = {
    "gender": ("man", "woman"),
    "skin_tone": tuple(sorted(TONE_WORDS)),
    "art_style": ("noto", "twemoji"),
    "zero_or_one": ("one", "zero"),
}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A bench without a model, whose probes are named by their seed."""
    monkeypatch.setattr(system_bench, "image_folders", lambda name, work: None)
    return SimpleNamespace(
        folder=tmp_path,
        work=tmp_path,
        base=tmp_path / "base",
        device="cpu",
        per_prompt=4,
        probe=lambda attribute: SimpleNamespace(names=CLASSES[attribute]),
        probe_file=lambda attribute, seed: tmp_path / f"{attribute}{seed}.safetensors",
    )


def made_by(bench, task, name):
    """The commands that train a row, as lists of words."""
    measured = SystemBench(bench, task, 1, None)
    system = SYSTEMS[name]
    columns = measured.task.words if system.file_for_each else ["all"]
    return [measured._command(system, column, bench.work / "out.safetensors") for column in columns]


def after(command, option):
    return [value for given, value in pairwise(command) if given == option]


def test_every_task_names_what_its_images_have():
    people = read_folder(system_bench.ROOT / "examples" / "people_emoji")
    assert {*TASKS["families"].concepts} == set(people.columns["role"])
    assert len(LOOKS) == 6 and len(GESTURES) == 10
    for task in TASKS.values():
        assert set(task.target) <= set(task.words)
        assert all(sum(shares.values()) == 1 for shares in task.target.values())
        for column in set(task.words) & set(people.columns):
            assert set(task.words[column]) == set(people.columns[column])


def test_a_target_is_said_over_classes_or_over_words():
    task = TASKS["gender-tone"]
    assert task.targets() == "uniform" and task.shares("gender", CLASSES["gender"]).tolist() == [0.5, 0.5]
    task = TASKS["gender-75-25"]
    assert task.targets() == task.targets(said=True) == "man=0.75,woman=0.25"
    assert task.shares("gender", ("woman", "man")).tolist() == [0.25, 0.75]


def test_several_attributes_are_one_adapter_of_ddm_and_one_head_each_of_guidance(bench):
    (command,) = made_by(bench, "gender-tone", "ddm-labels")
    assert after(command, "--groups") == ["labels:gender,skin_tone"] and after(command, "--target") == ["uniform"]
    (command,) = made_by(bench, "gender-tone", "ddm-words")
    tones = "yellow skin|light skin|medium-light skin|medium skin|medium-dark skin|dark skin"
    assert after(command, "--groups") == [f"words:man|woman,{tones}"]
    first, second = made_by(bench, "gender-tone", "guidance-words")
    assert after(first, "--groups") == ["words:man|woman"] and after(second, "--groups") == [f"words:{tones}"]


def test_alignment_gets_every_probe_with_its_target_and_every_family(bench):
    (command,) = made_by(bench, "families", "alignment-unet")
    assert [text.split(";")[0] for text in after(command, "--prompts")] == ["an artist", "a bald"]
    (command,) = made_by(bench, "gender-75-25", "alignment-text")
    assert after(command, "--target") == ["man=0.75,woman=0.25"]
    (command,) = made_by(bench, "digits-0-1", "alignment-tokens")
    assert after(command, "--prompts") == ["a digit"]


@pytest.mark.parametrize("name", ["alignment-unet", "guidance-queue"])
def test_what_is_trained_by_a_probe_is_taught_by_another_than_the_one_that_measures(bench, name):
    (command,) = made_by(bench, "gender", name)
    assert after(command, "--probe") == [str(bench.work / "gender1.safetensors")]
    kept = [str(bench.work / "role1.safetensors")] if name == "alignment-unet" else []
    assert after(command, "--keep") == kept


def test_rows_that_cannot_do_what_a_task_asks_for_say_so(bench):
    with pytest.raises(DDMError, match="balances one attribute"):
        SystemBench(bench, "gender-tone", 1, None).figures("ddm-paper-.01")
    with pytest.raises(DDMError, match="other shares than equal"):
        SystemBench(bench, "gender-75-25", 1, None).figures("ddm-discovered")


def test_occupations_that_are_not_learnt_are_asked_for_in_their_own_and_in_other_words(tmp_path):
    task = TASKS["gender-unseen"]
    learnt, unseen = (set(task.families[name]) for name in ("learnt", "unseen"))
    drawn = image_folders(task.images, tmp_path)
    assert learnt <= set(drawn.columns["role"]) and not unseen & set(drawn.columns["role"])
    assert len(drawn.items) == len(list(tmp_path.rglob("*.png")))
    first = [part[0] for part in np.array_split(task.prompts("woman"), 4)]
    assert first == ["a woman artist", "a woman astronaut", "a photo of a woman artist", "a woman artist at work"]
    assert SYSTEMS["alternation"].refused(task) and task.both_ways and not TASKS["families"].both_ways


def test_the_words_are_said_as_often_as_the_target_asks_for(bench):
    said = SystemBench(bench, "gender-75-25", 1, None)._in_turn(["a doctor"] * 40)
    assert said.count("a man doctor") == 30 and said.count("a woman doctor") == 10
    said = SystemBench(bench, "gender-tone", 1, None)._in_turn(["a doctor"] * 24)
    assert len(set(said)) == 12 and said.count("a dark skin woman doctor") == 2
    assert SystemBench(bench, "digits-0-1", 1, None)._in_turn(["a digit"]) == ["a one digit"]


class Seen(SystemBench):
    """A bench whose images are all men in the first family, and of both genders alike in the second.

    The base's are all of light skin; a quarter of any other row's is of dark skin.
    """

    def sample(self, name, seed, word="", cfg=3.0, per_prompt=0):
        counts = [len(family) * 4 for family in self.task.families.values()]
        first, second = counts
        genders = np.array(["man"] * first + ["man", "woman"] * (second // 2))
        features = np.random.default_rng(seed).normal(size=(len(genders), 3))
        tones = np.where((np.arange(len(genders)) % 4 == 0) & (name != "base"), "dark", "light")
        styles = np.full(len(genders), "noto")
        return Sample({"gender": genders, "skin_tone": tones, "art_style": styles}, features, 4, 1.0)


def test_what_is_measured_is_the_distance_to_the_target_in_all_and_by_family(bench):
    measured = Seen(bench, "families", 2, None, rounds=0)
    found = {figure.name: figure for figure in measured.figures("base")}
    assert found["FD, occupations"].value == pytest.approx(0.5**0.5)
    assert found["largest cell error, occupations"].value == pytest.approx(0.5)
    assert found["FD, mean over prompts, occupations"].value == pytest.approx(0.5**0.5)
    assert found["FD, looks and gestures"].value == 0 and found["largest cell error, looks and gestures"].met
    men = (20 + 8) / 36
    assert found["largest cell error, all prompts together"].value == pytest.approx(men - 0.5)
    assert found["largest cell error, all prompts together"].met is False


def test_intervals_are_over_prompts_however_many_samples_there_are(bench):
    few, many = (
        {figure.name: figure for figure in Seen(bench, "families", seeds, None, rounds=0).figures("base")}
        for seeds in (1, 3)
    )
    assert all(few[name].interval == many[name].interval for name in (FD, CELL, "FD, all prompts together"))
    low, high = many[CELL].interval
    # 20 prompts of men only and 16 of both: ± 1.96 √(.5² · .556 · .444 / 36)
    half = 1.96 * (0.5**2 * 20 / 36 * 16 / 36 / 36) ** 0.5
    assert (low, high) == pytest.approx((20 / 72 - half, 20 / 72 + half), abs=0.015)
    # No prompt differs from another: what other prompts would give cannot be told.
    assert many["FD, occupations"].interval is None


def test_what_was_not_asked_for_is_compared_with_the_base(bench):
    measured = Seen(bench, "families", 2, None, rounds=0)
    shift = {
        name: next(one.value for one in measured.figures(name) if one.name == "largest shift of other attributes")
        for name in ("base", "alternation")
    }
    assert shift == {"base": 0, "alternation": 0.25}


def test_the_table_has_short_heads_and_says_what_was_reached(tmp_path):
    figures = [
        Figure("FD, all prompts together", 0.02),
        Figure(CELL, 0.01, at_most=0.05, interval=(0.0, 0.03)),
        Figure(FD, 0.1, interval=(0.05, 0.15)),
        Figure(PRICE, 0.01),
        Figure("FD, all prompts together, CFG 6", 0.03),
        Figure("largest cell error, occupations", 0.2, at_most=0.05),
    ]
    machine = {"cpu": "one", "cores": 1, "threads": 1, "system": "s", "python": "3", "torch": "2"}
    settings = {"per_prompt": 60, "prompts": 20, "seeds": 3}
    results = [Result(name, SYSTEMS[name].title, "c", figures, 1.0, settings, machine) for name in ("base", "lora")]
    lines = write_table(results, "a task", tmp_path).read_text("utf-8").splitlines()
    assert lines[2] == "| system | needs | FD | cell | FD by prompt | KID | FD, CFG 6 | cell, occupations |"
    assert "| .020 | **.010 (.000–.030)** | .100 (.050–.150) | .010 | .030 | .200 |" in lines[4]
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("systems.png", "scales.png"))


def test_an_overview_has_a_column_for_each_task_that_was_measured_and_the_worst_cell_of_its_families(tmp_path):
    measured = [("gender", "base", 0.3), ("gender", "lora", 0.04), ("gender-tone", "base", 0.1)]
    for task, row, *errors in (*measured, ("tone", "lora", 0.02), ("families", "base", 0.01, 0.2)):
        figures = [
            Figure(f"{CELL} {number}" if number else CELL, one, None, 0.05, (0.0, 0.06 if task == "gender" else 0.05))
            for number, one in enumerate(errors)
        ]
        Result(row, row, "c", figures, 1.0, {}, {}).save(tmp_path / task)
    lines = write_overview(tmp_path).read_text("utf-8").splitlines()
    heads = " | ".join(f"[{task}]({task}/README.md)" for task in ("gender", "tone", "gender-tone", "families"))
    assert lines[2] == f"| system | {heads} |"
    assert lines[4:6] == [
        f"| {SYSTEMS['base'].title} | .300 |  | .100 | .200 |",
        f"| {SYSTEMS['lora'].title} | *.040* | **.020** | – |  |",
    ]


def test_an_overview_shows_the_distance_by_prompt_where_prompts_lean_to_either_side(tmp_path):
    figures = [Figure(CELL, 0.003, at_most=0.05), Figure(FD, 0.392)]
    Result("base", "base", "c", figures, 1.0, {}, {}).save(tmp_path / "gender-both-ways")
    lines = write_overview(tmp_path).read_text("utf-8").splitlines()
    assert lines[2] == "| system | [gender-both-ways](gender-both-ways/README.md), by prompt |"
    assert lines[4] == f"| {SYSTEMS['base'].title} | .392 |"


def test_what_was_expected_is_answered_for_each_task_where_it_was_measured():
    def row(distance, kid=0.0, seconds=100.0):
        figures = [
            Figure("FD, all prompts together", distance),
            Figure(PRICE, kid),
            Figure("training", seconds, unit="s"),
        ]
        return Result("", "", "c", figures, 1.0, {}, {})

    gender = {"ddm-discovered": row(0.1, 0.02), "invariant": row(0.5), "ddm-words": row(0.04, seconds=9.0)}
    gender |= {f"ddm-paper-{alpha}": row(0.3) for alpha in (".005", ".05")}
    gender |= {"alignment-unet": row(0.2), "alignment-text": row(0.01), "guidance-queue": row(0.06)}
    tone = {"ddm-discovered": row(0.4), "ddm-paper-.05": row(0.3), "guidance-batch": row(0.05)}
    lines = expectations({"gender": gender, "tone": tone, "families": {"base": row(0.5)}}).splitlines()
    assert [line for line in lines if line.startswith(("| gender", "| tone"))] == [
        "| gender | .100 (.020) | .500 (.000) | .300 (.000) | – | yes |",
        "| tone | .400 (.000) | – | .300 (.000) | – | **no** |",
        "| gender | .040 (9 s) | .010 (100 s) | yes | yes |",
        "| gender | .060 | – | – | **no** |",
        "| tone | – | .050 | – | yes |",
    ]


def test_every_command_can_be_filled_in(bench):
    for name, system in SYSTEMS.items():
        for task in ("gender", "digits-0-1") if system.command else ():
            (command,) = made_by(bench, task, name)
            assert not any("{" in word for word in command), shlex.join(command)


def test_the_seconds_of_a_training_are_of_its_command_alone_and_a_failed_one_is_no_row(bench, monkeypatch):
    commands, clock = [], iter(range(0, 1000, 10))
    ended = SimpleNamespace(returncode=0)

    def run(arguments, **options):
        commands.append(arguments[3:])
        return ended

    monkeypatch.setattr(system_bench.subprocess, "run", run)
    monkeypatch.setattr(system_bench.time, "monotonic", lambda: next(clock))
    measured = SystemBench(bench, "gender", 1, None)
    bench.probe_file = lambda attribute, seed: bench.work / str(next(clock))  # takes a while
    assert measured.train("alignment-unet").seconds == 10
    assert "--restart" in commands[0]
    ended.returncode = 2
    with pytest.raises(DDMError, match="`ddm head` ended with code 2"):
        measured.train("guidance-queue")
