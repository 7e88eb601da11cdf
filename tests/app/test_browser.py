"""The page in a real browser, served by the real command."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
from depth_anything_hf.cli.main import main
from depth_anything_hf.scenes.simple import iter_synthetic_records

pytestmark = pytest.mark.slow

playwright = pytest.importorskip("playwright.sync_api", reason="a browser is driven by playwright (extra test)")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("there is no chromium (Debian: apt-get install chromium)", allow_module_level=True)

FLAGS = "--no-sandbox --disable-gpu --disable-background-networking --no-first-run --disable-component-update --disable-sync"
PATIENCE = 120_000  # milliseconds: a busy machine is no failure
playwright.expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Folder with two checkpoints and the photographs `scenes/a.png` and `scenes/deep/b.jpg` (upright)."""
    place = tmp_path_factory.mktemp("page")
    for name, max_depth in (("relative", None), ("metric", 20.0)):
        torch.manual_seed(0)
        encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
        model = DepthAnythingForDepthEstimation(config_for_encoder(encoder, "v2", max_depth))
        if max_depth is None:
            model.head.conv3.bias.data.fill_(1.0)  # above zero
        model.save_pretrained(place / name)
        DepthAnythingImageProcessor(size={"height": 56, "width": 56}).save_pretrained(place / name)
    (place / "scenes" / "deep").mkdir(parents=True)
    for scene, name in zip(iter_synthetic_records(2, 90, 120), ("a.png", "deep/b.jpg"), strict=True):
        image = scene["image"] if name == "a.png" else scene["image"].transpose(Image.Transpose.ROTATE_90)
        image.save(place / "scenes" / name)
    (place / "scenes" / "notes.txt").write_text("no image")
    return place


@pytest.fixture(scope="module")
def address(place):
    """Serve the page; its limits are 1 MB and 1 megapixel."""
    start = "import sys; from depth_anything_hf.cli.app import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, "--max-upload-mb", "1", "--max-megapixels", "1"]
    command += ["--model", str(place / "relative"), "--model", str(place / "metric")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    (place / "temporary").mkdir()
    environment |= {"TMPDIR": str(place / "temporary"), "GRADIO_IS_E2E_TEST": "1"}  # a session ends 1 s after its tab
    with open(place / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        line = server.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), (place / "log").read_text()
        yield line.split()[0]
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The page, open on its example; whatever it asked of other machines is an error."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(PATIENCE)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    playwright.expect(page.locator("#probe")).to_contain_text("scene.png, 512 x 384")
    wait_for_picture(page)
    yield page
    page.close()
    hosts = {urllib.parse.urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert errors == []


def wait_for_picture(page):
    page.wait_for_function("document.querySelector('#probe img')?.naturalWidth > 0")


def upload(page, *files):
    """Upload files and wait for the answer."""
    page.locator("#status [role=status]").evaluate("element => { element.textContent = 'waiting' }")
    page.locator("#files input[type=file]").set_input_files([str(file) for file in files])
    playwright.expect(page.locator("#status")).to_contain_text(re.compile("predicted|page|identify|drop"))


def download(page, name, folder):
    """Follow a link of the list and return the file."""
    row = page.locator("#downloads tr", has=page.locator(f"td[aria-label='{name}']"))
    with page.expect_download() as started:
        row.locator("a").click()
    assert started.value.suggested_filename == name
    started.value.save_as(folder / name)
    return folder / name


def click(page, x, y):
    """Click the picture at a share of its width and height; return (row, column) as the page says it."""
    points = page.locator("#reading thead th small").count()
    box = page.locator("#probe img").bounding_box()
    page.locator("#probe img").click(position={"x": x * box["width"], "y": y * box["height"]})
    heads = page.locator("#reading thead th small")
    playwright.expect(heads).to_have_count(points % 2 + 1)
    return tuple(map(int, re.findall(r"\d+", heads.last.inner_text())))


def test_page__predicts_an_upload_as_the_predict_command_does(page, place, tmp_path, capsys):
    upload(page, place / "scenes" / "a.png")
    playwright.expect(page.locator("#status")).to_have_text("1 of 1 predicted.")
    playwright.expect(page.locator("#probe")).to_contain_text("Read: a.png, 120 x 90")
    playwright.expect(page.locator("#compare")).to_contain_text("A relative | B metric")
    assert page.locator("#compare img").count() == 2
    listed = download(page, "depth.jsonl", tmp_path).read_text().splitlines()
    for model, label in (("relative", "A_relative"), ("metric", "B_metric")):
        out = tmp_path / model
        arguments = ["predict", str(place / "scenes" / "a.png"), "--model", str(place / model), "--out", str(out)]
        assert main(arguments) == 0
        for ending in (".png", ".npy", "_color.png"):
            file = download(page, f"a_png_{label}{ending}", tmp_path)
            assert file.read_bytes() == (out / f"a_png{ending}").read_bytes()
        row = json.loads((out / "depth.jsonl").read_text())
        theirs = next(row for row in map(json.loads, listed) if row["depth_map_file_name"] == f"a_png_{label}.png")
        for key in ("depth_scale", "depth_offset", "space"):
            assert theirs[key] == row[key]


@pytest.mark.parametrize("name", ["a.png", "deep/b.jpg"])
def test_page__a_click_reads_the_value_and_two_say_which_is_nearer(name, page, place, tmp_path):
    stem = Path(name).name.replace(".", "_")
    upload(page, place / "scenes" / name)
    playwright.expect(page.locator("#probe")).to_contain_text(Path(name).name)
    wait_for_picture(page)
    values = {label: np.load(download(page, f"{stem}_{label}.npy", tmp_path)) for label in ("A_relative", "B_metric")}
    assert all(np.ptp(one) > 0 for one in values.values())
    size = values["B_metric"].shape
    first = click(page, 0.25, 0.8)
    assert np.abs(np.subtract(first, (0.8 * size[0], 0.25 * size[1]))).max() <= 1
    rows = page.locator("#reading tbody tr")
    playwright.expect(rows.nth(0)).to_contain_text(f"{values['A_relative'][first]:.4g} disparity, no unit")
    playwright.expect(rows.nth(1)).to_contain_text(f"{values['B_metric'][first]:.4g} m")
    second = click(page, 0.75, 0.2)
    assert np.abs(np.subtract(second, (0.2 * size[0], 0.75 * size[1]))).max() <= 1
    relative, metric = values["A_relative"], values["B_metric"]
    answers = [1 if relative[first] > relative[second] else 2, 1 if metric[first] < metric[second] else 2]
    for row, answer in zip(rows.all(), answers, strict=True):
        playwright.expect(row.locator("strong")).to_have_text(f"point {answer} is nearer")
    click(page, 0.5, 0.5)  # starts anew
    playwright.expect(page.locator("#reading strong")).to_have_count(0)


def test_page__the_cursor_reads_without_a_click(page, place, tmp_path):
    upload(page, place / "scenes" / "a.png")
    playwright.expect(page.locator("#probe")).to_contain_text("a.png")
    wait_for_picture(page)
    values = np.load(download(page, "a_png_B_metric.npy", tmp_path))
    line = page.locator("#hover output")
    for picture in ("#probe", "#compare"):
        box = page.locator(f"{picture} img").first.bounding_box()
        page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.7 * box["height"])
        playwright.expect(line).to_contain_text("row")
        row, column = map(int, re.findall(r"\d+", line.inner_text())[:2])
        assert abs(row - 63) <= 1
        assert abs(column - 72) <= 1
        said = float(re.search(r"B metric ≈ ([\d.]+) m", line.inner_text()).group(1))
        assert said == pytest.approx(values[row, column], rel=0.006)  # three digits
        page.mouse.move(1, 1)
        playwright.expect(line).to_contain_text("Point at a picture")


def test_page__a_point_without_a_mouse(page):
    page.get_by_role("button", name="Mark a point without a mouse").press("Enter")
    for name, middle in (("Row", "192"), ("Column", "256")):  # of the scene; what is typed before they stand is lost
        playwright.expect(page.get_by_label(name)).to_have_value(middle)
    page.get_by_label("Row").fill("7")
    page.get_by_label("Column").fill("5")
    page.locator("#mark").press("Enter")
    playwright.expect(page.locator("#reading thead")).to_contain_text("row 7, column 5")
    page.get_by_label("Row").fill("384")
    page.locator("#mark").press("Enter")
    playwright.expect(page.locator("#status")).to_contain_text("rows go from 0 to 383")


@pytest.mark.parametrize("chosen", ["by button", "by dropping"])
def test_page__a_folder(chosen, page, place, tmp_path):
    folder = str(place / "scenes")
    if chosen == "by button":
        page.locator("#folder").set_input_files(folder)
    else:
        box = page.locator("#files").bounding_box()
        where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        devtools = page.context.new_cdp_session(page)
        for kind in ("dragEnter", "dragOver", "drop"):
            data = {"items": [], "files": [folder], "dragOperationsMask": 1}
            devtools.send("Input.dispatchDragEvent", {"type": kind, **where, "data": data})
    playwright.expect(page.locator("#status")).to_have_text("2 of 2 predicted.")  # notes.txt is not even sent
    playwright.expect(page.locator("#probe")).to_contain_text("a.png")
    playwright.expect(page.locator("#gallery img")).to_have_count(2)
    page.locator("#gallery img").nth(1).click()
    playwright.expect(page.locator("#probe")).to_contain_text("b.jpg, 90 x 120")
    page.locator("#archive").click()
    with zipfile.ZipFile(download(page, "depth.zip", tmp_path)) as archive:
        assert archive.testzip() is None
        assert "b_jpg_B_metric.npy" in archive.namelist()


def test_page__bad_files_are_told_and_the_page_goes_on(page, place, tmp_path):
    (tmp_path / "fake.png").write_text("no image")
    Image.new("L", (1100, 1000)).save(tmp_path / "large.png")
    upload(page, tmp_path / "fake.png")
    playwright.expect(page.locator("#status")).to_contain_text("fake.png: cannot identify image file")
    playwright.expect(page.locator("#probe")).to_contain_text("scene.png")
    upload(page, tmp_path / "large.png")
    playwright.expect(page.locator("#status")).to_contain_text("has 1100 x 1000 pixels, 1.1 megapixels")
    upload(page, tmp_path / "fake.png", place / "scenes" / "a.png")
    playwright.expect(page.locator("#status")).to_contain_text("1 of 2 predicted.")
    playwright.expect(page.locator("#probe")).to_contain_text("a.png")


def test_page__takes_files_at_the_moment_of_its_answer(page, tmp_path):
    for turn in range(8):
        file = tmp_path / f"fake{turn}.png"
        file.write_text("no image")
        page.locator("#files input[type=file]").set_input_files(str(file))
        playwright.expect(page.locator("#status")).to_contain_text(f"{file.name}: cannot identify image file")


def test_page__too_large_a_file_is_refused_by_the_page_and_by_the_server(page, place, address, tmp_path):
    file = tmp_path / "heavy.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)).save(file)
    assert file.stat().st_size > 1 << 20
    page.locator("#files input[type=file]").set_input_files(str(file))
    playwright.expect(page.get_by_test_id("toast-body")).to_contain_text("maximum allowed size of 1")
    answer = page.request.post(
        f"{address}gradio_api/upload",
        multipart={"files": {"name": "heavy.png", "mimeType": "image/png", "buffer": file.read_bytes()}},
    )
    assert answer.status == 413
    upload(page, place / "scenes" / "a.png")
    playwright.expect(page.locator("#status")).to_have_text("1 of 1 predicted.")


def test_page__color_map_resolution_and_point_cloud(page, tmp_path):
    before = download(page, "scene_png_A_relative_color.png", tmp_path).read_bytes()
    compared = page.locator("#compare img").first
    inferno = compared.get_attribute("src")
    page.get_by_label("Color map").click()
    page.get_by_role("option", name="gray").click()
    playwright.expect(compared).not_to_have_attribute("src", inferno)
    color = np.asarray(Image.open(download(page, "scene_png_A_relative_color.png", tmp_path)))
    assert np.array_equal(color[..., 0], color[..., 1])
    assert (tmp_path / "scene_png_A_relative_color.png").read_bytes() != before
    values = np.load(download(page, "scene_png_A_relative.npy", tmp_path))
    page.get_by_label("Resolution").fill("57")
    page.locator("#predict").click()
    playwright.expect(page.locator("#status")).to_contain_text("must be a multiple of the patch size 14, such as 56")
    page.get_by_label("Resolution").fill("112")
    link = page.locator("#downloads a").first
    coarse = link.get_attribute("href")
    page.locator("#predict").click()
    playwright.expect(page.locator("#status")).to_have_text("1 of 1 predicted.")
    playwright.expect(link).not_to_have_attribute("href", coarse)
    finer = np.load(download(page, "scene_png_A_relative.npy", tmp_path))
    assert not np.array_equal(values, finer)
    color = np.asarray(Image.open(download(page, "scene_png_A_relative_color.png", tmp_path)))
    assert np.array_equal(color[..., 0], color[..., 1])
    page.locator("#cloud").click()
    cloud = download(page, "scene_png_B_metric.ply", tmp_path).read_bytes()
    assert cloud.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 196608\n")


def test_page__points_are_read_on_a_prediction_too(page, tmp_path):
    before = page.locator("#probe img").get_attribute("src")
    page.get_by_label("B metric").click()
    playwright.expect(page.locator("#probe img")).not_to_have_attribute("src", before)
    wait_for_picture(page)
    point = click(page, 0.3, 0.6)
    values = np.load(download(page, "scene_png_B_metric.npy", tmp_path))
    playwright.expect(page.locator("#reading tbody tr").nth(1)).to_contain_text(f"{values[point]:.4g} m")


def test_page__what_a_visitor_made_is_deleted_with_the_tab(browser, address, place):
    def folders():
        return set(place.glob("temporary/depth-anything-hf-app-*/*/depth.jsonl"))

    page = browser.new_page()
    page.goto(address)
    playwright.expect(page.locator("#downloads td.filename")).to_have_count(7, timeout=PATIENCE)
    mine = Path(urllib.parse.unquote(page.locator("#downloads a").last.get_attribute("href").split("file=")[1]))
    assert mine in folders()
    page.close()
    deadline = time.monotonic() + PATIENCE / 1000
    while mine in folders() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert mine not in folders()


def test_page__an_unknown_checkpoint_is_told(page, place):
    page.get_by_label("Compare with").fill(str(place / "nothing"))
    page.get_by_label("Compare with").press("Enter")
    page.locator("#predict").click()
    playwright.expect(page.locator("#status")).to_contain_text("nothing cannot be loaded: name a folder")
    playwright.expect(page.locator("#probe")).to_contain_text("scene.png")


def test_page__has_no_public_interface(page, address):
    info = page.request.get(f"{address}gradio_api/info").json()
    assert info["named_endpoints"] == info["unnamed_endpoints"] == {}
