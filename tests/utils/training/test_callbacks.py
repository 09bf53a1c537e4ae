from types import SimpleNamespace

import pytest
import torch

from utils.training import callbacks
from utils.training.callbacks import StepTimer


def timed(monkeypatch, seconds: list[float], **options) -> list[float]:
    """What a StepTimer logs when training steps take these seconds."""
    now, logged = 0.0, []
    timer = StepTimer(**options)
    module = SimpleNamespace(log=lambda name, value, **_: logged.append(value))
    for step in seconds:
        monkeypatch.setattr(callbacks.time, "monotonic", lambda t=now: t)
        timer.on_train_batch_start(None, module, None, 0)
        now += step
        monkeypatch.setattr(callbacks.time, "monotonic", lambda t=now: t)
        timer.on_train_batch_end(None, module, None, None, 0)
    return logged


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1.0, 3.0, 5.0]),
        ({"buffer_size": 2}, [1.0, 2.0, 4.0]),
        ({"buffer_size": 2, "reduction": "sum"}, [1.0, 4.0, 8.0]),
        ({"buffer_size": 3, "reduction": "min"}, [1.0, 1.0, 1.0]),
        ({"buffer_size": 3, "reduction": "max"}, [1.0, 3.0, 5.0]),
    ],
)
def test_seconds_of_the_last_steps_are_reduced(monkeypatch, options, expected):
    assert timed(monkeypatch, [1.0, 3.0, 5.0], **options) == expected


@pytest.mark.parametrize("wanted", [True, False])
def test_sync_cuda_waits_for_the_gpu(monkeypatch, wanted):
    waits = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    timed(monkeypatch, [1.0], sync_cuda=wanted)
    assert len(waits) == (2 if wanted else 0)


@pytest.mark.parametrize(("option", "value"), [("reduction", "median"), ("buffer_size", 0)])
def test_a_wrong_timing_option_is_refused(option, value):
    with pytest.raises(ValueError, match=rf"exp_manager\.step_timing_kwargs\.{option}="):
        StepTimer(**{option: value})
