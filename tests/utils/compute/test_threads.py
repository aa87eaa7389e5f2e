import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from utils.compute.threads import in_threads


def test_results_keep_their_order_and_torch_uses_one_thread_in_each(three_threads):
    barrier = threading.Barrier(3, timeout=30)

    def work(number):
        barrier.wait()  # all three at the same time
        return number, torch.get_num_threads()

    assert in_threads(work, range(6)) == [(number, 1) for number in range(6)]
    assert torch.get_num_threads() == 3


def test_parts_are_taken_one_at_a_time(three_threads):
    """A generator of more parts than fit the memory."""
    running, taken = [], []

    def parts():
        for number in range(300):
            taken.append(number)
            assert len(taken) - len(running) <= 4
            yield number

    def work(number):
        running.append(number)
        return number

    assert in_threads(work, parts()) == list(range(300))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_threads_compute_in_the_mode_of_their_caller(mode, three_threads):
    with mode():
        expected = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        target = torch.zeros(6)

        def work(number):
            target[number : number + 1].add_(number)
            return torch.is_inference_mode_enabled(), torch.is_grad_enabled()

        assert in_threads(work, range(6)) == [expected] * 6
        assert target.tolist() == list(range(6))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_ends_the_work_soon(error, three_threads):
    done = []

    def work(number):
        done.append(number)
        if number == 5:
            raise error
        time.sleep(0.001)

    with pytest.raises(error):
        in_threads(work, range(10_000))
    assert len(done) < 1000 and torch.get_num_threads() == 3


def test_two_callers_at_once_leave_the_number_of_threads_as_it_was(three_threads):
    def call(_):
        torch.set_num_threads(3)
        return in_threads(lambda part: time.sleep(0.001), range(20))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(8)))
    assert torch.get_num_threads() == 3
    assert in_threads(lambda _: torch.get_num_threads(), range(4)) == [1] * 4


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
