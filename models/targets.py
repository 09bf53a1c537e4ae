"""What a config may name under `_target_`: NeMo's class paths and ours, for the same class.

Importing this module registers the table. A path that isn't here builds nothing, so a config can't run other code.
"""

from collections.abc import Callable

from core.connectors.nemo_config import register_own_options
from core.targets import register_targets
from losses.ssl_losses.mlm import MLMLoss, MultiMLMLoss
from modules.audio_preprocessing import (
    AudioToMelSpectrogramPreprocessor,
    AudioToMFCCPreprocessor,
    SpectrogramAugmentation,
)
from modules.conformer_encoder import ConformerEncoder
from modules.ssl_modules import (
    MultiSoftmaxDecoder,
    MultiSpeakerNoiseAugmentation,
    RandomBlockMasking,
    RandomProjectionVectorQuantizer,
    SpeakerNoiseAugmentation,
)

# class: our module, and the packages of NeMo 2.x and 3.0 that export it
CLASSES: dict[type, tuple[str, ...]] = {
    AudioToMelSpectrogramPreprocessor: ("modules.audio_preprocessing", "modules"),
    AudioToMFCCPreprocessor: ("modules.audio_preprocessing", "modules"),
    SpectrogramAugmentation: ("modules.audio_preprocessing", "modules"),
    ConformerEncoder: ("modules.conformer_encoder", "modules"),
    RandomProjectionVectorQuantizer: ("modules.ssl_modules.quantizers", "modules.ssl_modules", "modules"),
    RandomBlockMasking: ("modules.ssl_modules.masking", "modules.ssl_modules", "modules"),
    MultiSoftmaxDecoder: ("modules.ssl_modules.multi_softmax_decoder", "modules.ssl_modules", "modules"),
    SpeakerNoiseAugmentation: ("modules.ssl_modules.augmentation", "modules.ssl_modules", "modules"),
    MultiSpeakerNoiseAugmentation: ("modules.ssl_modules.augmentation", "modules.ssl_modules", "modules"),
    MLMLoss: ("losses.ssl_losses.mlm", "losses.ssl_losses", "losses"),
    MultiMLMLoss: ("losses.ssl_losses.mlm", "losses.ssl_losses", "losses"),
}


# constructor arguments that NeMo 3.0.0 doesn't take, with the value that is its way
OWN_OPTIONS: dict[type, dict[str, object]] = {
    AudioToMelSpectrogramPreprocessor: {"max_duration": 16.7},
    ConformerEncoder: {"conv_dual_mode": False},
    RandomBlockMasking: {"min_masks": 0, "detach": True},
}


def nemo_model_paths(name: str) -> tuple[str, str]:
    """NeMo's spellings of a model's class, the one that it writes first."""
    return f"nemo.collections.asr.models.ssl_models.{name}", f"nemo.collections.asr.models.{name}"


def paths_of(packages: tuple[str, ...], name: str) -> list[str]:
    """Every spelling of a class: our path, and NeMo's with each package that exports it."""
    return [f"{prefix}{package}.{name}" for package in packages for prefix in ("", "nemo.collections.asr.")]


TARGETS: dict[str, Callable] = {
    path: cls for cls, packages in CLASSES.items() for path in paths_of(packages, cls.__name__)
}

register_targets(TARGETS)
register_own_options(OWN_OPTIONS)
