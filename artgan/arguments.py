"""The arguments of a command as Hydra reads them, or one line that says which cannot be read."""

import re
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from artgan.config import GROUPS, kinds_of, options_of, refuse_choice, refuse_unknown
from artgan.errors import UserError
from artgan.help import USAGE, right_key
from artgan.options import SCHEMAS

MULTIRUN = ("-m", "--multirun")
# Hydra's flags that stand alone, and those that a value follows.
ALONE = (*MULTIRUN, "--resolve", "--info", "-i")
CFG, CONFIG_DIR = ("--cfg", "-c"), ("--config-dir", "-cd")
EXAMPLES = ("seed=3", "out=FILE", "root=PATH")  # of which each command has one
BLANKS = "A path with blanks needs quotes around it."
PARSER = OverridesParser.create()
# Of a list or a sweep: in quotes, in brackets, or up to the next comma.
ITEM = re.compile(
    r"""(?:^|,)\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\[[^\]]*\]|[^,]*)(?=\s*(?:,|$))"""
)


def read_arguments(command: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags, and the options as `key=value` that Hydra can read.

    Raises:
        UserError: an argument cannot be read, or names no option, flag or choice.
    """
    flags: list[str] = []
    words: list[str] = []
    folders: list[Path] = []
    wrong: dict[str, str] = {}  # what to write → the flag written instead
    rest = [*arguments]
    while rest:
        argument = rest.pop(0)
        if argument in ALONE:
            flags.append(argument)
        elif argument.startswith("-"):
            flag, is_whole, value = argument.partition("=")
            # After a flag of another program, the next word may be no value but the next argument.
            if not is_whole and rest and (flag in CONFIG_DIR or not re.match(r"-|.*=", rest[0])):
                value = rest.pop(0)
            if flag in CONFIG_DIR and value:
                value = str(Path(value).expanduser())
                folders.append(Path(value))
            elif flag in CONFIG_DIR:
                raise UserError(f"{flag}: no folder given. Write {flag} FOLDER")
            elif flag not in CFG or value not in ("job", "hydra", "all"):
                wrong.setdefault(right_key(command, argument, value), argument)
            flags += [flag, value]
        else:
            words.append(argument)
    if wrong:
        flag = next(iter(wrong.values()))
        raise UserError(f"{flag}: options are written as key=value. Write {' '.join(wrong)}")
    multirun = bool({*MULTIRUN} & {*flags})
    named = [word for word in words if "=" in word or re.match(r"\+|~(?!/)", word)]
    places = [word for word in words if word not in named]
    options = [checked(word, command, multirun, folders) for word in named]
    given = {option.partition("=")[0] for option in options}
    for key, word in zip(USAGE[command].places, places, strict=False):
        if key in given:
            raise UserError(f"'{word}' cannot be read: {key}= is given, too. {BLANKS}")
    return flags, [*_placed(command, places), *options]


def _placed(command: str, words: list[str]) -> list[str]:
    """Arguments without a key, such as a folder, as options."""
    keys = USAGE[command].places
    if command == "compare" and words:
        return [f"runs=[{','.join(map(_quoted, words))}]"]
    if len(words) > len(keys):
        raise UserError(
            f"'{words[len(keys)]}' cannot be read. Write key=value, as in "
            f"artgan {command} {USAGE[command].example}. {BLANKS}"
        )
    options = [f"{key}={_quoted(word)}" for key, word in zip(keys, words, strict=False)]
    return ["dataset=folder", *options] if command == "train" and words else options


def _quoted(text: str) -> str:
    # Hydra reads backslashes as escapes only where a quote follows.
    escaped = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + end[2].replace("'", r"\'"), text)
    return f"'{escaped}'"


def checked(argument: str, command: str, multirun: bool, folders: list[Path]) -> str:
    """A `key=value` that Hydra can read, of an option and a choice that exist.

    Texts are quoted where Hydra would read something else, such as a number in `2024_01`, or
    cannot read them, such as a path with brackets. Folders are those of the user's own
    configuration files.

    Raises:
        UserError: the option or choice does not exist, or it has another form.
    """
    given = argument
    key, equals, value = argument.partition("=")
    option, known = key.lstrip("+"), options_of(SCHEMAS[command])
    if option in GROUPS:
        argument = f"{key}={_as_typed(value, multirun, takes_list=False)}" if equals else argument
    elif equals and option in known and str in (kinds := kinds_of(known[option].annotation)):
        argument = f"{key}={_as_typed(value, multirun, takes_list=list in kinds)}"
    override = _parsed(argument)
    if override is None or (override.is_sweep_override() and not multirun):
        argument = f"{key}={_quoted(value)}"
        override = _parsed(argument) if equals else None
    if override is None or not override.key_or_group:
        example = next(one for one in EXAMPLES if one.partition("=")[0] in known)
        raise UserError(f"'{given}' cannot be read as key=value. Name an option, as in {example}")
    key = override.key_or_group
    if key.startswith("hydra"):
        return argument
    refuse_unknown(key, command)
    if override.is_delete():
        raise UserError(f"{key}: cannot be removed. Set another value, or null.")
    if key in GROUPS and not override.is_sweep_override():
        refuse_choice(key, override.value(), folders)
    return argument


def _as_typed(text: str, is_sweep: bool, takes_list: bool) -> str:
    """A text, a list of texts, or a sweep over either, so that Hydra reads the texts as typed."""
    if is_sweep and (items := _items(text))[1:]:
        return ",".join(_as_typed(item, False, takes_list) for item in items)
    if is_sweep and re.fullmatch(r"\w+\(.*\)", text):
        return text  # such as choice(a,b) or glob(*)
    if takes_list and text[:1] + text[-1:] == "[]":
        return f"[{','.join(_as_typed(item, False, False) for item in _items(text[1:-1]))}]"
    override = _parsed(f"key={text}")
    if override is not None and not override.is_sweep_override():
        value = override.value()
        if value is None or value == text or text[:1] in ("'", '"'):
            return text
    return _quoted(text)


def _items(text: str) -> list[str]:
    """What stands between commas, those in quotes or brackets aside."""
    return [item.strip() for item in ITEM.findall(text)] if text.strip() else []


def _parsed(argument: str) -> Override | None:
    """As Hydra reads it; None if it cannot."""
    try:
        return PARSER.parse_override(argument)
    except HydraException:
        return None
