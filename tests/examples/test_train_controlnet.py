import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
from depth_anything_hf.data.folder import load_folder, stream_folder
from depth_anything_hf.labeling.arguments import LabelingArguments
from depth_anything_hf.labeling.engine import label_images
from depth_anything_hf.scenes.simple import iter_synthetic_records

diffusers = pytest.importorskip("diffusers", reason='pip install "depth_anything_hf[controlnet]"')

from tests.examples.tiny_diffusion import save_base, save_controlnet  # noqa: E402  (needs diffusers)

CPU = torch.device("cpu")
KINDS = ["sd", "sdxl"]


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Six rendered scenes, labeled by the engine into three shards."""
    folder = tmp_path_factory.mktemp("labelled")
    encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    torch.manual_seed(0)
    DepthAnythingForDepthEstimation(config_for_encoder(encoder)).save_pretrained(folder / "teacher")
    DepthAnythingImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder / "teacher")
    (folder / "photos").mkdir()
    for i, scene in enumerate(iter_synthetic_records(6, 60, 80)):
        scene["image"].save(folder / "photos" / f"{i}.png")
    places = {"model": folder / "teacher", "images": folder / "photos", "out_dir": folder / "labels"}
    places = {name: str(path) for name, path in places.items()}
    label_images(LabelingArguments(**places, resolution=56, num_workers=0, shard_size=2, disable_tqdm=True))
    return places["out_dir"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {kind: save_base(folder / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def script(load_example):
    return load_example("controlnet/train_controlnet")


@pytest.fixture(autouse=True)
def own_accelerator(one_thread, monkeypatch):
    """Let each run choose its precision: accelerate keeps the first one of a process."""
    from accelerate.state import AcceleratorState

    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def arguments(labels, bases):
    def make(out, *more, kind="sd"):
        few = ["--resolution", "16", "--batch-size", "2", "--workers", "0", "--sample-every", "1000"]
        return ["--labels", labels, "--base", bases[kind], "--out", str(out), *few, *more]

    return make


@pytest.fixture
def batch(labels, script):
    rows = [row | {"draw_seed": seed} for seed, row in enumerate(stream_folder(labels).take(2))]
    return script.ControlCollator(16, prompt="a room", empty_prompts=0)(rows)


def trained(out):
    return diffusers.ControlNetModel.from_pretrained(out).state_dict()


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def losses(out):
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def unet_output(script, pipe, batch):
    """Prediction for one noisy latent, with the ControlNet and without it."""
    embeds, added = script.encode_prompts(pipe, batch["prompts"], batch["time_ids"])
    noisy = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    inputs = {"sample": noisy, "timestep": 500, "encoder_hidden_states": embeds, "added_cond_kwargs": added}
    with torch.no_grad():
        down, middle = pipe.controlnet(**inputs, controlnet_cond=batch["control"], return_dict=False)
        more = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return [*down, middle], pipe.unet(**inputs).sample, pipe.unet(**inputs, **more).sample


# ---------------------------------------------------------------------------------------------------- the step


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_controlnet_changes_nothing_and_one_step_makes_it_change_something(script, bases, batch, kind):
    pipe = script.load_pipeline(bases[kind], None, CPU, torch.float32)
    residuals, without, with_it = unet_output(script, pipe, batch)
    assert all((residual == 0).all() for residual in residuals)
    assert torch.equal(without, with_it)

    frozen = {name: values.clone() for name, values in pipe.unet.state_dict().items()}
    optimizer = torch.optim.AdamW(pipe.controlnet.parameters(), lr=1e-3)
    schedule, generator = script.noise_schedule(pipe, 16), torch.Generator().manual_seed(0)
    script.denoising_loss(pipe, pipe.controlnet, schedule, batch, generator).backward()
    optimizer.step()
    residuals, still_without, with_it = unet_output(script, pipe, batch)
    assert all((residual != 0).any() for residual in residuals)
    assert not torch.equal(without, with_it)
    assert torch.equal(without, still_without)
    assert same(frozen, pipe.unet.state_dict())
    learning = {name for name, part in pipe.components.items() if any(p.requires_grad for p in _parameters(part))}
    assert learning == {"controlnet"}


def _parameters(part):
    return part.parameters() if isinstance(part, torch.nn.Module) else []


@pytest.mark.slow
def test_the_copy_of_the_encoder_is_exact_even_where_the_frozen_one_is_rounded(script, bases):
    pipe = script.load_pipeline(bases["sd"], None, CPU, torch.bfloat16)
    unet = diffusers.UNet2DConditionModel.from_pretrained(bases["sd"], subfolder="unet")
    assert same(pipe.controlnet.down_blocks.state_dict(), unet.down_blocks.state_dict())
    assert pipe.unet.dtype == pipe.text_encoder.dtype == torch.bfloat16
    assert pipe.vae.dtype == pipe.controlnet.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_of_a_fixed_batch(script, bases, batch, kind):
    pipe = script.load_pipeline(bases[kind], None, CPU, torch.float32)
    schedule = script.noise_schedule(pipe, 16)
    optimizer = torch.optim.AdamW(pipe.controlnet.parameters(), lr=1e-2)
    history = []
    for _ in range(25):
        generator = torch.Generator().manual_seed(0)
        loss = script.denoising_loss(pipe, pipe.controlnet, schedule, batch, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.9 * history[0]


@pytest.mark.slow
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_target_by_its_formula(script, batch, tmp_path, prediction_type):
    pipe = script.load_pipeline(save_base(tmp_path, "sd", prediction_type), None, CPU, torch.float32)
    loss = script.denoising_loss(
        pipe, pipe.controlnet, script.noise_schedule(pipe, 16), batch, torch.Generator().manual_seed(3)
    )
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        latents = pipe.vae.encode(batch["pixel_values"]).latent_dist.sample(draws) * pipe.vae.config.scaling_factor
        noise, steps = torch.randn(latents.shape, generator=draws), torch.randint(1000, (2,), generator=draws)
        # SD's own schedule: beta is the square of a line from sqrt(0.00085) to sqrt(0.012)
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        kept = (1 - betas).cumprod(0)[steps].float()[:, None, None, None]
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        embeds, _ = script.encode_prompts(pipe, batch["prompts"], batch["time_ids"])
        prediction = pipe.unet(noisy, steps, embeds).sample  # the ControlNet is untrained: it changes nothing
        target = noise if prediction_type == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * latents
    assert loss.item() == pytest.approx(((prediction - target) ** 2).mean().item(), rel=1e-5)


def test_the_control_image_reaches_the_loss(script, bases, batch, tmp_path):
    pipe = script.load_pipeline(bases["sd"], save_controlnet(tmp_path, bases["sd"]), CPU, torch.float32)
    schedule = script.noise_schedule(pipe, 16)
    values = [
        script.denoising_loss(pipe, pipe.controlnet, schedule, one, torch.Generator().manual_seed(0)).item()
        for one in (batch, batch, batch | {"control": 1 - batch["control"]})
    ]
    assert values[0] == values[1] != values[2]


@pytest.mark.slow
def test_prompts_are_encoded_as_when_a_picture_is_generated(script, bases):
    time_ids = torch.arange(12.0).reshape(2, 6)
    pipe = script.load_pipeline(bases["sd"], None, CPU, torch.float32)
    embeds, added = script.encode_prompts(pipe, ["a cat", ""], time_ids)
    assert added is None
    positive, negative = pipe.encode_prompt("a cat", CPU, 1, True)
    assert torch.allclose(embeds, torch.cat([positive, negative]), atol=1e-6)

    pipe = script.load_pipeline(bases["sdxl"], None, CPU, torch.float32)
    embeds, added = script.encode_prompts(pipe, ["a cat", ""], time_ids)
    positive, negative, pooled, negative_pooled = pipe.encode_prompt("a cat", device=CPU)
    assert torch.allclose(embeds, torch.cat([positive, negative]), atol=1e-6)
    assert torch.allclose(added["text_embeds"], torch.cat([pooled, negative_pooled]), atol=1e-6)
    assert torch.equal(added["time_ids"], time_ids)
    assert (embeds[1] == 0).all()  # as SDXL's pipeline does without a negative prompt


@pytest.mark.slow
def test_half_precision_is_close_to_float32(script, bases, batch):
    values = []
    for dtype in (torch.float32, torch.bfloat16):
        pipe = script.load_pipeline(bases["sd"], None, CPU, dtype)
        schedule, generator = script.noise_schedule(pipe, 16), torch.Generator().manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
            network = pipe.controlnet
            loss = script.denoising_loss(pipe, network, schedule, batch, generator)
        loss.backward()
        assert loss.dtype == torch.float32
        assert {parameter.grad.dtype for parameter in network.parameters() if parameter.grad is not None} == {
            torch.float32
        }
        values.append(loss.item())
    assert values[0] == pytest.approx(values[1], rel=0.03)


# ---------------------------------------------------------------------------------------------------- runs


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_writes_a_controlnet_that_diffusers_loads(script, arguments, bases, tmp_path, kind):
    out = tmp_path / "new" / "controlnet"
    more = ["--steps", "2", "--sample-every", "2", "--learning-rate", "0.01", "--gradient-checkpointing"]
    assert script.main(arguments(out, *more, kind=kind)) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoint-2",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "log.jsonl",
        "samples",
    ]
    assert [path.name for path in (out / "samples").iterdir()] == ["000002.png"]
    assert len(losses(out)) == 2
    network = diffusers.ControlNetModel.from_pretrained(out)
    assert all((end.weight != 0).any() for end in network.controlnet_down_blocks)
    pipe = diffusers.AutoPipelineForText2Image.from_pretrained(bases[kind], controlnet=network)
    assert type(pipe).__name__ == f"StableDiffusion{'XL' * (kind == 'sdxl')}ControlNetPipeline"
    picture = pipe("a cat", image=Image.new("RGB", (16, 16)), num_inference_steps=1).images[0]
    assert picture.size == (16, 16)


@pytest.mark.slow
def test_a_resumed_run_equals_one_without_interruption(script, arguments, tmp_path):
    more = ["--accumulate", "2", "--learning-rate", "0.01", "--save-every", "2"]
    whole, halves, broken = (tmp_path / name for name in ("whole", "halves", "broken"))
    script.main(arguments(whole, *more, "--steps", "4"))
    script.main(arguments(halves, *more, "--steps", "2"))
    after_two = trained(halves)
    script.main(arguments(halves, *more, "--steps", "4"))
    assert same(trained(halves), trained(whole))
    assert losses(halves) == losses(whole)
    assert not same(after_two, trained(whole))

    run = script.Run(script.make_parser().parse_args(arguments(broken, *more, "--steps", "4")))
    run.resume()
    for number in (1, 2, 3):  # stopped after the third step, of which no checkpoint knows
        with (broken / "log.jsonl").open("a") if broken.exists() else _new(broken) as log:
            log.write(json.dumps({"step": number, "loss": run.step(number)}) + "\n")
        if number == 2:
            run.save(number)
    (broken / ".partial").mkdir()
    (broken / ".partial" / "half.bin").touch()  # of a checkpoint that was not written to its end
    script.main(arguments(broken, *more, "--steps", "4"))
    assert same(trained(broken), trained(whole))
    assert losses(broken) == losses(whole)
    assert sorted(path.name for path in broken.glob("*checkpoint*")) == ["checkpoint-4"]
    assert not (broken / "checkpoint-4" / "half.bin").exists()


def _new(folder):
    folder.mkdir()
    return (folder / "log.jsonl").open("a")


@pytest.mark.slow
def test_the_seed_decides_a_run(script, arguments, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        script.main(arguments(tmp_path / name, "--steps", "1", "--seed", seed))
    assert same(trained(tmp_path / "a"), trained(tmp_path / "b"))
    assert not same(trained(tmp_path / "a"), trained(tmp_path / "c"))


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is_and_other_settings_are_refused(script, arguments, tmp_path, capsys):
    script.main(arguments(tmp_path, "--steps", "1"))
    before = trained(tmp_path)
    script.main(arguments(tmp_path, "--steps", "1"))
    assert same(trained(tmp_path), before)
    assert "1 steps done" in capsys.readouterr().out
    with pytest.raises(
        ValueError, match=r"other settings \(learning_rate: 1e-05 then, 0\.5 now\); use those to continue"
    ):
        script.main(arguments(tmp_path, "--steps", "2", "--learning-rate", "0.5"))


@pytest.mark.slow
def test_accumulated_passes_are_the_mean_of_their_losses(script, arguments, bases, tmp_path):
    unet = diffusers.UNet2DConditionModel.from_pretrained(bases["sd"], subfolder="unet")
    loud = diffusers.ControlNetModel.from_unet(unet)
    torch.nn.init.normal_(loud.conv_in.weight, std=1000)  # what the zero convolutions see: large gradients
    loud.save_pretrained(tmp_path / "loud")
    more = ["--accumulate", "2", "--learning-rate", "0.01", "--controlnet", str(tmp_path / "loud")]
    run = script.Run(script.make_parser().parse_args(arguments(tmp_path / "a", *more)))
    run.resume()
    before = {name: values.clone() for name, values in run.pipe.controlnet.state_dict().items()}
    loss = run.step(1)

    again = script.Run(script.make_parser().parse_args(arguments(tmp_path / "b", *more)))
    again.resume()
    assert same(before, again.pipe.controlnet.state_dict())
    parts = [
        script.denoising_loss(
            again.pipe,
            again.pipe.controlnet,
            again.schedule,
            next(again.reader),
            script.generator_at(0, 7, 1, part, 1),
        )
        for part in range(2)
    ]
    assert parts[0] != parts[1]
    assert loss == pytest.approx(torch.stack(parts).mean().item(), rel=1e-6)
    torch.stack(parts).mean().backward()
    expected = [parameter for parameter in again.pipe.controlnet.parameters() if parameter.grad is not None]
    assert torch.nn.utils.clip_grad_norm_(expected, 1.0) > 2  # else the clipping would not be seen
    seen = [run.optimizer.state[parameter] for parameter in run.pipe.controlnet.parameters()]
    momenta = [state["exp_avg"] for state in seen if state]
    for parameter, momentum in zip(expected, momenta, strict=True):
        assert torch.allclose(
            10 * momentum, parameter.grad, rtol=1e-4, atol=1e-6
        )  # AdamW's first is a tenth of the gradient


def test_training_goes_on_from_a_published_controlnet(script, arguments, bases, tmp_path):
    start = save_controlnet(tmp_path / "start", bases["sd"])
    script.main(arguments(tmp_path / "out", "--steps", "1", "--controlnet", start, "--learning-rate", "1e-6"))
    begun, ended = trained(start), trained(tmp_path / "out")
    assert not same(begun, ended)
    assert max((begun[name] - ended[name]).abs().max().item() for name in begun) < 3e-6


def test_captions_of_the_records_are_the_prompts(script, arguments, labels, tmp_path):
    records = load_folder(labels)
    captions = [f"room {source[0]}" for source in records["source"]]
    (tmp_path / "captioned").mkdir()
    records.add_column("caption", captions).to_parquet(tmp_path / "captioned" / "part-0.parquet")
    captioned = ["--labels", str(tmp_path / "captioned"), "--caption-column", "caption", "--empty-prompts", "0"]
    run = script.Run(script.make_parser().parse_args([*arguments(tmp_path / "out"), *captioned]))
    run.resume()
    read = [prompt for _ in range(3) for prompt in next(run.reader)["prompts"]]
    assert sorted(read) == sorted(captions)
    assert run.example["prompts"] == captions[:1]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["2", "9"])  # there are three shards
def test_worker_processes_read_the_shards(script, arguments, tmp_path, workers):
    script.main([*arguments(tmp_path), "--steps", "2", "--workers", workers])
    assert all(np.isfinite(losses(tmp_path)))


@pytest.mark.slow
def test_errors(script, arguments, bases, tmp_path, monkeypatch):
    other = save_controlnet(tmp_path / "other", bases["sdxl"])
    with pytest.raises(ValueError, match="other was trained for another base model"):
        script.main(arguments(tmp_path, "--controlnet", other))
    with pytest.raises(ValueError, match="--resolution is 24; this base model takes multiples of 16"):
        script.main(arguments(tmp_path, "--resolution", "24"))
    with pytest.raises(FileNotFoundError, match="pseudo-label"):
        script.main([*arguments(tmp_path), "--labels", str(tmp_path)])
    base = save_base(tmp_path / "sample", "sd", "sample")
    with pytest.raises(ValueError, match=r"predicts 'sample'; supported are 'epsilon' and 'v_prediction'"):
        script.main([*arguments(tmp_path), "--base", base])
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"depth_anything_hf\[controlnet\]"):
        script.main(arguments(tmp_path))


def test_help_teaches(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--help"])
    text = capsys.readouterr().out
    assert "accelerate launch" in text
    assert "--caption-column" in text
