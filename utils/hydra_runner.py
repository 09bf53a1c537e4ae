"""Run a function with the config that a yaml and the command line compose to."""

import argparse
import functools
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict

from utils.config_check import nearest
from utils.errors import one_line_errors

ADDED_KEY = re.compile(r"^\+(?!\+)(?P<key>[\w.]+)=")  # +model.encoder.reduction=pooling
HYDRAS_KEY = re.compile(r"^[+~\s]*hydra\b")  # hydra.run.dir=x, hydra/launcher=x, ~hydra.callbacks
WHY_NOT_HYDRA = "settings of Hydra's own can name code to run, so they are refused; remove them"


def hydra_runner(config_path: str = ".", config_name: str | None = None) -> Callable[[Callable], Callable]:
    """Decorate `task(cfg)`: called without arguments, it reads the command line as NeMo's runner of this name does.

    config_path: folder of the yamls, relative to the file that defines `task`.
    Hydra only composes the config. Its runner, which NeMo's uses, isn't called: a yaml can tell it which functions to
    call (`hydra.callbacks`, `hydra.job_logging`), and a yaml from a stranger must not run code. So a yaml or an
    override that sets something of Hydra's own is refused, and there is no multirun.
    Beside Hydra's rules: a relative `--config-path` is looked for from the working directory first; `+key=value` also
    works on a key that the yaml has already (NeMo's users add keys that stand in our yaml); no output folder, no log
    file, no change of directory; an error of the user's ends in one line (`utils.errors`).
    """

    def decorate(task: Callable[[DictConfig], object]) -> Callable:
        program = Path(task.__code__.co_filename).resolve().parent

        @functools.wraps(task)
        def run(cfg: DictConfig | None = None) -> object:
            if cfg is not None:
                return task(cfg)
            with one_line_errors():
                options = read_arguments(sys.argv[1:], config_path, config_name, task.__globals__.get("__doc__"))
                cfg = compose_config(options, program)
                if options.cfg is None:
                    return task(cfg)
                print(OmegaConf.to_yaml(cfg, resolve=options.resolve), end="")

        return run

    return decorate


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise ValueError(f"{message} (--help lists the arguments)")


def read_arguments(
    arguments: Sequence[str], config_path: str, config_name: str | None, description: str | None = None
) -> argparse.Namespace:
    """Hydra's flags, as far as they compose a config, and the overrides. The first two values are the defaults."""
    parser = OneLineParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("overrides", nargs="*", help="section.key=value, +section.new_key=value or ~section.key")
    parser.add_argument("--config-path", "-cp", default=config_path, help="folder of the yaml (default: %(default)s)")
    parser.add_argument("--config-name", "-cn", default=config_name, help="its name (default: %(default)s)")
    parser.add_argument("--config-dir", "-cd", help="another folder to look in for yamls")
    parser.add_argument("--cfg", "-c", choices=["job"], help="print the composed config and do nothing else")
    parser.add_argument("--resolve", action="store_true", help="with --cfg: put in what ${...} stands for")
    parser.add_argument("--multirun", "-m", action="store_true", help="refused: a command is one run")
    options = parser.parse_intermixed_args(arguments)
    if options.multirun:
        raise ValueError("--multirun is not supported: a command is one run; start one command per set of values")
    return options


def compose_config(options: argparse.Namespace, program: Path) -> DictConfig:
    """The config of `read_arguments`' options; folders are relative to the working directory or to `program`."""
    folders = [existing_folder("--config-path", options.config_path, program)]
    if options.config_dir is not None:
        folders.append(existing_folder("--config-dir", options.config_dir, program))
    # Always given, and first: it wins over a searchpath in a yaml, where pkg://name would import a package.
    search = [f"hydra.searchpath={[f'file://{folder}' for folder in folders[1:]]}"]
    try:
        refuse_hydras_keys(options, folders)
        overrides = [with_added_key(one_value(override), folders) for override in options.overrides]
        with initialize_config_dir(str(folders[0]), version_base="1.3"):
            cfg = compose(options.config_name, search + overrides, return_hydra_config=True)
            untouched = compose(None, search, return_hydra_config=True)
    except (HydraException, yaml.YAMLError) as error:
        raise ValueError(explain(error)) from error
    if hydras_settings(cfg) != hydras_settings(untouched):  # by a yaml that another one includes
        raise ValueError(f"{options.config_name}: {WHY_NOT_HYDRA}")
    with open_dict(cfg):
        del cfg.hydra
    return cfg


def existing_folder(flag: str, value: str, program: Path) -> Path:
    """Absolute path of a config folder that was given relative to the working directory or to the program."""
    for base in (Path.cwd(), program):
        if (base / value).is_dir():
            return (base / value).resolve()
    raise ValueError(f"{flag}={value}: there is no such folder in {Path.cwd()}")


def refuse_hydras_keys(options: argparse.Namespace, folders: Sequence[Path]) -> None:
    """Raise ValueError where the yaml or an override sets something of Hydra's own."""
    for override in options.overrides:
        if HYDRAS_KEY.match(override):
            raise ValueError(f"{override}: {WHY_NOT_HYDRA}")
    for folder in folders:
        path = folder / f"{(options.config_name or '').removesuffix('.yaml')}.yaml"
        if path.is_file() and "hydra" in OmegaConf.load(path):
            raise ValueError(f"{path}: `hydra:` {WHY_NOT_HYDRA}")


def hydras_settings(cfg: DictConfig) -> dict:
    """What a yaml or an override can set of Hydra's own; without what composing itself fills in."""
    settings = OmegaConf.to_container(cfg.hydra, resolve=False)
    filled_in = {"runtime", "overrides"}
    job = {key: value for key, value in settings["job"].items() if key not in ("config_name", "override_dirname")}
    return {key: value for key, value in settings.items() if key not in filled_in} | {"job": job}


def one_value(override: str) -> str:
    """`key=语音.json` or `key=a.json,b.json` with the value in quotes: Hydra refuses the one, sweeps over the other.

    What begins like a list, a mapping, a reference or a quoted text, and numbers with commas, stay as they are, so that
    a slip in them is still an error.
    """
    key, equals, value = override.partition("=")
    if not equals or value.startswith(("[", "{", "$", "'", '"')):
        return override
    try:
        parsed = OverridesParser.create().parse_override(override)
        is_one = not parsed.is_sweep_override() or not re.search("[^\\W\\d]", value)
    except HydraException:
        is_one = False
    escaped = value.replace('"', r'\"')
    return override if is_one else f'{key}="{escaped}"'


def with_added_key(override: str, folders: Sequence[Path]) -> str:
    """`+key=` as `++key=`, which also sets a key that is there, unless `key` is a group of yamls."""
    added = ADDED_KEY.match(override)
    return f"+{override}" if added and not any((folder / added["key"]).is_dir() for folder in folders) else override


def explain(error: HydraException | yaml.YAMLError) -> str:
    """What went wrong in composing the config, in one line that names the key and its nearest match."""
    if isinstance(error, yaml.YAMLError):
        return f"not a yaml: {' '.join(str(error).split())}"
    first_line = (str(error) or str(error.__cause__)).partition("\n")[0].rstrip(".")
    if isinstance(error, MissingConfigException) and error.options:
        return first_line + nearest(error.missing_cfg_file.rpartition("/")[2], error.options)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {first_line}"
    key, parent = getattr(error.__cause__, "full_key", None), getattr(error.__cause__, "parent_node", None)
    if not key or not OmegaConf.is_dict(parent):
        return first_line
    known = [str(name) for name in parent]
    return f"{key} is not in the config{nearest(key.rpartition('.')[2], known)} (+{key}=... adds a key)"
