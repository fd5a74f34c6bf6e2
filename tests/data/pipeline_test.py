# SPDX-License-Identifier: Apache-2.0
"""Order, crops, padding and completeness of the batches."""

import collections
import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests import toy
from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.data import prepared, records


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  toy.write_dataset(folder)
  return str(folder)


@pytest.fixture(name="split", params=["indexed", "compressed"])
def _split(request, folder, tmp_path):
  """The training split, and the same as audax stores it: without an index."""
  split = prepared.find_split(folder, "train")
  if request.param == "indexed":
    return split
  files = []
  for i, file in enumerate(split.files):
    files.append(str(tmp_path / f"{i}.tfrec"))
    with tf.io.TFRecordWriter(files[-1], "ZLIB") as writer:
      for record in tf.data.TFRecordDataset(file):
        writer.write(record.numpy())
  return dataclasses.replace(split, files=files, compression="ZLIB", index=None)


def _training(split, num_batches, batch_size=8, first_step=0, seed=1):
  batches = pipeline_lib.Pipeline(crop_seconds=0.5).training(
    split,
    num_classes=3,
    batch_size=batch_size,
    seed=seed,
    first_step=first_step,
  )
  return list(batches.take(num_batches).as_numpy_iterator())


def _whole_clips(split, num_clips):
  return [
    toy.clip(i + 1000 * (split == "eval"), 16000)[0] for i in range(num_clips)
  ]


def _sources(waveforms, clips):
  """(clip, start) of each crop, found by searching for it."""
  found = []
  for waveform in waveforms:
    for i, clip in enumerate(clips):
      windows = np.lib.stride_tricks.sliding_window_view(clip, len(waveform))
      starts = np.flatnonzero((windows[:, :8] == waveform[:8]).all(axis=1))
      starts = [s for s in starts if (windows[s] == waveform).all()]
      if starts:
        found.append((i, starts[0]))
        break
  return found


def test_an_epoch_holds_every_clip_once_at_random_places(split):
  waveforms = np.concatenate([w for w, _ in _training(split, 6)])
  assert waveforms.shape == (48, 8000)
  assert waveforms.dtype == np.int16
  sources = _sources(waveforms, _whole_clips("train", 24))
  assert len(sources) == 48
  for epoch in (sources[:24], sources[24:]):
    assert sorted(clip for clip, _ in epoch) == list(range(24))
  assert [c for c, _ in sources[:24]] != [c for c, _ in sources[24:]]
  starts = [start for _, start in sources]
  assert len(set(starts)) > 40
  assert min(starts) >= 0 and max(starts) <= 8000
  assert min(starts) < 1500 and max(starts) > 6500


def test_batches_that_do_not_divide_the_epoch_lose_nothing(split):
  waveforms = np.concatenate([w for w, _ in _training(split, 24, batch_size=7)])
  sources = _sources(waveforms[:168], _whole_clips("train", 24))
  counts = collections.Counter(clip for clip, _ in sources)
  assert set(counts.values()) == {7}


@pytest.mark.parametrize("first_step", [1, 3, 7])
def test_a_later_start_continues_the_same_stream(split, first_step):
  whole = _training(split, 10, batch_size=7)
  rest = _training(split, 10 - first_step, batch_size=7, first_step=first_step)
  for (w1, t1), (w2, t2) in zip(whole[first_step:], rest):
    np.testing.assert_array_equal(w1, w2)
    np.testing.assert_array_equal(t1, t2)


def test_another_seed_is_another_order(split):
  first, second = _training(split, 1), _training(split, 1, seed=2)
  assert (first[0][0] != second[0][0]).any()


@pytest.mark.parametrize("of_the_program", [0, 7])
def test_the_programs_own_seed_changes_nothing(split, of_the_program):
  expected = _training(split, 2)
  tf.random.set_seed(of_the_program)
  try:
    actual = _training(split, 2)
  finally:
    tf.random.set_seed(None)
  np.testing.assert_equal(actual, expected)


def test_two_hosts_share_the_stream(split):
  def host(i):
    context = tf.distribute.InputContext(2, i, 2)
    batches = pipeline_lib.Pipeline(crop_seconds=0.5).training(
      split, num_classes=3, batch_size=8, seed=1, context=context
    )
    return [w for w, _ in batches.take(3).as_numpy_iterator()]

  both = np.concatenate(host(0) + host(1))
  assert both.shape == (24, 8000)
  alone = np.concatenate([w for w, _ in _training(split, 3)])
  assert {w.tobytes() for w in both} == {w.tobytes() for w in alone}


def _ids(split):
  return {
    clip_id.decode()
    for ids, _, _ in pipeline_lib.full_clips(
      split, num_classes=3, batch_size=4, min_samples=1, padding="zero"
    ).as_numpy_iterator()
    for clip_id in ids
  }


def test_parts_by_the_hash_of_the_id_share_nothing_and_lose_nothing(folder):
  split = prepared.find_split(folder, "train")
  low, high = split.part(0, 40), split.part(40, 100)
  assert low.num_clips + high.num_clips == 24
  assert len(_ids(low)) == low.num_clips > 0
  assert len(_ids(high)) == high.num_clips > 0
  assert _ids(low) | _ids(high) == {f"train{i}" for i in range(24)}
  # An epoch of a part is each of its clips once.
  batches = pipeline_lib.Pipeline(crop_seconds=1.0).training(
    high, num_classes=3, batch_size=1, seed=1
  )
  waveforms = [
    w[0] for w, _ in batches.take(high.num_clips).as_numpy_iterator()
  ]
  sources = _sources(waveforms, _whole_clips("train", 24))
  assert {f"train{clip}" for clip, _ in sources} == _ids(high)
  batches = pipeline_lib.Pipeline().centre_crops(
    low, num_classes=3, batch_size=4
  )
  index = np.concatenate([i for i, _, _ in batches.as_numpy_iterator()])
  assert sorted(index[index >= 0]) == list(range(low.num_clips))


def test_a_clip_stays_in_its_part_when_clips_are_added(folder, tmp_path):
  toy.write_dataset(tmp_path, num_train=60, num_shards=2)
  before = _ids(prepared.find_split(folder, "train").part(0, 40))
  after = _ids(prepared.find_split(str(tmp_path), "train").part(0, 40))
  assert before == {i for i in after if int(i[len("train") :]) < 24}
  assert before < after


def test_a_part_without_clips_or_ids_is_refused(folder):
  split = prepared.find_split(folder, "train")
  empty = int(np.flatnonzero(np.bincount(split.index.bucket) == 0)[0])
  with pytest.raises(ValueError, match="none of the 24 clips is in the part"):
    split.part(empty, empty + 1)
  with pytest.raises(ValueError, match="prepare it again"):
    dataclasses.replace(split, index=None).part(0, 50)


def test_centre_crops_cover_every_clip_once(folder):
  split = prepared.find_split(folder, "eval")
  batches = pipeline_lib.Pipeline(crop_seconds=0.5).centre_crops(
    split, num_classes=3, batch_size=4
  )
  index, waveform, targets = (
    np.concatenate(x) for x in zip(*batches.as_numpy_iterator())
  )
  assert len(index) == 12
  assert sorted(index) == [-1, -1, *range(10)]
  clips = _whole_clips("eval", 10)
  real = index >= 0
  sources = _sources(waveform[real], clips)
  assert sorted(sources) == [(i, 4000) for i in range(10)]
  for (clip, _), target in zip(sources, targets[real]):
    assert list(np.flatnonzero(target)) == toy.clip(clip + 1000, 16000)[1]


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [8, 16, 40])
def test_hosts_share_the_evaluation_and_have_as_many_batches(
  split, num_hosts, batch_size
):
  found, num_batches = [], []
  for i in range(num_hosts):
    context = tf.distribute.InputContext(num_hosts, i, 2 * num_hosts)
    batches = pipeline_lib.Pipeline(crop_seconds=0.5).centre_crops(
      split, num_classes=3, batch_size=batch_size, context=context
    )
    indices = [index for index, _, _ in batches.as_numpy_iterator()]
    assert {len(index) for index in indices} == {batch_size // (2 * num_hosts)}
    found.extend(np.concatenate(indices))
    num_batches.append(len(indices))
  assert len(set(num_batches)) == 1
  assert sorted(i for i in found if i >= 0) == list(range(24))


def test_full_clips_are_whole_and_padded_only_when_short(folder):
  split = prepared.find_split(folder, "eval")
  for min_samples, length in ((8000, 16000), (20000, 20000)):
    batches = pipeline_lib.full_clips(
      split,
      num_classes=3,
      batch_size=4,
      min_samples=min_samples,
      padding="repeat",
    )
    by_id = {
      clip_id: waveform
      for ids, waveforms, _ in batches.as_numpy_iterator()
      for clip_id, waveform in zip(ids, waveforms)
    }
    assert len(by_id) == 10
    for i, clip in enumerate(_whole_clips("eval", 10)):
      expected = np.resize(clip, length)  # NumPy's resize repeats.
      np.testing.assert_array_equal(by_id[f"eval{i}".encode()], expected)


def _ops(dataset):
  """Types of all ops that make a dataset, in its functions as well."""
  graph = tf.compat.v1.GraphDef.FromString(
    dataset._as_serialized_graph().numpy()
  )
  return {node.op for node in toy.nodes(graph)}


@pytest.mark.parametrize("codec", ["flac", "pcm16"])
def test_only_flac_needs_python(tmp_path, codec):
  # A TPU's host in another machine cannot call Python of this process.
  toy.write_dataset(tmp_path, codec=codec)
  split = prepared.find_split(str(tmp_path), "train")
  assert split.needs_python == (codec == "flac")
  assert split.part(0, 100).needs_python == split.needs_python
  pipeline = pipeline_lib.Pipeline(crop_seconds=0.5)
  for dataset in (
    pipeline.training(split, num_classes=3, batch_size=8, seed=1),
    pipeline.centre_crops(split, num_classes=3, batch_size=8),
    pipeline_lib.full_clips(
      split, num_classes=3, batch_size=4, min_samples=1, padding="zero"
    ),
  ):
    ops = _ops(dataset)
    assert "ParseExampleV2" in ops or "ParseSingleExample" in ops
    python = {op for op in ops if "PyFunc" in op}
    assert bool(python) == split.needs_python, python
    assert not {op for op in ops if op.startswith("IO>")}


def test_both_codecs_give_the_same_stream(folder, tmp_path):
  toy.write_dataset(tmp_path, codec="pcm16")
  flac = _training(prepared.find_split(folder, "train"), 5, batch_size=7)
  pcm16 = _training(
    prepared.find_split(str(tmp_path), "train"), 5, batch_size=7
  )
  for (w1, t1), (w2, t2) in zip(flac, pcm16):
    np.testing.assert_array_equal(w1, w2)
    np.testing.assert_array_equal(t1, t2)


@pytest.mark.parametrize("codec", ["flac", "pcm16"])
@pytest.mark.parametrize("padding", pipeline_lib.PADDINGS)
def test_short_clips_are_filled_each_from_itself(tmp_path, codec, padding):
  lengths = [1, 700, 2399, 2400, 2401, 4800, 8000, 9000]
  toy.write_dataset(tmp_path, num_train=8, num_samples=lengths, codec=codec)
  split = prepared.find_split(str(tmp_path), "train")
  batches = pipeline_lib.Pipeline(
    crop_seconds=0.3, padding=padding
  ).centre_crops(split, num_classes=3, batch_size=8)
  (index, waveforms, _), *rest = batches.as_numpy_iterator()
  assert not rest and waveforms.shape == (8, 4800)
  # In file order: three shards, each with every third clip.
  order = [0, 3, 6, 1, 4, 7, 2, 5]
  for i, waveform in zip(index, waveforms):
    clip = toy.clip(order[i], lengths[order[i]])[0]
    room = max(len(clip) - 4800, 0)
    expected = clip[room // 2 :][:4800]
    if padding == "repeat":
      expected = np.resize(expected, 4800)  # NumPy's resize repeats.
    else:
      expected = np.pad(expected, (0, 4800 - len(expected)))
    np.testing.assert_array_equal(waveform, expected)


@pytest.mark.parametrize("batch_size", [64, 67, 96, 128])
def test_the_size_of_the_batch_changes_nothing_else(folder, batch_size):
  # Sizes that are decoded in one group, in many, in groups of one.
  split = prepared.find_split(folder, "train")
  whole = np.concatenate([w for w, _ in _training(split, 32)])
  batches = _training(split, 2, batch_size=batch_size)
  for i, (waveforms, targets) in enumerate(batches):
    assert targets.shape == (batch_size, 3)
    np.testing.assert_array_equal(
      waveforms, whole[i * batch_size : (i + 1) * batch_size]
    )


@pytest.mark.parametrize("codec", ["flac", "pcm16"])
def test_damage_of_a_shard_is_an_error_and_never_another_clip(tmp_path, codec):
  toy.write_dataset(
    tmp_path, num_train=6, num_samples=2000, num_shards=1, codec=codec
  )
  split = prepared.find_split(str(tmp_path), "train")
  dataset = pipeline_lib.Pipeline(crop_seconds=0.1).centre_crops(
    split, num_classes=3, batch_size=6
  )
  (expected,) = dataset.as_numpy_iterator()
  shard = tmp_path / "train-00000-of-00001.tfrecord"
  content = shard.read_bytes()
  rng = np.random.default_rng(0)
  for i in range(100):  # And as many with the other codec.
    place = int(rng.integers(len(content)))
    damaged = bytearray(content)
    if i % 4 == 0:
      damaged = damaged[:place]
    elif i % 4 == 1:
      damaged[place : place + 100] = bytes(len(damaged[place : place + 100]))
    else:
      damaged[place] ^= 1 << int(rng.integers(8))
    shard.write_bytes(damaged)
    try:
      (found,) = dataset.as_numpy_iterator()
    except tf.errors.OpError as e:
      assert e.message
    else:
      assert damaged == content
      for part, wanted in zip(found, expected):
        np.testing.assert_array_equal(part, wanted)


def _rewrite(folder, number, change):
  """Writes the only shard again with one record changed; sums are right."""
  shard = folder / "train-00000-of-00001.tfrecord"
  serialized = [r.numpy() for r in tf.data.TFRecordDataset(str(shard))]
  example = tf.train.Example.FromString(serialized[number])
  change(example.features.feature)
  serialized[number] = example.SerializeToString()
  index = prepared.IndexBuilder()
  index.next_shard()
  with tf.io.TFRecordWriter(str(shard)) as writer:
    for i, record in enumerate(serialized):
      writer.write(record)
      index.add(len(record), f"train{i}")
  index.build().write(str(folder / "train.index.npz"))


def _set_bytes(name, change):
  def changed(feature):
    value = feature[name].bytes_list.value
    value[0] = change(value[0])

  return changed


def _flip(content, place):
  damaged = bytearray(content)
  damaged[place] ^= 1
  return bytes(damaged)


# What is done to record 2, and what is said of it.
_BAD_RECORDS = {
  "empty": (_set_bytes("audio", lambda _: b""), "cannot be decoded"),
  "frame": (
    _set_bytes("audio", lambda a: _flip(a, len(a) // 2)),
    "cannot be decoded",
  ),
  "label": (
    lambda feature: feature["labels"].int64_list.value.append(3),
    "a label is not in 0 ... 2: 3",
  ),
  "stranger": (
    _set_bytes("id", lambda _: b"train7"),
    "another clip is here, train7",
  ),
  "codec": (
    _set_bytes("codec", lambda _: b"pcm16"),
    "said to be flac, its codec is pcm16",
  ),
  "checksum": (None, "cannot be read"),
  "gone": (None, "cannot be read"),
}


@pytest.fixture(name="damaged", params=_BAD_RECORDS)
def _damaged(request, tmp_path):
  """A split of 6 clips of which one, or all, cannot be used, and the reason."""
  toy.write_dataset(tmp_path, num_train=6, num_samples=4000, num_shards=1)
  shard = tmp_path / "train-00000-of-00001.tfrecord"
  change, reason = _BAD_RECORDS[request.param]
  if change:
    _rewrite(tmp_path, 2, change)
    info = prepared.read_dataset_info(str(tmp_path))
    info.splits["train"].shards[0]["num_bytes"] = shard.stat().st_size
    prepared.write_dataset_info(str(tmp_path), info)
  split = prepared.find_split(str(tmp_path), "train")
  if request.param == "checksum":
    place = int(split.index.offset[2]) + 50
    shard.write_bytes(_flip(shard.read_bytes(), place))
  elif request.param == "gone":
    shard.unlink()
  return split, reason


def test_a_bad_record_is_named_with_its_shard_place_and_id(damaged):
  split, reason = damaged
  number = 0 if not tf.io.gfile.exists(split.files[0]) else 2
  wanted = (
    f"clip train{number}, the record at byte {split.index.offset[number]} of "
    f"{split.files[0]}: "
  )
  pipeline = pipeline_lib.Pipeline(crop_seconds=0.1)
  datasets = (
    pipeline.centre_crops(split, num_classes=3, batch_size=6),
    pipeline.training(split, num_classes=3, batch_size=1, seed=0),
    pipeline_lib.full_clips(
      split, num_classes=3, batch_size=2, min_samples=1, padding="zero"
    ),
  )
  for dataset in datasets:
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
      list(dataset)
    message = re.sub("(train|byte )[0-9]+", r"\1N", error.value.message)
    assert re.sub("(train|byte )[0-9]+", r"\1N", wanted) in message
    assert wanted in error.value.message or number == 0  # All are bad then.
    assert reason in error.value.message


def test_bad_records_are_replaced_and_counted_if_allowed(damaged, capfd):
  split, reason = damaged
  pipeline = pipeline_lib.Pipeline(crop_seconds=0.1, max_bad_records=1)
  batches = pipeline.training(split, num_classes=3, batch_size=6, seed=0)
  if not tf.io.gfile.exists(split.files[0]):
    with pytest.raises(tf.errors.OpError, match="no record of a batch"):
      next(iter(batches))
    return
  clips = [toy.clip(i, 4000) for i in range(6)]
  for waveforms, targets, num_bad in batches.take(2).as_numpy_iterator():
    assert num_bad == 1
    sources = [clip for clip, _ in _sources(waveforms, [c[0] for c in clips])]
    # All others are there, and one of them a second time.
    assert sorted(set(sources)) == [0, 1, 3, 4, 5]
    for clip, target in zip(sources, targets):
      assert np.flatnonzero(target).tolist() == clips[clip][1]
  told = capfd.readouterr().err
  assert "bad record: clip train2, the record at byte" in told
  assert reason in told
  # A run that starts later sees the same.
  (again,) = (
    pipeline.training(split, num_classes=3, batch_size=6, seed=0, first_step=1)
    .take(1)
    .as_numpy_iterator()
  )
  np.testing.assert_array_equal(again[0], waveforms)


def test_a_broken_compressed_shard_is_named(tmp_path):
  (tmp_path / "train").mkdir()
  path = tmp_path / "train" / "a.tfrec"
  with tf.io.TFRecordWriter(str(path), "ZLIB") as writer:
    for i in range(20):
      writer.write(records.serialize_example("", toy.clip(i, 4000)[0], [0]))
  path.write_bytes(path.read_bytes()[:-3000])
  with pytest.raises(ValueError, match=r"a.tfrec: broken, 1\d records"):
    prepared.find_split(str(tmp_path), "train")


def _order(num_clips, epoch, seed=0):
  positions = tf.range(num_clips, dtype=tf.int64) + epoch * num_clips
  return pipeline_lib.clip_at(positions, num_clips, tf.constant(seed)).numpy()


@pytest.mark.parametrize("num_clips", [1000, 20000])
def test_the_order_is_not_correlated_with_files_or_other_epochs(num_clips):
  orders = [np.arange(num_clips)]
  orders += [_order(num_clips, epoch) for epoch in range(3)]
  orders.append(_order(num_clips, 0, seed=1))
  # Position by clip.
  places = [np.argsort(order) for order in orders]
  for i, first in enumerate(places):
    for second in places[:i]:
      correlation = stats.spearmanr(first, second).statistic
      # Its standard deviation is 1 / sqrt(n - 1) if there is none.
      assert abs(correlation) < 4.5 / np.sqrt(num_clips - 1)
  # Nor do neighbours stay neighbours.
  steps = np.abs(np.diff(orders[1]))
  assert abs(steps.mean() / (num_clips / 3) - 1) < 5 / np.sqrt(num_clips)


def test_a_batch_mixes_the_shards_as_drawing_at_random_would():
  num_shards, num_clips, batch_size = 50, 20000, 100
  shard = _order(num_clips, 0) // (num_clips // num_shards)
  batches = shard.reshape([-1, batch_size])
  counts = [np.bincount(b, minlength=num_shards) for b in batches]
  # Sum of chi squared over the batches; 49 expected of each.
  chi_squared = np.sum((np.array(counts) - 2) ** 2 / 2, axis=1)
  expected = num_shards - 1
  deviation = np.sqrt(2 * expected / len(batches))
  # Drawing without putting back is a little more even.
  assert abs(chi_squared.mean() - expected) < 5 * deviation


@pytest.mark.parametrize(
  ("num_shards", "num_hosts"), [(1, 3), (3, 2), (7, 5), (2, 6)]
)
def test_hosts_read_each_clip_once_an_epoch(tmp_path, num_shards, num_hosts):
  toy.write_dataset(
    tmp_path, num_train=30, num_samples=2000, num_shards=num_shards
  )
  split = prepared.find_split(str(tmp_path), "train")
  seen = []
  for host in range(num_hosts):
    context = tf.distribute.InputContext(num_hosts, host, num_hosts)
    batches = pipeline_lib.Pipeline(crop_seconds=0.125).training(
      split, num_classes=3, batch_size=num_hosts, seed=3, context=context
    )
    for waveforms, _ in batches.take(30 // num_hosts).as_numpy_iterator():
      seen.extend(w.tobytes() for w in waveforms)
  expected = [toy.clip(i, 2000)[0].tobytes() for i in range(30)]
  assert sorted(seen) == sorted(expected)


def test_threads_do_not_change_the_order(split):
  def stream(num_threads):
    batches = pipeline_lib.Pipeline(crop_seconds=0.5).training(
      split, num_classes=3, batch_size=8, seed=1
    )
    options = tf.data.Options()
    options.threading.private_threadpool_size = num_threads
    batches = batches.take(6).with_options(options)
    return np.concatenate([w for w, _ in batches.as_numpy_iterator()])

  np.testing.assert_array_equal(stream(1), stream(16))


@pytest.mark.parametrize("length", [1, 3, 10, 11, 25])
def test_pad_equals_numpy(length):
  waveform = np.arange(1, length + 1, dtype=np.int16)[np.newaxis]
  wanted = max(length, 10)
  repeated = pipeline_lib.pad(tf.constant(waveform), 10, "repeat").numpy()
  np.testing.assert_array_equal(repeated[0], np.resize(waveform[0], wanted))
  zeros = pipeline_lib.pad(tf.constant(waveform), 10, "zero").numpy()
  np.testing.assert_array_equal(
    zeros[0], np.pad(waveform[0], (0, wanted - length))
  )


def test_an_empty_waveform_becomes_silence():
  for padding in pipeline_lib.PADDINGS:
    out = pipeline_lib.pad(tf.zeros([2, 0]), 5, padding).numpy()
    np.testing.assert_array_equal(out, np.zeros([2, 5]))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"crop_seconds": 0.0}, "crop_seconds is 0.0"),
    ({"padding": "mirror"}, "'mirror'.*repeat"),
    ({"shuffle_clips": 0}, "shuffle_clips is 0"),
    ({"max_bad_records": -1}, "max_bad_records is -1"),
  ],
)
def test_bad_settings_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    pipeline_lib.Pipeline(**arguments)
