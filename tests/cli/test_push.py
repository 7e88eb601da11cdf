import json

import pytest
from PIL import Image

from depth_anything_hf.cli.main import main


@pytest.fixture
def student(make_model, tiny_processor, tmp_path):
    folder = tmp_path / "student"
    make_model().save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    Image.new("RGB", (40, 30)).save(folder / "card_image.png")
    (folder / "checkpoint-10").mkdir()
    (folder / "training_args.bin").touch()
    return folder


@pytest.mark.slow
def test_push__says_what_goes_where(hub, student, capsys):
    picture = student / "card_image.png"
    options = ["--base", "facebook/dinov2-small", "--training-data", "me/rooms", "--training-data", "NYU Depth V2"]
    options += ["--license", "apache-2.0", "--picture", str(picture), "--message", "a student", "--private"]
    assert main(["push", str(student), "--repo-id", "me/student", *options]) == 0
    captured = capsys.readouterr()
    assert f"model {student}: 6 files, " in captured.out
    assert "license apache-2.0" in captured.out
    assert "stay here: checkpoint-10/, training_args.bin" in captured.out
    assert captured.out.splitlines()[-1] == f"{hub.address}/me/student"
    assert "model.safetensors: 100%" in captured.err
    repo = hub.model("me/student")
    assert (repo.private, repo.messages) == (True, ["a student"])
    card = repo.files["README.md"].decode()
    for words in ("base_model: facebook/dinov2-small", "- me/rooms", "NYU Depth V2", "license: apache-2.0"):
        assert words in card, words


def test_push__dry_run_sends_nothing_and_needs_no_token(hub, student, monkeypatch, capsys):
    monkeypatch.setattr("depth_anything_hf.sharing.upload.get_token", lambda: None)
    options = ["--dry-run", "--license", "apache-2.0", "--training-data", "words"]
    assert main(["push", str(student), "--repo-id", "me/student", *options]) == 0
    printed = capsys.readouterr().out
    assert "would send: README.md, card_image.png, config.json, model.safetensors, preprocessor_config.json" in printed
    assert f"nothing was sent; the card is {student / 'README.md'}" in printed
    assert "license: apache-2.0" in (student / "README.md").read_text()
    assert not hub.repos
    assert main(["push", str(student), "--repo-id", "me/student", *options[1:]]) == 1
    assert "there is no token for the Hub" in capsys.readouterr().err


@pytest.mark.slow
def test_push__public_where_nobody_says_private(hub, student):
    assert main(["push", str(student), "--repo-id", "me/student"]) == 0
    assert not hub.model("me/student").private


@pytest.mark.slow
def test_push__break_in_the_middle_ends_with_what_to_do(hub, student, capsys):
    hub.breaks["upload"] = 100
    command = ["push", str(student), "--repo-id", "me/student"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "depth-anything-hf push: me/student was not uploaded" in error
    assert "repeat the same command" in error
    hub.breaks.clear()
    assert main(command) == 0
    assert "model.safetensors" in hub.model("me/student").files


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--results", "nowhere.json"], "nowhere.json"),
        (["--picture", "nowhere.png"], "nowhere.png"),
        (["--base", "depth-anything/Depth-Anything-V2-Large-hf", "--license", "mit"], "forbids commercial use"),
    ],
)
def test_push__refuses_before_anything_is_sent(options, message, hub, student, capsys):
    assert main(["push", str(student), "--repo-id", "me/student", *options]) == 1
    assert message in capsys.readouterr().err
    assert hub.repos == {}


def test_push__results_that_are_none(hub, student, tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps({"abs_rel": 0.1}))
    assert main(["push", str(student), "--repo-id", "me/x", "--results", str(tmp_path / "results.json")]) == 1
    assert "is no results.json of depth-anything-hf evaluate" in capsys.readouterr().err


def test_push__needs_a_repository(student):
    with pytest.raises(SystemExit):
        main(["push", str(student)])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("provenance.json", "[]", "provenance.json is no record of how a checkpoint came to be"),
        ("provenance.json", '{"sources": [["base"]]}', "provenance.json is no record of how a checkpoint came to be"),
        (
            "provenance.json",
            '{"sources": [], "more": 1}',
            "provenance.json is no record of how a checkpoint came to be",
        ),
        ("picture.jpg", "no picture", "picture.jpg: cannot identify image file"),
    ],
)
def test_push__files_that_are_not_what_their_names_say(name, content, message, student, capsys):
    (student / name).write_text(content)
    options = ["--picture", str(student / name)] if name.endswith("jpg") else []
    assert main(["push", str(student), "--repo-id", "me/student", "--dry-run", *options]) == 1
    assert message in capsys.readouterr().err


def test_push__own_card_with_metadata_of_other_types(student, capsys):
    (student / "README.md").write_text("---\nlicense: [mit, CC BY-NC 4.0]\nbase_model: 3\n---\nMy own words.\n")
    assert main(["push", str(student), "--repo-id", "me/student", "--dry-run"]) == 0
    assert "license cc-by-nc-4.0" in capsys.readouterr().out
