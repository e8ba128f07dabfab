"""However a run ends, what it has learnt is kept."""

from collections import Counter
from functools import partial

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import content_hash, load_adapter
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.loop import checkpoint, training
from comfyui_ddm.training.sampling.previews import Previews

from .runs import prepare, write_folder, write_tones


def after(count):
    """A question that says yes the count-th time it is asked, and from then on."""
    asked = iter(range(1_000_000))
    return lambda: next(asked) >= count


def failing_at(run, step, error):
    """Let a run fail when it begins a step."""
    advance = run.training.advance

    def fail(stop):
        if run.training.step == step:
            raise error
        return advance(stop)

    run.training.advance = fail


def finished(run, prepared):
    """The content of the file when the run goes on where it was."""
    again = prepared("fair")
    assert again.resume() and again.training.step == run.training.step
    assert again.train()
    return content_hash(again.out)


@pytest.fixture
def whole(prepared):
    """The content of the file of a run that nothing happens to."""
    run = prepared("whole")
    assert run.train()
    return content_hash(run.out)


def test_a_run_is_stopped_between_the_pieces_of_a_step_which_is_then_made_anew(prepared):
    def begun(name):
        run = prepared(name)
        run.training.micro_batches = 2
        return run

    whole, run = begun("whole"), begun("fair")
    assert whole.train()
    # It is asked before each step, and between the two pieces: the fourth time in the middle of the second step.
    assert not run.train(stop=after(3))
    assert run.training.step == 1 and run.checkpoint.exists()
    assert finished(run, prepared) == content_hash(whole.out)


def test_the_state_is_kept_after_some_minutes_however_few_steps_there_were(prepared, monkeypatch):
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", -1.0)
    run, there = prepared("fair", checkpoint_every=100), []
    assert run.train(stop=lambda: bool(there.append(run.checkpoint.exists())))
    assert there == [False, True, True, True]


def test_an_error_ends_the_run_but_what_was_learnt_is_kept(prepared, whole):
    run = prepared("fair")
    failing_at(run, 3, ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        run.train()
    assert run.training.step == 3 and finished(run, prepared) == whole


def test_without_memory_a_sentence_says_where_what_was_learnt_is(prepared, whole):
    run = prepared("fair")
    failing_at(run, 2, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    with pytest.raises(DDMError, match=r"memory of the GPU ran out.*kept in .*fair\.checkpoint.*to resume from"):
        run.train()
    assert finished(run, prepared) == whole


def test_a_step_that_was_half_made_when_it_failed_is_not_kept(prepared, monkeypatch):
    run, step = prepared("fair", checkpoint_every=2), training.step_unless

    def fail(*given):
        step(*given)
        if run.training.step == 2:
            raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(training, "step_unless", fail)
    with pytest.raises(DDMError, match="is kept in"):
        run.train()
    again = prepared("fair")
    assert again.resume() and again.training.step == 2
    weights = torch.cat([one.flatten() for one in again.training.parameters])
    assert not torch.equal(weights, torch.cat([one.flatten() for one in run.training.parameters]))


def test_before_the_first_step_there_is_nothing_to_keep(prepared):
    run = prepared("fair")
    failing_at(run, 0, ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        run.train()
    assert not run.checkpoint.exists()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), ValueError("a bug"), DDMError("No room.")])
def test_a_training_whose_calibration_fails_is_finished_without_it(prepared, whole, error):
    run = prepared("fair", changes={"calibrate": 4})
    run.calibrate = lambda *_, **__: (_ for _ in ()).throw(error)
    with pytest.raises(DDMError, match=r"All steps are made and kept in .*Resume it; with 0 images to calibrate"):
        run.train()
    assert not run.out.exists()
    assert finished(run, prepared) == whole
    assert load_adapter(run.out).card.training["calibrate"] == 0


def test_a_file_is_told_from_one_that_was_calibrated_otherwise(prepared):
    run = prepared("fair")
    assert not run.made and run.train() and run.made
    assert not prepared("fair", changes={"calibrate": 4}).made


def test_a_run_that_began_without_looking_at_the_base_does_not_look_when_it_goes_on_with_calibration(
    tiny_base, tmp_path
):
    folder = write_folder(tmp_path / "images", 12, 3)
    write_tones(folder)

    def begun(calibrate):
        changes = {"calibrate": calibrate, "steps": 2}
        return prepare(tiny_base, folder, tmp_path / "fair.safetensors", "labels:tone", changes=changes)

    assert begun(4).needs_base_shares and not begun(0).train(stop=after(1))
    run = begun(4)
    assert run.resume() and not run.needs_base_shares
    assert run.train() and load_adapter(run.out).card.training["calibration"]["scale"]


def test_a_preview_that_fails_is_a_remark_and_the_training_goes_on(prepared, whole, tmp_path):
    said = []
    run = prepared("fair", note=said.append)
    previews = Previews(run.base, run.images.captions, tmp_path / "shown", 2, lambda *_: None)
    previews.make = lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no room"))
    assert run.train(previews=previews) and content_hash(run.out) == whole
    assert [text.partition(". ")[0] for text in said] == [
        "The preview of step 2 could not be made",
        "The preview of step 4 could not be made",
    ]
    assert "The memory of the GPU ran out." in said[0]


def test_what_a_killed_run_half_wrote_is_removed_by_the_next_one(prepared, tmp_path):
    strays = [tmp_path / f".fair{end}.k1ll3d__.tmp" for end in (".checkpoint.safetensors", ".safetensors", ".md")]
    strays.append(tmp_path / "shown" / ".step_000002.png.k1ll3d__.tmp")
    strays[-1].parent.mkdir()
    for stray in strays:
        stray.write_bytes(b"half")
    run = prepared("fair")
    previews = Previews(run.base, run.images.captions, tmp_path / "shown", 2, lambda *_: None)
    assert run.train(previews=previews)
    assert not any(stray.exists() for stray in strays) and run.out.exists()


def test_two_trainings_of_one_adapter_do_not_disturb_each_other(prepared):
    first, second = prepared("fair", changes={"calibrate": 2}), prepared("fair")
    refused = Counter()

    def meanwhile(doing, *_):
        with pytest.raises(DDMError, match="Another training keeps its state in"):
            second.train()
        refused[doing] += 1

    assert first.train(partial(meanwhile, "training"), calibration_progress=partial(meanwhile, "calibration"))
    assert set(refused) == {"training", "calibration"}
    assert second.train() and not list(first.out.parent.glob("*.lock"))
