# SPDX-License-Identifier: Apache-2.0
"""Processes on this machine that make training batches: tf.data service.

FLAC is decoded through Python, of which a process runs one thread at a time
(docs/input_pipeline.md); several processes have several. Each is a service of
its own, so that the batches of each come in order and the stream is the one
that a single process would make.

  python -m tf_audioset.data_service

is one such process: it prints its address and ends when its stdin does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

if __name__ == "__main__":
  # A cluster sends SIGTERM to all processes of a job; the training process goes
  # on for some steps, and ends this one. Before TensorFlow, which takes long.
  signal.signal(signal.SIGTERM, signal.SIG_IGN)

import tensorflow as tf

from tf_audioset.data import records  # noqa: F401
from tf_audioset.runtime.errors import UserError


def start(number: int) -> list[str]:
  """Starts processes, which end when this one does.

  Args:
    number: Of processes.

  Returns:
    Their addresses, for `data.Pipeline.training`.

  Raises:
    UserError: If one does not start.
  """
  processes = [
    subprocess.Popen(
      [sys.executable, "-m", "tf_audioset.data.service"],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=dict(os.environ, CUDA_VISIBLE_DEVICES=""),
      start_new_session=True,  # ctrl-C is for this process to handle.
    )
    for _ in range(number)
  ]
  addresses = [process.stdout.readline().strip() for process in processes]
  if not all(addresses):
    raise UserError("a process of --data_service has not started, see above.")
  for process in processes:
    threading.Thread(target=_watch, args=[process], daemon=True).start()
  return addresses


def _watch(process):
  """Ends the run when a process dies: the pipeline would wait for an hour."""
  if process.wait():
    # Checkpoints are whole at any time, so nothing is lost.
    print(
      f"error: a process of --data_service ended, code {process.returncode}; "
      "the same command continues from the last checkpoint",
      file=sys.stderr,
      flush=True,
    )
    os._exit(2)


def main() -> None:
  """Serves until stdin ends."""
  service = tf.data.experimental.service
  dispatcher = service.DispatchServer()
  address = dispatcher.target.split("://")[1]
  worker = service.WorkerServer(service.WorkerConfig(address))
  print(dispatcher.target, flush=True)
  sys.stdin.read()
  del worker  # It is needed until here.
  os._exit(0)


if __name__ == "__main__":
  main()
