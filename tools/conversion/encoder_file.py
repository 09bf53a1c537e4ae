"""A pretrained encoder as a file that NeMo's ASR models take it from: `init_from_nemo_model`, `include: [encoder]`."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.connectors.nemo_config import to_nemo
from core.connectors.nemo_file import write_nemo
from models.ssl_models import EncDecMaskedTokenPredModel

# NeMo builds the model of a file that weights are taken from. Of those it has, this one needs the fewest parts: with no
# losses it is a preprocessor and an encoder.
HOLDER = "nemo.collections.asr.models.ssl_models.SpeechEncDecSelfSupervisedModel"
PARTS = ("preprocessor.", "encoder.")
SECTIONS = ("sample_rate", "preprocessor", "spec_augment", "encoder")
PLAIN = "encoder.pre_encode."
WRAPPED, MASK = "encoder.pre_encode.pre_encode.", "encoder.pre_encode.masking."  # with mask_position=post_conv


def save_encoder(model: EncDecMaskedTokenPredModel, path: str | Path) -> None:
    """Write preprocessor and encoder of a model as a .nemo file; quantizer, mask and decoder stay behind.

    The encoder has the names of an ASR model's, whether it was trained with pre_conv or with post_conv masking: from
    the .nemo file of a whole post_conv model NeMo 3.0.0 would leave the subsampling out, and not say so.
    """
    write_nemo(path, encoder_config(model.cfg), encoder_weights(model.state_dict()))


def encoder_config(cfg: DictConfig) -> DictConfig:
    """The config of a file that holds the encoder of a model with this config."""
    sections = {key: value for key, value in OmegaConf.to_container(cfg, resolve=True).items() if key in SECTIONS}
    return to_nemo(sections | {"loss_list": {}}, HOLDER)[0]


def encoder_weights(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of preprocessor and encoder, under the names that they have without masking."""
    kept = {name: t for name, t in state_dict.items() if name.startswith(PARTS) and not name.startswith(MASK)}
    return {name.replace(WRAPPED, PLAIN, 1): t.detach().cpu() for name, t in kept.items()}


def wrapped_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The way back: tensors without masking, under the names that they have with mask_position=post_conv."""
    return {name.replace(PLAIN, WRAPPED, 1): tensor for name, tensor in state_dict.items()}
