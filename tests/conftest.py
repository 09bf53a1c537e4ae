"""Where the tests find recorded NeMo numbers and real audio, which the repository itself doesn't hold."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("NEST_SSL_SHARED", ROOT.parent / "shared"))


def _shared_folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs the folder {name}/ beside the checkout, in ../shared or in $NEST_SSL_SHARED")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of numbers recorded from NeMo 3.0.0, with `check.py`."""
    return _shared_folder("golden")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real speech, noise and hostile inputs, with manifests."""
    return _shared_folder("data")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What our logger says; it doesn't propagate, so pytest's handler is put on it."""
    logger = logging.getLogger("nest_ssl")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(autouse=True)
def _no_process_group_is_left() -> Iterator[None]:
    """A group that a test leaves behind would make those after it wait for ranks that are gone."""
    yield
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


SMALL = {
    "num_classes": 32,
    "encoder.n_layers": 2,
    "encoder.d_model": 16,
    "encoder.n_heads": 2,
    "encoder.subsampling_conv_channels": 8,
    "encoder.dropout": 0.0,
    "encoder.dropout_pre_encoder": 0.0,
    "encoder.dropout_att": 0.0,
    "preprocessor.dither": 0.0,
}


@pytest.fixture(scope="session")
def small_config() -> Callable[..., DictConfig]:
    """`small_config(**{"encoder.n_layers": 1})`: the shipped model section, shrunk, without dropout."""

    def make(**changes) -> DictConfig:
        cfg = OmegaConf.load(ROOT / "config" / "nest_fast-conformer.yaml")
        for key, value in (SMALL | changes).items():
            OmegaConf.update(cfg.model, key, value, force_add=True)
        return cfg.model

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
