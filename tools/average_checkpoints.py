"""Average the weights of several checkpoints of one run: often a better model than the last of them.

    python tools/average_checkpoints.py nemo_experiments/my_run --last 5 --output averaged.nemo
    python tools/average_checkpoints.py nemo_experiments/my_run --best 3 --output averaged.ckpt
    python tools/average_checkpoints.py a.ckpt b.ckpt c.nemo --output averaged.safetensors

A run's folder needs --last (by steps of the optimizer) or --best (by the checkpoints' monitor). Checkpoints with the
same weights count once, as a best one that is also the last. The end of --output tells the format.
What was trained, and the statistics of batch norms, become the mean, summed up in float64; what is the same in all
files stays bit for bit. Quantizer and mask embedding must be the same, since codes of another quantizer are another
task, and so must the config, but for options that act in training only. Unlike NeMo's script, which sums it up, the
number of batches that a batch norm has seen is the largest.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.connectors.initial_weights import Weights, of_checkpoint, read_weights
from core.connectors.nemo_config import to_nemo
from core.connectors.save_restore import NOT_A_PART, RUN_KEYS, differences
from tools.conversion.arguments import add_weights, check_free, new_parser
from tools.conversion.formats import FORMATS
from tools.conversion.speech_encoder import build_model
from utils.checkpoint_files.checkpoint_file import load_checkpoint
from utils.checkpoint_files.files import written_whole
from utils.checkpoint_files.tensor_digest import digest
from utils.errors import one_line_errors
from utils.experiment.going_on import is_last
from utils.training.ema import NEMO_AVERAGE

OUTPUTS = (".nemo", ".ckpt", ".safetensors")
COUNTERS = ".num_batches_tracked"
TRAINING_ONLY = ("dropout", "dither", "stochastic_depth")  # beginnings of options that evaluation doesn't know


@dataclass(frozen=True)
class Candidate:
    """A file. step: of the optimizer, 0 where it doesn't say. ranking: of files beside it by the monitor.

    is_of_run: not converted or averaged.
    """

    path: Path
    step: int
    digest: str  # of its weights
    ranking: Sequence[str]
    is_of_run: bool


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    if args.output.suffix not in OUTPUTS:
        raise ValueError(f"--output {args.output} must end in one of {', '.join(OUTPUTS)}")
    check_free(args.output, args.force)
    chosen = choose(args)
    paths = [candidate.path for candidate in chosen]
    weights = (read(path, args.weights) for path in paths)
    model, summary = average(weights)
    with written_whole(args.output) as unfinished:
        FORMATS[args.output.suffix].write(model, unfinished)
    for candidate in chosen:
        print(f"  {candidate.path}" + (f" (step {candidate.step})" if candidate.step else ""))
    print(f"{summary} of these {len(paths)} files: {args.output}")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="IN", help=".ckpt and .nemo files, or a run's folder")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--last", type=int, metavar="N", help="of a folder: the N checkpoints of the most steps")
    which.add_argument("--best", type=int, metavar="N", help="of a folder: the N best checkpoints by the monitor")
    parser.add_argument("--output", "-o", type=Path, required=True, help=f"a file that ends in {', '.join(OUTPUTS)}")
    parser.add_argument("--force", action="store_true", help="replace the file that --output names")
    add_weights(parser)
    return parser.parse_args(arguments)


# which files


def choose(args: argparse.Namespace) -> list[Candidate]:
    """The files to average, each with other weights. Raises ValueError or FileNotFoundError for fewer than two."""
    for path in args.inputs:
        if not path.exists():
            raise FileNotFoundError(f"{path} doesn't exist")
    in_folder = any(path.is_dir() for path in args.inputs)
    number = args.last if args.last is not None else args.best
    if in_folder and (len(args.inputs) > 1 or number is None):
        raise ValueError("a folder stands alone, with --last N or --best N; or give files")
    if not in_folder and number is not None:
        raise ValueError("--last and --best choose from a run's folder; of files all are taken")
    if number is not None and number < 2:
        raise ValueError(f"--last and --best need 2 or more to average, not {number}")
    paths = files_of_run(args.inputs[0]) if in_folder else args.inputs
    inspected = (inspect(path, args.weights) for path in paths)
    candidates = list(distinct(one for one in inspected if one.is_of_run or not in_folder))
    if args.last is not None:
        candidates = sorted(candidates, key=lambda one: one.step)[-number:]
    elif args.best is not None:
        candidates = best(candidates, number)
    if len(candidates) < (number or 2):
        found = f"{len(candidates)} of {number or 2} checkpoints with different weights are there"
        more = "; exp_manager.checkpoint_callback_params.save_top_k says how many a run keeps" if in_folder else ""
        raise ValueError(found + more)
    return candidates


def files_of_run(folder: Path) -> list[Path]:
    """A run's checkpoints: those that are named by their score before those named last, NeMo's averages left out."""
    paths = [path for path in sorted(folder.rglob("*.ckpt")) if not path.name.endswith(NEMO_AVERAGE)]
    if not paths:
        raise FileNotFoundError(f"{folder} holds no checkpoint of a run")
    if folders := sorted({str(path.parent) for path in paths})[1:]:
        raise ValueError(
            f"{folder} holds checkpoints of several runs: name one of {paths[0].parent}, {', '.join(folders)}"
        )
    return sorted(paths, key=is_last)


def inspect(path: Path, kind: str) -> Candidate:
    """What the choice needs to know of a file. Its weights aren't kept: a folder's may be more than the memory holds.

    kind: 'trained', or 'ema' for the moving averages.
    """
    checkpoint = load_checkpoint(path) if path.suffix == ".ckpt" else {}
    weights = (of_checkpoint(checkpoint, path) if checkpoint else read_weights(path)).of(kind)
    return Candidate(path, weights.step, digest(weights.state_dict), ranking(checkpoint), "loops" in checkpoint)


def read(path: Path, kind: str) -> Weights:
    """The weights of a file that `inspect` has seen. Raises ValueError for one that says no config."""
    weights = read_weights(path).of(kind)
    if weights.config is None:
        raise ValueError(f"{path} says nothing of the model's config: average the files that it came from")
    return weights


def ranking(checkpoint: Mapping) -> list[str]:
    """Names of the files that were the best by the monitor when this one was saved, the best first."""
    for state in checkpoint.get("callbacks", {}).values():
        if state and state.get("best_k_models"):
            scores = {Path(path).name: float(score) for path, score in state["best_k_models"].items()}
            high_is_good = scores[Path(state["best_model_path"]).name] > min(scores.values())
            return sorted(scores, key=scores.get, reverse=high_is_good)
    return []


def distinct(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    seen: dict[str, Path] = {}
    for candidate in candidates:
        if candidate.digest in seen:
            print(f"{candidate.path} has the weights of {seen[candidate.digest]}: they count once")
        else:
            seen[candidate.digest] = candidate.path
            yield candidate


def best(candidates: list[Candidate], number: int) -> list[Candidate]:
    """By the ranking in the newest checkpoint, which knows those before it."""
    by_name = {candidate.path.name: candidate for candidate in candidates}
    newest = max(candidates, key=lambda candidate: candidate.step)
    return [by_name[name] for name in newest.ranking if name in by_name][:number]


# their mean


def average(files: Iterable[Weights]) -> tuple[nn.Module, str]:
    """The model with the mean of the files' weights, and how it came about in words.

    Raises ValueError, in one line, for files of other models, and where what can't be averaged differs.
    """
    files = iter(files)
    first = next(files)
    model = build_model(first)
    frozen = {name for name, weight in model.named_parameters(remove_duplicate=False) if not weight.requires_grad}
    result, count, changed = dict(first.state_dict), 1, set()
    for other in files:
        check_same_model(first, other)
        count += 1
        for name, tensor in other.state_dict.items():
            start = first.state_dict[name]
            if torch.equal(start, tensor) and name not in changed:
                continue
            if name in frozen or not (tensor.is_floating_point() or name.endswith(COUNTERS)):
                raise ValueError(f"{name} differs between {first.source} and {other.source}, and can't be averaged")
            if tensor.is_floating_point():
                if name not in changed:  # until now it was the same in all
                    result[name] = start.double() * (count - 1)
                result[name] += tensor
            else:
                result[name] = torch.maximum(result[name], tensor)
            changed.add(name)
    for name in changed:
        if result[name].is_floating_point():
            result[name] = (result[name] / count).to(first.state_dict[name].dtype)
            if not result[name].isfinite().all():
                raise ValueError(f"{name} isn't finite in every file")
    model.load_state_dict(result)
    return model, f"{len(changed)} of {len(result)} tensors averaged"


def check_same_model(first: Weights, other: Weights) -> None:
    """Raise ValueError, naming the first thing that differs: an option of the config, or a tensor."""
    ours, theirs = config_of(first), config_of(other)
    for source, than, found in (
        (other.source, first.source, differences(ours, theirs)),
        (first.source, other.source, differences(theirs, ours)),
    ):
        for difference in found:
            option = difference.partition("=")[0].rpartition(".")[2]
            if not option.startswith(TRAINING_ONLY):
                raise ValueError(f"{source} is another model than {than}: {difference}")
    kinds = [{name: (tensor.shape, tensor.dtype) for name, tensor in w.state_dict.items()} for w in (first, other)]
    for name in sorted(kinds[0].keys() | kinds[1].keys()):
        if kinds[0].get(name) != kinds[1].get(name):
            raise ValueError(f"{other.source} is another model than {first.source}: {name} differs in shape or type")


def config_of(weights: Weights) -> dict:
    """What the config says of the model, in NeMo's words, as .nemo files have it."""
    config = OmegaConf.to_container(to_nemo(weights.config, "")[0])
    return {key: value for key, value in config.items() if key not in (*RUN_KEYS, *NOT_A_PART)}


if __name__ == "__main__":
    with one_line_errors(also=(OSError,)):
        main()
