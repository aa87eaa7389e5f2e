import threading

import pytest
import torch

from utils.compute.threads import in_threads


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_keep_their_order_and_torch_uses_one_thread_in_each(three_threads):
    barrier = threading.Barrier(3, timeout=30)

    def work(number):
        barrier.wait()  # all three at the same time
        return number, torch.get_num_threads()

    assert in_threads(work, range(6)) == [(number, 1) for number in range(6)]
    assert torch.get_num_threads() == 3


def test_an_error_leaves_the_number_of_threads_as_it_was(three_threads):
    def work(number):
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        in_threads(work, range(4))
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("parts", "device"), [([5], "cpu"), ([5, 6, 7], "meta")])
def test_one_part_or_another_device_stays_in_this_thread(parts, device, three_threads):
    found = in_threads(lambda part: (part, threading.get_ident()), parts, torch.device(device))
    assert found == [(part, threading.get_ident()) for part in parts]


def test_work_in_threads_may_use_threads(three_threads):
    assert in_threads(lambda row: in_threads(lambda x: 10 * row + x, range(3)), range(2)) == [[0, 1, 2], [10, 11, 12]]
