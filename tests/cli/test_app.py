import os
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request

import pytest

pytest.importorskip("gradio", reason="the web page needs the extra app")

from depth_anything_hf.cli.app import main, make_parser


def test_app__is_for_this_machine_unless_asked():
    options = make_parser().parse_args([])
    assert options.host == "127.0.0.1"
    assert (options.max_upload_mb, options.max_megapixels) == (50, 50)


@pytest.mark.slow
def test_app__wrong_options_are_told_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="upload_megabytes is 0; it must be above 0"):
        main(["--max-upload-mb", "0"])
    with pytest.raises(ValueError, match="none cannot be loaded"):
        main(["--model", str(tmp_path / "none")])


@pytest.mark.slow
def test_app__serves_this_machine_alone_and_leaves_nothing_behind(make_model, tiny_processor, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary"), "CUDA_VISIBLE_DEVICES": ""}
    start = "import sys; from depth_anything_hf.cli.app import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, "--model", str(tmp_path / "model")]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        assert f"shows {tmp_path / 'model'}; Ctrl+C ends it." in line, server.stderr.read()
        url = line.split()[0]
        assert b"Depth Anything" in urllib.request.urlopen(url, timeout=60).read()
        assert list((tmp_path / "temporary").glob("depth-anything-hf-app-*"))
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", urllib.parse.urlsplit(url).port))  # an address that the server was not given
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        assert list((tmp_path / "temporary").glob("depth-anything-hf-app-*")) == []
    finally:
        server.kill()
        server.communicate()
