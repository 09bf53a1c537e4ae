"""What importing the models costs: no heavy package beyond torch and Lightning is loaded with them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("librosa", "scipy", "matplotlib", "hydra", "soundfile", "torchaudio", "wandb", "tensorboard", "safetensors")


def modules_after(code: str) -> set[str]:
    program = f"{code}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_the_models_load_no_heavy_package_that_lightning_does_not():
    base = modules_after("import torch, lightning.pytorch")
    ours = modules_after("import torch, lightning.pytorch, models.ssl_models")
    assert "models" in ours
    assert not (ours - base) & set(HEAVY)
