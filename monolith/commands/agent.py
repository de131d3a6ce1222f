"""torchrun as `monolith train --workers` starts it: ranks get the time that they need to end, and end with it.

Once a rank has failed, torchrun (torch 2.13) kills the others 30 s after it asked them to end, whatever
``--shutdown-timeout`` says; here they have that time in every case. Where torchrun itself is asked to end, which the
system does when the process that started it is gone, rank 0 is told so, and the run ends with a snapshot.
"""

from __future__ import annotations

import signal
import sys

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import PContext, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from monolith.commands.ranks import forget_words, tell_stop


def main(words: list[str]) -> int:
    """Run torchrun with these arguments. Its exit code: the ranks themselves have said what ended them."""
    args = torchrun.parse_args(words)  # type: ignore[no-untyped-call]
    _be_patient(args.shutdown_timeout)
    try:
        torchrun.run(args)  # type: ignore[no-untyped-call]
    except ChildFailedError:
        return 1
    except SignalException as ended:
        forget_words()
        return 128 + ended.sigval
    return 0


def _be_patient(patience_s: int) -> None:
    """Have ranks killed ``patience_s`` after they are asked to end, and not before."""
    close = PContext.close

    def patient(self: PContext, death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
        del timeout
        if isinstance(sys.exc_info()[1], SignalException):  # it is being handled: torchrun was asked to end
            tell_stop()
        close(self, death_sig, patience_s)

    PContext.close = patient  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
