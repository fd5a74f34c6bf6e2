# SPDX-License-Identifier: Apache-2.0
"""Batches from other processes are those that one process makes."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.data import prepared
from tf_audioset.data import service as data_service


@pytest.fixture(name="workers", scope="module")
def _workers():
  return data_service.start(2)


def _stream(split, num_batches, **options):
  batches = pipeline_lib.Pipeline(crop_seconds=0.5).training(
    split, num_classes=3, batch_size=4, seed=1, **options
  )
  return list(batches.take(num_batches).as_numpy_iterator())


@pytest.mark.parametrize("codec", ["flac", "pcm16"])
def test_the_stream_is_the_same(tmp_path, workers, codec):
  toy.write_dataset(tmp_path, codec=codec)
  split = prepared.find_split(str(tmp_path), "train")
  for first_step in (0, 5):
    alone = _stream(split, 9, first_step=first_step)
    for number in (1, 2):
      served = _stream(
        split,
        9,
        first_step=first_step,
        workers=workers[:number],
      )
      for (w1, t1), (w2, t2) in zip(alone, served):
        np.testing.assert_array_equal(w1, w2)
        np.testing.assert_array_equal(t1, t2)


def test_a_bad_record_is_named_here(tmp_path, workers):
  toy.write_dataset(tmp_path, broken="train3")
  split = prepared.find_split(str(tmp_path), "train")
  with pytest.raises(tf.errors.OpError, match="clip train3, the record at"):
    _stream(split, 6, workers=workers)


def test_what_the_processes_cannot_read_is_refused(tmp_path):
  toy.write_dataset(tmp_path)
  split = prepared.find_split(str(tmp_path), "train")
  with pytest.raises(ValueError, match="--data_service"):
    pipeline_lib.Pipeline(decoder="tfio").training(
      split, num_classes=3, batch_size=4, seed=1, workers=["grpc://x"]
    )


def test_a_run_ends_when_one_of_its_processes_does():
  code = """
import time
from tf_audioset.data import service as data_service
data_service.start(1)
print("started", flush=True)
time.sleep(60)
"""
  run = subprocess.Popen(
    [sys.executable, "-c", code],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert run.stdout.readline() == "started\n"
  children = f"/proc/{run.pid}/task/{run.pid}/children"
  with open(children) as file:
    (worker,) = file.read().split()
  # As a cluster sends it to all processes of a job: the run's to heed.
  os.kill(int(worker), signal.SIGTERM)
  os.kill(int(worker), signal.SIGKILL)
  assert run.wait(30) == 2
  assert "--data_service ended, code -9" in run.stderr.read()
  run.stdout.close()
