"""What every format can hold of a model: its preprocessor and its encoder."""

from omegaconf import DictConfig, OmegaConf
from torch import nn

from core.classes.serialization import from_config_dict
from core.connectors.initial_weights import Part, Weights, load_matching
from core.connectors.save_restore import class_for, load_whole
from core.connectors.size_limits import no_larger_than_file
from models.ssl_models import EncDecDenoiseMaskedTokenPredModel, EncDecMaskedTokenPredModel
from tools.conversion.encoder_file import MASK, encoder_weights, wrapped_names
from utils.logging import logger

SECTIONS = ("preprocessor", "encoder")
NO_AUGMENTATION = {  # a section that NeMo's encoder files have
    "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
    "freq_masks": 0,
    "time_masks": 0,
}


class SpeechEncoder(nn.Module):
    """Waveform -> features -> encoder states, in evaluation.

    cfg: the `model` section of a config; of it `sample_rate`, `preprocessor` and `encoder` are kept, as `self.cfg`.
    """

    def __init__(self, cfg: DictConfig):
        super().__init__()
        missing = [name for name in SECTIONS if cfg.get(name) is None]
        if missing:
            raise ValueError(f"model.{missing[0]} is missing in the config: it says how the encoder is built")
        sections = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in SECTIONS}
        self.cfg = OmegaConf.create(
            {"sample_rate": cfg.preprocessor.get("sample_rate", 16000), "spec_augment": NO_AUGMENTATION, **sections}
        )
        self.preprocessor = from_config_dict(self.cfg.preprocessor, path="model.preprocessor")
        self.encoder = from_config_dict(self.cfg.encoder, path="model.encoder")
        self.eval()


def build_model(weights: Weights) -> nn.Module:
    """The model of a file: a whole one if it is one of ours, else its encoder, as of NeMo's speech recognition models.

    Raises ValueError, in one line, for a file that says no config, or whose weights are those of another one.
    """
    if weights.config is None:
        raise ValueError(f"{weights.source} says nothing of the model's config: convert the file that it came from")
    if not is_whole(weights):
        left_out = sorted({name.partition(".")[0] for name in weights.state_dict} - {*SECTIONS})
        if left_out:
            logger.warning(f"{weights.source} is no NEST model: its {', '.join(left_out)} left out, its encoder read")
        return build_encoder(weights)
    target = weights.config.get("target") or EncDecDenoiseMaskedTokenPredModel.nemo_paths[0]  # what train.py trains
    cls = class_for(EncDecMaskedTokenPredModel, target, weights.source)
    with no_larger_than_file(weights.config, weights.state_dict, weights.source):
        model = cls(cfg=weights.config)
    load_whole(model, weights.state_dict, True, weights.source)
    return model.eval()


def is_whole(weights: Weights) -> bool:
    """Whether the file holds a pretraining model, and not an encoder alone or with the decoder of another task."""
    return "quantizer" in weights.config and any(name.startswith("quantizer.") for name in weights.state_dict)


def build_encoder(weights: Weights) -> SpeechEncoder:
    """The encoder of a file that may hold more."""
    with no_larger_than_file(weights.config, weights.state_dict, weights.source):
        model = SpeechEncoder(weights.config)
    state = model.preprocessor.state_dict(prefix="preprocessor.") | encoder_weights(weights.state_dict)
    load_whole(model, state, True, weights.source)
    return model


def encoder_of(model: nn.Module) -> SpeechEncoder:
    """A model's preprocessor and encoder alone."""
    if isinstance(model, SpeechEncoder):
        return model
    return build_encoder(Weights(model.state_dict(), model.cfg, type(model).__name__))


def with_encoder(base: nn.Module, model: nn.Module, source: str) -> nn.Module:
    """`base` with the encoder's weights of `model` in place of its own."""
    if isinstance(base, SpeechEncoder):
        raise ValueError("--base holds an encoder only: give a whole model, whose encoder is to be replaced")
    state = encoder_of(model).encoder.state_dict(prefix="encoder.")
    if base.pre_encoder is not None:
        state = wrapped_names(state)
    state = {name.removeprefix("encoder."): tensor for name, tensor in state.items()}
    report = load_matching(base.encoder, state, Part(source))
    if report.unexpected or any(not f"encoder.{name}".startswith(MASK) for name in report.missing):
        raise ValueError(f"{source} isn't an encoder of the model in --base: {report.problem()}")
    return base
