# SPDX-License-Identifier: Apache-2.0
"""The rules of the package's layout, which docs/design.md gives reasons for."""

import ast
import pathlib
import re

import pytest

from tests import command

_PACKAGE = command.ROOT / "tf_audioset"
# Data flow down this list: a package imports itself and those above it.
_ORDER = (
  "runtime",
  "data",
  "kernels",
  "features",
  "preparation",
  "models",
  "evaluation",
  "serving",
  "weights",
  "training",
  "experiment",
  "compilation",
  "commands",
)
# The only module that may use what TensorFlow does not promise to keep.
_PRIVATE = "runtime/tf_internals.py"


def _modules():
  return sorted(path.relative_to(_PACKAGE) for path in _PACKAGE.glob("**/*.py"))


def _imports(module: pathlib.Path) -> set[str]:
  found = set()
  for node in ast.walk(ast.parse((_PACKAGE / module).read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


def _package(name: str) -> str:
  """Returns the package or top module that a dotted name belongs to."""
  return name.split(".")[1]


@pytest.mark.parametrize("module", _modules(), ids=str)
def test_imports_point_upwards_in_the_list(module):
  own = module.parts[0].removesuffix(".py")
  own = {"train": "commands", "__init__": "commands"}.get(own, own)
  used = {
    _package(name)
    for name in _imports(module)
    if name.startswith("tf_audioset.")
  }
  rank = _ORDER.index(own)
  assert not {name for name in used if _ORDER.index(name) > rank}


@pytest.mark.parametrize("package", _ORDER)
def test_a_package_says_what_lives_in_it(package):
  init = _PACKAGE / package / "__init__.py"
  if (_PACKAGE / f"{package}.py").exists():
    init = _PACKAGE / f"{package}.py"
  assert ast.get_docstring(ast.parse(init.read_text()))


@pytest.mark.parametrize("module", _modules(), ids=str)
def test_private_tensorflow_is_used_in_one_place(module):
  private = {
    name
    for name in _imports(module)
    if name.startswith(("tensorflow.python", "tensorflow.compiler", "keras."))
  }
  assert not private or str(module) == _PRIVATE


def test_no_tool_edits_the_search_path():
  for path in (command.ROOT / "tools").glob("*.py"):
    assert "sys.path" not in path.read_text(), path


@pytest.mark.parametrize("module", _modules(), ids=str)
def test_docstrings_of_functions_begin_with_a_verb(module):
  """In the third person: Returns, Computes, Raises."""
  tree = ast.parse((_PACKAGE / module).read_text())
  begins = {
    node.name: (ast.get_docstring(node) or "Is").split()[0].rstrip(".,;")
    for node in ast.walk(tree)
    if isinstance(node, ast.FunctionDef)
  }
  others = {k: v for k, v in begins.items() if not re.match("[A-Z][a-z]*s$", v)}
  assert not others
