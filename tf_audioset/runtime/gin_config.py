# SPDX-License-Identifier: Apache-2.0
"""gin: finds the files, parses them strictly, and tells what was used.

gin 0.5 refuses a misspelt function or parameter by itself, but is silent about
a misspelt scope and an unused macro. `check_all_used` closes that hole.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

import gin
import tensorflow as tf

# What `load` found: names that the files refer to, "LogMel" for @LogMel(), and
# keys of the bindings that were not in a file.
_referred_to: set[str] = set()
_keys_of_bindings: set[str] = set()

# The checkout's root: `gin/base.gin` is found from any working directory.
_ROOT = pathlib.Path(__file__).resolve().parent.parent

# gin itself opens what is on a disk; a run's config.gin may be in a bucket.
gin.config.register_file_reader(tf.io.gfile.GFile, tf.io.gfile.exists)


def load(gin_files: Sequence[str], bindings: Sequence[str] = ()) -> None:
  """Clears gin, parses `gin_files` in order, then `bindings`, then locks it.

  Args:
    gin_files: Paths, relative to the working directory or to the checkout.
    bindings: Lines as in a .gin file, such as `"train.num_epochs = 3"`.

  Raises:
    ValueError: If a file is not found, or anything in it names no function or
      parameter of the program.
  """
  gin.clear_config()
  gin.add_config_file_search_path(str(_ROOT))
  for file in gin_files:
    if not _find(file):
      raise ValueError(
        f"gin file {file!r} not found here or in {_ROOT}; the shipped ones "
        f"are {', '.join(shipped_gin_files())}."
      )
  try:
    files = gin.parse_config_files_and_bindings(
      list(gin_files), list(bindings), skip_unknown=False
    )
  except Exception as e:  # gin has no exception type of its own.
    raise ValueError(f"gin: {_one_line(e)}") from e
  _referred_to.clear()
  while files:
    file = files.pop()
    files.extend(file.includes)
    with tf.io.gfile.GFile(_find(file.filename)) as opened:
      _referred_to.update(_references(opened.read()))
  _keys_of_bindings.clear()
  _keys_of_bindings.update(_keys("\n".join(bindings)))


def _find(file: str) -> str | None:
  """Path of a gin file, as it is given or in the checkout."""
  for path in (file, str(_ROOT / file)):
    if tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path):
      return path
  return None


def shipped_gin_files() -> list[str]:
  """The experiments in the checkout's `gin/`, without what is a part of one."""
  names = {p.name for p in (_ROOT / "gin").glob("*.gin")}
  names -= {"base.gin", "finetune.gin"}
  return [f"gin/{name}" for name in sorted(names)]


def check_share(name: str, value: float) -> float:
  """The value; a ValueError that names it unless 0 <= value < 1."""
  if not 0 <= value < 1:
    raise ValueError(f"{name} is {value}; allowed is 0 <= x < 1.")
  return value


def check_not_negative(name: str, value: float) -> None:
  """A ValueError that names it unless 0 <= value."""
  if not value >= 0:
    raise ValueError(f"{name} is {value}; allowed is 0 and above.")


def check_all_used() -> None:
  """Refuses bindings that nothing read, once everything has been built.

  A file's bindings of a part are allowed when something else took its place:
  those of LogMel after `Tagger.frontend = @LogSpectrogram()`.

  Raises:
    ValueError: Naming each unused binding.
  """
  unused = _keys(gin.config_str()) - _keys(gin.operative_config_str())
  replaced = _referred_to - _references(gin.config_str())
  unused = {
    key
    for key in unused
    if key in _keys_of_bindings or _owner(key) not in replaced
  }
  if unused:
    raise ValueError(
      f"gin: nothing uses {', '.join(sorted(unused))}. A misspelt scope or "
      "macro, or a part that this experiment does not have?"
    )


def operative() -> str:
  """Every value that was used, defaults included, as a .gin file."""
  return gin.operative_config_str()


def _keys(config: str) -> set[str]:
  # A binding begins in the first column; a value's further lines do not.
  return set(re.findall(r"^([\w./]+) *=", config, flags=re.MULTILINE))


def _owner(key: str) -> str:
  """The function or class of a key: "scope/LogMel.num_mels" -> "LogMel"."""
  return key.rpartition(".")[0].rpartition("/")[2]


def _references(config: str) -> set[str]:
  return set(re.findall(r"^[^#\n]*@(?:\w+/)*(\w+)", config, flags=re.MULTILINE))


def _one_line(error: Exception) -> str:
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return " ".join(lines)
