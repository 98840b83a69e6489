"""`hubsub completion SHELL`: prints a script by which a shell completes commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

BASH = """\
_hubsub() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} words="{commands}"
    if [ "$COMP_CWORD" -gt 1 ]; then
        case ${{COMP_WORDS[1]}} in
{cases}
        *) words= ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _hubsub hubsub
"""
CASE = "        {command}) words='{words}' ;;"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command, which knows those that were added before."""
    known = commands.choices
    parser = commands.add_parser(
        "completion",
        help="print a script that completes commands in a shell",
        description="Print a script that completes commands and options: source <(hubsub completion bash)",
    )
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])

    def main(arguments: argparse.Namespace) -> int:
        words = {command: _words(each) for command, each in known.items()}
        print(_script(arguments.shell, words), end="")
        return 0

    parser.set_defaults(run=main)


def _words(parser: argparse.ArgumentParser) -> list[str]:
    """The long options, and what an argument may be where that is one of a few."""
    found: list[str] = []
    for action in parser._actions:
        found += [option for option in action.option_strings if option.startswith("--")]
        if not action.option_strings and action.choices is not None:
            found += [str(each) for each in action.choices]
    return sorted(found)


def _script(shell: str, words: Mapping[str, Sequence[str]]) -> str:
    if shell == "fish":
        lines = [f"complete -c hubsub -n __fish_use_subcommand -f -a '{' '.join(words)}'"]
        for command, options in words.items():
            seen = f"-n '__fish_seen_subcommand_from {command}'"
            lines += [f"complete -c hubsub {seen} -l {each[2:]}" for each in options if each.startswith("--")]
            lines += [f"complete -c hubsub {seen} -f -a {each}" for each in options if not each.startswith("--")]
        return "\n".join(lines) + "\n"
    cases = "\n".join(CASE.format(command=command, words=" ".join(options)) for command, options in words.items())
    script = BASH.format(commands=" ".join(words), cases=cases)
    return (
        f"autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n{script}"
        if (shell == "zsh")
        else script
    )
