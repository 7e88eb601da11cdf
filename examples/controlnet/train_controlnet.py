"""Train a depth-conditioned ControlNet on photographs labeled by `depth-anything-hf pseudo-label`.

    depth-anything-hf pseudo-label --model depth-anything/Depth-Anything-V2-Small-hf --images photos --out labels
    accelerate launch --mixed_precision bf16 examples/controlnet/train_controlnet.py --labels labels --out controlnet

A run may be stopped at any moment; the same command continues from its last checkpoint. More: docs/controlnet.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from control_collator import ControlCollator
from PIL import Image
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from depth_anything_hf.data.folder import stream_folder
from depth_anything_hf.pictures.visualization import sheet
from depth_anything_hf.training.batches import BatchReader, StreamPosition, generator_at, max_workers

EXAMPLE = """example, with your own captions, starting from a published ControlNet:
  accelerate launch --mixed_precision bf16 examples/controlnet/train_controlnet.py --labels labels --caption-column caption \\
      --controlnet lllyasviel/control_v11f1p_sd15_depth --out controlnet

--out becomes a ControlNet that diffusers loads, with log.jsonl, samples/ and the last checkpoint beside it.
"""
_FREE = ("out", "steps", "save_every", "sample_every")  # may change when a run continues
_DRAWS_OF_A_STEP = 7  # apart from the numbers from which the stream draws


def make_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        description="Train a depth-conditioned ControlNet on labeled photographs.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--labels", nargs="+", required=True, metavar="DIR", help="folders of parquet shards in the record schema")
    add("--out", type=Path, required=True, metavar="DIR", help="output folder; an unfinished run there is continued")
    add(
        "--base",
        default="stable-diffusion-v1-5/stable-diffusion-v1-5",
        help="Stable Diffusion or SDXL: Hub id or folder; not changed (default: %(default)s)",
    )
    add("--controlnet", help="ControlNet to start from (default: a copy of the base's encoder)")
    add("--resolution", type=int, default=512, help="side of the square crops in pixels (default: %(default)s)")
    add("--steps", type=int, default=20000, help="optimizer steps in total (default: %(default)s)")
    add("--batch-size", type=int, default=4, help="photographs per device and forward pass (default: %(default)s)")
    add("--accumulate", type=int, default=1, help="forward passes per optimizer step (default: %(default)s)")
    add("--learning-rate", type=float, default=1e-5, help="constant learning rate of AdamW (default: %(default)s)")
    add("--prompt", default="", help="the prompt of every photograph (default: none)")
    add("--caption-column", help="column of the prompts in the records")
    add("--empty-prompts", type=float, default=0.5, help="share of prompts left out (default: %(default)s)")
    add("--gradient-checkpointing", action="store_true", help="compute more to use less memory")
    add("--save-every", type=int, default=500, help="steps between checkpoints (default: %(default)s)")
    add("--sample-every", type=int, default=500, help="steps between sample pictures (default: %(default)s)")
    add(
        "--workers",
        type=int,
        default=4,
        help="processes that read; each needs at least one shard (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="seed of all random values (default: %(default)s)")
    return parser


def load_pipeline(base: str, controlnet: str | None, device: torch.device, dtype: torch.dtype):
    """Load a frozen base model, with a ControlNet in float32 to train.

    Args:
        base: Hub id or folder of Stable Diffusion or SDXL, which decides the pipeline.
        controlnet: Hub id or folder; None = a copy of the base's encoder, behind zero convolutions.
        device: Of all.
        dtype: Of the frozen UNet and text encoders; the autoencoder, which overflows in float16, stays in float32.
    """
    try:
        from diffusers import AutoPipelineForText2Image, ControlNetModel, UNet2DConditionModel
    except ImportError as error:
        raise ImportError('a ControlNet needs diffusers: pip install "depth_anything_hf[controlnet]".') from error

    if controlnet is None:
        network = ControlNetModel.from_unet(UNet2DConditionModel.from_pretrained(base, subfolder="unet"))
    else:
        network = ControlNetModel.from_pretrained(controlnet)
    dtypes = {"default": dtype, "vae": torch.float32}
    pipe = AutoPipelineForText2Image.from_pretrained(base, controlnet=network, torch_dtype=dtypes).to(device)
    if network.config.cross_attention_dim != pipe.unet.config.cross_attention_dim:
        raise ValueError(f"{controlnet} was trained for another base model than {base}; choose one of this base.")
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(part is network).train(part is network)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise_schedule(pipe, resolution: int):
    """Return the `DDPMScheduler` of the base model's training, and check that crops of this size fit it."""
    from diffusers import DDPMScheduler

    multiple = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    if resolution < 1 or resolution % multiple:
        raise ValueError(f"--resolution is {resolution}; this base model takes multiples of {multiple}.")
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    if schedule.config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"the base model predicts {schedule.config.prediction_type!r}; supported are 'epsilon' and 'v_prediction': "
            "choose another base."
        )
    return schedule


@torch.no_grad()
def encode_prompts(pipe, prompts: list[str], time_ids: torch.Tensor) -> tuple[torch.Tensor, dict | None]:
    """Encode prompts as the pipeline does for generation: `(batch, tokens, width)`, and the further conditions of SDXL."""
    how = {"device": pipe.unet.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    embeds, _, *pooled = pipe.encode_prompt(prompts, **how)
    if not pooled:
        return embeds, None
    text_embeds = pooled[0]
    if pipe.config.force_zeros_for_empty_prompt:  # what guidance is away from, when a picture is generated
        said = torch.tensor([prompt != "" for prompt in prompts], device=embeds.device)
        embeds, text_embeds = embeds * said[:, None, None], text_embeds * said[:, None]
    return embeds, {"text_embeds": text_embeds, "time_ids": time_ids.to(embeds)}


def denoising_loss(pipe, network: nn.Module, schedule, batch: dict, generator: torch.Generator) -> torch.Tensor:
    """Compare the frozen UNet's prediction, steered by the ControlNet, with the noise that was added.

    Args:
        pipe: Holds the frozen parts.
        network: The ControlNet, prepared for training.
        schedule: From `noise_schedule`.
        batch: From `ControlCollator`.
        generator: On the CPU; of the noise and the timesteps.

    Returns:
        The mean squared error, float32.

    Source: Adding Conditional Control to Text-to-Image Diffusion Models, eq. 5; velocity: Progressive Distillation,
    appendix D.
    """
    device = pipe.vae.device
    embeds, added = encode_prompts(pipe, batch["prompts"], batch["time_ids"])
    with torch.no_grad():
        latents = pipe.vae.encode(batch["pixel_values"].to(device)).latent_dist.sample(generator)
    latents = latents * pipe.vae.config.scaling_factor  # (batch, 4, side / 8, side / 8)
    noise = torch.randn(latents.shape, generator=generator).to(device)
    steps = torch.randint(schedule.config.num_train_timesteps, latents.shape[:1], generator=generator).to(device)
    noisy = schedule.add_noise(latents, noise, steps).to(embeds.dtype)
    common = {"encoder_hidden_states": embeds, "added_cond_kwargs": added, "return_dict": False}
    control = batch["control"].to(device, embeds.dtype)
    down, middle = network(noisy, steps, controlnet_cond=control, **common)
    residuals = {
        "down_block_additional_residuals": [residual.to(embeds.dtype) for residual in down],
        "mid_block_additional_residual": middle.to(embeds.dtype),
    }
    (prediction,) = pipe.unet(noisy, steps, **common, **residuals)
    velocity = schedule.config.prediction_type == "v_prediction"
    target = schedule.get_velocity(latents, noise, steps) if velocity else noise
    return F.mse_loss(prediction.float(), target.float())


def last_checkpoint(out: Path) -> Path | None:
    """Find the newest checkpoint of a run."""
    return max(out.glob("checkpoint-*"), key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@torch.no_grad()
def paint_sample(pipe, batch: dict, seed: int, heading: str) -> Image.Image:
    """Generate a picture with the current ControlNet, and show it beside the photograph and the control image."""
    trained, generator = pipe.controlnet, torch.Generator().manual_seed(seed)
    still = type(trained).from_config(trained.config)
    still.load_state_dict(trained.state_dict())
    pipe.controlnet = nn.Module.to(still, pipe.unet.device, pipe.unet.dtype)  # the trained one answers in float32
    latents = pipe(
        batch["prompts"], image=batch["control"], num_inference_steps=20, generator=generator, output_type="latent"
    ).images
    pipe.controlnet = trained
    decoded = pipe.vae.decode(latents.float() / pipe.vae.config.scaling_factor).sample
    painted = pipe.image_processor.postprocess(decoded, "pil")[0]
    photo, control = ((batch["pixel_values"][0] + 1) / 2, batch["control"][0])
    shown = [(planes.movedim(0, -1) * 255).round().byte().numpy() for planes in (photo, control)]
    return sheet([[*shown, painted]], ["photograph", "control image", heading], cell=(384, 384))


class Run:
    """Run a training by the options of the command line: its state, steps, checkpoints and samples."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.accelerator = Accelerator(gradient_accumulation_steps=options.accumulate)
        precision, rank, processes = (
            getattr(self.accelerator, name) for name in ("mixed_precision", "process_index", "num_processes")
        )
        self.settings = {name: value for name, value in vars(options).items() if name not in _FREE}
        self.settings |= {"mixed_precision": precision, "processes": processes}
        torch.manual_seed(options.seed)  # of the layers that read the control image
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
        self.pipe = load_pipeline(options.base, options.controlnet, self.accelerator.device, dtype)
        self.schedule = noise_schedule(self.pipe, options.resolution)
        if options.gradient_checkpointing:
            self.pipe.unet.enable_gradient_checkpointing()
            self.pipe.controlnet.enable_gradient_checkpointing()
        optimizer = torch.optim.AdamW(self.pipe.controlnet.parameters(), lr=options.learning_rate)
        self.network, self.optimizer = self.accelerator.prepare(self.pipe.controlnet, optimizer)
        self.stream = stream_folder(*options.labels, seed=options.seed)
        self.batches = BatchReader(self.stream, None, (options.batch_size, 0), options.seed, rank, processes)
        self.workers = min(options.workers, max_workers(self.stream, processes))
        self.position = StreamPosition(self.batches, self.workers)

    def resume(self) -> int:
        """Continue from the last checkpoint, if there is one, and return the number of finished steps."""
        checkpoint = last_checkpoint(self.options.out)
        if checkpoint is not None:
            self._check_settings(_read(checkpoint / "run_0.json")["settings"])
            self.accelerator.load_state(checkpoint)
            self.position.load_state_dict(_read(self._run_file(checkpoint))["position"])
        self.batches.resume(self.position)
        view = (self.options.resolution, self.options.prompt, self.options.caption_column)
        collate = ControlCollator(*view, self.options.empty_prompts)
        self.reader = iter(self.batches.loader(collate, num_workers=self.workers))
        self.example = ControlCollator(*view, 0.0)([{**next(iter(self.stream)), "draw_seed": self.options.seed}])
        return 0 if checkpoint is None else _step_of(checkpoint)

    def _check_settings(self, begun: dict) -> None:
        now = self.settings
        changed = [f"{name}: {begun.get(name)} then, {now[name]} now" for name in now if begun.get(name) != now[name]]
        if changed:
            raise ValueError(
                f"{self.options.out} was begun with other settings ({'; '.join(changed)}); use those to continue, or "
                "train into a new folder."
            )

    def step(self, number: int) -> float:
        """Take an optimizer step and return its loss over all processes; its random values follow from its number."""
        total = torch.zeros((), device=self.accelerator.device)
        for part in range(self.options.accumulate):
            batch = next(self.reader)
            self.position.update(*batch["stream_position"])
            place = (_DRAWS_OF_A_STEP, number, part, self.accelerator.process_index + 1)
            with self.accelerator.accumulate(self.network):
                generator = generator_at(self.options.seed, *place)
                loss = denoising_loss(self.pipe, self.network, self.schedule, batch, generator)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += loss.detach() / self.options.accumulate
        return self.accelerator.reduce(total, "mean").item()

    def save(self, number: int) -> None:
        """Write a checkpoint, in all processes, and remove the one before."""
        out, everyone = self.options.out, self.accelerator.wait_for_everyone
        before, partial = last_checkpoint(out), out / ".partial"
        everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        everyone()
        self.accelerator.save_state(partial)
        run = {"settings": self.settings, "position": self.position.state_dict()}
        self._run_file(partial).write_text(json.dumps(run), encoding="utf-8")
        everyone()
        if self.accelerator.is_main_process:
            partial.rename(out / f"checkpoint-{number}")  # only a whole one has this name
            if before is not None:
                shutil.rmtree(before)
        everyone()

    def _run_file(self, checkpoint: Path) -> Path:
        return checkpoint / f"run_{self.accelerator.process_index}.json"

    def sample(self, number: int) -> None:
        """Write a sample, always of the same photograph and noise."""
        if self.accelerator.is_main_process:
            (self.options.out / "samples").mkdir(exist_ok=True)
            page = paint_sample(self.pipe, self.example, self.options.seed, f"step {number}")
            page.save(self.options.out / "samples" / f"{number:06d}.png")


def main(arguments: list[str] | None = None) -> int:
    """Train, or continue, until all steps are done."""
    options = make_parser().parse_args(arguments)
    run = Run(options)
    done, main_process = run.resume(), run.accelerator.is_main_process
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "log.jsonl"
    if main_process:  # steps after the checkpoint are done again
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
        log.write_text("".join(lines[:done]), encoding="utf-8")
    bar = tqdm(total=options.steps, initial=done, desc="train", unit="step", disable=not main_process)
    for number in range(done + 1, options.steps + 1):
        loss = run.step(number)
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        bar.update()
        if main_process:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": number, "loss": loss}) + "\n")
        if number % options.sample_every == 0:
            run.sample(number)
        if number % options.save_every == 0 or number == options.steps:
            run.save(number)
    bar.close()
    if main_process:
        run.pipe.controlnet.save_pretrained(options.out)
        print(f"{max(done, options.steps)} steps done; the ControlNet is in {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
