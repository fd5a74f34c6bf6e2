# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on disks that break, fill up and lose things."""

import resource
import shutil
import tempfile

import pytest
import tensorflow as tf

from tf_audioset.training import checkpoints


def _managed(folder, value=0.0, keep=3, is_chief=True, has_peers=False):
  variable = tf.Variable(tf.fill([100_000], value))
  return variable, checkpoints.Checkpoints(
    tf.train.Checkpoint(v=variable), str(folder), keep, is_chief, has_peers
  )


def _save(folder, steps, keep=3):
  variable, managed = _managed(folder, keep=keep)
  for step in steps:
    variable.assign(tf.fill([100_000], float(step)))
    managed.save(step)


def _restored(folder):
  """The step of what a new process restores, None for nothing."""
  variable, managed = _managed(folder)
  path = managed.restore()
  value = variable.numpy()
  assert (value == value[0]).all()
  if path is None:
    return None
  assert path.endswith(f"ckpt-{value[0]:.0f}")
  return int(value[0])


def test_the_newest_is_restored_and_the_oldest_go(tmp_path):
  assert _restored(tmp_path / "none") is None
  _save(tmp_path, [10, 20, 30])
  assert _restored(tmp_path) == 30
  _save(tmp_path, [40])
  names = {path.name.split(".")[0] for path in tmp_path.glob("ckpt-*")}
  assert names == {"ckpt-20", "ckpt-30", "ckpt-40"}


def test_what_an_earlier_version_did_not_save_stays_as_it_is(tmp_path):
  def managed(**more):
    values = {"v": tf.Variable(0.0), **more}
    return values, checkpoints.Checkpoints(
      tf.train.Checkpoint(**values), str(tmp_path), 3, True, may_lack=["new"]
    )

  old, folder = managed()
  old["v"].assign(3.0)
  folder.save(10)
  values, folder = managed(new=tf.Variable(7))
  assert folder.restore().endswith("ckpt-10")
  assert (values["v"].numpy(), values["new"].numpy()) == (3.0, 7)
  values["new"].assign(8)
  folder.save(20)
  values, folder = managed(new=tf.Variable(0))
  assert folder.restore().endswith("ckpt-20")
  assert values["new"].numpy() == 8
  # All the rest has to be there, and to be known, as ever.
  for more in ({"other": tf.Variable(0)}, {}):
    _, folder = managed(**more)
    with pytest.raises(ValueError, match="does not fit this model"):
      folder.restore()


def _flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def _cut(path):
  path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize(
  "damage", [_flip_a_bit, _cut, lambda path: path.unlink()]
)
def test_one_that_cannot_be_read_is_told_and_the_one_before_taken(
  tmp_path, capfd, suffix, damage
):
  _save(tmp_path, [10, 20])
  damage(tmp_path / f"ckpt-20.{suffix}")
  assert _restored(tmp_path) == 10
  assert f"{tmp_path}/ckpt-20 cannot be read (" in capfd.readouterr().err
  # Training then makes it again.
  _save(tmp_path, [20])
  assert _restored(tmp_path) == 20


def test_when_none_can_be_read_nothing_is_begun_anew(tmp_path):
  _save(tmp_path, [10, 20])
  for path in tmp_path.glob("*.data*"):
    _flip_a_bit(path)
  with pytest.raises(ValueError, match="none of the 2 checkpoints"):
    _restored(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"model_check"])
def test_a_broken_list_is_made_again(tmp_path, content):
  _save(tmp_path, [9, 10])
  (tmp_path / "checkpoint").unlink()
  if content is not None:
    (tmp_path / "checkpoint").write_bytes(content)
  assert _restored(tmp_path) == 10


def test_what_a_killed_run_left_is_removed(tmp_path):
  _save(tmp_path, [10])
  (tmp_path / "ckpt-20_temp").mkdir()
  (tmp_path / "ckpt-20_temp" / "part-00000-of-00001.index").write_bytes(b"?")
  assert _restored(tmp_path) == 10
  assert not (tmp_path / "ckpt-20_temp").exists()


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
  _save(tmp_path, [10])
  other = tf.train.Checkpoint(v=tf.Variable(tf.zeros([3])))
  managed = checkpoints.Checkpoints(other, str(tmp_path), 3, True)
  with pytest.raises(ValueError, match="ckpt-10 does not fit this model"):
    managed.restore()


@pytest.fixture(name="disk")
def _disk(monkeypatch):
  """A function that sets how large a file may become, in bytes; -1: any."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)

  def limit(num_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))

  yield limit
  resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_told_and_the_last_good_one_stays(
  tmp_path, capsys, monkeypatch, disk
):
  _save(tmp_path, [10])
  waits = []
  monkeypatch.setattr(checkpoints.time, "sleep", waits.append)
  disk(50_000)
  with pytest.raises(
    ValueError, match="step 20 cannot be.*newest is .*ckpt-10"
  ):
    _save(tmp_path, [20])
  disk(-1)
  err = capsys.readouterr().err
  assert waits and err.count("trying again in") == len(waits)
  assert "File too large" in err and "function_node" not in err
  assert {path.name for path in tmp_path.iterdir()} == {
    "checkpoint",
    "ckpt-10.index",
    "ckpt-10.data-00000-of-00001",
  }
  assert _restored(tmp_path) == 10


def test_where_other_workers_take_part_there_is_one_try(
  tmp_path, monkeypatch, disk
):
  _, managed = _managed(tmp_path, has_peers=True)
  monkeypatch.setattr(checkpoints.time, "sleep", lambda _: disk(-1))
  disk(50_000)
  with pytest.raises(ValueError, match="step 10 cannot be written"):
    managed.save(10)


def test_once_there_is_room_the_run_goes_on(tmp_path, monkeypatch, disk):
  monkeypatch.setattr(checkpoints.time, "sleep", lambda _: disk(-1))
  disk(50_000)
  _save(tmp_path, [10, 20])
  assert _restored(tmp_path) == 20
  # As if nothing had happened.
  counter = tf.train.load_checkpoint(str(tmp_path / "ckpt-20")).get_tensor(
    "save_counter/.ATTRIBUTES/VARIABLE_VALUE"
  )
  assert counter == 20


def test_a_folder_that_vanishes_is_made_again(tmp_path):
  variable, managed = _managed(tmp_path / "deep")
  variable.assign_add(tf.fill([100_000], 10.0))
  managed.save(10)
  shutil.rmtree(tmp_path / "deep")
  managed.save(10)
  assert _restored(tmp_path / "deep") == 10


def test_the_other_workers_leave_no_file(tmp_path, monkeypatch):
  folder, scratch = tmp_path / "checkpoints", tmp_path / "scratch"
  scratch.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(scratch))
  _save(folder, [10])
  before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
  _, managed = _managed(folder, is_chief=False)
  assert managed.restore() == str(folder / "ckpt-10")
  managed.save(20)
  assert managed.newest == str(folder / "ckpt-10")
  assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before
  assert not list(scratch.iterdir())
