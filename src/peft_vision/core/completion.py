"""This module completes the command in a shell: groups, their options, the keys of the options that are chosen so far,
and values that the remark on a key lists.

It answers one key press, so it imports neither Hydra nor anything else that takes long.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_vision.core.config_files import CONFIG_DIR, Composed, ConfigFiles

SHELLS = ("bash", "zsh", "fish")
FLAGS = ("--cfg", "--config-dir", "--help", "--multirun", "--resolve", "--version")
_AFTER = {"--cfg": ("all", "hydra", "job"), "-c": ("all", "hydra", "job")}
_FOLDER_FLAGS = ("--config-dir", "-cd")
_WORDS = {("completion",): SHELLS, ("new",): ("data", "method")}
_OWN_FOLDER = re.compile(r"file://([^\],'\"]+)")
_LISTED = re.compile(r"([\w.+-]+)(?:$|:.*| \(.*)")
_UNQUOTED = re.compile(r"([\s\"'()&;<>|$`\\*?!])")

_SCRIPTS = {
    "bash": """\
_peft_vision() {
    local IFS=$'\\n'
    COMPREPLY=($("${1/#\\~\\//$HOME/}" complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null))
}
complete -o nospace -F _peft_vision peft-vision""",
    "zsh": """\
_peft_vision() {
    local -a found
    found=(${(f)"$(${(Q)words[1]/#\\~\\//$HOME/} complete words ${(Q)words[2,CURRENT-1]} "${(Q)PREFIX}" 2>/dev/null)"})
    compadd -S '' -- ${(M)found:#*[=./]}
    compadd -- ${found:#*[=./]}
}
compdef _peft_vision peft-vision""",
    "fish": """\
function __peft_vision
    set -l typed (commandline -opc) (commandline -ct)
    $typed[1] complete words $typed[2..] 2>/dev/null
end
complete -c peft-vision -f -a '(__peft_vision)'""",
}


def script(shell: str) -> str:
    """Return what a shell, one of SHELLS, reads to complete the command from then on."""
    return _SCRIPTS[shell]


def answer(arguments: Sequence[str]) -> None:
    """Write the completions that a script asks for, one a line. `arguments`: bash, the line up to the cursor and bash's
    characters that divide words; or words, and the words up to the cursor."""
    if arguments[:1] == ["bash"]:
        line = Line.read(arguments[1], arguments[2])
        found = [line.written(word) for word in completions(line.words[1:])]
    else:
        found = completions(arguments[1:])
    sys.stdout.write("".join(f"{word}\n" for word in found if word.isprintable()))


@dataclass(frozen=True)
class Line:
    """A line of bash up to the cursor. `words`: without quotes, the last one perhaps empty; `kept`: how many characters
    of the last word bash leaves as they are, and does not want to be told again; `quoted`: whether a quote is open."""

    words: list[str]
    kept: int
    quoted: bool

    @classmethod
    def read(cls, text: str, breaks: str) -> "Line":
        """Read a line as bash does, without expansions. `breaks`: the characters that divide words for completion."""
        words, word, kept, quote, escaped = [], "", 0, "", False
        for sign in text:
            if escaped or (quote and sign != quote and (quote == "'" or sign != "\\")):
                word, escaped = word + sign, False
            elif sign == "\\":
                escaped = True
            elif quote:
                quote = ""
            elif sign in ("'", '"'):
                quote, kept = sign, len(word)
            elif sign.isspace():
                words, word, kept = ([*words, word] if word else words), "", 0
            else:
                word += sign
                kept = len(word) if sign in breaks else kept
        return cls([*words, word], kept, bool(quote))

    def written(self, word: str) -> str:
        """Return what bash puts in the place of the characters that it does not keep; a space ends a whole word."""
        rest = word[self.kept :]
        if self.quoted:
            return rest
        whole = not rest.endswith(("=", ".", "/")) and word.count("[") == word.count("]")
        return _UNQUOTED.sub(r"\\\1", rest) + (" " if whole else "")


def completions(words: Sequence[str]) -> list[str]:
    """Return the words that the last of `words` may become, sorted. The others are before it on the command line."""
    *before, word = words or [""]
    last = before[-1] if before else ""
    if tuple(before) in _WORDS:
        return _beginning(_WORDS[tuple(before)], word)
    if before and (before[0],) in _WORDS:
        return list(_paths(word, folders=True)) if len(before) == 3 else []
    if last in _FOLDER_FLAGS or last in _AFTER:
        return list(_paths(word, folders=True)) if last in _FOLDER_FLAGS else _beginning(_AFTER[last], word)
    if word.startswith("--config-dir="):
        return [f"--config-dir={path}" for path in _paths(word.removeprefix("--config-dir="), folders=True)]
    if word.startswith("-"):
        return _beginning(FLAGS, word)
    files = ConfigFiles([CONFIG_DIR, *(Path(os.path.expanduser(name)) for name in _own_folders(before))])
    added = word[: len(word) - len(word.lstrip("+~"))]
    key, equals, value = word[len(added) :].partition("=")
    if not equals:
        first = () if before or added else tuple(first for (first,) in _WORDS)
        return sorted([*_beginning(first, word), *(f"{added}{found}" for found in _keys(key, before, files))])
    group = "method" if key == "method.parts" else key
    start = max(value.rfind(sign) for sign in ",[") + 1
    found = (
        _options(files, group, value[start:]) if files.is_group(group) else _values(key, value[start:], before, files)
    )
    return [f"{added}{key}={value[:start]}{one}" for one in found]


def _beginning(words: Sequence[str], start: str) -> list[str]:
    return sorted(word for word in words if word.startswith(start))


def _own_folders(words: Sequence[str]) -> Iterator[str]:
    """Yield the user's config folders that the words name."""
    for position, word in enumerate(words):
        if word in _FOLDER_FLAGS and position + 1 < len(words):
            yield words[position + 1]
        elif word.startswith("--config-dir="):
            yield word.removeprefix("--config-dir=")
        elif word.startswith("hydra.searchpath="):
            yield from _OWN_FOLDER.findall(word)


def _options(files: ConfigFiles, group: str, start: str) -> list[str]:
    folder = start[: start.rfind("/") + 1]
    return _beginning(files.options(group, folder), start)


def _composed(words: Sequence[str], files: ConfigFiles) -> Composed:
    """Return what the command would compose with the options of groups that the words choose so far."""
    chosen: dict[str, list[str]] = {}
    for word in words:
        group, equals, names = word.lstrip("+").partition("=")
        if equals and files.is_group(group):
            chosen[group] = [name.strip() for name in names.strip("[]").split(",")]
    return files.composed({group: names if group == "ood" else names[-1] for group, names in chosen.items()})


def _keys(start: str, words: Sequence[str], files: ConfigFiles) -> Iterator[str]:
    """Yield the groups and the keys that begin with `start`, as far as the next dot."""
    if start.startswith("hydra/"):
        inside = start[: start.rfind("/") + 1]
        for name in _beginning([entry.rstrip("/") for entry in files.options("hydra")], start.removeprefix(inside)):
            yield f"{inside}{name}="
        return
    composed = _composed(words, files)
    parent, dot, last = start.rpartition(".")
    node = composed.at(parent)
    groups = files.groups() if not dot else []
    for group in _beginning(groups, last):
        yield f"{group}="
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if not str(key).startswith(last) or key == "_target_" or (key == "hydra" and not last):
            continue
        nested = isinstance(value, Mapping) and value
        if nested or key not in groups:
            yield f"{parent}{dot}{key}{'.' if nested else '='}"
    if not dot and last and "hydra/".startswith(last):
        yield "hydra/"


def _values(key: str, start: str, words: Sequence[str], files: ConfigFiles) -> list[str]:
    """Return the values of a key that begin with `start`: those that the remark on it lists, or paths."""
    composed = _composed(words, files)
    value: Any = composed.at(key)
    if isinstance(value, bool):
        return _beginning(("false", "true"), start)
    listed = _listed(composed.remarks[key]) if key in composed.remarks else []
    if listed or isinstance(value, int | float):
        return _beginning(listed, start)
    finished = sorted(str(path.parent) for path in Path("runs").glob("*/result.json")) if key == "run" else []
    return _beginning(finished, start) if finished and "runs/".startswith(start[:5]) else list(_paths(start))


def _listed(remark: str) -> list[str]:
    """Return the values that a remark lists, such as squash and crop of: squash: as it is | crop: the centre."""
    first, *others = remark.split(" | ")
    parts = [first.rpartition(". ")[2], *others]
    values = [match[1] for part in parts if (match := _LISTED.fullmatch(part.strip()))]
    return values if others else []


def _paths(start: str, *, folders: bool = False) -> Iterator[str]:
    """Yield the files and folders whose path begins with `start`, folders with a slash at their end."""
    parent = start[: start.rfind("/") + 1]
    place = Path(parent).expanduser() if parent.startswith("~/") else Path(parent or ".")
    if not place.is_dir():
        return
    for entry in sorted(place.iterdir()):
        named = f"{parent}{entry.name}"
        hidden = entry.name.startswith(".") and not start.removeprefix(parent)
        if named.startswith(start) and not hidden and (entry.is_dir() or not folders):
            yield f"{named}/" if entry.is_dir() else named
