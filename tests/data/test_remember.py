"""What was read stays in memory within its bytes."""

import threading

import numpy as np

from saot.data import Remembered


def test_kept_values_stay_within_their_bytes():
    made = []

    def make(number):
        made.append(number)
        return np.full(100, number, np.uint8)

    kept = Remembered(make, 350)
    for number in (0, 1, 2, 0, 3, 4, 0):  # 0 is used all the time and stays
        assert kept(number)[0] == number
        assert sum(value.nbytes for value in kept.kept.values()) == kept.size <= 350
    assert made == [0, 1, 2, 3, 4]
    assert kept(1)[0] == 1 and made[-1] == 1  # went, was made again
    small = Remembered(make, 10)
    assert small(7)[0] == 7 and small(8)[0] == 8 and list(small.kept) == [8]  # at least the last one


def test_kept_values_from_several_threads():
    kept = Remembered(lambda number: np.full(100, number, np.uint8), budget=250)
    wrong = []

    def ask(start):
        for number in range(200):
            value = kept((start + number) % 7)
            if value[0] != (start + number) % 7:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and kept.size == sum(value.nbytes for value in kept.kept.values()) <= 250
