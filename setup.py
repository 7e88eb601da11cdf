"""Packaging of depth_anything_hf."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
# The one place of all bounds. `.ci/lowest` tests the lower ones; the upper ones end before the next release that may break
# what worked: by semantic versions a major one, for 0.x at least 1.0.
extras = {
    "app": ["gradio>=6,<7"],
    "benchmarks": ["h5py>=3.11,<4", "OpenEXR>=3.3,<4", "scipy>=1.13,<2"],
    "controlnet": ["diffusers>=0.37,<1"],
    "lmdb": ["lmdb>=1.4,<4"],
    "onnx": ["onnx>=1.18,<2", "onnxruntime>=1.22,<2", "onnxscript>=0.5,<1"],
    "point-cloud": ["trimesh>=4.6,<6"],
    "video": ["av>=17,<19"],
}
every_extra = [requirement for requirements in extras.values() for requirement in requirements]
version = re.search(r'__version__ = "(.+)"', (root / "src/depth_anything_hf/version.py").read_text()).group(1)

setup(
    name="depth_anything_hf",
    version=version,
    description="Train, label with, measure and share Depth Anything in the Hugging Face ecosystem",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"depth_anything_hf": ["py.typed", "sharing/templates/*.md", "model/mini/*"]},
    install_requires=[
        "torch>=2.6,<3",
        "transformers>=5.20,<6",
        "accelerate>=1.10,<2",
        "datasets>=5.1,<6",
        "huggingface_hub>=2.2,<3",
        "safetensors>=0.8,<1",
        "evaluate>=0.4.5,<1",
        "peft>=0.20,<1",
        "kornia>=0.9,<1",
        "numpy>=2.0,<3",
        "Pillow>=11.3,<13",
        "PyYAML>=6.0,<7",
    ],
    extras_require={
        **extras,
        "dev": ["build>=1.2", "mypy>=1.15", "pre-commit>=4", "ruff==0.17.6", "twine>=6.1"],
        "docs": ["latex2mathml>=3.77", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=1,<2"],
        "test": ["pytest>=8", "pytest-xdist>=3.2", "ruff==0.17.6", "playwright>=1.50", "pycolmap>=4", *every_extra],
    },
    entry_points={"console_scripts": ["depth-anything-hf=depth_anything_hf.cli.main:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
