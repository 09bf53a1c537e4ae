"""Every option of a model: what each side's constructors get, whether a config said it or a default did, and what the
built model holds of it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from tools.parity.aspects.constructors import Arguments, as_json, default_arguments, effective, noted
from tools.parity.aspects.held import compare_held, drawn_contexts, held_by_layers, held_options
from tools.parity.aspects.options import (
    ABSENT,
    LEVEL,
    compare_option,
    compare_section,
    compare_value,
    only_here,
)
from tools.parity.cases import NEMO
from tools.parity.records import Measured, Record
from tools.parity.rows import FAILED, Row
from tools.parity.side import DATA, Side

NAME = "configuration"
PARTS = {  # section of a model's config -> the attribute that holds what is built of it
    "preprocessor": "preprocessor", "spec_augment": "spec_augmentation", "masking": "mask_processor",
    "quantizer": "quantizer", "encoder": "encoder", "decoder": "decoder", "loss": "loss",
}  # fmt: skip
WRITTEN_BY_NEMO = ("target", "nemo_version")  # into the config of every model that it builds
NAMED = {  # sections that say a name -> where each side looks it up: module and table
    "optim": {
        "nemo": ("nemo.core.optim.optimizers", "AVAILABLE_OPTIMIZERS"),
        "ours": ("core.optim.optimizers", "OPTIMIZERS"),
    },
    "sched": {
        "nemo": ("nemo.core.optim.lr_scheduler", "AVAILABLE_SCHEDULERS"),
        "ours": ("core.optim.lr_scheduler", "SCHEDULERS"),
    },
}
STEPPED = ("interval", "frequency", "monitor", "reduce_on_plateau")  # what Lightning reads of a schedule
REGISTERS_TARGETS = "models.targets"  # ours, as the two below
TARGETS, OWN_OPTIONS = ("core.targets", "TARGETS"), (REGISTERS_TARGETS, "OWN_OPTIONS")


def measure(side: Side) -> Measured:
    """facts: `arguments` section -> name -> {value, given, held}; `layers`: what single layers hold; `model`: the
    keys beside the sections; `neutral`: key of an option of ours -> the value that is NeMo's way; `raised`: why the
    side can't build what the config says; then `arguments` are what the config says of what the classes take."""
    config = whole_config(side)
    classes = dict(classes_in(config, side.name))
    neutral = {} if side.is_nemo else neutral_values(classes)
    try:
        with noted(classes.values()) as made:
            module = build_without_data(side)
            built = objects(side, module) | augmentors(config, side.name)
        arguments = {name: named(type(thing), held_options(thing, made.of(thing))) for name, thing in built.items()}
    except Exception as error:
        raised = f"{type(error).__name__}: {error}".partition("\n")[0]
        return Measured(facts={"raised": raised, "arguments": said(config, classes), "neutral": neutral})
    other = other_keys(module) if side.case.is_model else {}
    return Measured(
        facts={
            "arguments": arguments,
            "layers": held_by_layers(module) | drawn_contexts(module) | optimization(side, module),
            "model": other,
            "neutral": neutral,
        }
    )


def whole_config(side: Side) -> dict[str, Any]:
    """The model's section, resolved; of a lone encoder a section with that alone."""
    config = side.case.config
    if not side.case.is_model:
        config = {"encoder": {"_target_": NEMO + side.case.class_path, **config}}
    return OmegaConf.to_container(OmegaConf.create(config), resolve=True)


def build_without_data(side: Side) -> nn.Module:
    """With the weights that the constructors draw: those of the job may not fit what is built here."""
    if not side.case.is_model:
        return side.case.build(side.package)
    return replace(side.case, config=side.case.config | dict.fromkeys(DATA)).build(side.package)


def objects(side: Side, module: nn.Module) -> dict[str, object]:
    """What is built of each section; optimizer and schedule as `setup_optimization` builds them."""
    if not side.case.is_model:
        return {"encoder": module}
    built = {section: getattr(module, part) for section, part in PARTS.items()}
    if side.case.config.get("optim") is None:
        return built
    optimizer, schedule = module.setup_optimization(optim_config=side.case.build_optim())
    return built | {"optim": optimizer} | ({"optim.sched": schedule["scheduler"]} if schedule else {})


def optimization(side: Side, module: nn.Module) -> dict[str, Any]:
    """What the groups of the optimizer hold, its parameters by name, and when Lightning steps the schedule."""
    if not side.case.is_model or side.case.config.get("optim") is None:
        return {}
    optimizer, schedule = module.setup_optimization(optim_config=side.case.build_optim())
    names = {parameter: name for name, parameter in sorted(module.named_parameters(remove_duplicate=False))[::-1]}
    held = {"optim.param_groups": len(optimizer.param_groups)}
    for index, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if key == "lr":
                continue  # the schedule's by now: `initial_lr` is its base, and the rates of all steps are compared
            value = [names[parameter] for parameter in value] if key == "params" else as_json(value)
            held[f"optim.param_groups.{index}.{key}"] = value
    if schedule is None:
        return held
    monitor = schedule["monitor"] if schedule["reduce_on_plateau"] else None  # Lightning reads it only then
    return held | {f"optim.sched.{key}": (schedule | {"monitor": monitor})[key] for key in STEPPED}


def augmentors(config: Mapping, side: str) -> dict[str, object]:
    """The batch augmentors of the data sections, which no constructor of a model builds."""
    built = {}
    for name in DATA:
        options = dict((config.get(name) or {}).get("batch_augmentor") or {})
        if "_target_" in options:
            built[f"{name}.batch_augmentor"] = class_of(options.pop("_target_"), side)(**options)
    return built


def classes_in(config: Mapping, side: str, path: str = "") -> Iterator[tuple[str, type]]:
    """Every section that names a class, and the class that the side finds under that name, if it finds one."""
    for key, section in config.items():
        if not isinstance(section, Mapping):
            continue
        cls = class_of(section["_target_"], side) if "_target_" in section else None
        if key in NAMED:
            cls = table(*NAMED[key][side]).get(section.get("name"))
        if cls is not None:
            yield f"{path}{key}", cls
        yield from classes_in(section, side, f"{path}{key}.")


def class_of(target: str, side: str) -> type | None:
    if side == "nemo":
        module, name = target.rsplit(".", 1)
        return getattr(import_module(module), name, None)
    import_module(REGISTERS_TARGETS)
    return table(*TARGETS).get(target)


def said(config: Mapping, classes: Mapping[str, type]) -> dict[str, Arguments]:
    """What a config says of the arguments that its classes take."""
    arguments = {}
    for section, cls in classes.items():
        given, taken = OmegaConf.select(OmegaConf.create(dict(config)), section), default_arguments(cls)
        arguments[section] = named(cls, effective({name: given[name] for name in given if name in taken}, taken))
    return arguments


def named(cls: type, arguments: Arguments) -> Arguments:
    """The arguments and before them the class, by its name: it stands in another package on each side."""
    return {"_target_": {"value": cls.__name__, "given": True}} | arguments


def table(module: str, name: str) -> Mapping:
    """A table of one side, imported there only."""
    return getattr(import_module(module), name)


def other_keys(model: nn.Module) -> dict[str, Any]:
    """What the built model's config says beside its sections."""
    return {
        key: as_json(value)
        for key, value in model.cfg.items()
        if key not in WRITTEN_BY_NEMO and not isinstance(value, Mapping)
    }


def neutral_values(classes: Mapping[str, type]) -> dict[str, Any]:
    own = table(*OWN_OPTIONS)
    return {
        f"{section}.{name}": as_json(value)
        for section, cls in classes.items()
        for name, value in own.get(cls, {}).items()
    }


def compare(ours: Record, nemo: Record) -> Iterator[Row]:
    """A row for each option, for each other key, and for what each kind of layer holds."""
    got, expected = ours.measured[NAME].facts, nemo.measured[NAME].facts
    version = nemo.origin.get("nemo_version", "")
    asked = {key if ours.job.case.is_model else f"encoder.{key}" for key in ours.job.own_options}
    for section in union(expected["arguments"], got["arguments"]):
        here, there = (facts["arguments"].get(section) for facts in (got, expected))
        if here is None or there is None:
            yield compare_section(section, here, there, version)
            continue
        for name in union(there, here):
            key = f"{section}.{name}"
            neutral = got["neutral"].get(key, ABSENT)
            yield compare_option(key, here.get(name), there.get(name), version, neutral, is_asked=key in asked)
    for side, facts in (("ours", got), (f"NeMo {version}", expected)):
        if "raised" in facts:
            yield Row(LEVEL, f"{side} raised", FAILED, reason="both sides must build it", detail=facts["raised"])
    if "raised" not in got | expected:
        yield from compare_other_keys(got["model"], expected["model"], version, asked)
        yield from compare_held(got["layers"], expected["layers"], expected["arguments"]["encoder"])


def compare_other_keys(ours: Mapping, nemo: Mapping, version: str, asked: set[str]) -> Iterator[Row]:
    for name in union(nemo, ours):
        if name in asked and name not in nemo:
            yield only_here(name, ours[name], version, ABSENT, is_asked=True)
        else:
            yield compare_value(f"model.{name}", ours.get(name, ABSENT), nemo.get(name, ABSENT))


def union(first: Iterable[str], then: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*first, *then]))
