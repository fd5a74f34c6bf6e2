# SPDX-License-Identifier: Apache-2.0
"""Golden values from other implementations, where the checkout has them."""

import pathlib

import pytest

_SHARED = pathlib.Path(__file__).resolve().parent.parent.parent / "shared"


def golden(name: str) -> pathlib.Path:
  """Path of a golden file; skips the test, saying so, without it."""
  return _existing(_SHARED / "reference" / name)


def recordings() -> pathlib.Path:
  """Folder of real recordings; skips the test, saying so, without it."""
  return _existing(_SHARED / "audio")


def _existing(path):
  if not path.exists():
    pytest.skip(f"needs {path.relative_to(_SHARED.parent)} beside the checkout")
  return path
