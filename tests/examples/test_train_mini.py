import json
import math
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from depth_anything_hf.data.folder import write_image_folder
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.scenes.worlds.rendering import render_worlds

EXAMPLES = Path(__file__).parents[2] / "examples" / "mini"
TINY = [
    "--small-worlds", "8", "--worlds", "4", "--small-world-size", "24", "32", "--world-size", "48", "64", "--hidden-size", "64",
    "--layers", "4", "--beginner-size", "16", "24", "--teacher-size", "24", "32", "--student-size", "32", "48",
    "--beginner-steps", "3", "--teacher-steps", "4", "--student-steps", "2", "--beginner-batch", "4", "--teacher-batch", "4",
    "--student-batch", "2", "1", "--processes", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def mini(load_example):
    """The script and its parts, with small files of worlds."""
    sys.path.insert(0, str(EXAMPLES))
    script = load_example("mini/train_mini")
    script.RenderedWorlds.__init__.__globals__["CHUNK"] = 4
    yield script
    script.RenderedWorlds.__init__.__globals__["CHUNK"] = 256
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def finished(mini, tmp_path_factory):
    """Folder of a whole run without further options; a test that writes there copies it."""
    out = tmp_path_factory.mktemp("mini") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert start(mini, patch, out) == 0
    return out


@pytest.fixture
def photographs(tmp_path, noise_image):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(3):
        noise_image(60, 80, seed=i).save(folder / f"{i}.jpg")
    return folder


def start(script, monkeypatch, out, *options):
    monkeypatch.setattr(sys, "argv", ["train_mini.py", "--out", str(out), *TINY, *options])
    return script.main()


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("goes_on", [False, True], ids=["anew", "from-a-model"])
def test_a_run_in_pieces_gives_the_weights_of_a_whole_one(
    mini, finished, monkeypatch, tmp_path, photographs, capsys, goes_on
):
    options = ["--photographs", str(photographs), "--teacher-steps", "2"]
    if goes_on:
        options += ["--start", str(finished / "mini")]
    assert start(mini, monkeypatch, tmp_path / "whole", *options) == 0
    capsys.readouterr()
    for _ in range(20):
        start(mini, monkeypatch, tmp_path / "pieces", *options, "--max-minutes", "0")
        if (tmp_path / "pieces" / "mini").is_dir():
            break
        assert "Stopped in time" in capsys.readouterr().out
    whole, pieces = (weights_of(tmp_path / name / "mini") for name in ("whole", "pieces"))
    assert {values.dtype for values in whole.values()} == {torch.float16}
    for name, values in whole.items():
        torch.testing.assert_close(pieces[name], values, msg=name)


@pytest.mark.slow
def test_what_comes_out_runs_in_the_stock_pipeline_in_float32(finished, noise_image):
    from transformers import pipeline

    depth = pipeline("depth-estimation", model=str(finished / "mini"))
    assert depth.model.dtype == torch.float32
    assert depth(noise_image(60, 80))["predicted_depth"].shape == (60, 80)


@pytest.mark.slow
def test_a_run_that_goes_on_from_a_model_trains_the_student_alone(
    mini, finished, load_example, monkeypatch, tmp_path, photographs, capsys
):
    first = finished / "mini"
    start(mini, monkeypatch, tmp_path / "more", "--start", str(first), "--photographs", str(photographs))
    assert {path.name for path in (tmp_path / "more").iterdir()} == {
        "plan.json", "worlds", "teacher", "labels", "student", "mini",
    }  # fmt: skip
    before, after = weights_of(first), weights_of(tmp_path / "more" / "mini")
    moved = [(after[name].float() - values.float()).abs().max().item() for name, values in before.items()]
    assert 0 < max(moved) < 0.01  # two steps from there, and not from random weights
    with pytest.raises(SystemExit):
        load_example("mini/mini_card").main([str(tmp_path / "more")])
    assert "learned from" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stop_in_the_middle_of_saving_leaves_no_half_of_a_stage(mini, finished, monkeypatch, tmp_path):
    half = shutil.copytree(finished, tmp_path / "run") / "beginner" / "model.partial"
    shutil.rmtree(half.with_name("model"))
    half.mkdir()
    (half / "config.json").write_text("{")
    start(mini, monkeypatch, tmp_path / "run")
    assert (tmp_path / "run" / "beginner" / "model" / "model.safetensors").is_file()
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow
def test_at_ctrl_c_a_run_saves_and_stops_and_the_same_command_goes_on(mini, finished, monkeypatch, tmp_path, capsys):
    original, interrupted = mini.Deadline.on_step_end, []

    def interrupt_the_second_step(self, args, state, control, **kwargs):
        if state.global_step == 2 and not interrupted:
            interrupted.append(state.global_step)
            os.kill(os.getpid(), signal.SIGINT)
        original(self, args, state, control, **kwargs)

    monkeypatch.setattr(mini.Deadline, "on_step_end", interrupt_the_second_step)
    before = signal.getsignal(signal.SIGINT)
    start(mini, monkeypatch, tmp_path / "run")
    assert "Stopped in time" in capsys.readouterr().out
    assert (tmp_path / "run" / "beginner" / "checkpoints" / "checkpoint-2").is_dir()
    assert signal.getsignal(signal.SIGINT) is before
    start(mini, monkeypatch, tmp_path / "run")
    for name, values in weights_of(finished / "mini").items():
        torch.testing.assert_close(weights_of(tmp_path / "run" / "mini")[name], values, msg=name)


@pytest.mark.slow
def test_another_run_is_not_taken_for_this_one(mini, finished, monkeypatch, tmp_path, photographs):
    shutil.copytree(finished, tmp_path / "run")
    teacher = weights_of(tmp_path / "run" / "teacher" / "model")
    for options, message in (
        (["--seed", "5"], "seed 0, not 5"),
        (["--start", "mini"], "start None, not mini"),
        (["--photographs", str(photographs)], "photographs None, not .*another --out"),
    ):
        with pytest.raises(ValueError, match=message):
            start(mini, monkeypatch, tmp_path / "run", *options)
    kept = weights_of(tmp_path / "run" / "teacher" / "model")
    assert all(torch.equal(values, kept[name]) for name, values in teacher.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--student-steps", "0"], "student_steps is 0; it must be at least 1"),
        (["--student-size", "30", "48"], r"student_size is \(30, 48\); both sides must be multiples of patch_size, 8"),
        (["--hidden-size", "100"], "hidden_size is 100"),
        (["--student-batch", "0", "4"], "student_batch is"),
        (["--max-minutes", "nan"], "max-minutes is nan"),
        (["--photographs", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_done(mini, monkeypatch, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit):
        start(mini, monkeypatch, tmp_path / "run", *options)
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_card_is_refused_where_photographs_were_learned_from(mini, load_example, tmp_path, capsys):
    (tmp_path / "plan.json").write_text('{"start": null, "photographs": "/holiday"}')
    with pytest.raises(SystemExit):
        load_example("mini/mini_card").main([str(tmp_path)])
    assert "learned from /holiday" in capsys.readouterr().err


def test_a_quiet_head_predicts_the_same_times_a_constant_also_in_float16(mini):
    model = mini.new_model(64, 4, 8, 0)
    with torch.no_grad():
        model.head.conv1.weight *= 1e5
        model.head.conv3.bias += 3.0
    pixels = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    loud = model.eval()(pixels).predicted_depth
    mini.quiet_head(model, pixels)
    quiet = model(pixels).predicted_depth
    factor = (loud.max() / quiet.max()).item()
    assert factor > 8
    assert math.log2(factor) == pytest.approx(round(math.log2(factor)), abs=1e-5)
    torch.testing.assert_close(quiet * factor, loud)
    half = model.half()(pixels.half()).predicted_depth
    torch.testing.assert_close(half.float(), quiet, atol=0.01 * quiet.max().item(), rtol=0.05)


def test_a_start_with_other_patches_is_refused(mini, monkeypatch, tmp_path):
    sizes = ("--beginner-size", "16", "32", "--teacher-size", "32", "32")
    with pytest.raises(ValueError, match=r"mini has patches of 8 pixels and the run of 16; pass --patch-size 8"):
        start(mini, monkeypatch, tmp_path, "--start", "mini", "--patch-size", "16", *sizes)


@pytest.mark.slow
def test_worlds_are_learnt_under_changed_colors(mini, finished, monkeypatch, tmp_path):
    start(mini, monkeypatch, tmp_path / "plain", "--color-probability", "0")
    plain, changed = (weights_of(folder / "mini") for folder in (tmp_path / "plain", finished))
    assert any(not torch.equal(values, changed[name]) for name, values in plain.items())


@pytest.mark.slow
def test_card_says_what_was_measured_and_on_what_it_was_trained(finished, load_example, tmp_path, noise_image):
    shutil.copytree(finished, tmp_path / "run")
    records = []
    for i, scene in enumerate(("indoor", "outdoor street")):
        values = np.linspace(1, 4, 60 * 80).reshape(60, 80)
        records.append(encode_record(noise_image(60, 80, seed=i), values, group=f"g{i}", scene=scene))
    write_image_folder(records, tmp_path / "real")
    load_example("mini/mini_card").main([str(tmp_path / "run"), "--eval", str(tmp_path / "real"), "--worlds", "2"])
    card = (tmp_path / "run" / "mini" / "README.md").read_text(encoding="utf-8")
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert "license: apache-2.0" in card
    assert "on 12 worlds rendered" in card
    assert "3 steps of 4 crops of 16 x 24 pixels, then 4 steps of 4 crops of 24 x 32" in card
    assert (
        f"| real images, outdoors | this model | {scores['real images, outdoors']['mini']['group_abs_rel']:.3f} |"
        in card
    )
    assert scores["real images"]["mini"]["groups"] == 2
    assert scores["worlds: street"]["mini"]["images"] == 2
    assert (tmp_path / "run" / "mini" / "card_image.png").is_file()
    assert (tmp_path / "run" / "training.png").is_file()


@pytest.mark.slow
def test_worlds_are_rendered_once_and_read_as_labeled_records(mini, tmp_path):
    which = mini.Worlds(6, (24, 32))
    mini.render_to(tmp_path / "worlds", which, "cpu", 1)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "worlds").iterdir()}
    assert len(before) == 5  # two parts of four worlds, and what they are
    (tmp_path / "worlds" / "00001_images.npy").unlink()
    with pytest.raises(FileNotFoundError, match="00001_images"):
        mini.RenderedWorlds(tmp_path / "worlds", 6)
    mini.render_to(tmp_path / "worlds", which, "cpu", 1)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "worlds").iterdir()}
    assert after["00000_images.npy"] == before["00000_images.npy"]
    worlds = mini.RenderedWorlds(tmp_path / "worlds", 6)
    sample = worlds[5]
    assert (len(worlds), sample.image.size, sample.space) == (6, (32, 24), "disparity")
    assert sample.values.dtype == np.float32
    assert (sample.values >= 0).all()
    assert np.isfinite(sample.values).all()


@pytest.mark.slow
def test_worlds_rendered_anew_are_read_anew(mini, tmp_path):
    seen = []
    for first in (0, 4):
        mini.render_to(tmp_path / "worlds", mini.Worlds(4, (24, 32), first=first), "cpu", 1)
        seen.append(np.asarray(mini.RenderedWorlds(tmp_path / "worlds", 4)[0].image))
        shutil.rmtree(tmp_path / "worlds")
    assert not np.array_equal(*seen)


@pytest.mark.slow
def test_rendering_leaves_the_number_of_threads_alone(mini, monkeypatch, tmp_path):
    monkeypatch.setitem(mini.RenderedWorlds.__init__.__globals__, "CHUNK", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        mini.render_to(tmp_path, mini.Worlds(1, (24, 32)), "cpu", 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_worlds_of_another_run_are_not_taken_for_these(mini, tmp_path):
    mini.render_to(tmp_path, mini.Worlds(4, (24, 32)), "cpu", 1)
    mini.render_to(tmp_path, mini.Worlds(8, (24, 32)), "cpu", 1)  # more of the same
    for other in (mini.Worlds(4, (24, 40)), mini.Worlds(4, (24, 32), first=4)):
        with pytest.raises(ValueError, match=r"holds other worlds.*Delete it, or use another --out"):
            mini.render_to(tmp_path, other, "cpu", 1)


@pytest.mark.slow
def test_worlds_rendered_live_are_those_rendered_ahead(mini, finished, monkeypatch, tmp_path):
    which = mini.Worlds(6, (24, 32), first=7)
    mini.render_to(tmp_path / "worlds", which, "cpu", 1)
    ahead, live = mini.RenderedWorlds(tmp_path / "worlds", 6), mini.LiveWorlds(which, "cpu")
    fresh = render_worlds([12], 24, 32)
    np.testing.assert_array_equal(np.asarray(live[5].image), fresh.images[0].permute(1, 2, 0).numpy())
    assert len(live) == 6
    for index, together in zip((5, 0), live.__getitems__([5, 0]), strict=True):
        for sample in (together, live[index]):
            np.testing.assert_array_equal(np.asarray(sample.image), np.asarray(ahead[index].image))
            np.testing.assert_array_equal(sample.values, ahead[index].values)
            assert (sample.source, sample.space) == (ahead[index].source, "disparity")
    start(mini, monkeypatch, tmp_path / "live", "--render", "live")
    assert (finished / "worlds").is_dir()  # ahead, as by default on a CPU
    assert not (tmp_path / "live" / "worlds").exists()
    ahead, live = (weights_of(folder / "mini") for folder in (finished, tmp_path / "live"))
    for name, values in ahead.items():
        torch.testing.assert_close(live[name], values, msg=name)


def test_optimizer_trains_matrices_with_muon_and_obeys_one_schedule(mini):
    globals_of = mini.new_model.__globals__
    model = mini.new_model(64, 4, 16, 0)
    optimizer = globals_of["MuonAndAdamW"](model, 1e-2, 2.0, 0.1)
    muon, adamw = optimizer.parts
    assert all(parameter.ndim == 2 for group in muon.param_groups for parameter in group["params"])
    counted = sum(len(group["params"]) for group in optimizer.param_groups)
    assert counted == sum(parameter.requires_grad for parameter in model.parameters())
    assert sorted({group["lr"] for group in adamw.param_groups}) == [1e-2, 2e-2]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    model(torch.randn(1, 3, 32, 48)).predicted_depth.mean().backward()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    schedule.step()
    assert muon.param_groups[0]["lr"] == 5e-3
    moved = [not torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > 0.9 * counted
    fresh = globals_of["MuonAndAdamW"](model, 1.0, 2.0, 0.1)
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.param_groups[0]["lr"] == 5e-3
    assert fresh.parts[0].param_groups[0] is fresh.param_groups[0]


def test_positions_tell_rows_and_columns_apart(mini):
    table = mini.new_model.__globals__["positions"](3, 4, 16)
    assert table.shape == (12, 16)
    assert torch.cdist(table, table).fill_diagonal_(9).min() > 0.1
    torch.testing.assert_close(table[:4, :8], table[:1, :8].expand(4, -1))  # one row of patches: the same row part
