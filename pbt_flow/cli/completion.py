"""The script by which a shell completes `pbt-flow`, made by shtab from the parser.

Commands, options and the names of strategies stand in the script, so that Tab costs no process. For
what changes, which is tasks, their options and populations, the script asks
`pbt-flow complete-words` (`suggestions.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pbt_flow.cli.arguments import flag
from pbt_flow.cli.suggestions import COMMAND
from pbt_flow.exceptions import PBTError
from pbt_flow.population.stages import NOBODY
from pbt_flow.settings import STRATEGIES, Settings
from pbt_flow.strategies.text import plugins

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "pbt-flow"
"""What is completed. `python -m pbt_flow` is Python's own command line to a shell."""
_USUAL = {"stages": [NOBODY, "narrow", "wide"], "device": ["cpu", "cuda"]}
"""Words of settings that take others as well."""

_RUNS = {"bash": "_pbt_flow_runs", "zsh": "_pbt_flow_runs", "fish": "(_pbt_flow_ask runs)"}
_RUN_OR_FILE = {
    "bash": "_pbt_flow_run_or_file",
    "zsh": "{_pbt_flow_runs; _files}",
    "fish": "(_pbt_flow_ask runs; __fish_complete_path (commandline -ct))",
}
_TASK = {
    "bash": "_pbt_flow_task_or_file",
    "zsh": "{_pbt_flow_tasks; _files -g '*.py'}",
    "fish": "(_pbt_flow_ask tasks; __fish_complete_suffix .py)",
}
_OPTIONS = {
    "bash": "_pbt_flow_options",
    "zsh": "_pbt_flow_options",
    "fish": "(_pbt_flow_ask options)",
}
_ASKED = {
    "run_id": _RUNS,
    "runs": _RUNS,
    "control": _RUNS,
    "task": _TASK,
    "options": _OPTIONS,
}
_FOLDERS, _FILES = ("folder", "out"), ("config",)

_BASH = f"""
# Print the words of kind $1 that the word at the cursor begins. COMP_WORDS are whole words here.
_pbt_flow_ask() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}"
  if [[ "$word" == -* ]]; then
    # An option may follow where a value may be left out.
    compgen -W "${{current_option_strings[*]}}" -- "$word"
  else
    compgen -W "$(command {PROGRAM} {COMMAND} "$1" "${{COMP_WORDS[@]}}" 2>/dev/null |
      cut -f1)" -- "$word"
  fi
}}
_pbt_flow_runs() {{ _pbt_flow_ask runs; }}
_pbt_flow_options() {{ _pbt_flow_ask options; }}
_pbt_flow_task_or_file() {{
  _pbt_flow_ask tasks
  compgen -f -X '!*.py' -- "$1"
  compgen -d -- "$1"
}}
_pbt_flow_run_or_file() {{
  _pbt_flow_ask runs
  compgen -f -- "$1"
}}
"""
_BASH_END = f"""

# Bash cuts a word at = and at :, and what is offered replaces the last piece. So the words are
# put together again, and the beginning of what is offered is taken away.
_pbt_flow_complete() {{
  local piece last=-1 glued="" end="$2"
  local -a whole=()
  for piece in "${{COMP_WORDS[@]:0:COMP_CWORD+1}}"; do
    if [[ "$piece" == = && $last -ge 0 && "${{whole[last]}}" == --* ]]; then
      whole+=("")
      last=$((last + 1))
      glued=1
    elif [[ "$piece" =~ ^[=:]+$ && $last -ge 0 ]]; then
      whole[last]+="$piece"
      glued=1
    elif [[ -n "$glued" ]]; then
      whole[last]+="$piece"
      glued=""
    else
      whole+=("$piece")
      last=$((last + 1))
    fi
  done
  [[ "$end" =~ ^[=:]+$ ]] && end=""
  local cut="${{whole[last]}}"
  cut="${{cut%"$end"}}"
  local -a COMP_WORDS=("${{whole[@]}}")
  local COMP_CWORD=$last
  _shtab_pbt_flow
  local place
  for place in "${{!COMPREPLY[@]}}"; do
    [[ "${{COMPREPLY[place]}}" == *= ]] && compopt -o nospace 2>/dev/null
    COMPREPLY[place]="${{COMPREPLY[place]#"$cut"}}"
  done
}}
complete -o bashdefault -F _pbt_flow_complete {PROGRAM}
"""
_ZSH = f"""
# Offer the words of kind $1, each with its description; behind = no space follows.
_pbt_flow_ask() {{
  local line
  local -a plain open
  for line in "${{(@f)$(command {PROGRAM} {COMMAND} $1 "${{words[@]}}" 2>/dev/null)}}"; do
    line="${{${{line//:/\\\\:}}/$'\\t'/:}}"
    case "$line" in
      '') ;;
      *=|*=:*) open+=("$line") ;;
      *) plain+=("$line") ;;
    esac
  done
  (( $#plain )) && _describe -V "$1" plain
  (( $#open )) && _describe -V "$1" open -S ''
}}
_pbt_flow_runs() {{ _pbt_flow_ask runs }}
_pbt_flow_tasks() {{ _pbt_flow_ask tasks }}
_pbt_flow_options() {{ _pbt_flow_ask options }}
"""
_FISH = f"""
# Print the words of kind $argv, each with its description.
function _pbt_flow_ask
  command {PROGRAM} {COMMAND} $argv (commandline -opc) (commandline -ct) 2>/dev/null
end
"""
_BEGINNINGS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
_ENDS = {"bash": _BASH_END}


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell of `SHELLS`.

    Args:
        parser: The parser of all commands. It is changed, and of no use to anyone else afterwards.
        shell: The shell.

    Raises:
        PBTError: The package that makes it is not installed.
    """
    try:
        import shtab
    except ModuleNotFoundError:
        raise PBTError(
            "the script of a shell is made by the package shtab, which is not installed; "
            "pip install shtab"
        ) from None
    parser.prog = PROGRAM
    hints = get_type_hints(Settings)
    for action in _actions(parser):
        _say_what_completes(action, hints)
    made: str = shtab.complete(parser, shell, preamble=_BEGINNINGS[shell])
    if shell == "zsh":
        # shtab means the first of several words only, where a command takes any number of them.
        made = made.replace('"(*):', '"*:')
    return made + _ENDS.get(shell, "")


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options and arguments of all commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action


def _say_what_completes(action: argparse.Action, hints: dict[str, Any]) -> None:
    """Tell shtab, by attributes of an action, what its value may be."""
    import shtab

    if action.type is flag:
        action.nargs = 0  # Whoever types gives no value; an MLproject does.
    elif action.dest in _ASKED:
        takes_file = action.dest == "run_id" and "schedule.json" in (action.help or "")
        action.complete = _RUN_OR_FILE if takes_file else _ASKED[action.dest]  # type: ignore[attr-defined]
    elif action.dest in _FOLDERS:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif action.dest in _FILES:
        action.complete = shtab.FILE  # type: ignore[attr-defined]
    elif action.nargs != 0 and (words := _words_of(action.dest, hints.get(action.dest))):
        action.choices = words


def _words_of(setting: str, hint: Any) -> Sequence[str]:
    """The words that a setting takes; none where it takes numbers or a text."""
    if setting in STRATEGIES:
        return sorted({*STRATEGIES[setting], *plugins(setting)})
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return _USUAL.get(setting, [])
