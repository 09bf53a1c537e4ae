import json
from collections.abc import Callable

import pytest

from tools import doctor


@pytest.fixture
def check(capsys) -> Callable[..., tuple[int, dict]]:
    """`check(manifest, "--fix")`: exit code and JSON report of the doctor, run in this process."""

    def run(*arguments: object) -> tuple[int, dict]:
        code = doctor.main(["--num_workers", "0", "--json", "-", *map(str, arguments)])
        return code, json.loads(capsys.readouterr().out, parse_constant=pytest.fail)  # JSON has no NaN

    return run
