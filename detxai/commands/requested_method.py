"""The settings of the method that a command is about."""

from __future__ import annotations

import argparse
from typing import Any

from detxai.commands.options import no_repeats
from detxai.explain import setting_names

OF_THEIR_OWN = ("seed", "batch_size")  # settings of many methods that have an option of their own


def requested_settings(given: argparse.Namespace) -> dict[str, Any]:
    """What ``--set``, ``--seed`` and ``--batch-size`` say; the latter two where the method has such a setting.

    Raises:
        ValueError: a setting is given twice.
    """
    settings = no_repeats(given.settings)
    for name in OF_THEIR_OWN:
        value = getattr(given, name)
        if value is None:
            continue
        if name in settings:
            raise ValueError(f"--{name.replace('_', '-')} and --set {name}=... are the same setting, got both")
        if name in setting_names(given.method):
            settings[name] = value
    return settings
