"""Paint a photograph again with the same depth: Depth Anything, a ControlNet, and Stable Diffusion or SDXL.

    python examples/controlnet/controlnet_depth.py --image photo.jpg --prompt "a room of gingerbread" --out painted

The base checkpoint decides the pipeline. For more, including licenses, see docs/controlnet.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from depth_anything_hf.data.codes import read_photograph
from depth_anything_hf.maps.resizing import resized_size
from depth_anything_hf.pictures.control_image import to_control_image
from depth_anything_hf.pictures.visualization import sheet
from depth_anything_hf.prediction.devices import choose_device
from depth_anything_hf.prediction.predictor import DepthPredictor

EXAMPLE = """example, with SDXL:
  python examples/controlnet/controlnet_depth.py --image photo.jpg --prompt "a room of gingerbread" --out painted \\
      --base stabilityai/stable-diffusion-xl-base-1.0 --controlnet diffusers/controlnet-depth-sdxl-1.0

Writes NAME_control.png, NAME_SEED.png and NAME_SEED_sheet.png, which shows both beside the photograph.
"""


def make_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        description="Paint a photograph again with the same depth.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--image", type=Path, required=True, help="the photograph")
    parser.add_argument("--prompt", required=True, help="what to paint")
    parser.add_argument("--negative-prompt", help="what not to paint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--model",
        default="depth-anything/Depth-Anything-V2-Small-hf",
        help="depth model: Hub id or folder, relative or metric (default: %(default)s)",
    )
    parser.add_argument(
        "--base",
        default="stable-diffusion-v1-5/stable-diffusion-v1-5",
        help="Stable Diffusion or SDXL: Hub id or folder (default: %(default)s)",
    )
    parser.add_argument(
        "--controlnet",
        default="lllyasviel/control_v11f1p_sd15_depth",
        help="depth ControlNet for that base: Hub id or folder (default: %(default)s)",
    )
    parser.add_argument("--resolution", type=int, help="shorter side of the result in pixels (default: the base's)")
    parser.add_argument("--steps", type=int, default=30, help="denoising steps (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="weight of the control image (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed paints another picture (default: %(default)s)"
    )
    return parser


def load_pipeline(base: str, controlnet: str, device: str):
    """Load a base model with a ControlNet, in the pipeline that fits the base.

    Args:
        base: Hub id or folder of Stable Diffusion or SDXL.
        controlnet: Hub id or folder.
        device: "cuda": in float16, each part on the GPU only while it works; "cpu": in float32.

    Returns:
        A `StableDiffusionControlNetPipeline` or `StableDiffusionXLControlNetPipeline`.

    Raises:
        ValueError: The base is another kind of model, or the ControlNet was trained for another base.
    """
    try:
        from diffusers import AutoPipelineForText2Image, ControlNetModel, DiffusionPipeline
    except ImportError as error:
        raise ImportError('a ControlNet needs diffusers: pip install "depth_anything_hf[controlnet]".') from error

    index = DiffusionPipeline.load_config(base)
    if "unet" not in index:
        raise ValueError(
            f"{base} is a {index['_class_name']}; the base must have a UNet, as Stable Diffusion 1, 2 and XL have: choose "
            "one of these."
        )
    dtype = torch.float16 if device == "cuda" else torch.float32
    network = ControlNetModel.from_pretrained(controlnet, torch_dtype=dtype)
    pipe = AutoPipelineForText2Image.from_pretrained(base, controlnet=network, torch_dtype=dtype)
    widths = [part.config.cross_attention_dim for part in (network, pipe.unet)]
    if widths[0] != widths[1]:
        raise ValueError(
            f"{controlnet} reads prompts of {widths[0]} numbers a token, and {base} writes {widths[1]}: it was trained "
            "for another base model. Choose a ControlNet for this one."
        )
    if device == "cuda":
        pipe.enable_model_cpu_offload()
    return pipe


def generated_size(photo: Image.Image, pipe, resolution: int | None) -> tuple[int, int]:
    """Compute the height and width of the result: the photograph's aspect, in multiples that the network can halve.

    Args:
        photo: Photograph with the aspect.
        pipe: Pipeline with the multiple and the training size.
        resolution: Shorter side, pixels; None: the training size.
    """
    multiple = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    side = resolution or pipe.unet.config.sample_size * pipe.vae_scale_factor
    return resized_size(photo.height, photo.width, (side, side), multiple)


def main(arguments: list[str] | None = None) -> int:
    """Predict the depth, paint, and write the pictures."""
    options = make_parser().parse_args(arguments)
    device = choose_device().type
    photo = read_photograph(options.image)
    predictor = DepthPredictor(options.model, device=device)
    depth, space = predictor(photo), predictor.space
    del predictor
    pipe = load_pipeline(options.base, options.controlnet, device)
    height, width = generated_size(photo, pipe, options.resolution)
    control = to_control_image(depth, space, size=(height, width))
    result = pipe(
        options.prompt,
        image=control,
        height=height,
        width=width,
        negative_prompt=options.negative_prompt,
        num_inference_steps=options.steps,
        controlnet_conditioning_scale=options.scale,
        generator=torch.Generator().manual_seed(options.seed),  # on the CPU: the same noise on any device
    ).images[0]

    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.image.stem
    control.save(options.out / f"{stem}_control.png")
    result.save(options.out / f"{stem}_{options.seed}.png")
    columns = ["photograph", "control image", f"result, seed {options.seed}"]
    page = sheet([[photo, control, result]], columns, cell=(512, 512), captions=[options.prompt])
    page.save(options.out / f"{stem}_{options.seed}_sheet.png")
    print(f"{width} x {height} pixels painted with {type(pipe).__name__}; pictures in {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
