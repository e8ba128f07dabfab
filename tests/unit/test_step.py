"""How a step is made: in pieces or at once, with little memory, and without what is not finite."""

import math

import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.loop.min_snr import min_snr_weight
from comfyui_ddm.training.models.base import Base
from torch.utils._python_dispatch import TorchDispatchMode


@pytest.fixture
def make(prepared):
    def run(name="fair", **options):
        options["changes"] = {"steps": 12, **options.get("changes", {})}
        return prepared(name, **options)

    return run


def gradients(training):
    return torch.cat([parameter.grad.flatten() for parameter in training.parameters if parameter.grad is not None])


def weights(training):
    return torch.cat([parameter.detach().flatten() for parameter in training.parameters])


@pytest.fixture
def predict(monkeypatch):
    """Let something happen before each answer of the U-Net that is learnt from, given its number and batch."""

    def before(act):
        plain, count = Base.predict, iter(range(1_000_000))

        def predicted(self, noisy, t, text):
            answer = plain(self, noisy, t, text)
            return act(next(count), answer) if torch.is_grad_enabled() else answer

        monkeypatch.setattr(Base, "predict", predicted)

    return before


@pytest.mark.parametrize(("pieces", "text_encoder"), [(2, False), (3, False), (4, False), (3, True)])
def test_a_step_in_pieces_has_the_gradients_of_the_whole(make, pieces, text_encoder, monkeypatch):
    monkeypatch.setattr(Base, "half_is_native", False)  # the rounding of bfloat16 hides what is to be seen
    whole, parts = (make(changes={"text_encoder": text_encoder}).training for _ in range(2))
    parts.micro_batches = pieces
    for _ in range(3):
        whole.advance()
        parts.advance()
        difference = gradients(parts) - gradients(whole)
        assert difference.norm() < 1e-4 * gradients(whole).norm()
        assert parts.loss.item() == pytest.approx(whole.loss.item(), rel=1e-5)


@pytest.mark.parametrize("text_encoder", [False, True])
def test_checkpointing_changes_no_gradient(make, text_encoder, monkeypatch):
    monkeypatch.setattr(Base, "half_is_native", False)
    plain, saving = (make(changes={"text_encoder": text_encoder}).training for _ in range(2))
    saving.save_memory()
    for training in (plain, saving):
        training.advance()
        training.advance()
    # Without checkpointing, attention is computed by another kernel here.
    assert (gradients(plain) - gradients(saving)).norm() < 1e-4 * gradients(plain).norm()


@pytest.mark.parametrize("text_encoder", [False, True])
def test_out_of_memory_makes_the_pieces_smaller_says_so_and_goes_on(make, predict, text_encoder):
    changes = {"text_encoder": text_encoder}
    said, exact = [], make(changes=changes)
    small = make(note=lambda text: said.append(text), changes=changes)
    exact.training.micro_batches = 2
    exact.training.advance()

    def only_two(_, answer):
        if len(answer) > 2:
            raise torch.OutOfMemoryError("no room")
        return answer

    predict(only_two)
    small.training.advance()
    assert small.training.micro_batches == 2 and not small.training.gradient_checkpointing
    assert said == [
        "The memory does not suffice for more images at a time: from step 1 on, each step takes its 4 in 2 parts. "
        "What is learnt is the same."
    ]
    assert torch.equal(weights(small.training), weights(exact.training))


def test_out_of_memory_with_one_image_turns_checkpointing_on_and_then_ends_with_a_sentence(make, predict):
    said, run = [], make(note=lambda text: said.append(text))
    predict(lambda number, answer: answer if run.training.gradient_checkpointing else _full())
    run.training.advance()
    assert (
        run.training.micro_batches == 4 and run.training.gradient_checkpointing and "gradient checkpointing" in said[-1]
    )
    predict(lambda number, answer: _full())
    with pytest.raises(DDMError, match="does not suffice to learn from one image"):
        run.training.advance()


def _full():
    raise torch.OutOfMemoryError("no room")


def test_how_memory_was_saved_is_kept_with_the_state(make):
    run = make()
    run.training.micro_batches = 2
    run.training.save_memory()
    assert not run.train(stop=after(2))
    again = make()
    assert again.resume() and again.training.micro_batches == 2 and again.training.gradient_checkpointing


def after(count):
    asked = iter(range(1_000_000))
    return lambda: next(asked) >= count


@pytest.mark.parametrize("optimizer", ["adamw", "unfused"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(make, predict, monkeypatch, optimizer):
    run = make()
    training = run.training
    if optimizer == "unfused":
        training.optimizer = torch.optim.AdamW(training.parameters, lr=1e-3)
    predict(lambda number, answer: answer * float("nan") if number == 2 else answer)
    training.advance()
    training.advance()
    before, loss = weights(training), training.loss
    moments = [value.clone() for state in training.optimizer.state.values() for value in state.values()]
    training.advance()
    assert torch.equal(weights(training), before) and training.loss == loss
    after = [value for state in training.optimizer.state.values() for value in state.values()]
    assert all(torch.equal(one, other) for one, other in zip(moments, after, strict=True))
    assert (training.step, training.skipped, training.consecutive_skips) == (3, 1, 1)
    training.advance()
    assert (training.step, training.skipped, training.consecutive_skips) == (4, 1, 0)
    assert not torch.equal(weights(training), before)


def test_a_run_says_how_many_steps_were_left_out_also_after_it_was_stopped(make, predict):
    predict(lambda number, answer: answer * float("inf") if number in (1, 5) else answer)
    assert not make().train(stop=after(4))
    said, again = [], make(note=lambda text: said.append(text))
    assert again.resume() and again.train()
    assert said == ["2 of 12 steps were left out, because their loss or gradient was not finite."]


def test_steps_that_stay_not_finite_end_the_run_and_keep_the_last_good_state(make, predict, monkeypatch):
    monkeypatch.setattr("comfyui_ddm.training.loop.fit.READ_SECONDS", math.inf)  # however slow the machine is
    predict(lambda number, answer: answer * float("nan") if number >= 3 else answer)
    run = make(changes={"steps": 40}, checkpoint_every=3)
    with pytest.raises(DDMError, match=r"no longer finite at step 15, and did not recover.*lower than"):
        run.train()
    again = make(changes={"steps": 40})
    assert again.resume() and torch.isfinite(weights(again.training)).all()


class Reads(TorchDispatchMode):
    """Counts what makes the program wait for the device: reading a value of a tensor."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("text_encoder", [False, True])
def test_a_step_reads_nothing_back_from_the_device(make, tmp_path, text_encoder):
    changes = {"ema": 0.9, "min_snr_gamma": 5.0, "text_encoder": text_encoder}
    training = make(style=tmp_path / "style.safetensors", changes=changes).training
    training.advance()
    with Reads() as reads:
        for _ in range(10):
            training.advance()
        assert reads.count == 0
        training.loss.item()
        assert reads.count == 1


def test_attention_is_computed_by_torchs_own_kernel(make):
    names = {type(one).__name__ for one in make().base.denoiser.attn_processors.values()}
    assert names == {"AttnProcessor2_0"}


def test_min_snr_weighs_each_row_by_its_timestep(make):
    plain, weighted = make().training, make(changes={"min_snr_gamma": 5.0}).training
    assert torch.equal(weighted.objective.weight, min_snr_weight(weighted.objective.base.schedule, 5.0))
    assert plain.objective.weight is None
    plain.advance()
    weighted.advance()
    assert 0 < weighted.loss < plain.loss


@pytest.mark.parametrize("change", [{"max_grad_norm": 1e-4}, {"max_grad_norm": 0.0}])
def test_a_gradient_is_shortened_to_its_longest_and_with_0_to_none(make, change):
    training = make(changes=change).training
    training.advance()
    gradients = torch.cat([one.grad.flatten() for one in training.objective.learning["debias"]])
    longest = change["max_grad_norm"]
    assert gradients.norm() <= longest * 1.001 if longest else gradients.norm() > 1e-4


@pytest.fixture
def noise_with(make, monkeypatch):
    """The noise that a first step puts on its latents, with these settings."""

    def noise_with(**changes):
        training, noises = make(changes=changes).training, []

        def loss(batch, latents, noise, mask):
            noises.append(noise)
            return training.parameters[0].sum() * noise.new_ones(len(noise))

        monkeypatch.setattr(training.objective, "loss", loss)
        training.advance()
        return noises[0]

    return noise_with


def test_a_noise_offset_moves_whole_channels_of_the_noise_and_nothing_else(noise_with):
    moved = noise_with(noise_offset=0.5) - noise_with()
    assert moved.std() > 0.2
    assert torch.allclose(moved, moved.mean((2, 3), keepdim=True).expand_as(moved), atol=1e-5)


def test_multires_noise_adds_coarse_noise_to_the_same_fine_noise_and_is_as_strong(noise_with):
    plain, mixed = noise_with(), noise_with(multires_noise_iterations=6)
    assert mixed.std().item() == pytest.approx(1, abs=1e-4)
    assert torch.corrcoef(torch.stack([plain.flatten(), mixed.flatten()]))[0, 1] > 0.9

    def beside(noise):  # how alike neighbours are
        return torch.corrcoef(torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()]))[0, 1]

    assert beside(mixed) > beside(plain) + 0.02


@pytest.mark.parametrize("text_encoder", [False, True])
def test_the_average_is_what_is_saved_and_it_survives_a_stop(make, tmp_path, text_encoder):
    changes = {"ema": 0.9, "text_encoder": text_encoder}
    options = {"changes": changes, "style": tmp_path / "style.safetensors"}
    whole = make("whole", **options)
    assert whole.train()
    first = make("whole", **options)
    whole_bytes = [path.read_bytes() for path in whole.files[1:]]
    for stop in (3, 2, 6):  # in the style's steps, after the last of them, and in the adapter's
        first = make("whole", **options)
        first.resume()
        assert not first.train(stop=after(stop))
    last = make("whole", **options)
    assert last.resume() and last.train()
    assert [path.read_bytes() for path in last.files[1:]] == whole_bytes
    plain = make("plain", changes={"text_encoder": text_encoder})
    assert plain.train() and plain.out.read_bytes() != whole.out.read_bytes()
