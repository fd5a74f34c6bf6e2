#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the BUILD files: one rule a Python file, with what it imports.

  python .ci/build_files.py           writes them
  python .ci/build_files.py --check   names those that are out of date

`data` and `size` of a rule are kept; everything else comes from the code. The
packages that a file imports stand as `# pip:` comments. `make format` calls it.
"""

from __future__ import annotations

import ast
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
_TOPS = ("tf_audioset", "tools", "tests", "benchmarks")
_HEAD = 'package(default_visibility = ["//visibility:public"])\n'
# Names of packages that are not those of their modules.
_PIP = {
  "absl": "absl-py",
  "apache_beam": "apache-beam",
  "gin": "gin-config",
  "google": "protobuf",
  "grpc": "grpcio",
  "official": "tf-models-official",
  "sklearn": "scikit-learn",
  "tensorflow_addons": "tensorflow-addons",
  "tensorflow_io": "tensorflow-io",
  "tensorflow_serving": "tensorflow-serving-api",
  "yaml": "pyyaml",
}


def python_files() -> list[pathlib.Path]:
  """Returns the files that need a rule, relative to the root, sorted."""
  return sorted(
    path.relative_to(ROOT)
    for top in _TOPS
    for path in (ROOT / top).glob("**/*.py")
    if path.stat().st_size  # An empty __init__.py needs none.
  )


def label(file: pathlib.Path) -> str:
  """Returns the label of a file's rule, such as //tf_audioset/data:audio."""
  return f"//{file.parent}:{file.stem}"


def imported(file: pathlib.Path) -> tuple[set[str], set[str]]:
  """Returns the labels and the pip packages that a file imports anywhere."""
  modules = set()
  for node in ast.walk(ast.parse((ROOT / file).read_text())):
    if isinstance(node, ast.Import):
      modules |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      # `from a import b`: b may be a module or a name in module a.
      modules.add(node.module)
      modules |= {f"{node.module}.{alias.name}" for alias in node.names}
  labels, packages = set(), set()
  for module in modules:
    path = pathlib.Path(module.replace(".", "/"))
    # A program finds the modules beside it.
    if (ROOT / file.parent / f"{module}.py").exists():
      path = file.parent / module
    if path.parts[0] in _TOPS:
      for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / candidate).exists() and (ROOT / candidate).stat().st_size:
          labels.add(label(candidate))
    elif path.parts[0] not in sys.stdlib_module_names:
      packages.add(_PIP.get(path.parts[0], path.parts[0]))
  return labels - {label(file)}, packages


def rules(folder: pathlib.Path) -> dict[str, dict]:
  """Returns the attributes of each rule of a folder's BUILD, by its name."""
  path = ROOT / folder / "BUILD"
  if not path.exists():
    return {}
  calls = (node.value for node in ast.parse(path.read_text()).body)
  found = {}
  for call in calls:
    attributes = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    found[attributes.get("name")] = attributes
  return found


def content(folder: pathlib.Path) -> str:
  """Returns what the BUILD file of a folder has to hold."""
  known = rules(folder)
  parts = [_HEAD]
  for file in python_files():
    if file.parent == folder:
      parts.append(_rule(file, known.get(file.stem, {})))
  return "\n".join(parts)


def _rule(file: pathlib.Path, known: dict) -> str:
  labels, packages = imported(file)
  is_test = file.name.endswith("_test.py")
  is_program = '__name__ == "__main__"' in (ROOT / file).read_text()
  kind = "py_test" if is_test else "py_binary" if is_program else "py_library"
  lines = [f"{kind}(", f'    name = "{file.stem}",']
  if is_test:
    lines.append(f'    size = "{known.get("size", "medium")}",')
  lines.append(f'    srcs = ["{file.name}"],')
  data = sorted(known.get("data", []))
  if len(data) == 1:
    lines.append(f'    data = ["{data[0]}"],')
  elif data:
    lines += ["    data = [", *(f'        "{one}",' for one in data), "    ],"]
  if kind != "py_library":
    lines.append('    python_version = "PY3",')
  # Those of the same folder first.
  own = f"//{file.parent}:"
  short = [x.replace(own, ":", 1) for x in labels if x.startswith(own)]
  deps = sorted(short) + sorted(x for x in labels if not x.startswith(own))
  deps = [f'        "{dep}",' for dep in deps]
  deps += [f"        # pip: {package}" for package in sorted(packages)]
  if deps:
    lines += ["    deps = [", *deps, "    ],"]
  return "\n".join([*lines, ")"]) + "\n"


def outdated() -> dict[pathlib.Path, str]:
  """Returns the BUILD files that differ from the code, and their content."""
  folders = {file.parent for file in python_files()}
  contents = {folder / "BUILD": content(folder) for folder in folders}
  return {
    path: text
    for path, text in sorted(contents.items())
    if not (ROOT / path).exists() or (ROOT / path).read_text() != text
  }


def main() -> int:
  is_check = sys.argv[1:] == ["--check"]
  found = outdated()
  for path, text in found.items():
    if not is_check:
      (ROOT / path).write_text(text)
    print(f"{path} {'is out of date' if is_check else 'is renewed'}")
  return 1 if is_check and found else 0


if __name__ == "__main__":
  sys.exit(main())
