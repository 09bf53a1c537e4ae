"""`train.py` that also writes down what each training step sees: its step, epoch, batch, rank and utterances.

python tests/recorded_train.py RECORD.jsonl [arguments of train.py]
"""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = "NEST_SSL_TEST_RECORD"  # an environment variable, so that processes Lightning starts know it too


def record(own_step):
    """The model's training_step, each of which appends one line by one write, so a kill leaves whole lines."""

    def training_step(model, batch, batch_idx=0):
        seen = {
            "step": model.trainer.global_step,
            "epoch": model.trainer.current_epoch,
            "batch": batch_idx,
            "rank": model.global_rank,
            "ids": [str(name) for name in batch.sample_id] if len(batch) else [],
        }
        with open(os.environ[RECORD], "ab", buffering=0) as file:
            file.write(json.dumps(seen).encode() + b"\n")
        return own_step(model, batch, batch_idx)

    return training_step


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if RECORD not in os.environ:
        os.environ[RECORD] = sys.argv.pop(1)
    from models.ssl_models import EncDecMaskedTokenPredModel
    from train import main

    EncDecMaskedTokenPredModel.training_step = record(EncDecMaskedTokenPredModel.training_step)
    main()
