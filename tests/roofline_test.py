# SPDX-License-Identifier: Apache-2.0
"""What roofline.py counts against counts by hand, a layer of each kind."""

import json

import pytest
import tensorflow as tf

from tests import command
from tools import tpu_model

# Of these no dimension needs padding: batch on lanes, channels on rows.
_SHAPE = [128, 8, 8, 64]
_SIZE = 128 * 8 * 8 * 64


def _analyse(function, *arguments):
  """Counts of a function of tensors of (shape, dtype), compiled by XLA."""
  compiled = tf.function(function, jit_compile=True)
  specs = [tf.TensorSpec(shape, dtype) for shape, dtype in arguments]
  ir = compiled.experimental_get_compiler_ir(*specs)
  return tpu_model.analyse(ir(stage="hlo"))


def _gradient(function, which):
  """The gradient to argument `which`, given that to the result as the last."""

  def gradient(*arguments):
    *arguments, upstream = arguments
    with tf.GradientTape() as tape:
      tape.watch(arguments[which])
      result = function(*arguments)
    return tape.gradient(result, arguments[which], upstream)

  return gradient


def _conv(x, kernel):
  return tf.nn.conv2d(x, kernel, 1, "SAME")


_X = (_SHAPE, tf.bfloat16)
_KERNEL = ([3, 3, 64, 192], tf.bfloat16)
_Y = ([128, 8, 8, 192], tf.bfloat16)
# Positions, and bytes: of the kernel's dimensions 64 becomes 128 or 192 256.
_ROWS = 128 * 8 * 8
_CONV_BYTES = 2 * (_ROWS * 64 + _ROWS * 192 + 9 * 64 * 256)


@pytest.mark.parametrize(
  ("function", "arguments", "padded"),
  [
    # 192 channels pass by [9 x 64 -> 640, rows].
    (_conv, (_X, _KERNEL), 2 * 192 * 640 * _ROWS),
    # The rows pass by [9 x 192 -> 1792, 64 -> 128].
    (_gradient(_conv, 0), (_X, _KERNEL, _Y), 2 * _ROWS * 1792 * 128),
    # 192 channels pass by [rows, 9 x 64 -> 640].
    (_gradient(_conv, 1), (_X, _KERNEL, _Y), 2 * 192 * _ROWS * 640),
  ],
  ids=["forward", "input", "filter"],
)
def test_a_convolution_and_its_gradients(function, arguments, padded):
  counts = _analyse(function, *arguments)
  convolution = counts["kinds"]["convolution"]
  assert convolution["kernels"] == 1
  # At each position 9 taps of 64 channels for each of 192.
  assert convolution["matrix_flops"] == 2 * _ROWS * 9 * 64 * 192
  assert convolution["padded_flops"] == padded
  assert convolution["bytes"] == _CONV_BYTES
  assert convolution["seconds"] == pytest.approx(
    max(padded / (420e12 / 8), _CONV_BYTES / (7.2e12 / 8))
  )


def _strided(x, kernel):
  return tf.nn.conv2d(x, kernel, 2, "SAME")


@pytest.mark.parametrize("which", [None, 0, 1])
@pytest.mark.parametrize("size", [1, 3])
def test_zeros_between_the_steps_of_a_convolution_are_not_counted(size, which):
  function = _strided if which is None else _gradient(_strided, which)
  arguments = [_X, ([size, size, 64, 128], tf.bfloat16)]
  if which is not None:
    arguments.append(([128, 4, 4, 128], tf.bfloat16))
  counts = _analyse(function, *arguments)["kinds"]["convolution"]
  assert counts["matrix_flops"] == 2 * 128 * 4 * 4 * size**2 * 64 * 128


def test_one_channel_fills_a_tile_with_the_positions_of_the_window():
  counts = _analyse(
    _conv, ([128, 16, 16, 1], tf.bfloat16), ([7, 7, 1, 64], tf.bfloat16)
  )["kinds"]["convolution"]
  # The rows pass by [49 -> 128, 64 -> 128].
  assert counts["padded_flops"] == 2 * (128 * 16 * 16) * 128 * 128


def _depthwise(x, kernel):
  return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")


@pytest.mark.parametrize("which", [None, 0, 1])
def test_a_depthwise_convolution_is_for_the_vector_unit(which):
  function = _depthwise if which is None else _gradient(_depthwise, which)
  arguments = [_X, ([3, 3, 64, 1], tf.bfloat16)] + [_X] * (which is not None)
  counts = _analyse(function, *arguments)
  depthwise = counts["kinds"]["depthwise convolution"]
  assert depthwise["kernels"] == 1
  # A product and a sum for each of 9 taps.
  assert depthwise["vector_flops"] == 2 * 9 * _SIZE
  assert counts["total"]["matrix_flops"] == 0
  # Two activations; the kernel is too small to count.
  activations = depthwise["bytes"] - 2 * _SIZE * 2
  assert 0 <= activations <= 2 * 9 * 64


def _dense(x, weights):
  return tf.matmul(x, weights)


@pytest.mark.parametrize(
  ("function", "arguments", "flops", "padded"),
  [
    # 527 -> 528 rows pass by [512, 256].
    (_dense, ([256, 512], [512, 527]), 527, 528 * 256 * 512),
    # Contracted are 527 -> 640.
    (
      _gradient(_dense, 0),
      ([256, 512], [512, 527], [256, 527]),
      527,
      512 * 256 * 640,
    ),
    # 527 -> 528 rows pass by [256, 512].
    (
      _gradient(_dense, 1),
      ([256, 512], [512, 527], [256, 527]),
      527,
      528 * 256 * 512,
    ),
  ],
  ids=["forward", "input", "weights"],
)
def test_a_dense_layer_and_its_gradients(function, arguments, flops, padded):
  counts = _analyse(function, *((shape, tf.float32) for shape in arguments))
  dot = counts["kinds"]["dot"]
  assert dot["matrix_flops"] == 2 * 256 * 512 * flops
  assert dot["padded_flops"] == 2 * padded
  # 527 rows -> 528, the other dimension on lanes.
  assert dot["bytes"] == 4 * (256 * 512 + 512 * 528 + 256 * 528)


def _batch_norm(x):
  ones, zeros = tf.ones([64]), tf.zeros([64])
  y, *_ = tf.compat.v1.nn.fused_batch_norm(x, ones, zeros)
  return y


def test_a_batch_norm_reads_for_its_statistics_and_again():
  x = (_SHAPE, tf.float32)
  counts = _analyse(_batch_norm, x)
  assert counts["total"]["kernels"] == 2
  # Read x; then read x and write y. Of 64 channels the rest is small.
  assert counts["total"]["bytes"] == pytest.approx(3 * _SIZE * 4, rel=1e-3)
  # A sum, and a product and a sum; then a product and a sum.
  assert counts["total"]["vector_flops"] == (3 + 2) * _SIZE
  backward = _analyse(_gradient(_batch_norm, 0), x, x)
  # Statistics of x. Sums over x and dy; then those once more and dx.
  sizes = [kernel.num_bytes / _SIZE / 4 for kernel in backward["kernels"]]
  assert sorted(round(size, 2) for size in sizes) == [1, 2, 3]


def _layer_norm(x):
  mean = tf.reduce_mean(x, -1, keepdims=True)
  centred = x - mean
  variance = tf.reduce_mean(centred * centred, -1, keepdims=True)
  return centred * tf.math.rsqrt(variance + 1e-6)


def test_a_layer_norm_reads_three_times():
  shape, size = [1024, 128], 1024 * 128
  counts = _analyse(_layer_norm, (shape, tf.float32))
  assert counts["kinds"]["reduction"]["kernels"] == 2
  # Two sums of 128 a row, and with the second a difference and a product; at
  # the end a difference and a product.
  assert counts["total"]["vector_flops"] == pytest.approx(
    (1 + 3 + 2) * size, rel=0.01
  )
  # Each reads x, the last writes as much; mean and variance are small.
  assert counts["total"]["bytes"] == pytest.approx(4 * size * 4, rel=0.02)
  x = (shape, tf.float32)
  backward = _analyse(_gradient(_layer_norm, 0), x, x)
  # Sums over each row of dy and of dy times what is normalised.
  assert backward["kinds"]["reduction"]["kernels"] >= 4
  assert backward["total"]["bytes"] >= (2 + 2 + 2 + 3) * size * 4


def _pool(x):
  return tf.nn.max_pool2d(x, 2, 2, "VALID")


def test_pooling_and_its_gradient():
  counts = _analyse(_pool, _X)["kinds"]["pooling"]
  assert counts["bytes"] == (_SIZE + _SIZE // 4) * 2
  assert counts["vector_flops"] == _SIZE // 4 * 4
  pooled = ([128, 4, 4, 64], tf.bfloat16)
  counts = _analyse(_gradient(_pool, 0), _X, pooled)["kinds"]["pooling"]
  assert counts["bytes"] == (_SIZE + _SIZE // 4 + _SIZE) * 2


def test_a_chain_of_elementwise_operations_reads_and_writes_once():
  x = (_SHAPE, tf.float32)
  counts = _analyse(lambda a, b: tf.nn.relu(a + 1.0) * b, x, x)
  assert counts["total"]["kernels"] == 1
  assert counts["total"]["bytes"] == 3 * _SIZE * 4
  assert counts["total"]["vector_flops"] == 3 * _SIZE


def test_a_product_writes_what_is_made_of_it_alone():
  def dense(x, weights):
    return tf.cast(tf.nn.relu(tf.matmul(x, weights)), tf.bfloat16)

  counts = _analyse(dense, ([256, 512], tf.float32), ([512, 256], tf.float32))
  assert counts["total"]["kernels"] == 1
  assert counts["total"]["bytes"] == 4 * (256 * 512 * 2) + 2 * 256 * 256


@pytest.mark.parametrize(("num_ops", "is_written"), [(1, False), (60, True)])
def test_what_several_read_is_written_if_that_is_quicker(num_ops, is_written):
  def function(x):
    for i in range(num_ops):
      x = x * x + float(i)
    return tf.reduce_sum(x, 0), tf.reduce_max(x, 0), tf.reduce_min(x, 1)

  size = 2048 * 1024
  counts = _analyse(function, ([2048, 1024], tf.float32))
  assert counts["kinds"]["reduction"]["kernels"] == 3
  assert ("elementwise" in counts["kinds"]) == is_written
  assert counts["total"]["bytes"] == pytest.approx(
    (2 + 3 if is_written else 3) * size * 4, rel=0.01
  )


@pytest.mark.parametrize(
  ("shape", "elements"),
  [
    ((256, 501, 64), 256 * 501 * 64),  # Batch on lanes, bands on rows.
    ((24, 501, 64), 24 * 512 * 64),  # Frames on lanes.
    ((64, 65), 64 * 128),  # 65 lanes -> 128.
    ((5,), 5),
  ],
)
def test_elements_in_memory(shape, elements):
  assert tpu_model.padded_elements(shape) == elements


def test_fewer_rows_than_a_tile_takes_to_load_gain_nothing():
  assert tpu_model.padded_matmul_flops(1, 128, 128) == 2 * 128**3
  assert tpu_model.padded_matmul_flops(129, 128, 128) == 2 * 128 * 128 * 136


def test_a_transform_is_counted():
  counts = _analyse(
    lambda x: tf.abs(tf.signal.rfft(x)), ([256, 1024], tf.float32)
  )
  assert counts["kinds"]["fft"]["kernels"] == 1
  assert counts["kinds"]["fft"]["vector_flops"] > 256 * 513 * 5


def test_a_step_by_the_command_line():
  out = command.succeed(
    "tools/roofline.py",
    "--gin_file=gin/quickstart.gin",
    "--batch_size=1024",
    "--json",
  )
  counts = json.loads(out)
  total = counts["total"]
  # Clips of 5 s in 16 bits, and 527 targets.
  assert counts["infeed_bytes"] == 1024 * (80000 * 2 + 527 * 4)
  assert counts["infeed_seconds"] == counts["infeed_bytes"] / 16e9
  slowest = max(total["seconds"], counts["infeed_seconds"])
  assert counts["samples_per_s"] == pytest.approx(1024 / slowest)
  assert counts["expected_samples_per_s"] == pytest.approx(
    0.72 * counts["samples_per_s"]
  )
  # Of the transform alone, for the real and the imaginary part: of the highest
  # order a product of [frames, 200] with 506 bins; of the others, of 2 to 4
  # slices, two of [frames, 100 a slice] with half of the bins.
  frames = 128 * 501
  transform = 2 * 2 * frames * (200 * 506 + 2 * (200 + 300 + 400) * 253)
  # And of the bands: three parts of the powers with 4, 3 and 2 of the filters.
  bands = 2 * frames * 505 * (4 + 3 + 2) * 64
  head = 3 * 2 * 128 * 527
  dot = counts["kinds"]["dot"]["matrix_flops"] - transform - bands
  assert dot % head == 0 and 64 <= dot // head <= 512
  assert 0.1 < counts["padding_share"] < 0.9
  assert 0 < counts["front_end_seconds"] < total["seconds"]


def test_mistakes_are_one_line():
  tool = "tools/roofline.py"
  error = command.fail(tool)
  assert "give one of --gin_file and --resnet50" in error
  error = command.fail(tool, "--gin_file=gin/quickstart.gin", "--batch_size=20")
  assert "--batch_size=20" in error and "multiple of 8" in error


def test_a_loop_and_what_is_no_hlo_are_refused():
  def looped(x):
    return tf.while_loop(
      lambda i, _: i < 3, lambda i, x: (i + 1, x * x), [0, x]
    )

  with pytest.raises(ValueError, match="train.accumulate_steps"):
    _analyse(looped, _X)
  with pytest.raises(ValueError, match="no HLO"):
    tpu_model.analyse("not this")
