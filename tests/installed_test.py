# SPDX-License-Identifier: Apache-2.0
"""The package as pip installs it, used from a folder without the checkout."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from tests import command

_COMMANDS = (
  "evaluate",
  "export",
  "import-weights",
  "inspect-records",
  "make-tfrecords",
  "plot-curves",
  "predict",
  "serve-client",
  "synthesize",
  "teach",
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
  copy.mkdir()
  shutil.copy(command.ROOT / "setup.py", copy)
  for name in ("tf_audioset", "gin"):
    shutil.copytree(command.ROOT / name, copy / name)
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
    "gin_config.load(['gin/best/resnet18_distilled.gin'], "
    "['Pipeline.teacher = \\'t\\''])\n"
    "experiment.Experiment()\n"
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


_MY_MODELS = '''
import gin
import tensorflow as tf


@gin.register
def my_backbone():
  """A plain Keras model: [batch, frames, bands, 1] -> [batch, 8]."""
  return tf.keras.Sequential([
    tf.keras.layers.Conv2D(8, 5, strides=4, activation="relu"),
    tf.keras.layers.GlobalAveragePooling2D(),
  ])
'''


def test_the_main_job_with_a_model_of_ones_own(site):
  """Data, training, evaluation and tagging by the commands pip installs."""
  folder, programs = site / "empty", site / "site" / "bin"
  for name in ("beep", "noise"):
    (folder / "sounds" / name).mkdir(parents=True)
  rng = np.random.default_rng(0)
  for i in range(8):
    tone = np.sin(np.arange(8000) * rng.uniform(0.1, 0.6)) * 0.5
    soundfile.write(folder / f"sounds/beep/{i}.wav", tone, 16000)
    noise = rng.normal(0, 0.1, 8000)
    soundfile.write(folder / f"sounds/noise/{i}.wav", noise, 16000)
  (folder / "my_models.py").write_text(_MY_MODELS)
  (folder / "mine.gin").write_text(
    "import my_models\n"
    "include 'gin/quickstart.gin'\n"
    "Tagger.backbone = @my_backbone()\n"
    "train.num_epochs = 2\n"
    "train.global_batch_size = 4\n"
    "train.holdout_percent = 40\n"
    "WarmupCosine.warmup_epochs = 1\n"
    "Pipeline.crop_seconds = 0.5\n"
  )
  for command_line in (
    "make-tfrecords --class_dirs=sounds --output_dir=records",
    "train --gin_file=mine.gin --data_dir=records --workdir=run",
    "evaluate --saved_model=run/saved_model --data_dir=records --split=train",
    "predict --saved_model=run/saved_model sounds/beep/0.wav",
  ):
    name, *flags = command_line.split()
    done = _run(site, programs / f"tf-audioset-{name}", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
  assert len(done.stdout.splitlines()) == 2  # Both classes.
