"""A batch is as large as fits, and smaller once it did not."""

import pytest
import torch
from comfyui_ddm.debias.core.batching import fitting_rows, in_batches
from comfyui_ddm.debias.core.error import DDMError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def only(most, seen):
    """Work that has memory for so many images."""

    def work(rows):
        seen.append(rows.stop - rows.start)
        if rows.stop - rows.start > most:
            raise torch.OutOfMemoryError("no room")
        return list(range(rows.start, rows.stop))

    return work


def test_batches_follow_each_other_and_the_last_has_what_is_left():
    assert list(in_batches(7, 3, only(3, []))) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_batches(0, 3, only(3, []))) == []


def test_out_of_memory_halves_the_batch_for_good_and_nothing_is_left_out_or_done_twice():
    seen = []
    batches = list(in_batches(21, 16, only(5, seen)))
    assert seen == [16, 8, 4, 4, 4, 4, 4, 1]
    assert [one for batch in batches for one in batch] == list(range(21))


def test_where_one_image_does_not_fit_it_ends_with_a_sentence():
    with pytest.raises(DDMError, match=r"does not suffice for one image at a time\. Close other programs"):
        list(in_batches(4, 4, only(0, [])))


def test_another_error_is_left_as_it_is():
    with pytest.raises(ZeroDivisionError):
        list(in_batches(4, 4, lambda rows: 1 / 0))


@pytest.mark.parametrize(("side", "rows"), [(8, 128), (64, 2), (128, 1), (4, 128)])
def test_on_a_cpu_the_larger_the_images_the_fewer_at_a_time(side, rows):
    assert fitting_rows(CPU, side * side, 128) == rows


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of so many GiB, of which torch holds a part for later."""

    def make(free, cached=0):
        memory = {"free": free, "cached": cached}

        def give_back():
            memory["free"], memory["cached"] = memory["free"] + memory["cached"], 0

        monkeypatch.setattr(torch.cuda, "empty_cache", give_back)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (memory["free"] << 30, 80 << 30))

    return make


@pytest.mark.parametrize(("free", "side", "rows"), [(6, 64, 10), (6, 128, 2), (1, 128, 1), (0, 64, 1), (70, 8, 128)])
def test_on_a_gpu_half_of_the_free_memory_is_counted_on(gpu, free, side, rows):
    gpu(free)
    assert fitting_rows(GPU, side * side, 128) == rows


def test_what_torch_keeps_for_later_counts_as_free(gpu):
    gpu(1, cached=5)
    assert fitting_rows(GPU, 64 * 64, 128) == 10
