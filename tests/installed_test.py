# SPDX-License-Identifier: Apache-2.0
"""The package as pip installs it, used from a folder without the checkout."""

import os
import subprocess
import sys

import pytest

from tests import command

_COMMANDS = (
  "evaluate",
  "export",
  "import-audax",
  "inspect-records",
  "make-tfrecords",
  "plot-curves",
  "predict",
  "serve-client",
  "synthesize",
  "train",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """A folder with the wheel's content, and an empty one beside it."""
  folder = tmp_path_factory.mktemp("installed")
  pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
  wheel = folder / "wheel"
  # Built from a copy: setuptools writes into the folder that it builds from.
  copy = folder / "checkout"
  subprocess.run(
    ["git", "-C", command.ROOT, "worktree", "list"],
    check=False,
    capture_output=True,
  )
  for name in ("tf_audioset", "gin", "setup.py"):
    source, target = command.ROOT / name, copy / name
    target.parent.mkdir(exist_ok=True)
    subprocess.run(["cp", "-r", source, target], check=True)
  options = ["--no-deps", "--no-build-isolation"]
  subprocess.run([*pip, "wheel", *options, "-w", wheel, copy], check=True)
  (built,) = wheel.glob("*.whl")
  subprocess.run(
    [*pip, "install", *options, "--target", folder / "site", built], check=True
  )
  (folder / "empty").mkdir()
  return folder


def _run(site, *arguments) -> subprocess.CompletedProcess:
  return subprocess.run(
    list(map(str, arguments)),
    cwd=site / "empty",
    env={**os.environ, "PYTHONPATH": str(site / "site")},
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize("name", _COMMANDS)
def test_each_command_tells_its_flags(site, name):
  done = _run(site, site / "site" / "bin" / f"tf-audioset-{name}", "--help")
  assert done.returncode == 0, done.stderr
  assert "--[no]debug" in done.stdout


def test_shipped_experiments_are_found(site):
  code = (
    "import tf_audioset, gin\n"
    "from tf_audioset import experiment\n"
    "from tf_audioset.runtime import gin_config\n"
    "gin_config.load(['gin/audax/resnet18.gin'])\n"
    "print(tf_audioset.__file__)\n"
    "print(gin.query_parameter('LogMel.alignment'))\n"
    "print(gin.query_parameter('LogMel.num_mels'))\n"
  )
  done = _run(site, sys.executable, "-c", code)
  assert done.returncode == 0, done.stderr
  file, alignment, num_mels = done.stdout.splitlines()
  assert file.startswith(str(site / "site"))
  assert (alignment, num_mels) == ("audax", "64")


def test_an_include_is_found_beside_its_file(site):
  other = site / "elsewhere"
  other.mkdir()
  (other / "mine.gin").write_text("include 'base.gin'\nLogMel.num_mels = 40\n")
  (other / "base.gin").write_text("include 'gin/resnet18.gin'\n")
  (site / "empty" / "base.gin").write_text("LogMel.num_mels = 1\n")
  code = (
    "import gin\n"
    "from tf_audioset import experiment\n"
    "from tf_audioset.runtime import gin_config\n"
    f"gin_config.load([{str(other / 'mine.gin')!r}])\n"
    "print(gin.query_parameter('ResNet.depth'))\n"
  )
  done = _run(site, sys.executable, "-c", code)
  assert done.stdout == "18\n", done.stderr


def test_data_is_made_and_trained_on(site):
  """The main job, small, by the commands that pip installs."""
  bin = site / "site" / "bin"
  sounds = site / "empty" / "sounds"
  done = _run(site, bin / "tf-audioset-synthesize", f"--output_dir={sounds}")
  assert done.returncode == 0, done.stderr
