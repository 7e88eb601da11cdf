import shutil
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard

from depth_anything_hf import __version__
from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.labeling import engine
from depth_anything_hf.sharing.hub import push_to_hub


@pytest.mark.slow
def test_push_folder__uploads_the_set_alone(hub, label, tmp_path):
    out = tmp_path / "out"
    label(out, push_to_hub="me/labels")
    repo = hub.dataset("me/labels")
    assert repo.private
    shards = {path.relative_to(out).as_posix() for path in out.glob("data/*.parquet")}
    assert len(shards) == 3
    assert repo.files.keys() == shards | {"README.md", "manifest.json", "rejects.jsonl", "settings.json"}
    assert all(content == (out / name).read_bytes() for name, content in repo.files.items())


@pytest.mark.slow
def test_push_folder__set_is_read_from_the_hub(hub, label, tmp_path):
    label(tmp_path / "out", push_to_hub="me/labels")
    found = datasets.load_dataset("me/labels", split="train", streaming=True)
    assert [row["source"] for row in found] == list(load_folder(tmp_path / "out")["source"])


@pytest.mark.slow
def test_push_folder__failure_is_made_good_by_the_same_command(hub, label, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(OSError, match=r"me/labels was not uploaded .* repeat the same command"):
            label(tmp_path / "out", push_to_hub="me/labels")
    assert (tmp_path / "out" / "manifest.json").exists()
    label(tmp_path / "out", push_to_hub="me/labels")
    assert "manifest.json" in hub.dataset("me/labels").files


@pytest.mark.slow
def test_push_folder__break_in_the_middle(hub, label, tmp_path):
    hub.breaks["upload"] = 1  # which the client takes up by itself
    hub.breaks["commit"] = 1
    with pytest.raises(OSError, match="repeat the same command"):
        label(tmp_path / "out", push_to_hub="me/labels")
    arrived = list(hub.uploads)
    assert len(arrived) == 3
    label(tmp_path / "out", push_to_hub="me/labels")
    label(tmp_path / "out", push_to_hub="me/labels")
    assert hub.uploads == arrived
    assert len(hub.dataset("me/labels").messages) == 1


@pytest.mark.slow
def test_push_folder__shards_of_an_older_set_go(hub, label, tmp_path):
    label(tmp_path / "old", shard_size=2, push_to_hub="me/labels")
    label(tmp_path / "new", shard_size=6, push_to_hub="me/labels")
    kept = {name for name in hub.dataset("me/labels").files if name.endswith(".parquet")}
    assert kept == {path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*.parquet")}
    assert len(kept) == 2


@pytest.mark.slow
def test_push_to_hub__set_with_the_license_of_its_teacher(hub, label, teacher, tmp_path):
    bound = tmp_path / "Depth-Anything-V2-Large-hf"
    shutil.copytree(teacher, bound)
    label(tmp_path / "out", model=bound, limit=2)
    assert DatasetCard.load(tmp_path / "out" / "README.md").data.license == "cc-by-nc-4.0"
    with pytest.raises(ValueError, match=r"license is 'mit', but .*-Large-hf \(teacher\) .* forbids commercial use"):
        push_to_hub(tmp_path / "out", "me/labels", license="mit")
    with pytest.raises(ValueError, match="`base` does not apply to pseudo-labels"):
        push_to_hub(tmp_path / "out", "me/labels", base="she/model")
    assert hub.repos == {}
    push_to_hub(tmp_path / "out", "me/labels", license="cc-by-nc-sa-4.0", private=True)
    card = DatasetCard(hub.dataset("me/labels").files["README.md"].decode())
    assert card.data.license == "cc-by-nc-sa-4.0"
    assert "| teacher | Depth-Anything-V2-Large-hf | cc-by-nc-4.0 |" in card.text
    assert "ask the owner first" in card.text  # of the images


def test_push_to_hub__set_that_lost_a_shard(hub, label, tmp_path):
    label(tmp_path / "out", limit=2)
    (shard,) = (tmp_path / "out").rglob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"parquet is missing or cut; repeat the pseudo-label command"):
        push_to_hub(tmp_path / "out", "me/labels")
    assert hub.repos == {}


def test_finish_folder__card_of_the_users_own_stays(hub, label, tmp_path):
    label(tmp_path / "out", limit=2)
    (tmp_path / "out" / "README.md").write_text("---\nlicense: mit\n---\n\n# My words\n")
    label(tmp_path / "out", limit=2)
    assert "My words" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ValueError, match=r"README.md is your own"):
        push_to_hub(tmp_path / "out", "me/labels", license="mit")


def test_finish_folder__card_and_manifest_say_what_the_set_is(label, teacher, photos, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").symlink_to(next(photos.rglob("*.jpg")))
    (tmp_path / "in" / "b.jpg").touch()
    manifest = label(tmp_path / "my labels", tmp_path / "in")
    assert manifest["versions"]["depth_anything_hf"] == __version__
    assert (manifest["source"], manifest["model"]) == ("in", Path(teacher).name)
    assert manifest["model_revision"].startswith("sha256:")
    (shard,) = manifest["shards"]
    assert (shard["rows"], shard["bytes"]) == (1, (tmp_path / "my labels" / shard["file"]).stat().st_size)
    card = DatasetCard.load(tmp_path / "my labels" / "README.md")
    assert card.data.pretty_name == "my labels"
    assert card.data.task_categories == ["depth-estimation"]
    assert "{{" not in card.content
    assert card.data.license == "unknown"
    for words in (Path(teacher).name, manifest["model_revision"], "56", "disparity", "ask the owner first"):
        assert words in card.text, words
    for file in ("README.md", "manifest.json", "settings.json", "rejects.jsonl"):
        text = (tmp_path / "my labels" / file).read_text()
        assert str(tmp_path) not in text, file
        assert str(Path(teacher).parent) not in text, file


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
def test_claim_folder__shard_that_was_lost_is_labeled_again(damage, label, contents, tmp_path):
    out = tmp_path / "out"
    label(out)
    before, times = contents(out), {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    lost = out / "data" / "part-00000-00001.parquet"
    lost.unlink() if damage == "removed" else lost.write_bytes(lost.read_bytes()[:-1])
    label(out)
    assert contents(out) == before
    assert {path for path in times if path.stat().st_mtime_ns == times[path]} == times.keys() - {lost}
