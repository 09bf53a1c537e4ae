"""NeMo's archive of a model, `.nemo`: a tar, or an old one's tar.gz, of `model_config.yaml` and `model_weights.ckpt`.

Archives come from strangers: nothing is unpacked to a name that they give, and their yaml is data and nothing else.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from utils.checkpoint_files.checkpoint_file import BadCheckpoint, bad_checkpoint, load_checkpoint, write_checkpoint
from utils.checkpoint_files.config_references import resolved
from utils.checkpoint_files.files import written_whole
from utils.checkpoint_files.tar_members import (
    Member,
    Window,
    large_member,
    members,
    opened_tar,
    write_end,
    write_member,
)

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"
CONFIG_MAX_BYTES = 1 << 21  # a model's with a vocabulary of 16,000 words: 300 kB
CONFIG_MAX_DEPTH = 50
CHECKSUM = "sha256="  # ours, in a comment that tar programs and NeMo pass over: tar has none of a member's content
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_nemo_config(path: str | Path) -> DictConfig:
    """The model's config, with references to its own keys resolved.

    Raises BadCheckpoint, in one line, for an archive or a yaml that is damaged, and for a yaml with tags, anchors or
    references to anything but its own keys (`${oc.env:HOME}`); OSError for a file that can't be read.
    """
    path = Path(path)
    with opened_nemo(path) as (file, found):
        member = found[CONFIG]
        if member.size > CONFIG_MAX_BYTES:
            raise ValueError(f"has a {CONFIG} of {member.size:,} bytes, more than {CONFIG_MAX_BYTES:,}")
        content = Window(file, member.start, member.size).read()
        if member.comment not in ("", checksum(content)):
            raise ValueError(f"is damaged: {CONFIG} isn't as it was written")
        return parse_config(content.decode("utf-8"))


def read_nemo_weights(path: str | Path) -> dict[str, Tensor]:
    """The model's state dict, on the CPU. Raises BadCheckpoint and OSError, as `read_nemo_config` does."""
    path = Path(path)
    with opened_nemo(path) as (file, found):
        member = found[WEIGHTS]
        state_dict = load_checkpoint(Window(file, member.start, member.size), name=f"{path}: {WEIGHTS}")
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise BadCheckpoint(f"{path}: {WEIGHTS} holds {name!r:.80}, which is no tensor with a name")
    return state_dict


def write_nemo(path: str | Path, config: DictConfig, state_dict: Mapping[str, Tensor]) -> None:
    """Write a model, whole or not at all; the same model makes the same bytes.

    NeMo opens the file, and so does `torch.load` with `weights_only` its weights.
    Raises ValueError for a config that `read_nemo_config` would refuse; OSError where the disk is full.
    """
    text = OmegaConf.to_yaml(config, resolve=True)
    parse_config(text)
    content = text.encode("utf-8")
    weights = {name: value.detach().cpu() for name, value in state_dict.items()}
    with written_whole(path) as unfinished, open(unfinished, "wb") as file:
        write_member(file, "./", b"")
        write_member(file, f"./{CONFIG}", content, comment=checksum(content))
        with large_member(file, f"./{WEIGHTS}"):
            write_checkpoint(weights, file)
        write_end(file)


def checksum(content: bytes) -> str:
    return f"{CHECKSUM}{hashlib.sha256(content).hexdigest()}"


@contextmanager
def opened_nemo(path: Path) -> Iterator[tuple[BinaryIO, dict[str, Member]]]:
    """The archive, open, and where its config and its weights are; other files in it are of no use here."""
    with bad_checkpoint(str(path)), opened_tar(path) as file:
        found: dict[str, Member] = {}
        for member in members(file):
            name = PurePosixPath(member.name).name
            if name in found:
                raise ValueError(f"has two members called {name}, and one model has one")
            if name in (CONFIG, WEIGHTS):
                found[name] = member
        if missing := [name for name in (CONFIG, WEIGHTS) if name not in found]:
            raise ValueError(f"holds no {' and no '.join(missing)}, which a model in a .nemo file has")
        yield file, found


def parse_config(text: str) -> DictConfig:
    """A model's config from yaml, read as omegaconf reads it; its `model` section, if it has one, as NeMo does."""
    try:
        refuse_more_than_data(text)
        config = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(f"has a {CONFIG} that can't be read: {str(error).splitlines()[0]}") from None
    config = resolved(config, CONFIG)
    config = config.get("model", config)
    if not isinstance(config, dict):
        raise ValueError(f"has a {CONFIG} that is no mapping of options")
    return OmegaConf.create(config)


def refuse_more_than_data(text: str) -> None:
    """Raise ValueError for tags, which can name code, for anchors, which can blow up, and for endless nesting.

    And for a text that is no mapping: omegaconf makes one of it.
    """
    depth, is_mapping = 0, False
    for event in yaml.parse(text, Loader=SAFE_LOADER):
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"has a tag in its {CONFIG}, line {line}: {event.tag!r:.80}; it may hold plain data only")
        if getattr(event, "anchor", None) is not None:
            raise ValueError(f"has an anchor or alias in its {CONFIG}, line {line}; it may hold plain data only")
        is_mapping |= depth == 0 and isinstance(event, yaml.MappingStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > CONFIG_MAX_DEPTH:
            raise ValueError(f"has a {CONFIG} nested more than {CONFIG_MAX_DEPTH} levels deep")
    if not is_mapping:
        raise ValueError(f"has a {CONFIG} that is no mapping of options")
