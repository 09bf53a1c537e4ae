"""One side of the speed figures, ours or NeMo's: times its own imports, then trains and loads data as it is asked to.

python -m tools.parity.speed_side ours|nemo     (started by tools/parity/speed.py and tools/import_time.py)
"""

import importlib
import sys
import time

from tools.side_process import serve

BASE = ("torch", "lightning.pytorch")
MODELS = {"ours": "models.ssl_models", "nemo": "nemo.collections.asr.models.ssl_models"}


def import_model(side: str) -> dict[str, float]:
    """Seconds in this process, if it is fresh: `base` of torch and Lightning, `model` of the model class after them."""
    return {"base": seconds_to_import(*BASE), "model": seconds_to_import(MODELS[side])}


def seconds_to_import(*modules: str) -> float:
    started = time.perf_counter()
    for module in modules:
        importlib.import_module(module)
    return time.perf_counter() - started


def main() -> None:
    side = sys.argv[1]
    seconds = import_model(side)
    training = importlib.import_module("tools.parity.training_speed")  # only now: it imports what was timed above
    serve({"imports": lambda: seconds, **training.Training(side).tasks})


if __name__ == "__main__":
    main()
