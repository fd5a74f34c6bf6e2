# SPDX-License-Identifier: Apache-2.0
"""Whatever stops a run, the same command ends as if nothing had."""

import json
import socket

import numpy as np
import pytest
import tensorflow as tf

from tests import command, small, toy


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("resume")
  (folder / "records").mkdir()
  toy.write_dataset(folder / "records")
  return folder


def _arguments(folder, name):
  return small.arguments(
    folder / "records",
    folder / name,
    "train.num_epochs = 3",
    "train.steps_per_loop = 1",
  )


@pytest.fixture(name="undisturbed", scope="module")
def _undisturbed(folder):
  command.succeed(*_arguments(folder, "undisturbed"))
  return folder / "undisturbed"


def _assert_same_run(workdir, expected):
  """The last checkpoint to the bit, and all that was measured on the way."""
  tensors = []
  for run in (workdir, expected):
    path = tf.train.latest_checkpoint(str(run / "checkpoints"))
    reader = tf.train.load_checkpoint(path)
    names = reader.get_variable_to_shape_map()
    tensors.append({name: reader.get_tensor(name) for name in names})
  assert tensors[0].keys() == tensors[1].keys()
  assert any("optimizer" in name for name in tensors[0])
  for name, value in tensors[1].items():
    np.testing.assert_array_equal(tensors[0][name], value, err_msg=name)
  assert (workdir / "metrics.jsonl").read_bytes() == (
    expected / "metrics.jsonl"
  ).read_bytes()


def test_killed_at_ten_moments_among_them_while_a_checkpoint_is_written(folder):
  """See tests/killing.py; kill -9 each time."""
  out = command.succeed("-m", "tests.killing", folder, 10, 1, timeout=1500)
  assert out.count("kill ") == 10
  half_written = [line for line in out.splitlines() if "half written" in line]
  assert int(half_written[0].split()[0]) >= 1
  _assert_same_run(folder / "killed", folder / "undisturbed_by_kills")


def test_sigterm_saves_exits_with_75_and_is_continued(folder, undisturbed):
  arguments = _arguments(folder, "preempted")
  for seen in ("step 1/9", "epoch 1"):  # In an epoch; at the end of one.
    process = command.Started(arguments)
    process.wait_for_line(seen)
    process.terminate()
    done = process.wait()
    assert done.returncode == 75, done.stderr
    newest = tf.train.latest_checkpoint(
      str(folder / "preempted" / "checkpoints")
    )
    step = newest.rpartition("-")[2]
    stopped = f"stopped by SIGTERM after step {step}, which is saved"
    assert stopped in done.stderr
    assert "Traceback" not in done.stderr
    assert "configurable" not in done.stderr
  # Before the first step of a start, while the model is traced.
  process = command.Started(arguments)
  process.wait_for_line()
  process.terminate()
  done = process.wait()
  assert done.returncode == 75
  assert stopped in done.stderr
  command.succeed(*arguments)
  _assert_same_run(folder / "preempted", undisturbed)


def test_a_disk_that_is_full_at_a_checkpoint_ends_the_run(folder, undisturbed):
  """`ulimit -f` stands for the full disk: no file above 600 kB."""
  arguments = _arguments(folder, "full")
  limited = (
    "import resource, sys, runpy;"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, -1));"
    "from tf_audioset.training import checkpoints;"
    "checkpoints._RETRY_SECONDS = (1,);"
    "sys.argv[0] = 'train';"
    "runpy.run_module('tests.small', run_name='__main__')"
  )
  error = command.fail("-c", limited, *arguments[2:])
  assert "step 2 cannot be written" in error and "newest is none" in error
  command.succeed(*arguments)
  _assert_same_run(folder / "full", undisturbed)


def test_two_workers_train_together_and_only_the_chief_writes(
  folder, undisturbed
):
  """Each is a process with one device; together they are two replicas."""
  with socket.socket() as first, socket.socket() as second:
    for s in (first, second):
      s.bind(("127.0.0.1", 0))
    workers = [f"127.0.0.1:{s.getsockname()[1]}" for s in (first, second)]

  def run(*names):
    return [
      command.Started(
        _arguments(folder, names[i % len(names)]),
        variables={
          "TF_CONFIG": json.dumps(
            {
              "cluster": {"worker": workers},
              "task": {"type": "worker", "index": i},
            }
          )
        },
      )
      for i in range(2)
    ]

  processes = run("workers")
  processes[0].wait_for_line("step 4/9")
  for process in processes:  # Both are told to stop.
    process.terminate()
  for process in processes:
    done = process.wait()
    assert done.returncode == 75, done.stderr
  chief, other = (process.wait() for process in run("workers"))
  assert [chief.returncode, other.returncode] == [0, 0]
  assert "2 replicas on CPU" in chief.stdout and "epoch 3" in chief.stdout
  assert "step" not in other.stdout
  assert (folder / "workers" / "saved_model" / "1").is_dir()
  events = list((folder / "workers" / "summaries" / "train").iterdir())
  assert len(events) == 2  # One a start.
  # The clips of a step are the same as those of one replica.
  rates = [
    [
      json.loads(line).get("learning_rate")
      for line in open(run_ / "metrics.jsonl")
    ]
    for run_ in (folder / "workers", undisturbed)
  ]
  assert rates[0] == rates[1]
  # With a work directory each, of which the other's is empty.
  for process in run("workers", "elsewhere"):
    done = process.wait()
    assert done.returncode == 2
    assert "not all workers found the same checkpoint" in done.stderr
  for process in run("uninterrupted"):
    done = process.wait()
    assert done.returncode == 0, done.stderr
