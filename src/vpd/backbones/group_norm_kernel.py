"""Group norm and SiLU of channels-last maps as Triton kernels, forward and backward.

torch's own kernel on GPUs takes and gives NCHW, so that in a network whose convolutions want channels-last every norm
costs two copies of its map. These read a map twice and write it once; an addition before the norm, of another map or of
a number per channel, is done on the way. `group_norm_launch.py` starts them. Imports Triton, which torch's CUDA builds
bring.

A map `(b, c, h, w)` in channels-last order is a matrix of `rows` = h*w positions by c channels for each image. Programs
take tiles of it, of which the second pass takes the last first: these are still in the cache. Statistics of parts of
the rows are combined as in Chan et al. 1979, from values less the part's first row, so that a large mean costs no
digits. Sums over tiles stay tiles until the end, or every step of a loop would wait for all threads.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _sum(maps, other, moved, place, mask):
    """`maps + other + moved` in float32, at these places; the last two may be none."""
    values = tl.load(maps + place, mask=mask, other=0.0).to(tl.float32)
    if other is not None:
        values += tl.load(other + place, mask=mask, other=0.0).to(tl.float32)
    if moved is not None:
        values += moved
    return values


@triton.jit
def _of_channels(values, place, inside):
    """Numbers of channels, in float32; none if there are none."""
    found = None
    if values is not None:
        found = tl.load(values + place, mask=inside, other=0.0).to(tl.float32)
    return found


@triton.jit
def add_maps(
    maps, other, shift, summed, rows, channels, blocks, shift_step, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """`maps + other + shift`, the shift of `(b or 1, c)`."""
    tile, block, image = tl.program_id(0) // blocks, tl.program_id(0) % blocks, tl.program_id(1)
    channel, row = block * CHANNELS + tl.arange(0, CHANNELS), tile * ROWS + tl.arange(0, ROWS)
    inside = channel < channels
    mask = (row < rows)[:, None] & inside[None, :]
    place = (image.to(tl.int64) * rows + row.to(tl.int64))[:, None] * channels + channel[None, :]
    moved = _of_channels(shift, image * shift_step + channel, inside)
    values = _sum(maps, other, moved[None, :], place, mask)
    tl.store(summed + place, values.to(summed.dtype.element_ty), mask=mask)


@triton.jit
def part_statistics(
    maps, other, shift, summed, means, squares, rows, channels, part_rows, blocks, shift_step,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Mean of each channel over a part of the rows, and sum of squared differences from it: `(b, parts, c)`.

    With `summed`, that of `maps + other + shift`, which is written to it.
    """
    part, block, image = tl.program_id(0) // blocks, tl.program_id(0) % blocks, tl.program_id(1)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    first, end = part * part_rows, tl.minimum((part + 1) * part_rows, rows)
    start_of_image = image.to(tl.int64) * rows
    moved = _of_channels(shift, image * shift_step + channel, inside)
    around = _sum(maps, other, moved, (start_of_image + first) * channels + channel, inside)
    moved_tile = None if moved is None else moved[None, :]
    tl.debug_barrier()  # the sum may go over the maps, whose first row all threads must have read by then
    total = tl.zeros([ROWS, CHANNELS], dtype=tl.float32)
    total_square = tl.zeros([ROWS, CHANNELS], dtype=tl.float32)
    for start in tl.range(first, end, ROWS, num_stages=STAGES):
        row = start + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & inside[None, :]
        place = (start_of_image + row.to(tl.int64))[:, None] * channels + channel[None, :]
        values = _sum(maps, other, moved_tile, place, mask)
        if summed is not None:
            rounded = values.to(summed.dtype.element_ty)
            tl.store(summed + place, rounded, mask=mask)
            values = rounded.to(tl.float32)
        values = tl.where(mask, values - around[None, :], 0.0)
        total += values
        total_square += values * values
    sums, sum_squares = tl.sum(total, axis=0), tl.sum(total_square, axis=0)
    count = (end - first).to(tl.float32)
    out = (image * (tl.num_programs(0) // blocks) + part) * channels + channel
    tl.store(means + out, around + sums / count, mask=inside)
    tl.store(squares + out, sum_squares - sums * sums / count, mask=inside)


@triton.jit
def combine(
    means, squares, shift, weight, bias, scale, offset, mean_of, inverse_of,
    rows, channels, part_rows, parts, shift_step, eps,
    SIZE: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Statistics of a group of SIZE channels, shifted, and what they make of a value: `value * scale + offset`."""
    group, image = tl.program_id(0), tl.program_id(1)
    part = tl.arange(0, PARTS)
    count = tl.where(part < parts, tl.minimum(rows - part * part_rows, part_rows), 0).to(tl.float32)
    base = image * parts * channels + part[:, None] * channels + group * SIZE
    total = 0.0
    for start in range(0, SIZE, CHANNELS):
        place = start + tl.arange(0, CHANNELS)
        mask = (part < parts)[:, None] & (place < SIZE)[None, :]
        moved = _of_channels(shift, image * shift_step + group * SIZE + place, place < SIZE)
        values = _sum(means, None, None if moved is None else moved[None, :], base + place[None, :], mask)
        total += tl.sum(tl.where(mask, values, 0.0) * count[:, None])
    number = tl.cast(rows, tl.float32) * SIZE
    mean = total / number
    square = 0.0
    for start in range(0, SIZE, CHANNELS):
        place = start + tl.arange(0, CHANNELS)
        mask = (part < parts)[:, None] & (place < SIZE)[None, :]
        moved = _of_channels(shift, image * shift_step + group * SIZE + place, place < SIZE)
        away = _sum(means, None, None if moved is None else moved[None, :], base + place[None, :], mask) - mean
        inner = tl.load(squares + base + place[None, :], mask=mask, other=0.0)
        square += tl.sum(tl.where(mask, inner + count[:, None] * away * away, 0.0))
    inverse = 1.0 / tl.sqrt(square / number + eps)
    tl.store(mean_of + image * tl.num_programs(0) + group, mean)
    tl.store(inverse_of + image * tl.num_programs(0) + group, inverse)
    for start in range(0, SIZE, CHANNELS):
        place = start + tl.arange(0, CHANNELS)
        channel, inside = group * SIZE + place, place < SIZE
        moved = _of_channels(shift, image * shift_step + channel, inside)
        middle = mean if moved is None else mean - moved
        scaled = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32) * inverse
        added = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32) - middle * scaled
        tl.store(scale + image * channels + channel, scaled, mask=inside)
        tl.store(offset + image * channels + channel, added, mask=inside)


@triton.jit
def apply(
    maps, scale, offset, result, rows, channels, blocks, SILU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """`maps * scale + offset`, with SiLU if wanted."""
    number, image = tl.num_programs(0) - 1 - tl.program_id(0), tl.num_programs(1) - 1 - tl.program_id(1)
    channel, row = (number % blocks) * CHANNELS + tl.arange(0, CHANNELS), (number // blocks) * ROWS + tl.arange(0, ROWS)
    inside = channel < channels
    mask = (row < rows)[:, None] & inside[None, :]
    place = (image.to(tl.int64) * rows + row.to(tl.int64))[:, None] * channels + channel[None, :]
    scaled = tl.load(scale + image * channels + channel, mask=inside, other=0.0)
    added = tl.load(offset + image * channels + channel, mask=inside, other=0.0)
    values = tl.load(maps + place, mask=mask, other=0.0).to(tl.float32) * scaled[None, :] + added[None, :]
    if SILU:
        values = values * tl.sigmoid(values)
    tl.store(result + place, values.to(result.dtype.element_ty), mask=mask)


@triton.jit
def _before_silu(gradient, values, scaled, added, SILU: tl.constexpr):
    """Gradient of what SiLU takes, from that of what it gives."""
    if SILU:
        normed = values * scaled[None, :] + added[None, :]
        share = tl.sigmoid(normed)
        gradient = gradient * share * (1.0 + normed * (1.0 - share))
    return gradient


@triton.jit
def part_gradients(
    maps, gradients, scale, offset, sums, products, values_sums, rows, channels, part_rows, blocks,
    SILU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Sums over a part of the rows: gradient of the norm, it times the map, and the map if wanted: `(b, parts, c)`."""
    part, block, image = tl.program_id(0) // blocks, tl.program_id(0) % blocks, tl.program_id(1)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    scaled = tl.load(scale + image * channels + channel, mask=inside, other=0.0)
    added = tl.load(offset + image * channels + channel, mask=inside, other=0.0)
    first, end = part * part_rows, tl.minimum((part + 1) * part_rows, rows)
    total = tl.zeros([ROWS, CHANNELS], dtype=tl.float32)
    total_product = tl.zeros([ROWS, CHANNELS], dtype=tl.float32)
    total_values = tl.zeros([ROWS, CHANNELS], dtype=tl.float32)
    for start in tl.range(first, end, ROWS, num_stages=STAGES):
        row = start + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & inside[None, :]
        place = (image.to(tl.int64) * rows + row.to(tl.int64))[:, None] * channels + channel[None, :]
        values = tl.load(maps + place, mask=mask, other=0.0).to(tl.float32)
        gradient = tl.load(gradients + place, mask=mask, other=0.0).to(tl.float32)
        gradient = _before_silu(gradient, values, scaled, added, SILU)
        total += gradient
        total_product += gradient * values
        if values_sums is not None:
            total_values += values
    out = (image * (tl.num_programs(0) // blocks) + part) * channels + channel
    tl.store(sums + out, tl.sum(total, axis=0), mask=inside)
    tl.store(products + out, tl.sum(total_product, axis=0), mask=inside)
    if values_sums is not None:
        tl.store(values_sums + out, tl.sum(total_values, axis=0), mask=inside)


@triton.jit
def combine_gradients(
    sums, products, values_sums, shift, weight, mean_of, inverse_of,
    of_value, of_one, of_weight, of_bias, of_shift, rows, channels, parts, shift_step,
    SIZE: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What an image adds to the gradients of weight, bias and shift, `(b, c)`, and what `apply_gradients` needs."""
    group, image = tl.program_id(0), tl.program_id(1)
    mean = tl.load(mean_of + image * tl.num_programs(0) + group)
    inverse = tl.load(inverse_of + image * tl.num_programs(0) + group)
    part = tl.arange(0, PARTS)
    base = image * parts * channels + part[:, None] * channels + group * SIZE
    weighted, weighted_product = 0.0, 0.0
    for start in range(0, SIZE, CHANNELS):
        place = start + tl.arange(0, CHANNELS)
        channel, inside = group * SIZE + place, place < SIZE
        mask = (part < parts)[:, None] & inside[None, :]
        total = tl.sum(tl.load(sums + base + place[None, :], mask=mask, other=0.0), axis=0)
        product = tl.sum(tl.load(products + base + place[None, :], mask=mask, other=0.0), axis=0)
        moved = _of_channels(shift, image * shift_step + channel, inside)
        middle = mean if moved is None else mean - moved
        product = (product - middle * total) * inverse  # with the normalised map
        weights = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
        weighted += tl.sum(weights * total)
        weighted_product += tl.sum(weights * product)
        tl.store(of_bias + image * channels + channel, total, mask=inside)
        tl.store(of_weight + image * channels + channel, product, mask=inside)
    positions = tl.cast(rows, tl.float32)
    mean_gradient = weighted / (positions * SIZE) * inverse
    slope = weighted_product / (positions * SIZE) * inverse * inverse
    for start in range(0, SIZE, CHANNELS):
        place = start + tl.arange(0, CHANNELS)
        channel, inside = group * SIZE + place, place < SIZE
        mask = (part < parts)[:, None] & inside[None, :]
        moved = _of_channels(shift, image * shift_step + channel, inside)
        middle = tl.zeros([CHANNELS], dtype=tl.float32) + (mean if moved is None else mean - moved)
        tl.store(of_value + image * channels + channel, tl.zeros([CHANNELS], dtype=tl.float32) - slope, mask=inside)
        tl.store(of_one + image * channels + channel, slope * middle - mean_gradient, mask=inside)
        if of_shift is not None:
            total = tl.sum(tl.load(sums + base + place[None, :], mask=mask, other=0.0), axis=0)
            values = tl.sum(tl.load(values_sums + base + place[None, :], mask=mask, other=0.0), axis=0)
            scaled = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32) * inverse
            found = scaled * total - slope * (values - positions * middle) - positions * mean_gradient
            tl.store(of_shift + image * channels + channel, found, mask=inside)


@triton.jit
def apply_gradients(
    maps, gradients, others, scale, offset, of_value, of_one, result,
    rows, channels, blocks, SILU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradient of the map: `gradient * scale + maps * of_value + of_one + others`, these from its other uses."""
    number, image = tl.num_programs(0) - 1 - tl.program_id(0), tl.num_programs(1) - 1 - tl.program_id(1)
    channel, row = (number % blocks) * CHANNELS + tl.arange(0, CHANNELS), (number // blocks) * ROWS + tl.arange(0, ROWS)
    inside = channel < channels
    mask = (row < rows)[:, None] & inside[None, :]
    place = (image.to(tl.int64) * rows + row.to(tl.int64))[:, None] * channels + channel[None, :]
    at = image * channels + channel
    scaled, added = tl.load(scale + at, mask=inside, other=0.0), tl.load(offset + at, mask=inside, other=0.0)
    by_value, by_one = tl.load(of_value + at, mask=inside, other=0.0), tl.load(of_one + at, mask=inside, other=0.0)
    values = tl.load(maps + place, mask=mask, other=0.0).to(tl.float32)
    gradient = tl.load(gradients + place, mask=mask, other=0.0).to(tl.float32)
    gradient = _before_silu(gradient, values, scaled, added, SILU)
    found = gradient * scaled[None, :] + values * by_value[None, :] + by_one[None, :]
    if others is not None:
        found += tl.load(others + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(result + place, found.to(result.dtype.element_ty), mask=mask)
