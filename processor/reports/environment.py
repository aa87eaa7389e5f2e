"""Software and machine of a run, without names of the machine or its user."""

from __future__ import annotations

import os
import platform

import numpy as np
import PIL
import torch
import torchvision


def environment(device: str) -> dict[str, str]:
    """Versions and machine in words; ``device`` is what computed."""
    return {
        "device": device,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "NumPy": np.__version__,
        "Pillow": PIL.__version__,
    }
