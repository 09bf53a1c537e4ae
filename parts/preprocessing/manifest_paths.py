"""Which files a config value names: a path, a list of them, comma-separated ones."""

import os
from collections.abc import Sequence

MAKE_DUMMY_DATA = "python tools/prepare_dummy_ssl_data.py"


def manifest_paths(manifests: str | Sequence[str] | None, config_path: str) -> list[str]:
    """The paths that a config value names, each checked to be a file."""
    if manifests in (None, "", "???"):
        raise ValueError(
            f"{config_path} is not set; give a manifest, or make dummy data with `{MAKE_DUMMY_DATA}` and use that"
        )
    paths = manifests.split(",") if isinstance(manifests, str) else list(manifests)
    if not all(isinstance(path, str | os.PathLike) for path in paths):
        raise ValueError(f"{config_path}={manifests!r} is not a path, a list of paths or comma-separated paths")
    paths = [os.path.expanduser(os.fspath(path).strip()) for path in paths]
    for path in paths:
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"{config_path}: there is no manifest {path!r} (looked from {os.getcwd()}); correct the path, "
                f"or make dummy data with `{MAKE_DUMMY_DATA}` and use that"
            )
    return paths
