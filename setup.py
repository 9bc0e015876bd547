"""Packaging of mdf_detectron; requirements.txt pins the versions that are tested together."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "mdf_detectron" / "__init__.py").read_text()).group(1)

setup(
    name="mdf_detectron",
    version=VERSION,
    description="MDF-Net for Detectron2: detectors that read a chest radiograph and the clinical record",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mdf_detectron", "mdf_detectron.*"]),
    # mdf_detectron/configs links to configs/: a wheel holds the files
    package_data={
        "mdf_detectron": [
            "configs/*.yaml",
            "configs/*/*.yaml",
            "model_zoo/zoo.yaml",
            "model_zoo/weights/*",
            "report/templates/*.html",
            "experiments/plans/*.yaml",
        ],
    },
    entry_points={"console_scripts": ["mdf = mdf_detectron.cli:main"]},
    python_requires=">=3.10",
    # detectron2 is on no package index: `mdf install-detectron2`, or its source, see INSTALL.md
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "timm>=1.0",
        "huggingface-hub>=0.20",
        "fvcore>=0.1.5",
        "iopath>=0.1.9",
        "yacs>=0.1.8",
        "pycocotools>=2.0.7",
        "opencv-python>=4.8",
        "numpy>=1.26",
        "pandas>=2.2",
        "scipy>=1.11",
        "scikit-learn>=1.4",
        "matplotlib>=3.8",
        "Pillow>=10",
        "PyYAML>=6",
        "jinja2>=3.1",
        "tqdm>=4.66",
        "ImageHash>=4.3",
        "pydantic>=2.7",
        "filelock>=4.2",
    ],
    extras_require={
        "dicom": [
            "pydicom>=3.0",
            "pylibjpeg>=2.0",
            "pylibjpeg-openjpeg>=2.3",
            "pylibjpeg-rle>=2.0",
            "pyjpegls>=1.4",
            "python-gdcm>=3.0.24",
        ],
        "explain": ["captum>=0.7"],
        "serve": ["gradio>=6"],
        "sr": ["highdicom>=0.24"],
        "export": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.2"],
        "fusion": ["ensemble-boxes>=1.0.9"],
        "experiments": ["ensemble-boxes>=1.0.9", "submitit>=1.5"],
        "tables": ["openpyxl>=3.1", "pyarrow>=16"],
        "dev": ["pytest>=8", "playwright>=1.48", "pytest-xdist>=3.5", "hypothesis>=6.100", "ruff>=0.6"],
    },
)
