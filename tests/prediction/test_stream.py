"""Read ahead, decode ahead, batch by shape, write behind."""

import threading
import time

import pytest

from depth_anything_hf.prediction.stream import ShapeBatches, WriteBehind, decode_ahead, decode_workers, read_ahead


def wait_until(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_read_ahead__is_some_items_ahead_and_no_more():
    read = []
    items = read_ahead((read.append(i) or i for i in range(100)), 3)
    assert next(items) == 0
    wait_until(lambda: len(read) >= 5)  # one is used, three wait, one is in the thread's hand
    time.sleep(0.05)
    assert len(read) == 5
    assert list(items) == list(range(1, 100))


def test_read_ahead__a_read_that_hangs_does_not_hold_up_the_end():
    answered = threading.Event()

    def items():
        yield 1
        answered.wait(30)  # a network that does not answer

    found = read_ahead(items(), 2, patience=0.05)
    assert next(found) == 1
    started = time.monotonic()
    found.close()
    assert time.monotonic() - started < 10
    answered.set()


def test_read_ahead__raises_where_the_item_would_have_been():
    def items():
        yield 1
        raise KeyError("gone")

    found = read_ahead(items(), 8)
    assert next(found) == 1
    with pytest.raises(KeyError, match="gone"):
        next(found)


def test_read_ahead__its_thread_has_ended_when_it_is_closed():
    before, closed = threading.active_count(), []

    def items():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    found = read_ahead(items(), 2)
    next(found)
    assert threading.active_count() == before + 1
    found.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 4])
def test_decode_ahead__keeps_the_order_whatever_takes_how_long(workers):
    def decode(i):
        time.sleep(0.002 * (i % 3 == 0))
        return 10 * i

    assert list(decode_ahead(range(20), decode, workers, ahead=5)) == [10 * i for i in range(20)]


def test_decode_ahead__reads_no_further_than_it_may():
    read = []
    found = decode_ahead((read.append(i) or i for i in range(100)), str, workers=2, ahead=3)
    assert next(found) == "0"
    assert len(read) == 4
    found.close()
    assert len(read) == 4


def test_decode_ahead__raises_where_the_result_would_have_been():
    found = decode_ahead([1, 0, 2], lambda i: 2 / i, workers=2, ahead=2)
    assert next(found) == 2.0
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_decode_workers__leave_a_cpu_to_the_model():
    assert decode_workers("cpu") == 1
    assert 1 <= decode_workers("cuda") <= 8


def test_shape_batches__hold_one_shape_each_in_order():
    batches = ShapeBatches(2)
    given = [((3, 4), "a"), ((2, 9), "b"), ((3, 4), "c"), ((3, 4), "d"), ((1, 1), "e")]
    assert [batches.add(*one) for one in given] == [None, None, ((3, 4), ["a", "c"]), None, None]
    assert list(batches.flush()) == [((1, 1), ["e"]), ((2, 9), ["b"]), ((3, 4), ["d"])]
    assert list(batches.flush()) == []


def test_shape_batches__the_largest_goes_when_memory_is_short():
    batches = ShapeBatches(100, most_bytes=10)
    assert batches.add((1,), "a", 4) is None
    assert batches.add((2,), "b", 3) is None
    assert batches.add((1,), "c", 3) is None
    assert batches.add((3,), "d", 1) == ((1,), ["a", "c"])
    assert batches.add((4,), "e", 6) is None  # 10 bytes are held, not 17
    assert [shape for shape, _ in batches.flush()] == [(2,), (3,), (4,)]


def test_write_behind__holds_a_bounded_number_of_jobs():
    go, begun = threading.Event(), []

    def job(i):
        begun.append(i)
        go.wait(30)

    submitted = []

    def submit():
        with WriteBehind(workers=1, waiting=2) as writer:
            for i in range(6):
                writer.submit(job, i)
                submitted.append(i)

    thread = threading.Thread(target=submit)
    thread.start()
    wait_until(lambda: len(submitted) == 3)  # one runs, two wait
    time.sleep(0.05)
    assert (submitted, begun) == ([0, 1, 2], [0])
    go.set()
    thread.join(30)
    assert begun == list(range(6))


def test_write_behind__with_one_worker_nothing_runs_after_a_failure():
    done, go = [], threading.Event()

    def fail():
        go.wait(30)
        raise OSError("disk")

    def submit_all():
        with WriteBehind(workers=1, waiting=5) as writer:
            writer.submit(done.append, 1)
            writer.submit(fail)
            writer.submit(done.append, 2)
            go.set()

    with pytest.raises(OSError, match="disk"):
        submit_all()
    assert done == [1]


def test_write_behind__an_error_drops_what_was_not_begun():
    done, begun, go = [], threading.Event(), threading.Event()

    def first():
        begun.set()
        go.wait(30)
        done.append(1)

    def submit_all():
        with WriteBehind(workers=1, waiting=5) as writer:
            writer.submit(first)
            writer.submit(done.append, 2)
            begun.wait(30)
            threading.Timer(0.2, go.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit_all()
    assert done == [1]
