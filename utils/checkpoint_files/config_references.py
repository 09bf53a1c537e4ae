"""References in a config from elsewhere, `${model.sample_rate}`: to its own keys and to nothing else.

omegaconf's own resolving knows more: `${oc.env:HOME}` reads the environment, and whatever resolvers a program has
registered run. A stranger's config has no business there. It also has no limit on what a few references blow up to.
"""

import re

REFERENCE = re.compile(r"\$\{([^${}]*)\}")
OWN_KEYS = re.compile(r"\.*\w[\w-]*(\.\w[\w-]*|\[\w+\])*")
KEY = re.compile(r"[\w-]+")
MAX_DEPTH = 100
MAX_SIZE = 1_000_000  # values, and characters that references add; of a config with a large vocabulary: 100,000
REFERENCE_SIZE = 20  # what one counts for, by the time it takes


def resolved(config: object, path: str = "config") -> object:
    """A copy of plain data with all references resolved: `${a.b}`, `${.b}` and `${..b}` as in omegaconf.

    path: of the config, used in messages.
    Raises ValueError, in one line, for a resolver, an escaped reference, one to a key that isn't there or that goes in
    a circle, and for a config that becomes too large.
    """
    return _Config(config, path).value(config, (), 0)


class _Config:
    def __init__(self, root: object, path: str):
        self.root, self.path = root, path
        self.size = 0

    def value(self, node: object, keys: tuple, depth: int) -> object:
        """What stands at `keys`, resolved."""
        self.count(1)
        if depth > MAX_DEPTH:
            raise ValueError(f"{self.at(keys)} goes in a circle or is nested more than {MAX_DEPTH} levels deep")
        if isinstance(node, dict):
            return {key: self.value(item, (*keys, key), depth + 1) for key, item in node.items()}
        if isinstance(node, list):
            return [self.value(item, (*keys, i), depth + 1) for i, item in enumerate(node)]
        return self.text(node, keys, depth) if isinstance(node, str) and "${" in node else node

    def text(self, text: str, keys: tuple, depth: int) -> object:
        """A text that is one reference becomes what that is; one with references in it stays a text."""
        names = REFERENCE.findall(text)
        self.count(REFERENCE_SIZE * len(names))
        if not all(map(OWN_KEYS.fullmatch, names)) or "${" in REFERENCE.sub("", text) or "\\${" in text:
            raise ValueError(
                f"{self.at(keys)}={text[:80]!r} asks for more than keys of this config, as ${{oc.env:...}} would; "
                "put the value there"
            )
        if REFERENCE.fullmatch(text):
            return self.value(*self.find(names[0], keys, depth), depth + 1)
        result = REFERENCE.sub(lambda found: self.inserted(found[1], keys, depth), text)
        self.count(len(result))
        if "${" in result:
            raise ValueError(f"{self.at(keys)}={text[:80]!r} makes a new reference")
        return result

    def inserted(self, name: str, keys: tuple, depth: int) -> str:
        value = self.value(*self.find(name, keys, depth), depth + 1)
        if isinstance(value, dict | list):
            raise ValueError(f"{self.at(keys)} has ${{{name}}} within a text, which is {type(value).__name__}, no text")
        return str(value)

    def find(self, name: str, keys: tuple, depth: int) -> tuple[object, tuple]:
        """The node that `name` refers to from `keys`, and where it stands."""
        dots = len(name) - len(name.lstrip("."))
        node, at = self.root, ()
        for key in (*keys[: len(keys) - dots], *KEY.findall(name)) if dots else KEY.findall(name):
            if isinstance(node, str) and "${" in node:
                node = self.text(node, at, depth + 1)
            if isinstance(node, list):
                key = int(key) if str(key).isdecimal() else key
            known = range(len(node)) if isinstance(node, list) else node if isinstance(node, dict) else ()
            if key not in known or dots > len(keys):
                raise ValueError(f"{self.at(keys)} refers to ${{{name}}}, which isn't there")
            node, at = node[key], (*at, key)
        return node, at

    def count(self, size: int) -> None:
        self.size += size
        if self.size > MAX_SIZE:
            raise ValueError(f"{self.path} has references that make more than {MAX_SIZE:,} values of it")

    def at(self, keys: tuple) -> str:
        return ".".join([self.path, *map(str, keys)] if self.path else map(str, keys))
