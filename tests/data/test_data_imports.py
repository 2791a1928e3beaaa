"""Start-up cost: torchvision (1.4 s) is imported only by those who need it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_reading_the_mnist_family_imports_no_torchvision(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from trainer.data import augment, batches, digits, image_folder, npz, preprocess, torchvision_sets\n"
        "from trainer.errors import DataError\n"
        "try:\n"
        f"    torchvision_sets.mnist(root={str(tmp_path)!r}, download=False)\n"
        "except DataError as error:\n"
        "    print(error)\n"
        "print(sorted(name for name in ('torchvision', 'sklearn', 'scipy') if name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mnist is not on disk" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
