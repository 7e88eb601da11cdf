"""Push to a real HTTP server, and load from it."""

import json
import logging
import os
import re
import subprocess
import sys
import traceback

import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForDepthEstimation, pipeline

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.evaluation.compare import compare
from depth_anything_hf.evaluation.contestants import open_contestant
from depth_anything_hf.evaluation.protocols import PROTOCOLS
from depth_anything_hf.prediction.adapters import depth_lora_config
from depth_anything_hf.prediction.predictor import load_model
from depth_anything_hf.prediction.weights import model_revision
from depth_anything_hf.scenes.simple import iter_synthetic_records
from depth_anything_hf.sharing.hub import kind_of, prepare_push, push_to_hub

SMALL, LARGE = (f"depth-anything/Depth-Anything-V2-{size}-hf" for size in ("Small", "Large"))
PUSHED = {"README.md", "card_image.png", "config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.fixture
def save(make_model, tiny_processor, tmp_path):
    """Function that saves a tiny checkpoint: `save("student", seed=0)` returns its folder, with a picture in it."""

    def write(name, seed=0, **settings):
        make_model(seed=seed, **settings).save_pretrained(tmp_path / name)
        tiny_processor.save_pretrained(tmp_path / name)
        Image.new("RGB", (40, 30)).save(tmp_path / name / "card_image.png")
        return tmp_path / name

    return write


@pytest.fixture
def student(save):
    return save("student")


@pytest.fixture
def adapter(make_model, hub, save, tmp_path):
    """Folder of a LoRA adapter, with weights of its own, to a base that is on the Hub."""
    hub.add(SMALL, save("base"))
    model = get_peft_model(DepthAnythingForDepthEstimation.from_pretrained(SMALL), depth_lora_config(2, "lora"))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) / 10
    model.save_pretrained(tmp_path / "adapter")
    Image.new("RGB", (40, 30)).save(tmp_path / "adapter" / "card_image.png")
    return tmp_path / "adapter"


def weights(model):
    return torch.cat([values.flatten() for _, values in sorted(model.state_dict().items())])


def sent(hub):
    """Requests that changed something."""
    return [path for method, path, _ in hub.requests if method in ("PUT", "POST") and "validate-yaml" not in path]


# --- a model


@pytest.mark.slow
def test_push_to_hub__model_loads_by_its_id(hub, student, noise_image):
    assert push_to_hub(student, "me/student", private=True, message="first") == f"{hub.address}/me/student"
    repo = hub.model("me/student")
    assert (repo.private, repo.messages) == (True, ["first"])
    assert repo.files.keys() == PUSHED | {"provenance.json"}
    assert all(content == (student / name).read_bytes() for name, content in repo.files.items())
    ours, stock = (
        cls.from_pretrained("me/student") for cls in (DepthAnythingForDepthEstimation, AutoModelForDepthEstimation)
    )
    assert torch.equal(weights(ours), weights(stock))
    assert torch.equal(weights(ours), weights(DepthAnythingForDepthEstimation.from_pretrained(student)))
    assert DepthAnythingImageProcessor.from_pretrained("me/student").size == {"height": 56, "width": 56}
    assert AutoImageProcessor.from_pretrained("me/student").ensure_multiple_of == 14
    model, _ = load_model("me/student")
    assert model_revision("me/student", model) == repo.head
    depth = pipeline("depth-estimation", model="me/student")(noise_image(40, 60))["predicted_depth"]
    assert depth.shape == (40, 60)


@pytest.mark.slow
def test_push_to_hub__snippet_of_the_card_runs(hub, student, noise_image, tmp_path, monkeypatch):
    push_to_hub(student, "me/student")
    (snippet,) = re.findall(r"```python\n(.*?)```", hub.model("me/student").files["README.md"].decode(), re.DOTALL)
    noise_image(40, 60).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(snippet, names)
    assert names["depth"].shape == (40, 60)


@pytest.mark.slow
def test_push_to_hub__private_repository_needs_the_token(hub, student, monkeypatch):
    push_to_hub(student, "me/secret", private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_ofSomebodyElse")
    with pytest.raises(OSError, match=r"me/secret is not a local folder|Repository Not Found"):
        DepthAnythingForDepthEstimation.from_pretrained("me/secret")
    hub.add("me/open", student)
    assert DepthAnythingForDepthEstimation.from_pretrained("me/open")


@pytest.mark.slow
def test_push_to_hub__picture_is_of_the_model(hub, student):
    (student / "card_image.png").unlink()
    push_to_hub(student, "me/student")
    with Image.open(student / "card_image.png") as picture:
        assert picture.width > 3 * 320
    assert "![What the model sees](card_image.png)" in (student / "README.md").read_text()
    Image.new("RGB", (4000, 20), "red").save(student.parent / "sheet.png")
    push_to_hub(student, "me/student", picture=student.parent / "sheet.png")
    with Image.open(student / "card_image.png") as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((1600, 8), (255, 0, 0))


def test_prepare_push__what_is_no_part_of_a_checkpoint_stays(student):
    for name in (
        "optimizer.pt",
        "rng_state.pth",
        "training_args.bin",
        "trainer_state.json",
        "LICENSE",
        "pytorch_model.bin",
    ):
        (student / name).touch()
    for name in ("checkpoint-2/model.safetensors", "runs/a/events.out.tfevents.1", "my photos/a.png", ".env/x.md"):
        (student / name).parent.mkdir(parents=True)
        (student / name).touch()
    shipment = prepare_push(student, "me/student")
    assert set(shipment.files) == PUSHED | {"provenance.json", "LICENSE"}
    folders = ["checkpoint-2/", "my photos/", "runs/"]
    files = ["optimizer.pt", "pytorch_model.bin", "rng_state.pth", "trainer_state.json", "training_args.bin"]
    assert shipment.left == sorted(folders + files)


@pytest.fixture(autouse=True)
def _token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_someToken")


# --- again, and after a break


@pytest.mark.slow
def test_push_to_hub__again_sends_nothing(hub, student):
    push_to_hub(student, "me/student")
    commits, uploads = len(hub.model("me/student").commits), list(hub.uploads)
    push_to_hub(student, "me/student")
    assert (len(hub.model("me/student").commits), hub.uploads) == (commits, uploads)


@pytest.mark.slow
def test_push_to_hub__again_sends_what_changed(hub, student):
    push_to_hub(student, "me/student")
    hub.uploads.clear()
    push_to_hub(student, "me/student", training_data=["me/rooms"], license="mit")
    assert hub.uploads == []
    repo = hub.model("me/student")
    before, after = list(repo.commits.values())[-2:]
    assert {name for name in after if after[name] != before.get(name)} == {"README.md", "provenance.json"}
    assert ModelCard(after["README.md"].decode()).data.datasets == ["me/rooms"]


@pytest.mark.slow
def test_push_to_hub__upload_that_breaks_once_is_taken_up_by_the_client(hub, student):
    hub.breaks["upload"] = 1
    push_to_hub(student, "me/student")
    assert len([path for path in sent(hub) if path.startswith(hub.store)]) == 3  # two files, one of them twice
    assert hub.model("me/student").files.keys() >= PUSHED


@pytest.mark.slow
def test_push_to_hub__upload_that_keeps_breaking_is_finished_by_the_same_call(hub, student):
    hub.breaks["upload"] = 100
    with pytest.raises(OSError, match=r"me/student was not uploaded .*; repeat the same command: what arrived is not"):
        push_to_hub(student, "me/student")
    assert hub.model("me/student").files == {}
    assert (student / "README.md").exists()
    hub.breaks.clear()
    push_to_hub(student, "me/student")
    assert hub.model("me/student").files.keys() >= PUSHED


@pytest.mark.slow
def test_push_to_hub__what_arrived_before_the_break_is_not_sent_again(hub, student):
    hub.breaks["commit"] = 1
    with pytest.raises(OSError, match="repeat the same command"):
        push_to_hub(student, "me/student")
    arrived = list(hub.uploads)
    assert len(arrived) == 2
    push_to_hub(student, "me/student")
    assert hub.uploads == arrived
    assert hub.model("me/student").files.keys() >= PUSHED


@pytest.mark.slow
def test_push_to_hub__commit_whose_answer_is_lost_is_not_made_twice(hub, student):
    hub.breaks["answer"] = 1
    with pytest.raises(OSError, match="repeat the same command"):
        push_to_hub(student, "me/student")
    commits = len(hub.model("me/student").commits)
    push_to_hub(student, "me/student")
    assert len(hub.model("me/student").commits) == commits


@pytest.mark.slow
def test_from_pretrained__download_that_breaks_goes_on(hub, student):
    hub.add("me/student", student)
    hub.breaks["download"] = 2
    model = DepthAnythingForDepthEstimation.from_pretrained("me/student")
    assert torch.equal(weights(model), weights(DepthAnythingForDepthEstimation.from_pretrained(student)))
    assert len([path for method, path, _ in hub.requests if method == "GET" and path.startswith(hub.store)]) == 3


# --- an adapter


@pytest.mark.slow
def test_push_to_hub__adapter_loads_by_its_id(hub, adapter, noise_image):
    push_to_hub(adapter, "me/adapter")
    assert hub.model("me/adapter").files.keys() == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "card_image.png", "provenance.json",
    }  # fmt: skip
    card = ModelCard(hub.model("me/adapter").files["README.md"].decode())
    assert (card.data.library_name, card.data.base_model, card.data.license) == ("peft", SMALL, "unknown")
    assert "with `peft` installed" in card.text
    image = noise_image(40, 60)
    merged, processor = load_model("me/adapter")
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    stock = AutoModelForDepthEstimation.from_pretrained("me/adapter").eval()
    alone = AutoPeftModel.from_pretrained("me/adapter").eval()
    assert type(alone.get_base_model()).__module__.startswith("transformers.")  # our package is not asked for
    with torch.no_grad():
        expected = merged(pixels).predicted_depth
        base = DepthAnythingForDepthEstimation.from_pretrained(SMALL).eval()(pixels).predicted_depth
        for model in (stock, alone):
            torch.testing.assert_close(model(pixel_values=pixels).predicted_depth, expected, rtol=1e-4, atol=1e-5)
    assert (expected - base).abs().max() > 1e-3
    assert pipeline("depth-estimation", model="me/adapter")(image)["predicted_depth"].shape == (40, 60)


@pytest.mark.slow
def test_push_to_hub__adapter_of_a_folder_needs_a_base_that_others_have(hub, adapter, save):
    config = json.loads((adapter / "adapter_config.json").read_text())
    folder = save("of_my_own")
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(folder)}))
    with pytest.raises(ValueError, match=r"of_my_own', which is not on the Hub, .* push that first"):
        push_to_hub(adapter, "me/adapter")
    assert not sent(hub)
    push_to_hub(folder, "me/base")
    push_to_hub(adapter, "me/adapter", base="me/base")
    config = json.loads(hub.model("me/adapter").files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["peft_type"]) == ("me/base", "LORA")


# --- license and results


@pytest.mark.slow
def test_push_to_hub__license_of_the_base_is_inherited_and_cannot_be_freed(hub, student):
    with pytest.raises(ValueError, match=r"license is 'apache-2.0', but depth-.*-Large-hf \(base weights\)"):
        push_to_hub(student, "me/student", base=LARGE, license="apache-2.0")
    assert not sent(hub)
    assert not (student / "README.md").exists()
    push_to_hub(student, "me/student", base=LARGE)
    card = ModelCard.load("me/student")
    assert (card.data.license, card.data.base_model) == ("cc-by-nc-4.0", LARGE)


@pytest.mark.slow
def test_push_to_hub__license_goes_on_to_the_next_generation(hub, student, save):
    push_to_hub(student, "me/student", base=LARGE)
    assert prepare_push(save("grandchild"), "me/grandchild", base=str(student)).license == "cc-by-nc-4.0"
    card = ModelCard.load(student.parent / "grandchild" / "README.md")
    assert card.data.base_model is None  # a folder's name is no id
    assert "| base weights | student | cc-by-nc-4.0 |" in card.text


@pytest.mark.slow
def test_push_to_hub__scores_must_be_of_these_weights(hub, student, save, tmp_path):
    scenes = iter_synthetic_records(2, 40, 60)
    records = [encode_record(scene["image"], scene["depth"], mask=scene["depth"] > 0) for scene in scenes]
    compare({str(student): open_contestant(str(student))}, records, PROTOCOLS["folder"], tmp_path / "scores")
    results = [tmp_path / "scores" / "results.json"]
    push_to_hub(student, "me/student", results=results)
    measured = json.loads(results[0].read_text())["scores"][str(student)]
    card = ModelCard.load("me/student")
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {name: round(measured[name], 4) for name in ("abs_rel", "delta1", "rmse")}
    assert str(tmp_path) not in card.content
    push_to_hub(student, "me/student", results=results)  # takes the place of the same protocol's
    assert len(ModelCard.load("me/student").data.eval_results) == 3
    with pytest.raises(
        ValueError, match=r"results.json has scores of .*student .* has other weights .* evaluate what"
    ):
        push_to_hub(save("other", seed=1), "me/other", results=results)
    commit = {"me/other": hub.model("me/student").head}
    results[0].write_text(json.dumps({"scores": {"me/other": {"accuracy": 0.9, "pairs": 3}}, "revisions": commit}))
    push_to_hub(student.parent / "other", "me/other", results=results)  # measured by its id, as was pushed before
    assert ModelCard.load("me/other").data.eval_results[0].dataset_name == "da2k"


@pytest.mark.slow
def test_push_to_hub__card_of_the_users_own_stays(hub, student):
    own = "---\nlicense: mit\nbase_model: somebody/thing\n---\n\n# My words\n"
    (student / "README.md").write_text(own)
    push_to_hub(student, "me/student")
    assert hub.model("me/student").files["README.md"].decode() == own
    with pytest.raises(ValueError, match=r"README.md is your own, so nothing is written into it"):
        push_to_hub(student, "me/student", base=SMALL)
    (student / "README.md").write_text(own.replace("somebody/thing", LARGE))
    with pytest.raises(ValueError, match=r"license is 'mit', but depth-.*-Large-hf \(base weights\)"):
        push_to_hub(student, "me/student")


def test_push_to_hub__card_that_the_hub_refuses(hub, student):
    (student / "README.md").write_text("---\nlicense: do-what-you-want\n---\n\n# My words\n")
    with pytest.raises(ValueError, match=r'Invalid metadata in README.md.\n- "license" must be one of'):
        push_to_hub(student, "me/student")


# --- what is checked before anything is sent


def spoil(folder, name, change):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def drop_a_weight(folder):
    kept = load_file(folder / "model.safetensors")
    del kept["head.conv1.bias"]
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
            "cut or damaged",
        ),
        (lambda f: spoil(f, "config.json", {"architectures": ["MyDepth"]}), "'MyDepth', which transformers does not"),
        (lambda f: spoil(f, "preprocessor_config.json", {"image_processor_type": "Mine"}), "names the class 'Mine'"),
        (lambda f: spoil(f, "config.json", {"head_hidden_size": 16}), "do not fit its config.json"),
        (lambda f: spoil(f, "config.json", {"fusion_hidden_size": 16}), "do not fit its config.json"),
        (drop_a_weight, r"lacks 1 of the model's weights, such as head\.conv1\.bias"),
        (lambda f: (f / "config.json").write_text('{"model_type": "dinov2"}'), "'dinov2', which estimates no depth"),
        (lambda f: (f / "adapter_config.json").touch(), "holds a model and a adapter"),
        (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    ],
)
def test_push_to_hub__folder_that_would_not_load(damage, message, hub, student):
    damage(student)
    with pytest.raises(ValueError, match=message):
        push_to_hub(student, "me/student")
    assert not sent(hub)


def test_kind_of__says_what_is_meant(tmp_path):
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-10" / "config.json").touch()
    with pytest.raises(ValueError, match=r"Did you mean .*checkpoint-10\?"):
        kind_of(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        kind_of(tmp_path / "nowhere")
    (tmp_path / "settings.json").touch()
    with pytest.raises(ValueError, match="not labeled to its end"):
        kind_of(tmp_path)


@pytest.mark.slow
def test_push_to_hub__public_repository_takes_nothing_private(hub, student):
    hub.add("me/student", {})
    with pytest.raises(ValueError, match="me/student exists and is public; nothing was sent"):
        push_to_hub(student, "me/student", private=True)
    assert not sent(hub)
    push_to_hub(student, "me/student")


def test_push_to_hub__repository_of_somebody_else(hub, student):
    with pytest.raises(OSError, match=r"she/student was not uploaded \(HfHubHTTPError: .*403 Forbidden"):
        push_to_hub(student, "she/student")


@pytest.mark.parametrize("repo_id", ["a/b/c", "me/a b", "me/--"])
def test_push_to_hub__name_that_cannot_be(repo_id, student):
    with pytest.raises(ValueError, match=re.escape(repo_id)):
        push_to_hub(student, repo_id)


# --- the token


def test_push_to_hub__without_a_token(hub, student, monkeypatch):
    monkeypatch.setattr("depth_anything_hf.sharing.upload.get_token", lambda: None)
    with pytest.raises(PermissionError, match="hf auth login"):
        push_to_hub(student, "me/student")
    assert not sent(hub)


@pytest.fixture
def everything_logged(caplog):
    """All that any library logs, however it is set up."""
    names = ("huggingface_hub", "transformers", "httpx", "httpx2", "httpcore", "httpcore2", "depth_anything_hf")
    before = {name: (logging.getLogger(name).level, logging.getLogger(name).propagate) for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
        logging.getLogger(name).propagate = True
    caplog.set_level(logging.DEBUG)
    yield caplog
    for name, (level, propagate) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).propagate = propagate


@pytest.mark.slow
def test_push_to_hub__token_is_nowhere_to_be_seen(hub, student, everything_logged, capfd):
    hub.breaks["commit"] = 1
    with pytest.raises(OSError, match="repeat") as broken:
        push_to_hub(student, "me/student", private=True)
    push_to_hub(student, "me/student", private=True)
    with pytest.raises(OSError, match="403") as refused:
        push_to_hub(student, "she/student", private=True)
    assert hub.token in {token for _, _, token in hub.requests}
    assert {token for _, path, token in hub.requests if path.startswith(hub.store)} == {None}
    assert any("me/student" in record.getMessage() for record in everything_logged.records)
    written = capfd.readouterr()
    errors = [line for error in (broken, refused) for line in traceback.format_exception(error.value)]
    for text in (everything_logged.text, written.out, written.err, "".join(errors)):
        assert hub.token not in text
    assert all(hub.token.encode() not in content for content in hub.model("me/student").files.values())


@pytest.mark.parametrize("token", ["hf_aToken\x01", "hf_aToken hf_aToken", "hf_aTokén"])
def test_push_to_hub__token_that_cannot_be_is_not_quoted(hub, student, token, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ValueError, match="characters that no token has") as error:
        push_to_hub(student, "me/student", private=True)
    assert "aTok" not in "".join(traceback.format_exception(error.value))
    assert hub.requests == []


def test_upload_files__what_the_http_library_says_is_told_without_the_token(hub, student, monkeypatch):
    def complain(*args, **kwargs):
        raise RuntimeError(f"Illegal header value b'Bearer {hub.token}'") from OSError(f"pipe of {hub.token}")

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", complain)
    with pytest.raises(OSError, match=r"Illegal header value b'Bearer \(hidden\)': pipe of \(hidden\)\)") as error:
        push_to_hub(student, "me/student")
    assert hub.token not in "".join(traceback.format_exception(error.value))


# --- with nothing but HF_ENDPOINT

PROGRAM = """
import json, sys
from depth_anything_hf.cli.main import main
assert main(["push", sys.argv[1], "--repo-id", "me/student", "--private"]) == 0
import torch
from transformers import AutoModelForDepthEstimation, pipeline
from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor
from depth_anything_hf.prediction.predictor import load_model
from depth_anything_hf.prediction.weights import model_revision
model = AutoModelForDepthEstimation.from_pretrained("me/student")
ours = DepthAnythingForDepthEstimation.from_pretrained("me/student")
print(json.dumps({
    "same": all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), ours.state_dict().values())),
    "size": DepthAnythingImageProcessor.from_pretrained("me/student").size["height"],
    "depth": list(pipeline("depth-estimation", model="me/student")("photo.jpg")["predicted_depth"].shape),
    "revision": model_revision("me/student", load_model("me/student")[0]),
}))
"""


@pytest.mark.slow
def test_push__in_a_process_of_its_own(hub, student, noise_image, tmp_path):
    noise_image(40, 60).save(tmp_path / "photo.jpg")
    environment = os.environ | hub.environment(tmp_path / "home") | {"HF_TOKEN": hub.token, "HF_DEBUG": "1"}
    hub.breaks.update(upload=1, download=1)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(student)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert f"{hub.address}/me/student" in run.stdout
    found = json.loads(run.stdout.splitlines()[-1])
    assert found == {
        "same": True,
        "size": 56,
        "depth": [40, 60],
        "revision": hub.model("me/student").head,
    }
    assert hub.token not in run.stdout + run.stderr


@pytest.mark.slow
def test_push_to_hub__bfloat16_breaks_the_stock_pipeline(hub, student):
    DepthAnythingForDepthEstimation.from_pretrained(student).bfloat16().save_pretrained(student)
    with pytest.raises(ValueError, match=r"bfloat16 weights, with which pipeline\(.* fails on a CPU"):
        push_to_hub(student, "me/student")
    DepthAnythingForDepthEstimation.from_pretrained(student).half().save_pretrained(student)
    push_to_hub(student, "me/student")


@pytest.mark.parametrize("options", [{"license": "none"}, {"base": "runs/teacher"}])
def test_push_to_hub__what_no_card_may_say(options, hub, student):
    with pytest.raises(ValueError, match=r"^(license|base) is '"):
        push_to_hub(student, "me/student", **options)
    assert not sent(hub)
    assert not (student / "README.md").exists()


@pytest.mark.slow
def test_push_to_hub__license_in_another_spelling(hub, student):
    push_to_hub(student, "me/student", license="Apache 2.0")
    assert ModelCard.load("me/student").data.license == "apache-2.0"
