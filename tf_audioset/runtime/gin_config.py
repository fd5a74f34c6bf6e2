# SPDX-License-Identifier: Apache-2.0
"""gin: finds the files, parses them strictly, and tells what was used.

gin 0.5 refuses a misspelt function or parameter by itself, but is silent about
a misspelt scope and an unused macro. `check_all_used` closes that hole.
"""

from __future__ import annotations

import ast
import os
import pathlib
import re
import sys
from collections.abc import Sequence

import gin
import tensorflow as tf

from tf_audioset.runtime import gin_types
from tf_audioset.runtime.errors import UserError

# What `load` found: names that the files refer to, "LogMel" for @LogMel(), and
# keys of the bindings that were not in a file.
_referred_to: set[str] = set()
_keys_of_bindings: set[str] = set()

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_INCLUDE = re.compile(r"^include\s+(['\"])(.+)\1\s*(#.*)?$")


def load(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> None:
  """Clears gin, parses `gin_files` in order, then `bindings`, then locks it.

  Args:
    gin_files: Paths, on a disk or in a bucket; `gin/...` is also found among
      the shipped files.
    bindings: Lines as in a .gin file, such as `"train.num_epochs = 3"`.

  Raises:
    UserError: If a file is not found, anything in it names no function or
      parameter of the program, or a value is not of its parameter's type.
  """
  gin.clear_config()
  _referred_to.clear()
  if os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())  # For `import my_models` in a file.
  for file in gin_files:
    found = _find(file)
    if not found:
      raise UserError(
        f"gin file {file!r} not found here or in {_shipped_folder()}; the "
        f"shipped ones are {', '.join(shipped_gin_files())}."
      )
    _parse_file(found)
  _parse("\n".join(bindings))
  _keys_of_bindings.clear()
  _keys_of_bindings.update(_keys("\n".join(bindings)))
  gin_types.check(sorted(_keys(gin.config_str())))
  gin.finalize()


def _parse_file(path: str) -> None:
  """Parses a file; what it includes is looked for beside it first."""
  try:
    with tf.io.gfile.GFile(path, "rb") as opened:
      lines = opened.read().decode("utf-8-sig").splitlines()
  except UnicodeDecodeError as e:
    raise UserError(f"gin: {path} is not UTF-8: save it so. ({e})") from e
  begin = 0
  for number, line in enumerate([*lines, None]):
    include = None if line is None else _INCLUDE.match(line)
    if include or line is None:
      # Empty lines in front, so that errors tell the file's line.
      _parse("\n" * begin + "\n".join(lines[begin:number]), path)
      begin = number + 1
    if include:
      found = _find(include[2], os.path.dirname(path))
      if not found:
        raise UserError(f"{path}: the included {include[2]!r} is not found.")
      _parse_file(found)


def _parse(text: str, path: str = "") -> None:
  try:
    gin.parse_config(text, skip_unknown=False)
  except Exception as e:  # gin has no exception type of its own.
    place = f" {path}:" if path else ""
    words = gin_types.hint(str(e), text) or _one_line(e)
    raise UserError(f"gin:{place} {words}") from e
  if path:
    _referred_to.update(_references(text))


def _find(file: str, beside: str = "") -> str | None:
  """Returns the path of a gin file, None if there is none."""
  places = [os.path.join(beside, file)] if beside else []
  for path in (*places, file, str(_shipped_folder() / file)):
    if tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path):
      return path
  return None


def _shipped_folder() -> pathlib.Path:
  """Returns the folder that holds gin/: the checkout, or the package."""
  # Beside an installed package, gin/ is another project's.
  checkout = _PACKAGE.parent
  return checkout if (checkout / "gin" / "base.gin").exists() else _PACKAGE


def shipped_gin_files() -> list[str]:
  """Returns the experiments in `gin/`, without what is a part of one."""
  names = {p.name for p in (_shipped_folder() / "gin").glob("*.gin")}
  names -= {"base.gin", "finetune.gin"}
  return [f"gin/{name}" for name in sorted(names)]


def check_share(name: str, value: float) -> float:
  """Returns the value; raises a ValueError unless 0 <= value < 1."""
  if not 0 <= value < 1:
    raise UserError(f"{name} is {value}; allowed is 0 <= x < 1.")
  return value


def check_not_negative(name: str, value: float) -> None:
  """Raises a ValueError that names the value unless 0 <= value."""
  if not value >= 0:
    raise UserError(f"{name} is {value}; allowed is 0 and above.")


def check_integer(name: str, value: int, low: int, high: int | None) -> None:
  """Raises a ValueError that names it unless low <= value <= high.

  Args:
    name: Of the parameter, such as "train.num_epochs".
    value: What was given.
    low: The least that is allowed.
    high: The most that is allowed; None: no limit.
  """
  if not isinstance(value, int) or value < low or (high and value > high):
    raise UserError(
      f"{name} is {value!r}; it must be a whole number, "
      + (f"{low} to {high}." if high else f"at least {low}.")
    )


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
  """Raises a ValueError that names it unless the value is one of `allowed`."""
  if value not in allowed:
    raise UserError(f"{name} is {value!r}: allowed are {', '.join(allowed)}.")


def check_all_used() -> None:
  """Refuses bindings that nothing read, once everything has been built.

  A file's bindings of a part are allowed when something else took its place:
  those of LogMel after `Tagger.frontend = @LogSpectrogram()`.

  Raises:
    UserError: Naming each unused binding.
  """
  unused = _keys(gin.config_str()) - _keys(gin.operative_config_str())
  replaced = _referred_to - _references(gin.config_str())
  unused = {
    key
    for key in unused
    if key in _keys_of_bindings or _owner(key) not in replaced
  }
  if unused:
    raise UserError(
      f"gin: nothing uses {', '.join(sorted(unused))}. A misspelt scope or "
      "macro, or a part that this experiment does not have?"
    )


def operative() -> str:
  """Returns all values that were used, defaults included, as a .gin file."""
  return gin.operative_config_str()


def values(text: str) -> dict[str, object]:
  """Reads the bindings of an operative config, as `operative` makes it.

  Args:
    text: Lines of gin, of this run or of another.

  Returns:
    By key, "LogMel.num_mels": what Python reads the value as; else its text,
    "@LogMel()". A macro's name is replaced by its value.
  """
  found = {}
  for key, value in re.findall(
    r"^([\w./]+) *= *(.*(?:\n[ \t]+.*)*)", text, flags=re.MULTILINE
  ):
    value = value.removeprefix("\\").strip()
    try:
      found[key] = ast.literal_eval(value)
    except (SyntaxError, ValueError):
      found[key] = value
  for key, value in found.items():
    if isinstance(value, str) and value.startswith("%"):
      found[key] = found.get(value[1:], value)
  return found


def _keys(config: str) -> set[str]:
  # A binding begins in the first column; a value's further lines do not.
  return set(re.findall(r"^([\w./]+) *=", config, flags=re.MULTILINE))


def _owner(key: str) -> str:
  """Returns the configurable of a key: "scope/LogMel.num_mels" -> "LogMel"."""
  return key.rpartition(".")[0].rpartition("/")[2]


def _references(config: str) -> set[str]:
  return set(re.findall(r"^[^#\n]*@(?:\w+/)*(\w+)", config, flags=re.MULTILINE))


def _one_line(error: Exception) -> str:
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return " ".join(lines)
