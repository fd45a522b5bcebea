"""Which GPUs a child process may see, so that runs that go on at once do not all take the first one."""

import os
from collections.abc import Mapping, Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"


def share_of_devices(environment: Mapping[str, str], slot: int, slots: int) -> dict[str, str]:
    """The variable that gives the `slot`-th of `slots` runs at once its share of the GPUs; nothing without GPUs."""
    visible = visible_devices(environment) if slots > 1 else []
    return {VISIBLE: ",".join(share(visible, slot, slots))} if visible else {}


def share(visible: Sequence[str], slot: int, slots: int) -> Sequence[str]:
    """As many of the `visible` GPUs for each slot, every one at most once; with fewer GPUs than slots, one in turn."""
    slot %= slots
    if len(visible) < slots:
        return [visible[slot % len(visible)]]
    each = len(visible) // slots
    first = slot * each
    return visible[first : first + each]


def visible_devices(environment: Mapping[str, str]) -> list[str]:
    """Indices or identifiers of the GPUs that this process sees."""
    if VISIBLE in environment:
        return [name.strip() for name in environment[VISIBLE].split(",") if name.strip()]
    import torch  # only where nothing else says how many there are

    return [str(index) for index in range(torch.cuda.device_count())]


def jobs_at_once(launcher: Mapping[str, object], environment: Mapping[str, str]) -> int:
    """How many jobs of a sweep a launcher of Hydra (hydra.launcher) runs at the same time on one machine."""
    jobs = launcher.get("n_jobs")
    if isinstance(jobs, int):  # joblib; negative counts from the number of cores
        return jobs if jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + jobs)
    if str(launcher.get("_target_", "")).endswith("LocalLauncher"):  # submitit starts all at once
        return max(1, len(visible_devices(environment)))
    return 1
