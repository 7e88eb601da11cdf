import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import pytest
from huggingface_hub import DatasetCard

from depth_anything_hf import __version__
from depth_anything_hf.labeling import engine


class Hub(BaseHTTPRequestHandler):
    """Plays the part of the Hub that an upload of small files needs."""

    def do_GET(self):
        self.answer({"sha": "0" * 40, "id": "me/labels"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append((self.path, body))
        if self.path.endswith("/create"):
            self.answer({"url": f"http://{self.headers['Host']}/datasets/me/labels", "id": "me/labels"})
        elif "/preupload/" in self.path:
            sent = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for path in sent]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                {
                    "commitOid": "1" * 40,
                    "commitUrl": "https://huggingface.co/datasets/me/labels/commit/" + "1" * 40,
                    "hookOutput": "",
                }
            )
        else:
            self.answer({"errors": [], "warnings": []})

    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    """A Hub on this machine."""
    Hub.requests, Hub.files = [], {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    yield Hub
    server.shutdown()
    server.server_close()


def test_push_folder__uploads_the_set_alone(hub, label, tmp_path):
    out = tmp_path / "out"
    label(out, push_to_hub="me/labels")
    (created,) = (json.loads(body) for path, body in hub.requests if path.endswith("/create"))
    assert (created["name"], created["organization"], created["type"]) == ("labels", "me", "dataset")
    assert created.get("private", created.get("visibility") == "private") is True
    shards = {path.relative_to(out).as_posix() for path in out.glob("data/*.parquet")}
    assert len(shards) == 3
    assert hub.files.keys() == shards | {"README.md", "manifest.json", "rejects.jsonl", "settings.json"}
    assert all(content == (out / name).read_bytes() for name, content in hub.files.items())


def test_push_folder__failure_is_made_good_by_the_same_command(hub, label, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(OSError, match=r"me/labels was not uploaded .* repeat the same command"):
            label(tmp_path / "out", push_to_hub="me/labels")
    assert (tmp_path / "out" / "manifest.json").exists()
    label(tmp_path / "out", push_to_hub="me/labels")
    assert "manifest.json" in hub.files


def test_finish_folder__card_and_manifest_say_what_the_set_is(label, teacher, photos, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").symlink_to(next(photos.rglob("*.jpg")))
    (tmp_path / "in" / "b.jpg").touch()
    manifest = label(tmp_path / "my labels", tmp_path / "in")
    assert manifest["versions"]["depth_anything_hf"] == __version__
    assert (manifest["source"], manifest["model"]) == (str(tmp_path / "in"), teacher)
    assert manifest["model_revision"].startswith("sha256:")
    (shard,) = manifest["shards"]
    assert (shard["rows"], shard["bytes"]) == (1, (tmp_path / "my labels" / shard["file"]).stat().st_size)
    card = DatasetCard.load(tmp_path / "my labels" / "README.md")
    assert card.data.pretty_name == "my labels"
    assert card.data.task_categories == ["depth-estimation"]
    assert "{{" not in card.content
    for words in (teacher, manifest["model_revision"], "56", "disparity"):
        assert words in card.text, words


def test_finish_folder__datasets_reads_the_folder_by_its_card(label, tmp_path):
    label(tmp_path / "out", limit=7)
    found = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(found) == 7
    assert found[0]["depth_map"].mode == "I;16"


def test_claim_folder__stopped_before_its_settings_stand(label, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("depth_anything_hf.labeling.manifest.write_whole", stop)
        with pytest.raises(KeyboardInterrupt):
            label(tmp_path / "out", limit=1)
    assert label(tmp_path / "out", limit=1)["labeled"] == 1


def test_finish_folder__says_what_is_missing(label, tmp_path, monkeypatch):
    # As if a process had ended early, and the others had not noticed.
    monkeypatch.setattr(engine, "schedule", lambda *args: iter(()))
    with pytest.raises(ValueError, match=r"is not finished: blocks \['00000-00000'\] .* repeat the same command"):
        label(tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_claim_folder__shard_that_was_lost_is_labelled_again(damage, label, contents, tmp_path):
    out = tmp_path / "out"
    label(out)
    before, times = contents(out), {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    lost = out / "data" / "part-00000-00001.parquet"
    lost.unlink() if damage == "removed" else lost.write_bytes(lost.read_bytes()[:-1])
    label(out)
    assert contents(out) == before
    assert {path for path in times if path.stat().st_mtime_ns == times[path]} == times.keys() - {lost}
