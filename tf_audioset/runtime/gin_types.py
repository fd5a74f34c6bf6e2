# SPDX-License-Identifier: Apache-2.0
"""Compares what gin was given with the types that parameters are declared as.

gin passes on anything: a part of the program without its @, a number in quotes.
The program would fail where the value is used, with Python's words for it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

import gin

from tf_audioset.runtime.errors import UserError

# Declared types that a .gin file can write down: what values of them are in
# Python, and what a message calls them.
_PLAIN = {
  "int": ((int,), "a whole number"),
  "float": ((int, float), "a number"),
  "bool": ((bool,), "True or False"),
  "str": ((str,), "a text in quotes"),
  "None": ((type(None),), "None"),
}
_LISTS = re.compile(r"(Sequence|list|tuple)\b[^|]*(\| *None)?$")
# Parts of the program: a class, or what is called later.
_PARTS = re.compile(r"(Callable\b.*|[\w.]+)( *\| *None)?$")
_ANYTHING = ("Any", "object", "typing.Any")


def check(keys: Iterable[str]) -> None:
  """Refuses values that are not of their parameter's declared type.

  Parameters without a declared type, and values that a function or a macro of
  the .gin files makes, are not looked at.

  Args:
    keys: Of the bindings, "scope/Tagger.dropout_rate".

  Raises:
    UserError: Naming the first, with what it is to be.
  """
  for key in keys:
    declared = _declared(key)
    if declared:
      _check(key, gin.query_parameter(key), declared)


def hint(error: str, text: str) -> str:
  """Says how a word that gin could not read is written, if that is the error.

  Args:
    error: gin's message.
    text: The lines of gin, in which the word stands without quotes or @.

  Returns:
    A sentence; empty if the error is another.
  """
  word = re.search(r"Failed to parse token '(\w+)'", error)
  if not word:
    return ""
  word = word[1]
  line = re.search(rf"^[ \t]*([\w./]+)\s*=\s*{word}\b", text, re.MULTILINE)
  key = line[1] if line else "..."
  declared = _declared(key)
  if declared and _is_plain(declared):
    example = f": {word!r}" if "str" in declared else ""
    return f"{key} = {word}: it must be {_wanted(declared)}{example}."
  if declared and _is_known(word):
    return f"{key} = {word}: {_as_part(key, word, declared)}."
  return (
    f"{key} = {word}: a text needs quotes, '{word}'; a part of the program an "
    f"@ and, if it is one that is to be made, (): @{word}()."
  )


def _check(key, value, declared) -> None:
  types = [part.strip() for part in declared.split("|")]
  is_reference = isinstance(value, gin.config.ConfigurableReference)
  if _is_plain(declared):
    allowed = sum((_PLAIN[name][0] for name in types), ())
    # True is 1 in Python, and a mistake here.
    fits = isinstance(value, allowed) and (
      type(value) is not bool or "bool" in types
    )
    if not fits and not is_reference:
      raise UserError(f"{key} is {value!r}; it must be {_wanted(declared)}.")
  elif _LISTS.match(declared):
    if not is_reference and not isinstance(value, (list, tuple, type(None))):
      raise UserError(f"{key} is {value!r}; it must be a list, such as [1, 2].")
  elif not _PARTS.match(declared) or declared in _ANYTHING:
    return
  elif not is_reference:
    is_name = isinstance(value, str) and _is_known(value)
    is_none = value is None and "None" in types
    # A parameter of another's, declared as a path, may well be given a text.
    if is_name or (_is_of_this_package(key) and not is_none):
      name = value if is_name else "NameOfThePart"
      raise UserError(f"{key} is {value!r}; {_as_part(key, name, declared)}.")
  elif not str(value).startswith("%"):  # A macro's value may be anything.
    is_called_later = declared.startswith("Callable")
    function = gin.get_configurable(value.selector)
    if is_called_later:
      is_wrong = value.evaluate and _needs_arguments(function)
    else:
      is_wrong = not value.evaluate and isinstance(function, type)
    if is_wrong:
      name = str(value).lstrip("@").removesuffix("()")
      raise UserError(f"{key} is {value}; {_as_part(key, name, declared)}.")


def _as_part(key: str, name: str, declared: str) -> str:
  """Says how a part of the program is written."""
  if declared.startswith("Callable"):
    return f"write {key} = @{name}, without (): it is called later"
  or_none = " or None" if "None" in declared else ""
  return f"write {key} = @{name}(){or_none}"


def _wanted(declared: str) -> str:
  return " or ".join(_PLAIN[part.strip()][1] for part in declared.split("|"))


def _is_plain(declared: str) -> bool:
  return all(part.strip() in _PLAIN for part in declared.split("|"))


def _is_known(name: str) -> bool:
  try:
    gin.get_configurable(name)
  except (KeyError, ValueError):  # Several, or none.
    return False
  return True


def _owner(key: str):
  """Returns the function or class of a key; None if nothing has the name."""
  name = key.rpartition(".")[0].rpartition("/")[2]
  # Such as a macro.
  return gin.get_configurable(name) if name and _is_known(name) else None


def _is_of_this_package(key: str) -> bool:
  return _owner(key).__module__.startswith("tf_audioset.")


def parameter(key: str) -> inspect.Parameter | None:
  """Returns what a key, "scope/Tagger.dropout_rate", binds, or None."""
  owner = _owner(key)
  return owner and _parameters(owner).get(key.rpartition(".")[2])


def _parameters(function) -> dict[str, inspect.Parameter]:
  # Of a class gin makes its own, which takes anything.
  is_class = isinstance(function, type)
  found = inspect.signature(function.__init__ if is_class else function)
  return dict(list(found.parameters.items())[is_class:])  # Without self.


def _needs_arguments(function) -> bool:
  """Returns whether gin's bindings alone do not suffice to call it."""
  return any(
    one.default is one.empty and one.kind == one.POSITIONAL_OR_KEYWORD
    for one in _parameters(function).values()
  )


def _declared(key: str) -> str:
  """Returns the declared type of a key's parameter; empty if it has none."""
  found = parameter(key)
  if found is None or found.annotation is inspect.Parameter.empty:
    return ""
  if isinstance(found.annotation, str):
    return found.annotation
  return getattr(found.annotation, "__name__", str(found.annotation))
