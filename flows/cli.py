"""The console entry: a verb is run, and what it raises becomes a line and an exit code."""

from __future__ import annotations

import errno
import gc
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from io import TextIOWrapper

import typer

from flows.verbs import app
from neuronlens.errors import NeuronLensError, printable, redacted
from tasks.environment import set_environment

_CURES = {
    errno.ENOSPC: "Make room on the disk",
    errno.EDQUOT: "Make room in your quota",
    errno.EFBIG: "Allow larger files there",
    errno.EROFS: "Make it writable, or name another folder with --out",
    errno.EACCES: "Make it writable, or name another folder with --out",
    errno.EIO: "Check the disk, or the way to it",
    errno.ESTALE: "Check the way to the disk",
}
_RUNS = ("audit", "stage", "watch")  # what can be gone on with; of the others nothing is left half done


def main(arguments: Sequence[str] | None = None) -> int:
    """The console entry: run a verb and turn what it raises into an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    set_environment()
    # imports make half a million objects that stay: looking for garbage among them, again and again, takes a sixth of their time
    gc.set_threshold(20_000, 20, 20)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a minus sign must not end an audit where output is ASCII
    resume = shlex.join(["neuronlens", *(word for word in arguments if word != "--force")])
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends a job politely interrupts it
    try:
        code = app(args=list(arguments), prog_name="neuronlens", standalone_mode=False) or 0  # a verb returns None
    except typer.TyperException as error:
        _complain(f"{error.format_message()} See neuronlens --help.")
        return 2
    except NeuronLensError as error:
        runs = error.exit_code != 2 and arguments[0] in _RUNS
        _complain(_with_way_on(str(error), resume) if runs else str(error))
        return error.exit_code
    except OSError as error:
        if error.errno not in _CURES:
            damage = _damage(arguments)
            if damage is not None:
                _complain(damage)
                return 3
            sys.stderr.write(redacted(traceback.format_exc()))
        _complain(
            f"{error.strerror or error}: {error.filename or 'while writing'}. {_CURES.get(error.errno or 0, 'The run broke')}; "
            f"what is finished is kept. To resume: {resume}"
        )
        return 3
    except Exception as error:  # whatever broke: its traceback is kept, and the way to go on stands below it
        if _began_with_signal(error):
            code = 130
        else:
            damage = _damage(arguments)
            if damage is not None:
                _complain(damage)
                return 3
            sys.stderr.write(redacted(traceback.format_exc()))
            _complain(f"the run broke; what is finished is kept. To resume: {resume}")
            return 3
    if code == 130:
        _complain(f"interrupted; what is finished is kept. To resume: {resume}")
    return code


def _with_way_on(text: str, resume: str) -> str:
    """What broke a run, with what is kept and how to go on, as far as it does not say so itself."""
    kept = "" if "kept" in text else "; what is finished is kept"
    on = "" if "the same command again" in text else f". To resume: {resume}"
    return f"{text.rstrip('.')}{kept}{on}" if kept or on else text


def _began_with_signal(error: BaseException) -> bool:
    """Whether a signal to end is what the error came of: Prefect fails while it handles one that reaches it amid its own bookkeeping."""
    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(before)
    return any(isinstance(each, KeyboardInterrupt) or type(each).__name__ == "TerminationSignal" for each in chain)


def _damage(arguments: Sequence[str]) -> str | None:
    """What is wrong with what is stored, which a verb has stumbled over; None where nothing is, and the verb is to blame."""
    from tasks.damage import damage_here

    return damage_here(arguments)


def _complain(message: str) -> None:
    typer.echo(f"neuronlens: {redacted(printable(' '.join(message.split())))}", err=True)
