"""Names from others change nothing on a terminal but the characters that it shows."""

import io
import logging

import pytest
from rich.table import Table
from rich.text import Text

from command import call
from peft_vision.cli import complain
from peft_vision.core.config import ConfigError
from peft_vision.core.guide import fault, reword
from peft_vision.core.output import PRINTABLE, Console, first_line, one_line, printable, say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße, 猫 and 100 %\n\tbelow", "Grüße, 猫 and 100 %\n\tbelow"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07cat", "cat"),
        ("\x1b]8;;http://a.b\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bc\x1b(0cat", "cat"),
        ("cat\x1b", "cat"),
        ("\x9b2Jcat", "2Jcat"),
        ("one\rtwo\x08\x00\x7f", "onetwo"),
        ("gpj.\u202ecat", "gpj.cat"),
        ("cat\udcff\ud83d", "cat\\xff\ufffd"),
    ],
)
def test_what_a_terminal_obeys_is_stripped(text, shown):
    assert printable(text) == shown


def test_one_line_is_short():
    assert one_line("ab\n" * 1000, longest=5) == "ab ab ..."


@pytest.mark.parametrize(
    ("message", "said"), [("\n no route\nto host", "no route"), ("", "OSError"), (" \n", "OSError")]
)
def test_an_error_without_a_message_is_named_by_its_class(message, said):
    """As those of a connection that is reset may be."""
    assert first_line(OSError(message)) == said


HOSTILE = "\x1b[2Jcat\x07"


def test_every_way_to_print_strips_it(capsys, caplog):
    say(HOSTILE)
    complain(HOSTILE)
    assert capsys.readouterr() == ("cat\n", "cat\n")
    logger = logging.getLogger("a test")
    logger.addFilter(PRINTABLE)
    logger.warning("%s has %d", HOSTILE, 3)
    assert caplog.messages == ["cat has 3"]


def test_an_error_strips_it():
    assert reword(ConfigError(HOSTILE)) == "cat"
    assert fault(ValueError(HOSTILE)) == "ValueError: cat"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_console_strips_it_and_reads_no_markup(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, color_system=None, width=60)
    table = Table(title=f"{HOSTILE} [bold]")
    table.add_column(f"{HOSTILE} [/]")
    table.add_row(f"{HOSTILE} [a,b] :cat:")
    console.print(f"{HOSTILE} [/red]")
    console.print(Text(HOSTILE))
    console.print(table)
    printed = console.file.getvalue()
    assert "\x1b[2J" not in printed
    assert "\x07" not in printed
    for text in ("cat [/red]\n", "cat [bold]", "cat [/] ", "cat [a,b] :cat: "):
        assert text in printed


def test_the_command_line_repeats_no_escape(tmp_path):
    assert call(f"'data.root=\"{HOSTILE}\"'", f"method={HOSTILE}", cwd=tmp_path).error.isprintable()
