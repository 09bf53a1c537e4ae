"""What the `model` section of a config may say, and what post-subsampling masking makes of it."""

from collections.abc import Mapping

from omegaconf import DictConfig, OmegaConf

from core.connectors.initial_weights import INIT_FROM
from data.settings import check_dataset_keys
from utils.config_check import refuse_unknown_keys
from utils.logging import logger, warn_once

SIZES = {"sample_rate", "num_classes", "num_books", "code_dim", "squeeze_single", "mask_position"}
MODULES = {"preprocessor", "spec_augment", "masking", "quantizer", "encoder", "decoder", "loss"}
DATA = {"train_ds": (), "validation_ds": ("name", "val_dl_idx"), "test_ds": ("name", "test_dl_idx")}  # ModelPT's keys
OPTIMIZATION = {"optim", "optim_param_groups"}
START = {"restore_from": "train.py reads it; in Python call restore_from"} | dict.fromkeys(
    INIT_FROM, "it has no effect here, nor in NeMo 3.0.0: move it to the top level of the config"
)
WRITTEN_BY_NEMO = {"target", "nemo_version"}
UNUSED_BY_NEST = {
    "dropout_features": None,
    "dropout_features_q": None,
    "feature_penalty": None,
    "loss_list": None,
}
UNUSED_MASKS = ("freq_masks", "time_masks", "rect_masks")  # of spec_augment
KNOWN = SIZES | MODULES | set(DATA) | OPTIMIZATION | set(START) | WRITTEN_BY_NEMO | set(UNUSED_BY_NEST)
MASK_POSITIONS = ("pre_conv", "post_conv")
REPEATED = (  # said in two places of a config
    ("sample_rate", "preprocessor.sample_rate"),
    ("sample_rate", "train_ds.sample_rate"),
    ("sample_rate", "validation_ds.sample_rate"),
    ("sample_rate", "test_ds.sample_rate"),
    ("num_classes", "quantizer.num_classes"),
    ("num_books", "quantizer.num_books"),
    ("code_dim", "quantizer.code_dim"),
    ("squeeze_single", "quantizer.squeeze_single"),
    ("squeeze_single", "decoder.squeeze_single"),
    ("squeeze_single", "loss.squeeze_single"),
)
REPEATED_UNSPLICED = (("preprocessor.features", "encoder.feat_in"),)  # frame_splicing multiplies the features
REPEATED_IN_PRE_CONV = (("encoder.feat_in", "masking.feat_in"), ("encoder.feat_in", "quantizer.feat_in"))


def check_model_config(cfg: DictConfig) -> None:
    """Raise ValueError, in one line, for a `model` section that can't be right."""
    refuse_unknown_keys(cfg, KNOWN, "model")
    for key, remedy in START.items():
        if cfg.get(key) is not None:
            raise ValueError(f"model.{key}={cfg[key]}: {remedy}")
    for key in sorted(MODULES):
        if not isinstance(cfg.get(key), Mapping):
            raise ValueError(f"model.{key} is missing: take the section from config/nest_fast-conformer.yaml")
    for key, also in DATA.items():
        if cfg.get(key) is not None:
            check_dataset_keys(OmegaConf.to_container(cfg[key]), f"model.{key}", also)
    for key, neutral in UNUSED_BY_NEST.items():
        if cfg.get(key, neutral) != neutral:
            raise ValueError(f"model.{key}={cfg[key]} has no effect in NEST (NeMo 3.0.0 never reads it): remove it")
    for key in UNUSED_MASKS:
        if cfg.spec_augment.get(key, 0):
            raise ValueError(
                f"model.spec_augment.{key}={cfg.spec_augment[key]} has no effect in NEST "
                "(NeMo 3.0.0 builds the module and never calls it): set it to 0"
            )
    position = cfg.get("mask_position", "pre_conv")
    if position not in MASK_POSITIONS:
        raise ValueError(f"model.mask_position={position!r} is not one of {', '.join(MASK_POSITIONS)}")
    if not cfg.quantizer.get("freeze", True):
        warn_once("model.quantizer.freeze=false has no effect: codes carry no gradient")
    if position == "post_conv" and not cfg.masking.get("freeze", True) and cfg.masking.get("detach", True):
        warn_once("model.masking.freeze=false has no effect in post_conv mode, unless model.masking.detach=false")
    _check_sizes_agree(cfg)


def config_of_file(cfg: DictConfig, source: str) -> DictConfig:
    """A copy of a file's config without what NeMo doesn't read either, and without data that can't be read here.

    Files of NeMo 2.x and of other people's runs hold keys that a run of ours would refuse, and weights that are as
    good as any. What is left out is logged.
    """
    config = OmegaConf.to_container(cfg)
    unread = [str(key) for key in config if key not in KNOWN or config[key] != UNUSED_BY_NEST.get(key, config[key])]
    config = {key: value for key, value in config.items() if key not in unread}
    masks = config["spec_augment"] if isinstance(config.get("spec_augment"), dict) else {}
    for key in UNUSED_MASKS:
        if masks.get(key, 0):
            masks[key] = 0
            unread.append(f"spec_augment.{key}")
    if unread:
        logger.warning(f"{source}: without effect in NEST, so left out of the config: {', '.join(unread)}")
    for key, also in DATA.items():
        try:
            check_dataset_keys(config.get(key) or {}, f"model.{key}", also)
        except ValueError as error:
            logger.warning(f"{source}: {key} can't be read here, so left out of the config: {error}")
            config[key] = None
    return OmegaConf.create(config)


def _check_sizes_agree(cfg: DictConfig) -> None:
    """Encoder, decoder, quantizer and loss must speak of the same vectors and codes."""
    _check_present(cfg, "encoder.d_model", "decoder.feat_in", "decoder.num_classes", "quantizer.num_classes")
    pre_conv = cfg.get("mask_position", "pre_conv") == "pre_conv"  # post_conv sets these sizes itself
    unspliced = cfg.preprocessor.get("frame_splicing", 1) == 1
    pairs = REPEATED + (REPEATED_UNSPLICED if unspliced else ()) + (REPEATED_IN_PRE_CONV if pre_conv else ())
    for key, other in pairs:
        first, second = OmegaConf.select(cfg, key), OmegaConf.select(cfg, other)
        if None not in (first, second) and first != second:
            raise ValueError(f"model.{key}={first} and model.{other}={second} must be equal")
    books = cfg.quantizer.get("num_books", 1)
    for section in ("decoder", "loss"):
        if cfg[section].get("num_decoders", 1) != books:
            raise ValueError(
                f"model.{section}.num_decoders={cfg[section].get('num_decoders', 1)} must equal "
                f"model.quantizer.num_books={books}"
            )
    if cfg.decoder.num_classes < cfg.quantizer.num_classes:
        raise ValueError(
            f"model.decoder.num_classes={cfg.decoder.num_classes} is below "
            f"model.quantizer.num_classes={cfg.quantizer.num_classes}: some codes could never be predicted"
        )
    encoded = cfg.encoder.d_model if cfg.encoder.get("feat_out", -1) <= 0 else cfg.encoder.feat_out
    if cfg.decoder.feat_in != encoded:
        raise ValueError(f"model.decoder.feat_in={cfg.decoder.feat_in} must be the encoder's width, {encoded}")


def _check_present(cfg: DictConfig, *keys: str) -> None:
    for key in keys:
        if OmegaConf.select(cfg, key) is None:
            raise ValueError(f"model.{key} is missing: take it from config/nest_fast-conformer.yaml")


def mask_after_subsampling(cfg: DictConfig) -> DictConfig:
    """The config's copy for `mask_position: post_conv`: masking, quantizer and loss count encoder steps, not frames.

    NeMo 3.0.0 edits the config in place, so that a model saved and restored divides `masking.block_size` twice,
    and leaves `quantizer.combine_time_steps` alone. Here the config stays as written; one that NeMo saved is known
    by `loss.combine_time_steps: 1` and keeps its block size.
    """
    _check_present(cfg, "encoder.subsampling_factor", "loss.combine_time_steps", "masking.block_size")
    steps = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    factor = steps.encoder.subsampling_factor
    if steps.loss.combine_time_steps != 1:
        if steps.masking.block_size < factor:
            raise ValueError(
                f"model.masking.block_size={steps.masking.block_size} frames is less than one encoder step "
                f"({factor} frames): post_conv masking needs at least {factor}"
            )
        steps.masking.block_size //= factor
    steps.loss.combine_time_steps = 1
    steps.quantizer.combine_time_steps = 1
    steps.quantizer.feat_in = steps.masking.feat_in = steps.encoder.d_model
    return steps


def as_nemo_reads_it(cfg: DictConfig) -> DictConfig:
    """A copy of a `mask_position: post_conv` config from which NeMo 3.0.0 builds the model that `cfg` is of.

    The contrary of `mask_after_subsampling`: NeMo divides the block size always, and the quantizer's steps never.
    """
    saved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    if saved.loss.combine_time_steps == 1:
        saved.loss.combine_time_steps = saved.encoder.subsampling_factor
        saved.masking.block_size *= saved.encoder.subsampling_factor
    saved.quantizer.combine_time_steps = 1
    return saved
