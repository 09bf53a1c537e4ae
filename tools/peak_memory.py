"""The most memory that this process has had."""

import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

STATUS = Path("/proc/self/status")  # Linux


def peak_bytes() -> int | None:
    """Of resident memory, since the program started; None where that isn't known (Windows).

    On Linux getrusage's figure starts with the peak of the process that started this one (subprocess uses vfork), so
    the kernel's own line is read.
    """
    if STATUS.is_file():
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
