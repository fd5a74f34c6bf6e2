# SPDX-License-Identifier: Apache-2.0
"""What every command line here has in common: a mistake is one line.

A tool defines absl flags and `main`, and ends with `cli.run(main, prog=...)`.
Nothing here imports TensorFlow, so that flags are answered at once.
"""

from __future__ import annotations

import importlib.util
import os
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
) -> None:
  """Parses the flags, calls `main` and exits.

  Args:
    main: Does the work; its result is the exit code, None for 0.
    prog: Name of the tool, for its messages.
    required: Names of the flags that must be given.
    positional: What the arguments that are not flags are, such as "FILE". If
      set, at least one must be given and `main` is called with all of them.
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
    arguments = FLAGS(sys.argv)[1:]
    for name in FLAGS:
      # No bound of a flag holds it up.
      if FLAGS[name].value != FLAGS[name].value:
        raise flags.Error(f"--{name}=nan is not a number.")
    for name in required:
      if FLAGS[name].value in (None, "", []):
        raise flags.Error(f"--{name} is required; --help shows all flags.")
    if arguments and not positional:
      raise flags.Error(f"what is {arguments[0]!r}? Only flags are taken.")
    if positional and not arguments:
      raise flags.Error(f"at least one {positional} is required.")
    _exit_now((main(arguments) if positional else main()) or 0)
  except KeyboardInterrupt:
    print(f"\n{prog}: interrupted", file=sys.stderr)
    _exit_now(_INTERRUPTED)
  except Stopped as e:
    print(f"\n{prog}: {e}", file=sys.stderr)
    _exit_now(_STOPPED)
  except BrokenPipeError:
    os._exit(_ERROR)  # What reads the output, such as head, has seen enough.
  except flags.Error as e:
    _fail(prog, e)
  except Exception as e:
    mistake = messages.as_user_error(e)
    if mistake is None or FLAGS.debug:
      traceback.print_exc()
      _exit_now(_ERROR)
    _fail(prog, mistake)


def progress_bar(total: int, desc: str, unit: str):
  """A tqdm bar; in a log file, which cannot be redrawn, one line in a while."""
  import tqdm  # Only long work needs it.

  seconds = 0.1 if sys.stderr.isatty() else 30
  return tqdm.tqdm(
    total=total, desc=desc, unit=unit, mininterval=seconds, ascii=True
  )


def check_matplotlib(what: str) -> None:
  """Tells how to install it, in a ValueError, if `what` cannot be drawn."""
  if not importlib.util.find_spec("matplotlib"):
    raise UserError(
      f"{what} needs matplotlib: pip install 'tf_audioset[plot]'."
    )


def _fail(prog: str, error: Exception) -> None:
  print(f"{prog}: error: {messages.first_line(str(error))}", file=sys.stderr)
  _exit_now(_ERROR)


def _exit_now(code: int) -> None:
  # Not sys.exit: to take TensorFlow down takes most of a second, and the input
  # pipeline's threads can wait forever for an interpreter that shuts down.
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
