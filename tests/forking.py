"""A command in a forked process, without the seconds that importing everything takes."""

from __future__ import annotations

import os

import pytest
import torch

from detxai.cli import main

# OpenMP's threads do not come along: the child would wait for them without end
needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork") or torch.get_num_threads() > 1, reason="needs fork, and a process of one thread"
)


def forked(command: list[str]) -> int:
    """The command in a process of its own; its number."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        code = 99
        try:
            code = main(command)
        except KeyboardInterrupt:  # before the command began
            code = 130
        finally:
            os._exit(code)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
