"""The models: sizes, the short way to the loss, masking positions, what they log and what they refuse."""

import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from core.classes.metrics import WeightedMeans
from models.ssl_models import EncDecDenoiseMaskedTokenPredModel, EncDecMaskedTokenPredModel
from parts.batch_types import AudioNoiseBatch
from utils.training.finite_steps import FiniteSteps
from utils.training.rejects import Rejects

CONFIG = Path(__file__).resolve().parents[2] / "config" / "nest_fast-conformer.yaml"
BOTH = pytest.mark.parametrize("model_class", [EncDecMaskedTokenPredModel, EncDecDenoiseMaskedTokenPredModel])
POSITIONS = pytest.mark.parametrize("mask_position", ["pre_conv", "post_conv"])


def noisy_batch(seconds: tuple[float, ...] = (2.0, 1.5), seed: int = 0) -> AudioNoiseBatch:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([int(16000 * s) for s in seconds], dtype=torch.int64)
    inside = torch.arange(int(16000 * max(seconds, default=0))) < lengths[:, None]
    audio = 0.1 * torch.randn(inside.shape, generator=generator) * inside
    noise = 0.05 * torch.randn(inside.shape, generator=generator) * inside
    seeds = torch.arange(len(seconds))
    return AudioNoiseBatch(list(seconds), audio, lengths, noise, lengths, audio + noise, lengths, seeds)


def mask_always(model, is_masked: torch.Tensor) -> None:
    """Let the model mask exactly the frames (or steps) of `is_masked` (B, T)."""

    def forward(input_feats, input_lengths):
        masks = is_masked[:, None].expand_as(input_feats)
        return torch.where(masks, model.mask_processor.mask_embedding[None, :, None], input_feats), masks.float()

    model.mask_processor.forward = forward


def forward(model, batch: AudioNoiseBatch):
    signals = {"input_signal": batch.audio, "input_signal_length": batch.audio_len}
    if isinstance(model, EncDecDenoiseMaskedTokenPredModel):
        signals |= {"noisy_input_signal": batch.noisy_audio, "noisy_input_signal_length": batch.noisy_audio_len}
    return model(**signals, apply_mask=True)


def half_masked(model, batch: AudioNoiseBatch) -> None:
    """Mask steps 4 to 11 of every utterance."""
    frames = torch.zeros(len(batch.audio_len), 208, dtype=torch.bool)
    frames[:, 32:96] = True
    mask_always(model, frames if model.cfg.mask_position == "pre_conv" else frames[:, ::8])


def test_the_default_config_has_nemos_sizes_and_a_fresh_model_guesses_uniformly():
    cfg = OmegaConf.load(CONFIG)
    torch.manual_seed(0)
    model = EncDecDenoiseMaskedTokenPredModel(cfg=cfg.model)
    assert sum(p.numel() for p in model.encoder.parameters()) == 108_762_112
    assert sum(p.numel() for p in model.parameters()) == 113_106_000
    half_masked(model, batch := noisy_batch())
    with torch.no_grad():
        loss = model.eval().step(batch).loss
    assert loss.item() == pytest.approx(math.log(8192), abs=0.8)


@BOTH
@POSITIONS
@pytest.mark.parametrize("num_books", [1, 2])
def test_scoring_masked_steps_only_gives_the_loss_and_gradients_of_scoring_all(
    small_config, model_class, mask_position, num_books
):
    model = model_class(cfg=small_config(mask_position=mask_position, num_books=num_books)).eval()
    half_masked(model, batch := noisy_batch())
    log_probs, encoded_len, masks, tokens = forward(model, batch)
    long_way = model.loss(masks=masks, decoder_outputs=log_probs, targets=tokens, decoder_lengths=encoded_len)
    expected = torch.autograd.grad(long_way, list(model.decoder.parameters()))
    short_way = model.step(batch)
    assert short_way.is_scored.sum() == 16
    torch.testing.assert_close(short_way.loss, long_way)
    torch.testing.assert_close(torch.autograd.grad(short_way.loss, list(model.decoder.parameters())), expected)


@POSITIONS
def test_targets_come_from_the_clean_speech_and_the_encoder_hears_the_noisy(small_config, mask_position):
    model = EncDecDenoiseMaskedTokenPredModel(cfg=small_config(mask_position=mask_position)).eval()
    half_masked(model, batch := noisy_batch())
    log_probs, _, _, tokens = forward(model, batch)
    batch.noisy_audio = batch.audio
    quiet_log_probs, _, _, quiet_tokens = forward(model, batch)
    assert torch.equal(tokens, quiet_tokens)
    assert not torch.allclose(log_probs, quiet_log_probs)


@BOTH
def test_nothing_masked_gives_a_finite_loss_with_a_graph(small_config, model_class):
    model = model_class(cfg=small_config())
    mask_always(model, torch.zeros(2, 208, dtype=torch.bool))
    scored = model.step(noisy_batch())
    scored.loss.backward()
    assert scored.loss.item() == 0.0
    assert scored.accuracy.item() == 0.0
    assert model.encoder.layers[0].norm_out.weight.grad is not None
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_features_may_be_given_for_either_signal(small_config):
    model = EncDecDenoiseMaskedTokenPredModel(cfg=small_config()).eval()
    half_masked(model, batch := noisy_batch())
    features = model.features(batch)
    expected = forward(model, batch)
    got = model(
        processed_signal=features.clean,
        processed_signal_length=features.clean_lengths,
        processed_noisy_input_signal=features.noisy,
        processed_noisy_input_signal_length=features.noisy_lengths,
        apply_mask=True,
    )
    for one, other in zip(expected, got):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "signals", [{}, {"input_signal": torch.zeros(1, 16000), "processed_signal": torch.zeros(1, 80, 16)}]
)
def test_a_signal_or_its_features_not_both_and_not_neither(small_config, signals):
    with pytest.raises(ValueError, match="input_signal or processed_signal"):
        EncDecMaskedTokenPredModel(cfg=small_config())(**signals)


def test_masks_of_an_evaluation_repeat_and_those_of_training_do_not(small_config):
    model = EncDecDenoiseMaskedTokenPredModel(cfg=small_config(**{"masking.mask_prob": 0.05})).eval()
    batch = noisy_batch((4.0, 3.0))
    with torch.no_grad():
        first, again = (model.step(batch, seeded=True).is_scored for _ in range(2))
        free = [model.step(batch).is_scored for _ in range(4)]
    assert torch.equal(first, again)
    assert any(not torch.equal(first, other) for other in free)


def test_a_batch_without_any_readable_sample_trains_nothing(small_config):
    model = EncDecDenoiseMaskedTokenPredModel(cfg=small_config())
    model.log_dict = lambda *args, **options: pytest.fail("there is nothing to log")
    loss = model.training_step(noisy_batch(()))
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad.eq(0).all() for p in model.parameters() if p.requires_grad)


@POSITIONS
def test_beside_other_ranks_no_utterances_go_through_the_encoder(small_config, mask_position, monkeypatch):
    model = EncDecDenoiseMaskedTokenPredModel(cfg=small_config(mask_position=mask_position)).train()
    monkeypatch.setattr(type(model), "world_size", 2)
    seen = []
    model.encoder.layers[0].conv.batch_norm.register_forward_hook(lambda norm, given, found: seen.append(found.shape))
    loss = model.training_step(noisy_batch(()))
    loss.backward()
    assert loss.item() == 0.0 and [shape[0] for shape in seen] == [0]
    assert all(p.grad.eq(0).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("own", [[], [Rejects(), FiniteSteps()]])
def test_a_run_counts_what_it_leaves_out_once(small_config, own):
    model = EncDecDenoiseMaskedTokenPredModel(cfg=small_config())
    trainer = Trainer(max_steps=1, callbacks=list(own), logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.fit(model, DataLoader([noisy_batch((1.0,))], batch_size=None))
    for kind in (Rejects, FiniteSteps):
        assert sum(isinstance(callback, kind) for callback in trainer.callbacks) == 1


def test_audio_that_is_no_number_changes_nothing_in_the_model(small_config):
    model = EncDecDenoiseMaskedTokenPredModel(cfg=small_config())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = noisy_batch((1.0, 1.5))
    batch.noisy_audio[0, 7] = torch.nan
    trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.fit(model, DataLoader([batch], batch_size=None))
    assert trainer.callback_metrics["train_skipped_steps"] == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_an_evaluation_does_not_depend_on_the_batch_size(small_config, batch_size):
    model = EncDecDenoiseMaskedTokenPredModel(cfg=small_config(**{"masking.mask_prob": 0.005})).eval()
    together = noisy_batch((1.5, 1.5, 1.5, 1.5, 1.5, 1.5))
    means = WeightedMeans()
    counts = []
    for rows in torch.arange(6).split(batch_size):
        batch = AudioNoiseBatch(*(x[rows] if isinstance(x, torch.Tensor) else x for x in vars(together).values()))
        with torch.no_grad():
            metrics, count = model.evaluation_step(batch)
        means.add("loss", metrics["loss"], count)
        counts.append(count)
    with torch.no_grad():
        whole, count = model.evaluation_step(together)
    assert sum(counts) == count > 0
    assert batch_size > 1 or 0 in counts  # an utterance without a masked step weighs nothing
    assert means.pop()["loss"] == pytest.approx(whole["loss"].item(), rel=1e-5)


def test_post_conv_masks_steps_and_leaves_the_config_as_written(small_config):
    cfg = small_config(mask_position="post_conv")
    model = EncDecDenoiseMaskedTokenPredModel(cfg=cfg)
    assert model.mask_processor.block_size == 5
    assert model.cfg.masking.block_size == 40
    assert model.pre_encoder is model.encoder.pre_encode
    names = {name.split(".")[0] for name, _ in model.pre_encoder.named_children()}
    assert names == {"pre_encode", "masking"}
    _, _, masks, tokens = forward(model.eval(), noisy_batch())
    assert masks.shape == (2, 16, 26)
    assert tokens.shape[:2] == (2, 26)


@pytest.mark.parametrize(("detach", "trained"), [(True, False), (False, True)])
def test_post_conv_trains_the_subsampling_only_without_detach(small_config, detach, trained):
    cfg = small_config(mask_position="post_conv", **{"masking.detach": detach})
    model = EncDecDenoiseMaskedTokenPredModel(cfg=cfg)
    half_masked(model, batch := noisy_batch())
    model.step(batch).loss.backward()
    assert (model.pre_encoder.pre_encode.out.weight.grad is not None) == trained


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder.causal_downsampling": True},
        {"loss.combine_time_steps": 4},
        {"quantizer.combine_time_steps": 4},
        {"encoder.reduction": "pooling", "encoder.reduction_position": 0, "encoder.reduction_factor": 2},
    ],
    ids=str,
)
def test_a_step_whose_mask_predictions_and_targets_differ_in_length_says_so_in_one_line(small_config, changes):
    model = EncDecDenoiseMaskedTokenPredModel(cfg=small_config(**changes))
    with pytest.raises(ValueError, match=r"the mask has \d+ steps, the predictions \d+, the targets \d+: ") as error:
        model.step(noisy_batch())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"quantizer.freeze": False},
        {"masking.freeze": False},
        {"mask_position": "post_conv"},
        {"mask_position": "post_conv", "masking.freeze": False},
        {"mask_position": "post_conv", "masking.freeze": False, "masking.detach": False},
    ],
    ids=str,
)
def test_in_training_every_parameter_that_may_get_a_gradient_gets_one(small_config, changes):
    model = EncDecDenoiseMaskedTokenPredModel(cfg=small_config(train_ds=None, **changes))
    model.setup("fit")
    half_masked(model, batch := noisy_batch())
    model.step(batch).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert model.decoder.decoder_layers[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantiser": {}}, r"model\.quantiser is not .* did you mean 'quantizer'"),
        ({"validation_ds.batchsize": 3}, r"model\.validation_ds\.batchsize is not .* did you mean 'batch_size'"),
        ({"train_ds.return_sample_id": True}, r"model\.train_ds\.return_sample_id=true has no effect"),
        ({"encoder.n_layer": 3}, r"model\.encoder\.n_layer is not .* did you mean 'n_layers'"),
        ({"restore_from": "a.nemo"}, r"model\.restore_from=a\.nemo: train\.py reads it; in Python call restore_from"),
        ({"init_from_nemo_model": "a.nemo"}, r"model\.init_from_nemo_model=a\.nemo: .*move it to the top level"),
        ({"mask_position": "midway"}, "mask_position='midway' is not one of pre_conv, post_conv"),
        ({"spec_augment.time_masks": 2}, r"spec_augment\.time_masks=2 has no effect"),
        ({"spec_augment.rect_masks": 1}, r"spec_augment\.rect_masks=1 has no effect"),
        ({"sample_rate": 8000, "preprocessor.sample_rate": 16000}, r"model\.sample_rate=8000 and model\.preprocessor"),
        ({"train_ds.sample_rate": 8000}, r"sample_rate=16000 and model\.train_ds\.sample_rate=8000 must be equal"),
        ({"num_books": 3, "quantizer.num_books": 1}, r"model\.num_books=3 and model\.quantizer\.num_books=1 must be"),
        ({"encoder.feat_in": 64}, r"model\.preprocessor\.features=80 and model\.encoder\.feat_in=64 must be equal"),
        ({"masking.feat_in": 64}, r"model\.encoder\.feat_in=80 and model\.masking\.feat_in=64 must be equal"),
        ({"dropout_features": 0.1}, r"model\.dropout_features=0\.1 has no effect"),
        ({"decoder.num_decoders": 2}, r"model\.decoder\.num_decoders=2 must equal"),
        ({"decoder.num_classes": 16}, r"model\.decoder\.num_classes=16 is below"),
        ({"decoder.feat_in": 20}, r"model\.decoder\.feat_in=20 must be the encoder's width, 16"),
        ({"mask_position": "post_conv", "masking.block_size": 4}, "less than one encoder step"),
        ({"decoder.feat_in": None}, r"model\.decoder\.feat_in is missing"),
        ({"mask_position": "post_conv", "encoder.subsampling_factor": None}, r"encoder\.subsampling_factor is missing"),
        ({"encoder._target_": "os.system"}, r"encoder\._target_='os\.system' is not a class that configs may name"),
        ({"encoder.n_heads": 3}, "n_heads"),
    ],
)
def test_a_config_that_cannot_be_right_is_refused_in_one_line(small_config, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        EncDecDenoiseMaskedTokenPredModel(cfg=small_config(**changes))
    assert "\n" not in str(error.value)


def test_the_metrics_that_a_monitor_may_name_are_those_that_are_logged(small_config):
    model = EncDecDenoiseMaskedTokenPredModel(small_config(), Trainer(accelerator="cpu", logger=False))
    logged = set()
    model.log_dict = lambda metrics, **_: logged.update(metrics)
    model.setup_optimization()
    model.training_step(noisy_batch())
    evaluated, _ = model.evaluation_step(noisy_batch())
    assert model.metric_names() == logged | {f"val_{name}" for name in evaluated}
    model._validation_names = ("clean_", "other_")
    assert model.metric_names() >= {"val_loss", "clean_val_loss", "other_val_accuracy"}
