import time
from types import SimpleNamespace

import pytest

from depth_anything_hf.labeling.progress import LabelingBar

FINISHED = {(0, 0): {"inputs": 6, "rejects": [1, 2]}}


def make(count, processes=1, **options):
    return LabelingBar(SimpleNamespace(count=count), FINISHED, SimpleNamespace(num_processes=processes), **options)


def wait_for(condition):
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("processes", [1, 2])
def test_labeling_bar__goes_on_and_shows_the_share_of_this_process(processes, capsys):
    with make(lambda: 20, processes) as bar:
        assert wait_for(lambda: bar.bar.total == 20 // processes)
        bar.update(labeled=3)
        bar.update(rejected=1)
        assert (bar.bar.n, bar.rejected) == (6 // processes + 4, 2 // processes + 1)
    line = capsys.readouterr().err.split("\r")[-1]
    assert f"{6 // processes + 4}/{20 // processes}" in line
    assert "image/s" in line or "s/image" in line
    assert ("process 1 of 2" in line) == (processes == 2)


def test_labeling_bar__share_that_is_larger_than_the_mean(capsys):
    with make(lambda: 20, processes=2) as bar:
        assert wait_for(lambda: bar.bar.total == 10)
        bar.update(labeled=9)
    assert "12/12" in capsys.readouterr().err.split("\r")[-1]


def test_labeling_bar__disabled_counts_nothing(capsys):
    with make(lambda: pytest.fail("counted"), disable=True) as bar:
        bar.update(labeled=1, rejected=1)
    assert capsys.readouterr().err == ""


def test_labeling_bar__source_that_cannot_be_counted(capsys):
    counted = []

    def fail():
        counted.append(1)
        raise OSError("no network")

    for count in (fail, lambda: counted.append(2)):
        with make(count) as bar:
            assert wait_for(lambda: counted)
            bar.update(labeled=1)
            assert bar.bar.total is None
        counted.clear()
    assert "Traceback" not in capsys.readouterr().err
