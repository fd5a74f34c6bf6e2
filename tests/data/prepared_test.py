# SPDX-License-Identifier: Apache-2.0
"""Folders of records are what their descriptions say, or are refused."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tf_audioset.data import prepared


def test_a_written_description_is_read_back(tmp_path):
  toy.write_dataset(tmp_path)
  info = prepared.read_dataset_info(str(tmp_path))
  assert info.classes.names == toy.NAMES
  split = prepared.find_split(str(tmp_path), "train")
  assert split.num_clips == 24
  assert len(split.files) == 3


def test_what_is_missing_is_named(tmp_path):
  with pytest.raises(ValueError, match="make_tfrecords.py"):
    prepared.find_split(str(tmp_path), "train")
  toy.write_dataset(tmp_path)
  with pytest.raises(ValueError, match=r"no split 'test'.*'eval', 'train'"):
    prepared.find_split(str(tmp_path), "test")
  shard = tmp_path / "train-00001-of-00003.tfrecord"
  shard.write_bytes(shard.read_bytes()[:-9])
  with pytest.raises(ValueError, match="00001-of-00003.tfrecord.*broken copy"):
    prepared.find_split(str(tmp_path), "train")
  shard.unlink()
  with pytest.raises(ValueError, match="00001-of-00003.tfrecord.*missing"):
    prepared.find_split(str(tmp_path), "train")
  (tmp_path / prepared.INFO_FILE).write_text("{}")
  with pytest.raises(ValueError, match="prepare the data again"):
    prepared.find_split(str(tmp_path), "train")


@pytest.mark.parametrize(
  ("before", "after"),
  [
    ('"name": "High tone"', '"name": "Hihg tone"'),
    ('"mid": "Noise"', '"mid": "Noisy"'),
    ('"sample_rate_hz": 16000', '"sample_rate_hz": 16001'),
    ('"codec": "flac"', '"codec": "pcm16"'),
    ('"num_clips": 10', '"num_clips": 11'),
    ('"train.clips.npz"', '"eval.clips.npz"'),
  ],
)
def test_a_description_that_changed_is_refused(tmp_path, before, after):
  toy.write_dataset(tmp_path)
  info = tmp_path / prepared.INFO_FILE
  text = info.read_text()
  assert before in text
  info.write_text(text.replace(before, after))
  with pytest.raises(ValueError, match="dataset_info.json: changed since"):
    prepared.find_split(str(tmp_path), "train")
  # As the message says, and as older versions wrote it.
  lines = text.replace(before, after).splitlines(keepends=True)
  info.write_text("".join(x for x in lines if '"sha256"' not in x))
  assert prepared.read_dataset_info(str(tmp_path)).sha256 == ""


def test_the_order_of_the_classes_is_protected_and_the_format_is_not(tmp_path):
  toy.write_dataset(tmp_path)
  info = tmp_path / prepared.INFO_FILE
  content = json.loads(info.read_text())
  # As another program would write it.
  content["clip_seconds"] = int(content["clip_seconds"])
  info.write_text(json.dumps(dict(reversed(content.items()))))
  assert prepared.read_dataset_info(str(tmp_path)).classes.names == toy.NAMES
  content["classes"].reverse()
  info.write_text(json.dumps(content))
  with pytest.raises(ValueError, match="changed since it was written"):
    prepared.read_dataset_info(str(tmp_path))


def test_the_table_of_clips_follows_a_part(tmp_path):
  toy.write_dataset(tmp_path)
  split = prepared.find_split(str(tmp_path), "train")
  numbers = [i for shard in range(3) for i in range(shard, 24, 3)]
  labels = [toy.clip(i, 0)[1] for i in numbers]
  table = split.clips()
  assert table.id.tolist() == [f"train{i}".encode() for i in numbers]
  assert [table.labels_of(i).tolist() for i in range(24)] == labels
  expected = [sum(c in found for found in labels) for c in range(3)]
  assert table.count_positives(3).tolist() == expected
  buckets = split.index.bucket
  for part in (split.part(20, 70), split.part(10, 90).part(20, 70)):
    rows = np.flatnonzero((20 <= buckets) & (buckets < 70))
    table = part.clips()
    assert table.id.tolist() == [f"train{numbers[i]}".encode() for i in rows]
    for i, row in enumerate(rows):
      assert table.labels_of(i).tolist() == labels[row]


def test_a_table_of_other_clips_is_refused(tmp_path):
  toy.write_dataset(tmp_path)
  split = prepared.find_split(str(tmp_path), "train")
  other = prepared.find_split(str(tmp_path), "eval").clips_file
  moved = split.clips().take(np.arange(24)[::-1])
  (tmp_path / "train.clips.npz").write_bytes(open(other, "rb").read())
  for one in (split, split.part(50, 100)):
    with pytest.raises(ValueError, match="other clips than the records"):
      one.clips()
  moved.write(split.clips_file)
  with pytest.raises(ValueError, match="other clips than the records"):
    split.clips()
  (tmp_path / "train.clips.npz").write_bytes(b"PK")
  with pytest.raises(ValueError, match="train.clips.npz: .* or broken"):
    split.clips()


def test_a_compressed_shard_that_is_cut_off_is_told_in_plain_words(tmp_path):
  (tmp_path / "train").mkdir()
  shard = tmp_path / "train" / "0.tfrec"
  with tf.io.TFRecordWriter(str(shard), "ZLIB") as writer:
    for i in range(5):
      writer.write(np.random.default_rng(i).bytes(10_000))
  shard.write_bytes(shard.read_bytes()[:-2_000])
  with pytest.raises(ValueError) as error:
    prepared.find_split(str(tmp_path), "train")
  words = f"{shard}: broken, 4 records can be read: "
  assert str(error.value).startswith(words)
  assert not set("{}[]") & set(str(error.value)[len(words) :])
