"""GPUs of children: by a function of the environment alone."""

import pytest

from experiments.run.devices import VISIBLE, jobs_at_once, share, share_of_devices


@pytest.mark.parametrize(
    ("visible", "slots", "shares"),
    [
        (["0", "1", "2", "3"], 4, [["0"], ["1"], ["2"], ["3"]]),
        (["0", "1", "2", "3"], 2, [["0", "1"], ["2", "3"]]),
        (["4", "6", "7"], 2, [["4"], ["6"]]),
        (["0", "1"], 3, [["0"], ["1"], ["0"]]),
        (["GPU-a", "GPU-b"], 2, [["GPU-a"], ["GPU-b"]]),
        (["5"], 2, [["5"], ["5"]]),
    ],
)
def test_runs_at_once_share_the_gpus(visible: list[str], slots: int, shares: list[list[str]]) -> None:
    """Catches runs that all take the first GPU, one that two of them take while another idles, and devices that the
    user has hidden."""
    assert [share(visible, slot, slots) for slot in range(slots)] == shares
    given = {VISIBLE: ", ".join(visible)}
    assert share_of_devices(given, slots, slots) == {VISIBLE: ",".join(shares[0])}  # the next job takes a free share
    assert share_of_devices(given, 0, 1) == {} and share_of_devices({VISIBLE: ""}, 1, 2) == {}


def test_launchers_run_so_many_jobs_at_once() -> None:
    """Catches a sequential sweep whose jobs see one GPU of several, and a parallel one whose jobs see all."""
    environment = {VISIBLE: "0,1,2"}
    assert jobs_at_once({"_target_": "BasicLauncher"}, environment) == 1
    assert jobs_at_once({"_target_": "JoblibLauncher", "n_jobs": 2}, environment) == 2
    assert jobs_at_once({"_target_": "x.JoblibLauncher", "n_jobs": -1}, environment) >= 1
    assert jobs_at_once({"_target_": "x.LocalLauncher", "nodes": 1}, environment) == 3
    assert jobs_at_once({"_target_": "x.SlurmLauncher"}, environment) == 1
