"""The arguments of ``detxai completion``."""

from __future__ import annotations

from typing import Any

from detxai.commands.options import new_command

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
EXAMPLES = """
detxai completion bash > ~/.local/share/bash-completion/completions/detxai
detxai completion zsh > ~/.zfunc/_detxai
detxai completion fish > ~/.config/fish/completions/detxai.fish
"""


def add_completion(commands: Any) -> None:
    command = new_command(
        commands,
        "completion",
        summary="print a script that lets your shell complete commands, options and method names",
        description="Print a completion script for a shell. Write it to the place where your shell looks for "
        'completions, then start a new shell. Needs the extra: pip install "detxai[completion]". For zsh, the folder '
        "must be in fpath: add 'fpath+=~/.zfunc' before compinit in ~/.zshrc.",
        examples=EXAMPLES,
    )
    command.add_argument("shell", choices=SHELLS, help="the shell that you use")
