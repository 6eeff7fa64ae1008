"""Run as a script: `tether.py PARENT_PID COMMAND...` becomes COMMAND, which is killed when its parent dies.

Only Linux can promise that, for as long as the thread that started it lives. Elsewhere the command just runs.
A script and not `preexec_fn`, since running Python between fork and exec is unsafe in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the parent died first")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
