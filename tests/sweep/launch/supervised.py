"""A program: a process that carries out a command with a prefix, as the pool does, without what a run imports.

supervised.py GRACE PREFIX... -- RUN...     prints the id of the process, and at its end the command's exit code
"""

import sys
from multiprocessing import get_context

from peft_vision.sweep.launch import tree


def main(prefix: list[str], run: list[str]) -> None:
    print("exit code", tree.carried_out(prefix, run), flush=True)


if __name__ == "__main__":
    tree._GRACE_SECONDS = float(sys.argv[1])
    split = sys.argv.index("--")
    process = get_context("fork").Process(target=main, args=(sys.argv[2:split], sys.argv[split + 1 :]))
    process.start()
    print(process.pid, flush=True)
    process.join()
