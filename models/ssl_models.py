"""NEST pretraining: noisy speech goes in; at masked steps the model predicts the random-projection code of the clean.

Sources: NEST, arXiv:2408.13106; BEST-RQ, arXiv:2202.01855; NeMo 3.0.0 `asr/models/ssl_models.py`, whose names of
classes, arguments, parameters and buffers these are. Shapes: B batch, N samples, T mel frames (10 ms), S encoder
steps (80 ms), F mel bins, D d_model, M scored steps of a batch, Q codebooks, V codes per book.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig
from torch import Tensor

from core.classes import ModelPT, typecheck
from core.classes.serialization import from_config_dict
from core.neural_types import (
    AudioSignal,
    BoolType,
    LabelsType,
    LengthsType,
    LogprobsType,
    NeuralType,
    SpectrogramType,
)
from data.settings import DATA_KEYS
from data.ssl_dataset import audio_noise_dataloader
from losses.ssl_losses.mlm import check_steps, masked_prediction_loss
from models.model_config import as_nemo_reads_it, check_model_config, config_of_file, mask_after_subsampling
from models.targets import nemo_model_paths  # importing it registers what configs may name
from modules.ssl_modules.masking import ConvFeatureMaskingWrapper
from parts.batch_types import AudioNoiseBatch
from utils.training.between_steps import BetweenSteps
from utils.training.finite_steps import FiniteSteps
from utils.training.rejects import Rejects
from utils.training.step_seeds import StepSeeds

EMPTY_FRAMES = 128  # of no utterance: enough for any subsampling
TRAINING_METRICS = ("train_loss", "train_accuracy", "train_scored_share", "train_nothing_masked_share", "learning_rate")


@dataclass
class Features:
    """Log-mel features of the clean and of the noisy speech: (B, F, T) and (B,) each. One tensor where both are one."""

    clean: Tensor
    clean_lengths: Tensor
    noisy: Tensor
    noisy_lengths: Tensor


@dataclass
class ScoredSteps:
    """What a step predicted where it had to guess: log_probs (M, V, Q), targets (M, Q), is_scored (B, S), loss ()."""

    log_probs: Tensor
    targets: Tensor
    is_scored: Tensor
    loss: Tensor

    @property
    def accuracy(self) -> Tensor:
        """(): share of codes guessed right; 0 where nothing was masked."""
        right = (self.log_probs.argmax(dim=1) == self.targets).sum()
        return right / max(self.targets.numel(), 1)


class EncDecMaskedTokenPredModel(ModelPT):
    """Masked-token prediction on speech as it is: the masked features of an utterance predict its own codes.

    cfg: the `model` section of a config (`config/nest_fast-conformer.yaml`), NeMo's keys.
    mask_position: `pre_conv` masks mel frames; `post_conv` masks steps after the subsampling, where the quantizer
        reads the subsampled features too. Post_conv differs from NeMo 3.0.0 in what NeMo gets wrong: the denoising
        model runs at all (NeMo lacks a transpose), and `quantizer.combine_time_steps` becomes 1 (NeMo leaves 8).
    Raises ValueError, in one line, for a config that can't be right.
    """

    data_keys = DATA_KEYS
    nemo_paths = nemo_model_paths("EncDecMaskedTokenPredModel")

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        super().__init__(cfg=cfg, trainer=trainer)
        check_model_config(self.cfg)
        post_conv = self.cfg.get("mask_position", "pre_conv") == "post_conv"
        sections = mask_after_subsampling(self.cfg) if post_conv else self.cfg

        def build(name: str):
            return from_config_dict(sections[name], path=f"model.{name}")

        # in NeMo's order, which optimizer states in its checkpoints rely on
        self.preprocessor = build("preprocessor")
        self.encoder = build("encoder")
        self.loss = build("loss")
        self.spec_augmentation = build("spec_augment")  # NeMo's NEST builds it and never calls it
        self.quantizer = build("quantizer")
        self.mask_processor = build("masking")
        self.decoder = build("decoder")
        self.pre_encoder = None
        self._predict = self._predict_pre_conv
        if post_conv:
            self.pre_encoder = ConvFeatureMaskingWrapper(self.encoder.pre_encode, self.mask_processor)
            self.encoder.pre_encode = self.pre_encoder
            self._predict = self._predict_post_conv

    def setup(self, stage: str) -> None:
        """Build the loaders of a stage. For training, freeze what no gradient reaches: DDP would wait for it in vain.

        That is the quantizer, whose codes have no gradient, and in post_conv mode, unless `masking.detach` is false,
        all that stands before the mask.
        """
        super().setup(stage)
        if stage == "fit":
            self.quantizer.requires_grad_(False)
            if self.pre_encoder is not None and self.mask_processor.detach:
                self.pre_encoder.requires_grad_(False)

    @classmethod
    def config_of_file(cls, config: DictConfig, source: str) -> DictConfig:
        """What a file's config says to this class; see `models.model_config.config_of_file`."""
        return config_of_file(config, source)

    def config_to_save(self) -> DictConfig:
        """The config that goes into a file: what post_conv makes of it by itself NeMo has to be told."""
        return self.cfg if self.pre_encoder is None else as_nemo_reads_it(self.cfg)

    # what goes in and what comes out

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return signal_types("input_signal", "processed_signal", self.cfg.sample_rate) | {
            "apply_mask": NeuralType(None, BoolType(), optional=True)
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        squeezed = self.cfg.num_books == 1 and self.cfg.squeeze_single
        books = () if squeezed else ("Q",)
        return {
            "log_probs": NeuralType(("B", "S", "V", *books), LogprobsType()),
            "encoded_len": NeuralType(("B",), LengthsType()),
            "masks": NeuralType(("B", "F", "T"), SpectrogramType()),
            "tokens": NeuralType(("B", "S", *books), LabelsType()),
        }

    @typecheck()
    def forward(
        self,
        input_signal: Tensor | None = None,
        input_signal_length: Tensor | None = None,
        processed_signal: Tensor | None = None,
        processed_signal_length: Tensor | None = None,
        apply_mask: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predict the codes of every step.

        input_signal: (B, N) waveform, or else processed_signal: (B, F, T) features, with their lengths (B,).
        Returns log_probs (B, S, V, Q), encoded_len (B,), masks (B, F, T), of the steps (B, D, S) in post_conv
        mode, and tokens (B, S, Q). One book loses its axis under `squeeze_single`.
        """
        check_one_of("input_signal", input_signal, "processed_signal", processed_signal)
        clean = self._mel(input_signal, input_signal_length, processed_signal, processed_signal_length)
        return self._outputs(Features(*clean, *clean), apply_mask)

    # the recipe

    def _mel(
        self, signal: Tensor | None, length: Tensor | None, processed: Tensor | None, processed_length: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Features (B, F, T) and their lengths: those given, or else those of the waveform."""
        if processed is None:
            return self.preprocessor(input_signal=signal, length=length)
        return processed, processed_length

    def _outputs(self, features: Features, apply_mask: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        encoded, encoded_len, masks, tokens = self._predict(features, apply_mask)
        return self.decoder(encoder_output=encoded), encoded_len, masks, tokens

    def features(self, batch: AudioNoiseBatch) -> Features:
        """Log-mel features of a batch, for the training step."""
        clean, lengths = self.preprocessor(input_signal=batch.audio, length=batch.audio_len)
        return Features(clean, lengths, clean, lengths)

    def _predict_pre_conv(self, features: Features, apply_mask: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        _, tokens = self.quantizer(input_signal=features.clean)
        masked, masks = features.noisy, torch.zeros_like(features.noisy)
        if apply_mask:
            masked, masks = self.mask_processor(input_feats=features.noisy, input_lengths=features.noisy_lengths)
        encoded, encoded_len = self.encoder(audio_signal=masked, length=features.noisy_lengths)
        return encoded, encoded_len, masks, tokens

    def _predict_post_conv(self, features: Features, apply_mask: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self.pre_encoder.set_masking_enabled(apply_mask=apply_mask)
        encoded, encoded_len = self.encoder(audio_signal=features.noisy, length=features.noisy_lengths)
        clean_steps = self.pre_encoder.get_current_feat()                               # (B, S, D)
        if features.clean is not features.noisy:
            with torch.no_grad():
                clean_steps, _ = self.pre_encoder.pre_encode(
                    x=features.clean.transpose(1, 2), lengths=features.clean_lengths
                )
        _, tokens = self.quantizer(input_signal=clean_steps.transpose(1, 2))
        return encoded, encoded_len, self.pre_encoder.get_current_mask(), tokens

    def step(self, batch: AudioNoiseBatch, *, seeded: bool = False) -> ScoredSteps:
        """Mask, encode, and score the masked steps only: the loss of `self.loss` on `forward`'s outputs, for less work.

        seeded: masks depend on each sample's seed alone, so that evaluations of one model agree.
        """
        with self.mask_processor.seeded(batch.seeds) if seeded else nullcontext():
            encoded, _, masks, tokens = self._predict(self.features(batch), apply_mask=True)
        is_scored = self.loss.is_scored(masks[:, 0])                                    # (B, S)
        check_steps(is_scored.shape[1], encoded.shape[2], tokens.shape[1])
        log_probs = self.decoder.log_probs(encoded.transpose(1, 2)[is_scored])          # (M, V, Q)
        targets = tokens.reshape(*tokens.shape[:2], -1)[is_scored]                      # (M, Q)
        return ScoredSteps(log_probs, targets, is_scored, masked_prediction_loss(log_probs, targets))

    # what is logged

    def metric_names(self) -> set[str]:
        """Of training and validation: what checkpoints and early stopping may go by (`utils.experiment.preflight`)."""
        evaluated = {"val_loss", "val_accuracy"}
        prefixes = self._validation_names or [f"val_{i}_" for i in range(len(self.trainer.num_val_batches))]
        return {*TRAINING_METRICS, *evaluated, *(prefix + name for prefix in prefixes for name in evaluated)}

    def training_step(self, batch: AudioNoiseBatch, batch_idx: int = 0) -> Tensor:
        if len(batch) == 0:
            return self.nothing_learned()
        scored = self.step(batch)
        self.log_dict(
            {
                "train_loss": scored.loss.detach(),
                "train_accuracy": scored.accuracy,
                "train_scored_share": scored.is_scored.float().mean(),
                "train_nothing_masked_share": (~scored.is_scored.any(dim=1)).float().mean(),
                "learning_rate": self.learning_rate,
            },
            batch_size=len(batch),
        )
        return scored.loss

    def nothing_learned(self) -> Tensor:
        """(): 0, with a graph over all parameters, for a batch without utterances.

        Other ranks may have some: they wait for this one's gradients, and in synced batch norms for its share of the
        statistics, which is that of no utterances.
        """
        gradients = sum(p.sum() for p in self.parameters() if p.requires_grad) * 0.0
        if self.world_size == 1:
            return gradients
        frames = torch.zeros(0, self.cfg.preprocessor.features, EMPTY_FRAMES, device=self.device)  # (0, F, T)
        encoded, _ = self.encoder(audio_signal=frames, length=frames.new_zeros(0, dtype=torch.int64))
        return gradients + encoded.sum() * 0.0

    def evaluation_step(self, batch: AudioNoiseBatch) -> tuple[dict[str, Tensor], int]:
        """Loss and masked accuracy over the scored codes of a batch, and their number; masks are seeded per sample."""
        scored = self.step(batch, seeded=True)
        return {"loss": scored.loss, "accuracy": scored.accuracy}, scored.targets.numel()

    def configure_callbacks(self) -> list[Callback]:
        """What a run has even without exp_manager, which besides keeps a list of what is left out."""
        present = {type(callback) for callback in self.trainer.callbacks}
        return [kind() for kind in (Rejects, StepSeeds, FiniteSteps, BetweenSteps) if kind not in present]

    def build_dataloader(self, config: DictConfig, path: str) -> torch.utils.data.DataLoader:
        """The loader of `model.train_ds`, `validation_ds` or `test_ds`; `path` stands in its messages."""
        return audio_noise_dataloader(
            config,
            path=path,
            training=path == "model.train_ds",
            global_rank=self.global_rank,
            world_size=self.world_size,
        )


class EncDecDenoiseMaskedTokenPredModel(EncDecMaskedTokenPredModel):
    """NEST: noisy speech predicts the codes of the clean speech at masked steps (arXiv:2408.13106)."""

    nemo_paths = nemo_model_paths("EncDecDenoiseMaskedTokenPredModel")

    @property
    def input_types(self) -> dict[str, NeuralType]:
        rate = self.cfg.sample_rate
        return {
            **signal_types("input_signal", "processed_signal", rate),
            **signal_types("noise_signal", "processed_noise_signal", rate),
            **signal_types("noisy_input_signal", "processed_noisy_input_signal", rate),
            "apply_mask": NeuralType(None, BoolType(), optional=True),
        }

    @typecheck()
    def forward(
        self,
        input_signal: Tensor | None = None,
        input_signal_length: Tensor | None = None,
        processed_signal: Tensor | None = None,
        processed_signal_length: Tensor | None = None,
        noise_signal: Tensor | None = None,
        noise_signal_length: Tensor | None = None,
        processed_noise_signal: Tensor | None = None,
        processed_noise_signal_length: Tensor | None = None,
        noisy_input_signal: Tensor | None = None,
        noisy_input_signal_length: Tensor | None = None,
        processed_noisy_input_signal: Tensor | None = None,
        processed_noisy_input_signal_length: Tensor | None = None,
        apply_mask: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predict the codes of the clean speech from the noisy speech, at every step.

        input_signal (B, N) is the clean speech, noisy_input_signal (B, N) the noisy one; each may be given as
        features instead, processed_* (B, F, T). The noise alone is part of NeMo's signature; nothing reads it.
        Returns as `EncDecMaskedTokenPredModel.forward`. NeMo 3.0.0 types `processed_noisy_input_signal` under
        another name, so that it can't be passed; here it can.
        """
        check_one_of("input_signal", input_signal, "processed_signal", processed_signal)
        check_one_of(
            "noisy_input_signal", noisy_input_signal, "processed_noisy_input_signal", processed_noisy_input_signal
        )
        clean = self._mel(input_signal, input_signal_length, processed_signal, processed_signal_length)
        noisy = self._mel(
            noisy_input_signal,
            noisy_input_signal_length,
            processed_noisy_input_signal,
            processed_noisy_input_signal_length,
        )
        return self._outputs(Features(*clean, *noisy), apply_mask)

    def features(self, batch: AudioNoiseBatch) -> Features:
        """One preprocessor call on clean and noisy speech together."""
        both, lengths = self.preprocessor(
            input_signal=torch.cat([batch.audio, batch.noisy_audio]),
            length=torch.cat([batch.audio_len, batch.noisy_audio_len]),
        )
        clean, noisy = both.chunk(2)
        clean_lengths, noisy_lengths = lengths.chunk(2)
        return Features(clean, clean_lengths, noisy, noisy_lengths)


def signal_types(signal: str, processed: str, sample_rate: int) -> dict[str, NeuralType]:
    """Types of a waveform and its features, each with its lengths; all optional, since one of the two is given."""
    return {
        signal: NeuralType(("B", "N"), AudioSignal(sample_rate), optional=True),
        f"{signal}_length": NeuralType(("B",), LengthsType(), optional=True),
        processed: NeuralType(("B", "F", "T"), SpectrogramType(), optional=True),
        f"{processed}_length": NeuralType(("B",), LengthsType(), optional=True),
    }


def check_one_of(name: str, value: Tensor | None, other_name: str, other: Tensor | None) -> None:
    """Raise ValueError unless exactly one is given."""
    if (value is None) == (other is None):
        given = "neither" if value is None else "both"
        raise ValueError(f"give {name} or {other_name}, with its length; got {given}")
