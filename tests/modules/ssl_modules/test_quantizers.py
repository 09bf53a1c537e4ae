import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modules.ssl_modules import quantizers
from modules.ssl_modules.quantizers import SCORE_OFFSETS, RandomProjectionVectorQuantizer

FEATURES = 20
SIZES = {"feat_in": FEATURES, "code_dim": 6, "num_classes": 50, "num_books": 2, "combine_time_steps": 4}


def quantizer(**options) -> RandomProjectionVectorQuantizer:
    torch.manual_seed(0)
    return RandomProjectionVectorQuantizer(**{"dist_fn": "l2", **SIZES, **options})


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(3, FEATURES, 32, generator=torch.Generator().manual_seed(1))


def distances(q: RandomProjectionVectorQuantizer, features: torch.Tensor) -> torch.Tensor:
    """(B, F, T) -> (B, S, Q, V), by the definition: step s is frames 4s .. 4s + 3, one after the other."""
    steps = torch.stack([features[:, :, t : t + 4].transpose(1, 2).flatten(1) for t in range(0, 32, 4)], 1).double()
    x = F.normalize((steps @ q.proj.weight.double().T).unflatten(2, (q.num_books, q.code_dim)), dim=-1)
    return (x.unsqueeze(-2) - q.codebooks).norm(dim=-1)


@pytest.mark.parametrize("dist_fn", SCORE_OFFSETS)
@pytest.mark.parametrize("num_books", [1, 2, 5])
def test_tokens_are_the_nearest_codes(features, dist_fn, num_books):
    q = quantizer(dist_fn=dist_fn, num_books=num_books)
    _, xid = q(input_signal=features)
    assert xid.dtype == torch.int64
    assert torch.equal(xid, distances(q, features).argmin(-1))


def test_distance_functions_differ_for_codes_that_are_not_unit_vectors(features):
    q = quantizer()
    q.codebooks.data *= torch.rand(2, 50, 1, dtype=torch.float64) + 0.5
    assert torch.equal(q(input_signal=features)[1], distances(q, features).argmin(-1))
    cosine = quantizer(dist_fn="cosine")
    cosine.load_state_dict(q.state_dict())
    assert not torch.equal(q(input_signal=features)[1], cosine(input_signal=features)[1])


@pytest.mark.parametrize("squeeze_single", [False, True])
@pytest.mark.parametrize("num_books", [1, 3])
@pytest.mark.parametrize("time_ahead", [False, True])
def test_xq_holds_the_code_of_each_step_and_book(features, time_ahead, num_books, squeeze_single):
    q = quantizer(time_ahead=time_ahead, num_books=num_books, squeeze_single=squeeze_single)
    xq, xid = q(input_signal=features.transpose(1, 2) if time_ahead else features)
    if squeeze_single and num_books == 1:
        xq, xid = xq.unsqueeze(-1), xid.unsqueeze(-1)
    if not time_ahead:
        xq = xq.transpose(1, 2)
    assert xid.shape == (3, 8, num_books)
    for book in range(num_books):
        assert torch.equal(xq[..., book], q.codebooks[book, xid[..., book]])


def test_chunks_bound_every_tensor_and_change_no_token(features, monkeypatch):
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            self.numel = max(self.numel, *sizes, 0)
            return result

    q = quantizer(num_classes=500)
    with Largest() as whole:
        _, expected = q(input_signal=features)
    monkeypatch.setattr(quantizers, "MAX_SCORES", 3000)
    with Largest() as chunked:
        _, xid = q(input_signal=features)
    assert whole.numel == 3 * 8 * 2 * 500  # all scores at once: what the bound is there for
    assert chunked.numel == q.codebooks.numel() == 6000  # nothing is larger than what came in
    assert torch.equal(xid, expected)


def test_a_chunk_is_one_step_when_a_book_is_larger_than_the_bound(features, monkeypatch):
    q = quantizer()
    _, expected = q(input_signal=features)
    monkeypatch.setattr(quantizers, "MAX_SCORES", 1)
    assert torch.equal(q(input_signal=features)[1], expected)


def test_autocast_moves_no_token(features):
    q = quantizer(num_classes=5000)
    _, expected = q(input_signal=features)
    with torch.autocast("cpu", torch.bfloat16):
        _, xid = q(input_signal=features)
    assert torch.equal(xid, expected)


def test_an_item_has_the_same_tokens_alone_and_in_a_batch(features):
    q = quantizer(num_classes=5000)
    _, xid = q(input_signal=features)
    assert torch.equal(q(input_signal=features[1:2])[1], xid[1:2])


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float"])
def test_codebooks_stay_exact_through_casts(features, cast):
    q = quantizer()
    before = q.codebooks.detach().clone()
    getattr(torch.nn.Sequential(q), cast)()
    assert q.state_dict()["codebooks"].dtype == torch.float64
    assert torch.equal(q.codebooks, before)
    assert q.proj.weight.dtype == {"half": torch.float16, "bfloat16": torch.bfloat16, "float": torch.float32}[cast]
    _, xid = q(input_signal=features.to(q.proj.weight.dtype))
    assert torch.equal(xid, distances(q, features.to(q.proj.weight.dtype)).argmin(-1))
    assert copy.deepcopy(q).codebooks.dtype == torch.float64


def test_devices_without_float64_compute_in_float32_and_save_float64(features, monkeypatch):
    q = quantizer(num_classes=5000)
    _, expected = q(input_signal=features)
    monkeypatch.setattr(quantizers, "WITHOUT_FLOAT64", frozenset({"cpu"}))
    q.to("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        xq, xid = q(input_signal=features)
    assert xq.dtype == torch.float32
    assert torch.equal(xid, expected)
    assert q.state_dict()["codebooks"].dtype == torch.float64


def test_codebooks_follow_a_module_to_another_device():
    q = quantizer().to("meta")
    assert q.codebooks.device.type == "meta" and q.codebooks.dtype == torch.float64


@pytest.mark.parametrize("freeze", [True, False])
def test_freeze_decides_what_is_trainable(freeze):
    assert {p.requires_grad for p in quantizer(freeze=freeze).parameters()} == {not freeze}


def test_codes_are_unit_vectors_and_the_projection_is_xavier():
    q = quantizer(feat_in=80, code_dim=16, num_classes=2000, combine_time_steps=8)
    assert torch.allclose(q.codebooks.norm(dim=-1), torch.ones(2, 2000, dtype=torch.float64), atol=1e-14)
    assert q.codebooks.mean(1).abs().max() < 5 * (1 / 16 / 2000) ** 0.5
    assert q.proj.weight.shape == (32, 640) and q.proj.bias is None
    assert q.proj.weight.std().item() == pytest.approx((2 / (640 + 32)) ** 0.5, rel=0.03)
    assert list(q.state_dict()) == ["codebooks", "proj.weight"]


def test_frames_that_fill_no_step_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"^30 frames .*combine_time_steps=4: set preprocessor.pad_to") as error:
        quantizer()(input_signal=torch.randn(1, FEATURES, 30))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "wrong", [{"dist_fn": "l1"}, {"num_books": 0}, {"num_classes": 0}, {"code_dim": 0}, {"combine_time_steps": 0}]
)
def test_wrong_options_are_named(wrong):
    with pytest.raises(ValueError, match=rf"^quantizer\.{next(iter(wrong))}="):
        quantizer(**wrong)
