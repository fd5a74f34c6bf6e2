# SPDX-License-Identifier: Apache-2.0
"""Of several who want a folder, one has it, and it finds out if it loses it."""

import json
import os
import subprocess
import sys

import pytest

from tf_audioset.runtime import bucket_lock
from tf_audioset.runtime.errors import UserError


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
  monkeypatch.setattr(bucket_lock, "_SETTLE_SECONDS", 0.0)


def _write(folder, **changes):
  holder = {"token": "x", "host": "other", "process": 7, "time": 0.0} | changes
  (folder / ".lock").write_text(json.dumps(holder))


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path):
  script = (
    "import sys\n"
    "from tf_audioset.runtime import bucket_lock\n"
    "bucket_lock._SETTLE_SECONDS = 0.0\n"
    "lock = bucket_lock.BucketLock(sys.argv[1])\n"
    "print('held', flush=True)\n"
    "sys.stdin.read()\n"
    "lock.release()\n"
  )
  other = subprocess.Popen(
    [sys.executable, "-c", script, str(tmp_path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  assert other.stdout.readline() == b"held\n"
  with pytest.raises(UserError, match=f"at work there, process {other.pid} on"):
    bucket_lock.BucketLock(str(tmp_path))
  other.communicate()
  lock = bucket_lock.BucketLock(str(tmp_path))
  lock.check()
  lock.release()
  assert not os.listdir(tmp_path)


def test_a_killed_run_of_this_machine_is_no_obstacle(tmp_path):
  script = (
    "import os, sys\n"
    "from tf_audioset.runtime import bucket_lock\n"
    "bucket_lock._SETTLE_SECONDS = 0.0\n"
    "bucket_lock.BucketLock(sys.argv[1])\n"
    "os._exit(9)\n"
  )
  subprocess.run([sys.executable, "-c", script, str(tmp_path)])
  assert os.listdir(tmp_path) == [".lock"]
  bucket_lock.BucketLock(str(tmp_path)).release()


def test_a_stale_lock_is_told_and_can_be_taken_over(tmp_path):
  _write(tmp_path)
  with pytest.raises(UserError, match="locked by another run, process 7 on o"):
    bucket_lock.BucketLock(str(tmp_path))
  lock = bucket_lock.BucketLock(str(tmp_path), take_over=True)
  lock.check()
  lock.release()


def test_who_loses_the_lock_finds_out_and_leaves_it(tmp_path):
  first = bucket_lock.BucketLock(str(tmp_path))
  second = bucket_lock.BucketLock(str(tmp_path), take_over=True)
  with pytest.raises(UserError, match="has taken this work directory over"):
    first.check()
  first.release()
  second.check()
  second.release()


def test_of_two_that_write_at_once_the_last_has_it(tmp_path, monkeypatch):
  monkeypatch.setattr(
    bucket_lock.time, "sleep", lambda _: _write(tmp_path, token="later")
  )
  with pytest.raises(UserError, match="has taken this work directory over"):
    bucket_lock.BucketLock(str(tmp_path))


def test_the_holder_shows_that_it_lives(tmp_path, monkeypatch):
  monkeypatch.setattr(bucket_lock, "_RENEW_SECONDS", 0.01)
  lock = bucket_lock.BucketLock(str(tmp_path))
  begin = json.loads((tmp_path / ".lock").read_text())["time"]
  for _ in range(1000):
    text = (tmp_path / ".lock").read_text()
    if text and json.loads(text)["time"] > begin:
      break
    lock._released.wait(0.01)
  else:
    pytest.fail("the lock was not renewed")
  lock.release()


def test_what_is_no_lock_is_replaced(tmp_path):
  (tmp_path / ".lock").write_text("no JSON")
  bucket_lock.BucketLock(str(tmp_path)).release()
