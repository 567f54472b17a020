"""This module is where `peft-vision` begins: it answers what a shell asks at a key before anything slow is imported."""

import sys


def main() -> None:
    """Answer a shell that completes the command, or run the command."""
    if sys.argv[1:2] == ["complete"]:
        from peft_vision.core.completion import answer

        answer(sys.argv[2:])
    else:
        from peft_vision import cli

        cli.main()


if __name__ == "__main__":
    main()
