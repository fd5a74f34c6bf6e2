# SPDX-License-Identifier: Apache-2.0
"""What a core of a TPU v3 has to do for a program, counted from its HLO.

The model, and why it is so, is in docs/performance.md.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re

NUM_CORES = 8
_MATRIX_FLOPS = 420e12 / NUM_CORES
# 8 x 128 lanes with two units each at 940 MHz: the 4 TFLOP/s in 32 bits that
# are published for a chip of two cores (Jouppi et al., "A domain-specific
# supercomputer for training deep neural networks", 2020).
_VECTOR_FLOPS = 8 * 128 * 2 * 940e6
INFEED_BYTES_PER_S = 16e9  # PCIe 3.0, 16 lanes.

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
_BYTES |= {"c64": 8, "c128": 16}
# Tensors of fewer elements cost nothing: scalars, seeds, scales and shifts.
_SMALL = 4096

_MATRIX = ("convolution", "dot")
# They write what they compute: nothing is fused over them.
_WRITTEN = {
  "convolution": "convolution",
  "depthwise convolution": "depthwise convolution",
  "dot": "dot",
  "reduce": "reduction",
  "batch-norm statistics": "reduction",
  "reduce-window": "pooling",
  "select-and-scatter": "pooling",
  "fft": "fft",
  "sort": "sort",
  "rng-bit-generator": "random numbers",
  "gather": "data movement",
  "scatter": "data movement",
  "reverse": "data movement",
  "transpose": "data movement",
}
# Other names for the same values, of however many elements.
_FREE = {
  *("reshape", "broadcast", "convert", "copy", "bitcast", "bitcast-convert"),
  *("set-dimension-size", "constant", "iota", "parameter", "tuple"),
  "get-tuple-element",
}
_LOOPS = ("while", "conditional")


@dataclasses.dataclass(eq=False)
class Node:
  """An instruction: `shapes` are (type, dimensions), several for a tuple."""

  op: str
  shapes: list[tuple[str, tuple[int, ...]]]
  operands: list[Node]
  attributes: str = ""
  scope: str = ""
  users: list[Node] = dataclasses.field(default_factory=list)

  @functools.cached_property
  def is_input(self) -> bool:
    """Whether it is there before the step: a weight, a batch, a constant."""
    if self.op == "get-tuple-element":
      return self.operands[0].op == "parameter"
    return self.op in ("parameter", "constant")

  @functools.cached_property
  def is_small(self) -> bool:
    return all(math.prod(dims) < _SMALL for _, dims in self.shapes)


@dataclasses.dataclass
class Kernel:
  """What is done in one go: read, compute, write."""

  kind: str
  node: Node
  num_bytes: float = 0.0
  # Multiplications and additions of matrix products; those of tiles filled up.
  matrix_flops: float = 0.0
  padded_flops: float = 0.0
  vector_flops: float = 0.0

  def seconds(self, bytes_per_s: float) -> float:
    return max(
      self.num_bytes / bytes_per_s,
      self.padded_flops / _MATRIX_FLOPS,
      self.vector_flops / _VECTOR_FLOPS,
    )


def _round_up(number: float, multiple: int) -> int:
  return math.ceil(number / multiple) * multiple


def padded_elements(dims: tuple[int, ...]) -> int:
  """Elements in memory: one dimension in multiples of 128, one of 8.

  XLA chooses which; here they are the two that waste least.
  """
  if len(dims) < 2 or math.prod(dims) < _SMALL:
    return math.prod(dims)
  factors = (
    math.prod(
      _round_up(n, {lanes: 128, rows: 8}.get(i, 1)) for i, n in enumerate(dims)
    )
    for lanes in range(len(dims))
    for rows in range(len(dims))
    if lanes != rows
  )
  return min(factors)


def padded_matmul_flops(m: float, k: float, n: float) -> float:
  """Of [m, k] x [k, n] on a unit that holds 128 x 128 of one operand.

  The other passes in groups of 8 rows. To load the next 128 x 128 takes as long
  as 128 rows to pass, so that fewer gain nothing. Either operand may be held.
  """

  def held(rows, columns):
    tiles = _round_up(k, 128) * _round_up(columns, 128)
    return 2.0 * tiles * max(_round_up(rows, 8), 128)

  return min(held(m, n), held(n, m))


@functools.cache
def _num_bytes(node: Node) -> float:
  return sum(_BYTES[kind] * padded_elements(dims) for kind, dims in node.shapes)


_INSTRUCTION = re.compile(
  r"\s+(ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z][a-z\-]*)\((.*)"
)
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


def parse(hlo: str) -> tuple[list[Node], Node]:
  """The instructions of the largest computation, in order, and its result.

  A batch norm is two of them: its statistics, and what it makes of its input.
  What is computed twice is there once.

  Raises:
    ValueError: If there is a loop in the computation.
  """
  computations, lines = [], []
  for line in hlo.splitlines():
    if line.endswith("{") and not line.startswith(" "):
      lines = []
      computations.append(lines)
    elif line.startswith(" "):
      lines.append(line)
  if not computations:
    raise ValueError("this is no HLO: no computation is in it.")
  nodes, by_name, known, result = [], {}, {}, None

  def add(op, shapes, operands, attributes, scope):
    key = (op, str(shapes), tuple(map(id, operands)), attributes)
    if key not in known:
      known[key] = Node(op, shapes, operands, attributes, scope)
      nodes.append(known[key])
    return known[key]

  for line in max(computations, key=len):
    is_root, name, shape, op, rest = _INSTRUCTION.match(line).groups()
    if op in _LOOPS:
      raise ValueError(
        f"the step has a loop ({op}), whose length HLO does not say; leave "
        "train.accumulate_steps at 1."
      )
    inside, _, attributes = rest.partition("), ")
    attributes, _, metadata = attributes.partition("metadata=")
    scope = re.search(r'op_name="([^"]*)"', metadata)
    scope = scope[1] if scope else ""
    shapes = [
      (kind, tuple(map(int, filter(None, dims.split(",")))))
      for kind, dims in _SHAPE.findall(shape)
    ]
    operands = [by_name[x] for x in re.findall(r"%([\w.\-]+)", inside)]
    if op == "parameter" or "{" in inside and op == "constant":
      attributes = name  # The numbers in an array are left out.
    elif op == "constant":
      attributes = inside
    if "batch-norm" in op:
      statistics = add("batch-norm statistics", shapes[1:], operands, op, scope)
      by_name[name] = add(
        op, shapes[:1], [*operands, statistics], attributes, scope
      )
      continue
    if op == "get-tuple-element" and "batch-norm" in operands[0].op:
      whole = operands[0]
      is_first = "index=0" in attributes
      by_name[name] = whole if is_first else whole.operands[-1]
    else:
      if op == "convolution" and "group_count" in attributes:
        op = "depthwise convolution"
      if op == "transpose" and re.match(r"dimensions={[0,1234]*}", attributes):
        order = re.findall(r"\d+", attributes)
        op = "copy" if order == sorted(order) else op
      by_name[name] = add(op, shapes, operands, attributes, scope)
    if is_root:
      result = by_name[name]
  return nodes, result


def _window(attributes: str) -> tuple[float, float]:
  """Positions of a window, and how many of its input are there, not zeros."""

  def product(name):
    found = re.search(rf"\b{name}=([\dx]+)", attributes)
    return math.prod(map(int, found[1].split("x"))) if found else 1

  return product("size"), product("lhs_dilate")


@functools.cache
def _matrix_work(node: Node) -> tuple[float, float]:
  """Multiplications and additions, as they are and of filled-up tiles."""
  (_, left), (_, right) = (x.shapes[0] for x in node.operands)
  _, out = node.shapes[0]
  if node.op == "dot":
    contracted, batch = (
      [int(x) for x in found[1].split(",")] if found else []
      for found in (
        re.search(rf"lhs_{name}_dims={{([\d,]+)}}", node.attributes)
        for name in ("contracting", "batch")
      )
    )
    k = math.prod(left[i] for i in contracted)
    num = math.prod(left[i] for i in batch)
    m = math.prod(left) / k / num
    n = math.prod(right) / k / num
    return 2.0 * num * m * k * n, num * padded_matmul_flops(m, k, n)
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", node.attributes).groups()
  positions, dilation = _window(node.attributes)
  n = out[labels[2].index("f")]
  m = math.prod(out) / n
  channels = right[labels[1].index("i")]
  # Between the steps of a dilated input are zeros, which nobody multiplies.
  taps = positions / dilation
  if taps < 1:
    m, taps = m * taps, 1.0
  k = taps * channels
  return 2.0 * m * k * n, padded_matmul_flops(m, k, n)


@functools.cache
def _vector_work(node: Node) -> float:
  """Operations of the vector unit on all elements, the padded included."""
  if node.op in _FREE or node.op in _MATRIX:
    return 0.0
  sizes = [padded_elements(dims) for _, dims in node.shapes]
  inputs = [
    padded_elements(dims) for x in node.operands for _, dims in x.shapes
  ]
  if node.op == "depthwise convolution":
    positions, dilation = _window(node.attributes)
    if "batch_group_count" in node.attributes:  # The gradient of the filter.
      filter_positions = math.prod(node.shapes[0][1][:2])
      return 2.0 * filter_positions * inputs[1]
    return 2.0 * sizes[0] * positions / dilation
  if node.op == "batch-norm statistics":
    # x and x^2, or dy and x dy, are summed.
    return 3.0 * max(inputs)
  if node.op == "batch-norm-training":
    return 2.0 * sizes[0]  # x times a factor plus a constant.
  if node.op == "batch-norm-grad":
    return 4.0 * sizes[0]  # The same of x and dy.
  if node.op == "reduce":
    return float(sum(inputs))
  if node.op in ("reduce-window", "select-and-scatter"):
    return float(min(sizes[0], inputs[-2]) * _window(node.attributes)[0])
  if node.op == "fft":
    length = node.shapes[0][1][-1]
    return 5.0 * sizes[0] * math.log2(length)
  if node.op == "sort":
    return sum(sizes) * math.log2(max(sizes)) ** 2
  if node.op == "rng-bit-generator":
    return 25.0 * sizes[-1]  # Ten rounds of Philox make four numbers.
  return float(sizes[0])


class _Division:
  """Of a computation into kernels, each of which writes what is `stored`."""

  def __init__(self, nodes: list[Node], result: Node, bytes_per_s: float):
    needed = {result}
    for node in reversed(nodes):
      if node in needed:
        needed.update(node.operands)
    self._nodes = [node for node in nodes if node in needed]
    for node in self._nodes:
      for operand in dict.fromkeys(node.operands):
        operand.users.append(node)
    self._bytes_per_s = bytes_per_s
    outputs = result.operands if result.op == "tuple" else [result]
    self.stored = {
      node
      for node in self._nodes
      if node.is_input or node.op in _WRITTEN or _is_of_several(node)
    } | {node for node in outputs if not node.is_small}
    self._choose()

  def kernels(self) -> list[Kernel]:
    return self._kernels(node for node in self._nodes if node in self.stored)

  def _choose(self):
    """Stores a node, or no longer does, while that makes the step shorter."""
    fixed = set(self.stored)
    candidates = [
      node
      for node in self._nodes
      if node not in fixed
      and not node.is_small
      and node.op not in ("broadcast", "iota", "tuple")
    ]
    for order in (reversed(candidates), candidates, reversed(candidates)):
      for node in order:
        readers = self._readers(node)
        product = self._product_before(node)
        if len(readers) < 2 and node not in self.stored and product is None:
          continue
        affected = {node, *readers}
        for x in (node, *readers):
          affected.add(self._product_before(x))
        affected.discard(None)
        before = self._seconds(affected)
        self.stored ^= {node}
        if self._seconds(affected) < before * (1 - 1e-9):
          continue
        self.stored ^= {node}

  def _seconds(self, nodes):
    made = self._kernels(node for node in nodes if node in self.stored)
    return sum(kernel.seconds(self._bytes_per_s) for kernel in made)

  def _readers(self, node):
    """The kernels that read a node, or compute it, or would."""
    seen, todo = set(), [*node.users]
    while todo:
      user = todo.pop()
      if user not in seen:
        seen.add(user)
        if user not in self.stored:
          todo += user.users
    return seen & self.stored

  def _traced(self, node):
    """What a node reads from memory, and what is computed on the way."""
    read, computed, todo = set(), {node}, list(node.operands)
    while todo:
      operand = todo.pop()
      if operand.is_small or operand in computed:
        continue
      if operand in self.stored:
        read.add(operand)
      else:
        computed.add(operand)
        todo += operand.operands
    return read, computed

  def _product_before(self, node):
    """The greatest product that `node` alone reads: it is done on the way."""
    products, seen = [], set()
    todo = [] if node.op in _WRITTEN else [*node.operands]
    while todo:
      operand = todo.pop()
      if operand in seen or len(operand.users) > 1 or operand.is_small:
        continue
      seen.add(operand)
      if operand.op in _MATRIX:
        products.append(operand)
      elif operand not in self.stored:
        todo += operand.operands
    return max(products, key=lambda x: _matrix_work(x)[1], default=None)

  def _kernels(self, nodes):
    made, written_by_others = {}, set()
    for node in nodes:
      if node.is_input or _is_of_several(node):
        continue
      read, computed = self._traced(node)
      kind = _WRITTEN.get(node.op, "elementwise")
      product = node if node.op in _MATRIX else self._product_before(node)
      if product not in (None, node):
        written_by_others.add(product)
        kind = product.op
        more_read, more_computed = self._traced(product)
        read = (read | more_read) - {product}
        computed = computed | more_computed
      kernel = Kernel(kind, node)
      kernel.num_bytes = _num_bytes(node) + sum(map(_num_bytes, read))
      kernel.vector_flops = sum(map(_vector_work, computed))
      if product is not None:
        kernel.matrix_flops, kernel.padded_flops = _matrix_work(product)
      made[node] = kernel
    return [x for node, x in made.items() if node not in written_by_others]


def _is_of_several(node):
  """Whether it is one of several results that a kernel has written."""
  return node.op == "get-tuple-element" and node.operands[0].op in _WRITTEN


def analyse(hlo: str, hbm_tb_per_s: float = 7.2) -> dict:
  """Counts of one core, by kind of kernel and in all.

  Args:
    hlo: Before optimisation, as text.
    hbm_tb_per_s: Memory bandwidth of all cores.

  Returns:
    "kinds": kind to "kernels", "matrix_flops", "padded_flops", "vector_flops",
    "bytes" and "seconds"; "total": the same; "front_end_seconds"; "kernels":
    all of them, the slowest first.
  """
  bytes_per_s = hbm_tb_per_s * 1e12 / NUM_CORES
  made = _Division(*parse(hlo), bytes_per_s).kernels()
  made.sort(key=lambda kernel: -kernel.seconds(bytes_per_s))

  def summed(chosen):
    return {
      "kernels": len(chosen),
      "matrix_flops": sum(x.matrix_flops for x in chosen),
      "padded_flops": sum(x.padded_flops for x in chosen),
      "vector_flops": sum(x.vector_flops for x in chosen),
      "bytes": sum(x.num_bytes for x in chosen),
      "seconds": sum(x.seconds(bytes_per_s) for x in chosen),
    }

  by_kind = collections.defaultdict(list)
  for kernel in made:
    by_kind[kernel.kind].append(kernel)
  return {
    "kinds": {kind: summed(chosen) for kind, chosen in by_kind.items()},
    "total": summed(made),
    "front_end_seconds": summed([x for x in made if "/log_" in x.node.scope])[
      "seconds"
    ],
    "kernels": made,
  }
