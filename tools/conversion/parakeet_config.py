"""Options of our encoder and preprocessor, and of transformers' ParakeetEncoder and ParakeetFeatureExtractor.

Names on the left of a table are ours, which are NeMo's; those on the right are transformers'.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from modules.audio_preprocessing import AudioToMelSpectrogramPreprocessor
from modules.conformer_encoder import ConformerEncoder
from tools.conversion.speech_encoder import SpeechEncoder
from tools.conversion.transformers_package import transformers
from utils.logging import logger

if TYPE_CHECKING:
    from transformers import ParakeetEncoderConfig, ParakeetFeatureExtractor

MODEL_TYPE, EXTRACTOR_TYPE = "parakeet_encoder", "ParakeetFeatureExtractor"
ENCODER_OPTIONS = {
    "feat_in": "num_mel_bins",
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "conv_kernel_size": "conv_kernel_size",
    "subsampling_factor": "subsampling_factor",
    "xscaling": "scale_input",
    "pos_emb_max_len": "max_position_embeddings",
    "dropout": "activation_dropout",  # what each acts on there, not what it is called
    "dropout_pre_encoder": "dropout",
    "dropout_emb": "dropout_positions",
    "dropout_att": "attention_dropout",
}
ENCODER_NEEDS = {  # the only values that ParakeetEncoder has
    "subsampling": "dw_striding",
    "causal_downsampling": False,
    "reduction": None,
    "self_attention_model": "rel_pos",
    "att_context_size": [-1, -1],
    "untie_biases": True,
    "conv_norm_type": "batch_norm",
    "conv_context_size": None,
    "feat_out": -1,
}
PARAKEET_NEEDS = {  # the only values that our encoder has
    "hidden_act": "silu",
    "subsampling_conv_kernel_size": 3,
    "subsampling_conv_stride": 2,
}
LARGEST_NUMBERS = {  # of theirs; no model comes near, and a stranger's file may say anything
    "num_mel_bins": 2**10,
    "num_hidden_layers": 2**10,
    "hidden_size": 2**16,
    "num_attention_heads": 2**10,
    "intermediate_size": 2**18,
    "conv_kernel_size": 2**10,
    "subsampling_factor": 2**6,
    "subsampling_conv_channels": 2**13,
    "max_position_embeddings": 2**17,
}
FLAGS = ("scale_input", "attention_bias", "convolution_bias")
PROBABILITIES = ("activation_dropout", "dropout", "dropout_positions", "attention_dropout", "layerdrop")
PARAKEET_OPTIONS = (*LARGEST_NUMBERS, *FLAGS, *PROBABILITIES, *PARAKEET_NEEDS)
LARGEST_FEATURES = {  # the same for a feature extractor
    "feature_size": 2**10,
    "sampling_rate": 10**6,
    "hop_length": 2**16,
    "n_fft": 2**16,
    "win_length": 2**16,
}
FEATURE_NEEDS = {  # the only values that ParakeetFeatureExtractor has
    "window": "hann",
    "normalize": "per_feature",
    "lowfreq": 0,
    "log": True,
    "log_zero_guard_type": "add",
    "log_zero_guard_value": 2**-24,
    "frame_splicing": 1,
    "exact_pad": False,
    "pad_value": 0,
    "mag_power": 2.0,
    "mel_norm": "slaney",
}
IN_TRAINING_ONLY = {  # options that the other side hasn't; what they must be for nothing to be lost
    "encoder": {"stochastic_depth_drop_prob": 0.0},
    "preprocessor": {"dither": 0.0, "nb_augmentation_prob": 0.0},
}


# ours to theirs


def to_parakeet_config(model: SpeechEncoder) -> "ParakeetEncoderConfig":
    """The config of the ParakeetEncoder that computes the same."""
    ParakeetEncoderConfig = transformers().ParakeetEncoderConfig

    options = with_defaults(ConformerEncoder, model.cfg.encoder)
    encoder = model.encoder
    half = options["conv_kernel_size"] // 2
    said_otherwise = {  # several spellings of what ParakeetEncoder has
        "att_context_size": encoder.att_context_size_all == [[-1, -1]],
        "conv_context_size": encoder.conv_context_size == [half, half],
        "feat_out": encoder._feat_out == encoder.d_model,
    }
    options |= {name: ENCODER_NEEDS[name] for name, is_same in said_otherwise.items() if is_same}
    check_values(options, ENCODER_NEEDS, "encoder", "ParakeetEncoder")
    factor, bins = options["subsampling_factor"], options["feat_in"]
    if factor == 1 or bins % factor:
        raise ValueError(
            f"model.encoder.subsampling_factor={factor} with feat_in={bins}: ParakeetEncoder has factors above 1 that "
            "divide the mel bins only"
        )
    if not options["use_bias"] and not hasattr(ParakeetEncoderConfig(), "convolution_bias"):
        raise ValueError("model.encoder.use_bias=false needs transformers 5: pip install 'transformers>=5'")
    return ParakeetEncoderConfig(
        **{theirs: options[ours] for ours, theirs in ENCODER_OPTIONS.items()},
        intermediate_size=options["d_model"] * options["ff_expansion_factor"],
        subsampling_conv_channels=encoder.pre_encode.conv_channels,
        attention_bias=options["use_bias"],
        convolution_bias=options["use_bias"],
        layerdrop=0.0,
    )


def to_extractor(model: SpeechEncoder) -> "ParakeetFeatureExtractor":
    """The feature extractor that computes the same features, without dither and without padding to a multiple."""
    ParakeetFeatureExtractor = transformers().ParakeetFeatureExtractor

    if not isinstance(model.preprocessor, AudioToMelSpectrogramPreprocessor):
        raise ValueError(
            f"model.preprocessor is {type(model.preprocessor).__name__}: ParakeetFeatureExtractor computes log-mel "
            "features only"
        )
    options = with_defaults(AudioToMelSpectrogramPreprocessor, model.cfg.preprocessor)
    featurizer = model.preprocessor.featurizer
    options["log_zero_guard_value"] = featurizer.log_zero_guard_value
    check_values(options, FEATURE_NEEDS, "preprocessor", EXTRACTOR_TYPE)
    if options["highfreq"] not in (None, 0, featurizer.sample_rate / 2):
        raise ValueError(f"model.preprocessor.highfreq={options['highfreq']} must be null for {EXTRACTOR_TYPE}")
    return ParakeetFeatureExtractor(
        feature_size=options["features"],
        sampling_rate=featurizer.sample_rate,
        hop_length=featurizer.hop_length,
        n_fft=featurizer.n_fft,
        win_length=featurizer.win_length,
        preemphasis=featurizer.preemph,
        padding_value=0.0,
    )


def with_defaults(cls: type, config: Mapping) -> dict[str, object]:
    """All options of a class: the config's, else the constructor's defaults."""
    defaults = {
        name: None if parameter.default is parameter.empty else parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
    }
    return defaults | OmegaConf.to_container(config, resolve=True)


def check_values(options: Mapping, needs: Mapping, section: str, who: str) -> None:
    for name, needed in needs.items():
        if options[name] != needed:
            raise ValueError(
                f"model.{section}.{name}={options[name]!r}: {who} has {needed!r} only; convert to .nemo, "
                ".safetensors or .onnx instead"
            )


def tell_what_is_left_out(cfg: Mapping) -> None:
    for section, options in IN_TRAINING_ONLY.items():
        for name, nothing in options.items():
            if cfg[section].get(name, nothing) != nothing:
                logger.info(f"left out: {section}.{name}={cfg[section][name]}; it acts in training only")


# theirs to ours


def from_parakeet_config(section: Mapping, where: str) -> dict:
    """Our `encoder` section for the encoder that a ParakeetEncoder's config.json describes, read from `where`."""
    theirs = checked(section, where)
    if theirs["layerdrop"]:
        logger.info(f"left out: layerdrop={theirs['layerdrop']} of {where}; it acts in training only")
    return {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        **{ours: theirs[name] for ours, name in ENCODER_OPTIONS.items()},
        **ENCODER_NEEDS,
        "ff_expansion_factor": theirs["intermediate_size"] // theirs["hidden_size"],
        "subsampling_conv_channels": theirs["subsampling_conv_channels"],
        "use_bias": theirs["attention_bias"],
    }


def parakeet_config(section: Mapping, where: str) -> "ParakeetEncoderConfig":
    """What a section describes, with the options that we know: others might ask for anything."""
    ParakeetEncoderConfig = transformers().ParakeetEncoderConfig

    return ParakeetEncoderConfig(**checked(section, where))


def checked(section: Mapping, where: str) -> dict:
    """The options of a ParakeetEncoder, its defaults included. Raises ValueError for what our encoder can't be."""
    ParakeetEncoderConfig = transformers().ParakeetEncoderConfig

    if section.get("model_type", MODEL_TYPE) != MODEL_TYPE:
        raise ValueError(
            f"{where}: model_type={section['model_type']!r} is not {MODEL_TYPE!r}, alone or in a recogniser"
        )
    defaults = ParakeetEncoderConfig()
    theirs = {name: section.get(name, getattr(defaults, name, True)) for name in PARAKEET_OPTIONS}
    for name, needed in PARAKEET_NEEDS.items():
        if theirs[name] != needed:
            raise ValueError(f"{where}: {name}={theirs[name]!r}, and ConformerEncoder has {needed!r} only")
    check_numbers(theirs, LARGEST_NUMBERS, where)
    check_probabilities(theirs, PROBABILITIES, where)
    for name in FLAGS:
        if not isinstance(theirs[name], bool):
            raise ValueError(f"{where}: {name}={theirs[name]!r} must be true or false")
    if theirs["attention_bias"] != theirs["convolution_bias"]:
        raise ValueError(
            f"{where}: attention_bias={theirs['attention_bias']} and convolution_bias={theirs['convolution_bias']} "
            "differ, and ConformerEncoder has use_bias for both"
        )
    inner, outer = theirs["intermediate_size"], theirs["hidden_size"]
    if inner % outer:
        raise ValueError(
            f"{where}: intermediate_size={inner} is no multiple of hidden_size={outer}, as it must be here"
        )
    return theirs


def from_extractor(section: Mapping, where: str) -> dict:
    """Our `preprocessor` section for the features that a feature extractor's section describes, read from `where`."""
    theirs = extractor(section, where)
    rate = theirs.sampling_rate
    return {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "sample_rate": rate,
        **in_seconds("size", theirs.win_length, rate),
        **in_seconds("stride", theirs.hop_length, rate),
        "n_fft": theirs.n_fft,
        "features": theirs.feature_size,
        "preemph": theirs.preemphasis,
        **FEATURE_NEEDS,
    }


def extractor(section: Mapping, where: str) -> "ParakeetFeatureExtractor":
    """What a section describes, built with the options that we know. Raises ValueError for what ours can't be."""
    ParakeetFeatureExtractor = transformers().ParakeetFeatureExtractor

    kind = section.get("feature_extractor_type")
    if kind != EXTRACTOR_TYPE:
        raise ValueError(f"{where}: feature_extractor_type={kind!r} is not {EXTRACTOR_TYPE!r}")
    defaults = ParakeetFeatureExtractor()
    names = (*LARGEST_FEATURES, "preemphasis", "padding_value")
    theirs = {name: section.get(name, getattr(defaults, name)) for name in names}
    check_numbers(theirs, LARGEST_FEATURES, where)
    check_probabilities(theirs, ["preemphasis"], where)
    if theirs["win_length"] > theirs["n_fft"]:
        raise ValueError(f"{where}: win_length={theirs['win_length']} is more than n_fft={theirs['n_fft']}")
    if theirs["padding_value"] != 0.0:
        raise ValueError(f"{where}: padding_value={theirs['padding_value']!r}, and audio is padded with 0.0 only here")
    return ParakeetFeatureExtractor(**theirs)


def check_numbers(options: Mapping, largest: Mapping[str, int], where: str) -> None:
    for name, limit in largest.items():
        if type(options[name]) is not int or not 1 <= options[name] <= limit:
            raise ValueError(f"{where}: {name}={options[name]!r} must be a whole number from 1 to {limit}")


def check_probabilities(options: Mapping, names: Iterable[str], where: str) -> None:
    for name in names:
        if not isinstance(options[name], int | float) or not 0 <= options[name] <= 1:
            raise ValueError(f"{where}: {name}={options[name]!r} must be a number from 0 to 1")


def in_seconds(name: str, samples: int, rate: int) -> dict[str, float | int | None]:
    """`window_size` or `window_stride` as NeMo's configs give them; in samples where seconds would lose one."""
    if int(samples / rate * rate) == samples:
        return {f"window_{name}": samples / rate}
    return {f"window_{name}": None, f"n_window_{name}": samples}
