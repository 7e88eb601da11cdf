"""Packaging of depth_anything_hf."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
extras = {
    "app": ["gradio>=6,<7"],
    "benchmarks": ["h5py>=3.10", "scipy>=1.11"],
    "controlnet": ["diffusers>=0.37"],
    "lmdb": ["lmdb>=1.4"],
    "onnx": ["onnx>=1.18", "onnxruntime>=1.22", "onnxscript>=0.5"],
    "point-cloud": ["trimesh>=4.5"],
    "video": ["av>=17"],
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
        "torch>=2.6",
        "transformers>=5.18",
        "accelerate>=1.10",
        "datasets>=5.0",
        "huggingface_hub>=1.0",
        "safetensors>=0.5",
        "evaluate>=0.4.5",
        "peft>=0.20",
        "kornia>=0.8",
        "numpy>=1.26",
        "Pillow>=10.1",
        "PyYAML>=6.0",
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
