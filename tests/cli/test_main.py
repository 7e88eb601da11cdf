import contextlib
import subprocess
import sys

import pytest

from depth_anything_hf.cli.main import SUBCOMMANDS, main


def test_main__help_lists_every_subcommand(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in SUBCOMMANDS)


def test_main__unknown_subcommand_names_the_known_ones(capsys):
    assert main(["trian"]) == 2
    assert "'trian' is no subcommand; did you mean train? All of them: predict, video" in capsys.readouterr().err
    assert main(["pseudo_labels"]) == 2
    assert "did you mean pseudo-label?" in capsys.readouterr().err
    assert main(["xyz"]) == 2
    assert f"'xyz' is no subcommand; choose one of: {', '.join(SUBCOMMANDS)}." in capsys.readouterr().err


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_main__every_subcommand_explains_itself_with_an_example(name, capsys):
    with contextlib.suppress(SystemExit):  # argparse ends its own help so
        assert main([name, "--help"]) == 0
    assert f"depth-anything-hf {name}" in capsys.readouterr().out.split("example", 1)[1]


def test_main__missing_extra_is_named_without_a_traceback(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as where it is not installed
    assert main(["export", "--model", "any", "--out", str(tmp_path / "a.onnx")]) == 1
    assert 'pip install "depth_anything_hf[onnx]"' in capsys.readouterr().err


def test_main__a_message_of_the_library_names_options(capsys, tmp_path):
    command = ["export", "--model", "mini", "--out", str(tmp_path / "depth.pth")]
    pytest.importorskip("onnxruntime")
    assert main(command) == 1
    assert f"depth-anything-hf export: --out is {tmp_path}" in capsys.readouterr().err


def test_main__help_does_not_import_torch():
    code = (
        "import sys; from depth_anything_hf.cli.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_main__closed_output_is_no_error(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)  # as after `>&-`
    monkeypatch.setattr("depth_anything_hf.cli.predict.main", lambda words: 0)
    assert main(["predict", "a.png"]) == 0
