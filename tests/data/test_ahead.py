"""Work ahead: order, bounds, and errors where the result was due."""

import threading
import time

import pytest

from saot.data import Ahead, ahead


def test_results_come_in_order_whoever_is_done_first():
    def make(number: int) -> int:
        time.sleep(0.02 * (3 - number % 4))
        return number

    assert list(ahead(make, range(8), depth=4, workers=4)) == list(range(8))


def test_no_more_than_depth_items_are_drawn_ahead():
    drawn = []

    def items():
        for number in range(20):
            drawn.append(number)
            yield number

    results = ahead(str, items(), depth=3)
    for taken in range(20):
        assert next(results) == str(taken)
        assert len(drawn) <= taken + 3


def test_it_works_in_another_thread_that_began_as_asked():
    begun = []
    threads = list(ahead(lambda _: threading.get_ident(), range(3), begin=lambda: begun.append(threading.get_ident())))
    assert set(threads) == set(begun) and threading.get_ident() not in threads


def test_an_error_comes_where_the_result_was_due_and_names_the_item():
    def make(name: str) -> str:
        if name == "b.png":
            raise KeyError("cut off")
        return name.upper()

    results = ahead(make, ["a.png", "b.png", "c.png"])
    assert next(results) == "A.PNG"
    with pytest.raises(ValueError, match=r"picture b\.png: .*cut off"):
        next(results)


@pytest.mark.parametrize("error", [ValueError("b.png is broken"), MemoryError(), OSError("disk")])
def test_errors_that_say_enough_come_as_they_are(error):
    def make(_: str) -> str:
        raise error

    with pytest.raises(type(error)) as caught:
        list(ahead(make, ["b.png"]))
    assert caught.value is error


def test_who_stops_early_leaves_no_thread_behind():
    before = threading.active_count()
    results = ahead(str, range(100), workers=3)
    next(results)
    results.close()
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="at least 1"):
        list(ahead(str, [1], depth=0))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 0, 0, 1, 3, 2], [2], [1, 3]])
def test_ahead_gives_the_same_in_any_order(order):
    threads, made = set(), []

    def make(number):
        threads.add(threading.get_ident())
        made.append(number)
        return number * number

    values = Ahead(make, last=3)
    assert [values(number) for number in order] == [number * number for number in order]
    values.close()
    assert max(made) <= 3
    assert len(threads) == 1 + any(number < 3 for number in order)
    assert order != [0, 1, 2, 3] or made == order  # nothing is made twice


def test_ahead_hands_on_what_goes_wrong():
    def make(number):
        if number == 1:
            raise ValueError("picture 1 is broken")
        return number

    values = Ahead(make, last=3)
    assert values(0) == 0
    with pytest.raises(ValueError, match="picture 1 is broken"):
        values(1)
    assert values(2) == 2
    values.close()


def test_several_workers_make_the_same_and_no_more_than_their_number_ahead():
    made, lock = [], threading.Lock()

    def make(number: int) -> int:
        with lock:
            made.append(number)
        time.sleep(0.01 * (number % 3))
        return number * number

    reader = Ahead(make, last=11, workers=3)
    for number in range(6):
        assert reader(number) == number * number
        assert max(made) <= number + 3
    assert reader(9) == 81  # the caller goes elsewhere, as after a stop
    assert [reader(number) for number in (10, 11)] == [100, 121]
    reader.close()
    assert made.count(9) == 1 and set(made) >= {9, 10, 11}
    with pytest.raises(ValueError, match="at least one worker; got 0"):
        Ahead(make, 3, workers=0)
