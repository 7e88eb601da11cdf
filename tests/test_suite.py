"""How the suite itself starts."""

from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.mark.parametrize(
    ("source", "options", "parallel"),
    [
        ("TESTPATHS", {}, True),  # python -m pytest
        ("TESTPATHS", {"markexpr": "not slow"}, True),
        ("TESTPATHS", {"keyword": "silog"}, False),
        ("ARGS", {}, False),  # some files: done sooner in one process
        ("ARGS", {"markexpr": "not slow"}, False),
        ("TESTPATHS", {"numprocesses": 0}, False),
    ],
)
def test_whole_suite__runs_in_parallel_with_and_without_the_slow_tests(
    source, options, parallel, monkeypatch, request
):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    option = SimpleNamespace(**({"numprocesses": None, "dist": "no", "maxprocesses": None, "keyword": ""} | options))
    config = SimpleNamespace(args_source=pytest.Config.ArgsSource[source], option=option)
    (start,) = (
        plugin.pytest_cmdline_main
        for plugin in request.config.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", None) == str(Path(__file__).with_name("conftest.py"))
    )
    start(config)
    assert (option.numprocesses == "logical", option.dist == "loadfile") == (parallel, parallel)


def test_slow__is_a_marker_that_is_known(request):
    assert any(line.startswith("slow:") for line in request.config.getini("markers"))
