# SPDX-License-Identifier: Apache-2.0
"""The BUILD files say what the imports say.

Each Python file has one rule of its own name, whose deps are the first-party
modules that it imports and whose `# pip:` comments are the other packages.
"""

import ast
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

if sys.version_info < (3, 10):
  pytest.skip("needs sys.stdlib_module_names", allow_module_level=True)

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_FOLDERS = (
  "tf_audioset",
  "tf_audioset/models",
  "tools",
  "tests",
  "tests/models",
)
_PIP = {
  "absl": "absl-py",
  "apache_beam": "apache-beam",
  "fontTools": "fonttools",
  "gin": "gin-config",
  "google": "protobuf",
  "grpc": "grpcio",
  "official": "tf-models-official",
  "sklearn": "scikit-learn",
  "tensorflow_addons": "tensorflow-addons",
  "tensorflow_io": "tensorflow-io",
  "tensorflow_serving": "tensorflow-serving-api",
}


def _python_files():
  return sorted(
    path.relative_to(_ROOT)
    for folder in _FOLDERS
    for path in (_ROOT / folder).glob("*.py")
    if path.stat().st_size  # An empty __init__.py needs no rule.
  )


def _label(file: pathlib.Path) -> str:
  return f"//{file.parent}:{file.stem}"


def _imported(file: pathlib.Path) -> tuple[set[str], set[str]]:
  """First-party labels and pip packages that a file imports anywhere."""
  names = set()
  for node in ast.walk(ast.parse((_ROOT / file).read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      # `from a import b`: b may be a module or a name in module a.
      names.add(node.module)
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  labels, packages = set(), set()
  for name in names:
    path = pathlib.Path(name.replace(".", "/"))
    top = path.parts[0]
    if top in ("tf_audioset", "tools", "tests", "benchmarks"):
      if (_ROOT / path.with_suffix(".py")).exists():
        labels.add(_label(path.with_suffix(".py")))
      elif (
        (_ROOT / path / "__init__.py").stat().st_size
        if (_ROOT / path / "__init__.py").exists()
        else False
      ):
        labels.add(_label(path / "__init__.py"))
    elif top not in sys.stdlib_module_names:
      packages.add(_PIP.get(top, top))
  return labels - {_label(file)}, packages


def _rules(folder: str):
  """(kind, attributes, pip comments) of each rule of a BUILD file."""
  text = (_ROOT / folder / "BUILD").read_text()
  lines = text.splitlines()
  for node in ast.parse(text).body:
    call = node.value
    attributes = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    block = "\n".join(lines[node.lineno - 1 : node.end_lineno])
    yield call.func.id, attributes, set(re.findall(r"# pip: (\S+)", block))


def _expected_kind(file: pathlib.Path) -> str:
  if file.name.endswith("_test.py"):
    return "py_test"
  text = (_ROOT / file).read_text()
  return "py_binary" if '__name__ == "__main__"' in text else "py_library"


@pytest.mark.parametrize("folder", _FOLDERS)
def test_rules_equal_the_imports(folder):
  actual = {
    attributes["srcs"][0]: (
      kind,
      attributes["name"],
      {
        dep if dep.startswith("//") else f"//{folder}{dep}"
        for dep in attributes.get("deps", [])
      },
      packages,
    )
    for kind, attributes, packages in _rules(folder)
    if kind.startswith("py_") and "srcs" in attributes
  }
  expected = {
    file.name: (_expected_kind(file), file.stem, *_imported(file))
    for file in _python_files()
    if str(file.parent) == folder
  }
  assert actual == expected


def test_every_test_has_a_size():
  for folder in ("tests", "tests/models"):
    for kind, attributes, _ in _rules(folder):
      if kind == "py_test":
        assert attributes["size"] in ("small", "medium", "large")


def test_bazel_reads_every_file():
  if shutil.which("bazel") is None:
    pytest.skip("needs bazel (Debian: bazel-bootstrap)")
  query = subprocess.run(
    ["bazel", "query", "//..."], cwd=_ROOT, capture_output=True, text=True
  )
  assert query.returncode == 0, query.stderr
  assert {_label(file) for file in _python_files()} <= set(query.stdout.split())
