# SPDX-License-Identifier: Apache-2.0
"""What every command line here has in common: a mistake is one line.

A tool defines absl flags and `main`, and ends with `cli.run(main, prog=...)`.
Nothing here imports TensorFlow, so that flags are answered at once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import stat
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import flags

from tf_audioset.runtime import messages
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_bool("debug", False, "Show the traceback of an error.")

# Exit codes: 0 done; 1 done, but not for all inputs; 2 an error; 75 stopped by
# SIGTERM, to be continued (EX_TEMPFAIL of sysexits.h); 130 ctrl-C.
_ERROR = 2
_STOPPED = 75
_INTERRUPTED = 130


class Stopped(BaseException):
  """The machine is wanted back; the message says how to continue.

  Like KeyboardInterrupt it can come at any place, and nothing that handles
  errors, as tracing and gin do, is to take it for one.
  """


def run(
  main: Callable[[], int | None] | Callable[[Sequence[str]], int | None],
  *,
  prog: str,
  required: Sequence[str] = (),
  positional: str = "",
  instead: str = "",
) -> None:
  """Parses the flags, calls `main` and exits.

  Args:
    main: Does the work; its result is the exit code, None for 0.
    prog: Name of the tool, for its messages.
    required: Names of the flags that must be given.
    positional: What the arguments that are not flags are, such as "FILE". If
      set, at least one must be given and `main` is called with all of them.
    instead: Name of a flag with which none need be given.
  """
  try:
    if {"--help", "-h", "--helpfull", "--helpshort"} & set(sys.argv[1:]):
      print(sys.modules[main.__module__].__doc__.strip())
      # absl calls the main module by its file.
      name = main.__module__
      name = sys.argv[0] if name == "__main__" else name
      FLAGS.register_key_flag_for_module(name, FLAGS["debug"])
      print(FLAGS.module_help(name))
      _exit_now(0)
    arguments = _parsed(positional)
    for name in FLAGS:
      # No bound of a flag holds it up.
      if FLAGS[name].value != FLAGS[name].value:
        raise flags.Error(f"--{name}=nan is not a number.")
    for name in required:
      if FLAGS[name].value in (None, "", []):
        raise flags.Error(f"--{name} is required; --help shows all flags.")
    if arguments and not positional:
      raise flags.Error(f"what is {arguments[0]!r}? Only flags are taken.")
    is_enough = arguments or (instead and FLAGS[instead].value)
    if positional and not is_enough:
      raise flags.Error(f"at least one {positional} is required.")
    _exit_now((main(arguments) if positional else main()) or 0)
  except KeyboardInterrupt:
    print(f"\n{prog}: interrupted", file=sys.stderr)
    _exit_now(_INTERRUPTED)
  except Stopped as e:
    print(f"\n{prog}: {e}", file=sys.stderr)
    _exit_now(_STOPPED)
  except BrokenPipeError:
    remove_generated_code()
    os._exit(_ERROR)  # What reads the output, such as head, has seen enough.
  except flags.Error as e:
    _fail(prog, e)
  except Exception as e:
    mistake = messages.as_user_error(e)
    if mistake is None or FLAGS.debug:
      traceback.print_exc()
      _exit_now(_ERROR)
    _fail(prog, mistake)


def _parsed(positional: str) -> list[str]:
  """Sets the flags; returns the arguments that are none."""
  try:
    return FLAGS(sys.argv)[1:]
  except flags.UnrecognizedFlagError as e:
    # AudioSet's ids may begin with a dash, and so the files named after them.
    for argument in sys.argv[1:]:
      name = argument.lstrip("-").partition("=")[0]
      if name == e.flagname and positional and os.path.lexists(argument):
        raise flags.Error(
          f"{argument!r} is the name of a file, but begins as a flag does: put "
          f"-- before the first {positional}, or ./ before this one."
        ) from e
    raise


class _Lines:
  """What tqdm writes to a log file: each state on a line of its own."""

  def write(self, text: str) -> None:
    text = text.strip("\r\n ")
    if text:
      print(text, file=sys.stderr)

  def flush(self) -> None:
    sys.stderr.flush()


def progress_bar(
  total: int, desc: str, unit: str, *, among_results: bool = False
):
  """Returns a tqdm bar; in a log file it prints a line now and then.

  Args:
    total: What `update` adds up to.
    desc: Stands before the bar.
    unit: Of the total.
    among_results: Whether results are printed before the bar is closed. Where
      they go through a pipe, which may end on the same terminal, there is no
      bar then: they would come behind it on its line.
  """
  import tqdm  # Only long work needs it.

  if sys.stderr.isatty():
    is_piped = stat.S_ISFIFO(os.fstat(1).st_mode)
    return tqdm.tqdm(
      total=total,
      desc=desc,
      unit=unit,
      ascii=True,
      disable=among_results and is_piped,
    )
  seconds = 30
  return tqdm.tqdm(
    total=total,
    desc=desc,
    unit=unit,
    ascii=True,
    file=_Lines(),
    # Short work is done before the first line.
    delay=seconds,
    mininterval=seconds,
    maxinterval=seconds,
  )


def check_matplotlib(what: str) -> None:
  """Tells how to install it, in a ValueError, if `what` cannot be drawn."""
  if not importlib.util.find_spec("matplotlib"):
    raise UserError(
      f"{what} needs matplotlib: pip install '.[plot]' in the checkout, or "
      "pip install 'matplotlib>=3.5'."
    )


def _fail(prog: str, error: Exception) -> None:
  print(f"{prog}: error: {messages.first_line(str(error))}", file=sys.stderr)
  _exit_now(_ERROR)


def remove_generated_code() -> None:
  """Removes the files of the Python code that AutoGraph has generated.

  TensorFlow does so when the interpreter ends, which `run` does not wait for.
  They are in the folder of temporary files, and one is made even where no
  function of this package needs AutoGraph: when a SavedModel is written.
  """
  for name, module in list(sys.modules.items()):
    if name.startswith("__autograph_generated_file"):
      for path in (module.__file__, module.__cached__):
        with contextlib.suppress(OSError, TypeError):
          os.remove(path)


def _exit_now(code: int) -> None:
  # Not sys.exit: to take TensorFlow down takes most of a second, and the input
  # pipeline's threads can wait forever for an interpreter that shuts down.
  remove_generated_code()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
