"""Runs an experiment several times over, some of them killed, and resumes those. Started by test_resume.py.

Each run is a fork, so that imports are paid once; the parent never trains, as autograd's threads do not survive forks.
"""

import json
import os
import signal
import sys
from collections.abc import Callable

from datasets import prepare
from experiments import language_modeling, launch
from experiments.training import callbacks
from experiments.training import checkpoints as checkpoint


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_save(number: int, when: str) -> Callable[[], None]:
    """Die before, halfway through, or after the write of the given checkpoint."""

    def arm() -> None:
        count = 0
        real = checkpoint.AtomicCheckpointIO.save_checkpoint

        def save(self, contents, path, storage_options=None):
            nonlocal count
            count += 1
            if count == number and when == "half":
                checkpoint.torch.save = half
            real(self, contents, path, storage_options)
            if count == number and when == "after":
                die()

        def half(contents, file):
            file.write(b"PK\x03\x04 half of a checkpoint")
            file.flush()
            die()

        checkpoint.AtomicCheckpointIO.save_checkpoint = save

    return arm


def in_step(number: int) -> Callable[[], None]:
    """Die at the end of the given micro-step."""

    def arm() -> None:
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx + 1 == number:
                die()

        callbacks.NanGuard.on_train_batch_end = on_train_batch_end

    return arm


def in_validation(number: int) -> Callable[[], None]:
    """Die in the middle of the given validation."""

    def arm() -> None:
        count = 0

        def on_validation_batch_end(self, trainer, *rest):
            nonlocal count
            count += 1
            if count == number:  # one batch each
                die()

        callbacks.NanGuard.on_validation_batch_end = on_validation_batch_end

    return arm


def interrupted(number: int) -> Callable[[], None]:
    """Be asked to stop, by a scheduler, in the given micro-step."""

    def arm() -> None:
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx + 1 == number:
                os.kill(os.getpid(), signal.SIGTERM)

        callbacks.NanGuard.on_train_batch_start = on_train_batch_start

    return arm


def in_call(owner: object, name: str) -> Callable[[], None]:
    """Die where a function is called."""

    def arm() -> None:
        setattr(owner, name, lambda *arguments, **named: die())

    return arm


KILLS: dict[str, Callable[[], None]] = {
    "between_checkpoints": in_step(13 * 2 - 1),
    "halfway_through_a_checkpoint": at_save(3, "half"),
    "after_a_checkpoint_of_training": at_save(2, "after"),
    "after_best_before_last": at_save(3, "after"),
    "in_validation": in_validation(2),
    "interrupted": interrupted(13 * 2 - 1),  # steps 13 and 24 are no multiples of what is logged, saved or validated
    "before_the_first_checkpoint": in_step(2 * 2),
    "in_preparation": in_call(prepare, "check_not_empty"),
    "in_sampling": in_call(language_modeling, "write_samples"),
}


def run(arguments: list[str], arm: Callable[[], None] | None = None) -> int:
    """Exit status of main.py in a fork, negative for a signal."""
    child = os.fork()
    if child == 0:
        if arm is not None:
            arm()
        sys.argv = ["main.py", *arguments]
        os._exit(launch.main())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Arguments: a folder, the cases as METHOD:KILL or METHOD+OPTIMIZER:KILL,..., and the overrides of all runs."""
    assert language_modeling.LanguageModeling is not None  # imported before the forks
    folder, cases, *overrides = sys.argv[1:]
    statuses: dict[str, int] = {}
    for method, kill in (case.split(":") for case in cases.split(",")):
        algorithm, _, optimizer = method.partition("+")
        chosen = [f"algorithm/optimizer={optimizer}"] if optimizer else []
        given = [f"algorithm={algorithm}", *chosen, "resume=auto", *overrides]
        if method not in statuses:
            statuses[method] = run([*given, f"hydra.run.dir={folder}/{method}"])
        place = [f"hydra.run.dir={folder}/{method}-{kill}", f"dataset.cache_dir={folder}/{kill}"]
        statuses[f"{method}-{kill} killed"] = run([*given, *place], KILLS[kill])
        statuses[f"{method}-{kill} resumed"] = run([*given, *place])
    print(json.dumps(statuses))


if __name__ == "__main__":
    main()
