"""Zstandard frames put together by hand, for a caller who knows where the repeats are.

    frame       magic, descriptor 0xA0, content size (4 bytes)
    block       3 bytes: last | type << 1 | size << 3, then its content
      raw         the bytes
      compressed  literals header, literals as they are, number of sequences, modes, bit stream
    end         an empty raw block with "last" set

A sequence says: copy so many literals, then so many bytes from so far back. Its three numbers are
coded with the format's predefined tables, so what a block holds besides its literals depends on
the sequences alone and can be kept. All numbers little-endian. Format: RFC 8878, 3.1.1 and 4.1.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

#: A block never holds more than this, decompressed.
MOST_BLOCK_NBYTES = 128 << 10
LEAST_MATCH = 3
END = b"\x01\x00\x00"
_MAGIC = b"\x28\xb5\x2f\xfd"
_SINGLE_SEGMENT_4 = 0xA0  # no window descriptor, no checksum, a content size of 4 bytes
_RAW, _COMPRESSED = 0, 2
_PREDEFINED = b"\x00"

# Codes of literal lengths and match lengths: the least value of each, and its extra bits.
_LITERAL_BITS = (*([0] * 16), *(1, 1, 1, 1, 2, 2, 3, 3, 4, 6), *range(7, 17))
_MATCH_BITS = (*([0] * 32), *(1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5), *range(7, 17))


def _bases(bits: Sequence[int], least: int) -> tuple[int, ...]:
    found = [least]
    for width in bits[:-1]:
        found.append(found[-1] + (1 << width))
    return tuple(found)


_LITERAL_BASES = _bases(_LITERAL_BITS, 0)
_MATCH_BASES = _bases(_MATCH_BITS, LEAST_MATCH)

# Predefined distributions (RFC 8878, 3.1.1.3.2.2); -1 is a probability below one.
_LITERAL_NORM = (*(4, 3), *([2] * 11), *(1, 1, 1), *([2] * 9), *(3, 2, 1, 1, 1, 1, 1), *([-1] * 4))
_MATCH_NORM = (*(1, 4, 3), *([2] * 6), *([1] * 37), *([-1] * 7))
_OFFSET_NORM = (*([1] * 6), *(2, 2, 2), *([1] * 15), *([-1] * 5))


class _Table:
    """States of a finite state entropy code, from the encoder's side (RFC 8878, 4.1)."""

    def __init__(self, norm: Sequence[int], log: int) -> None:
        self.log = log
        size = 1 << log
        counts = [abs(n) for n in norm]
        #: Per symbol: (state, bits to read in it, least next state).
        self._states: list[list[tuple[int, int, int]]] = [[] for _ in norm]
        for state, symbol in enumerate(self._spread(norm, size)):
            bits = log - counts[symbol].bit_length() + 1
            self._states[symbol].append((state, bits, (counts[symbol] << bits) - size))
            counts[symbol] += 1

    @staticmethod
    def _spread(norm: Sequence[int], size: int) -> list[int]:
        """The symbol of each state."""
        rare = [symbol for symbol, n in enumerate(norm) if n < 0]
        symbols = [0] * (size - len(rare)) + rare[::-1]
        position, step = 0, (size >> 1) + (size >> 3) + 3
        for symbol, n in enumerate(norm):
            for _ in range(n):
                symbols[position] = symbol
                position = (position + step) % size
                while position >= size - len(rare):
                    position = (position + step) % size
        return symbols

    def before(self, symbol: int, after: int | None) -> tuple[int, tuple[int, int]]:
        """A state of ``symbol`` that can go on to ``after``, and the bits that make it do so.

        Args:
            symbol: To be coded.
            after: The next symbol's state; None: there is none.
        """
        if after is None:
            return self._states[symbol][0][0], (0, 0)
        for state, bits, least in self._states[symbol]:
            if least <= after < least + (1 << bits):
                return state, (after - least, bits)
        raise AssertionError("a table leads from each symbol to each state")


_LITERALS, _MATCHES = _Table(_LITERAL_NORM, 6), _Table(_MATCH_NORM, 6)
_OFFSETS = _Table(_OFFSET_NORM, 5)


def frame_header(content_nbytes: int) -> bytes:
    """The start of a frame that decompresses to so many bytes, under 2**32."""
    return _MAGIC + bytes([_SINGLE_SEGMENT_4]) + content_nbytes.to_bytes(4, "little")


def raw_block_header(nbytes: int) -> bytes:
    """What stands before the bytes of a raw block, at most ``MOST_BLOCK_NBYTES``."""
    return _block_header(_RAW, nbytes)


def raw_frame(data: Any) -> list[Any]:
    """The frame of bytes that nothing compresses: headers, and slices of ``data`` between them."""
    pieces: list[Any] = [frame_header(len(data))]
    for start in range(0, len(data), MOST_BLOCK_NBYTES):
        part = data[start : start + MOST_BLOCK_NBYTES]
        pieces += [raw_block_header(len(part)), part]
    return [*pieces, END]


def compressed_block(
    literals_nbytes: int, sequences: Sequence[tuple[int, int, int]]
) -> tuple[bytes, bytes]:
    """What stands before and behind the literals of a compressed block.

    Args:
        literals_nbytes: Of the block; those behind the last match are copied at its end.
        sequences: (literals, match length, offset) each, in order; at least one. A match is at
            least ``LEAST_MATCH`` bytes long and may reach back into earlier blocks.
    """
    header = (0b11 << 2 | literals_nbytes << 4).to_bytes(3, "little")
    behind = _sequences(sequences)
    size = len(header) + literals_nbytes + len(behind)
    return _block_header(_COMPRESSED, size) + header, behind


def _block_header(kind: int, nbytes: int) -> bytes:
    return (kind << 1 | nbytes << 3).to_bytes(3, "little")


def _sequences(sequences: Sequence[tuple[int, int, int]]) -> bytes:
    """The sequences section.

    A decoder reads the bit stream from its end, and each state says where the one before could
    go: so states are found from the last sequence to the first.
    """
    states: tuple[int | None, ...] = (None, None, None)
    bits: list[tuple[int, int]] = []  # (value, width), the last to be read first
    for symbols, extra in reversed(_codes(sequences)):
        tables = (_LITERALS, _OFFSETS, _MATCHES)
        found = [t.before(s, a) for t, s, a in zip(tables, symbols, states, strict=True)]
        (_, of_literals), (_, of_offsets), (_, of_matches) = found
        bits += [of_offsets, of_matches, of_literals, *reversed(extra)]
        states = tuple(state for state, _ in found)
    widths = (_LITERALS.log, _OFFSETS.log, _MATCHES.log)
    bits += reversed([(int(s or 0), w) for s, w in zip(states, widths, strict=True)])
    stream = 1  # the mark behind which reading begins
    for value, width in reversed(bits):
        stream = stream << width | value
    data = stream.to_bytes((stream.bit_length() + 7) // 8, "little")
    return _count(len(sequences)) + _PREDEFINED + data


def _codes(
    sequences: Sequence[tuple[int, int, int]],
) -> list[tuple[tuple[int, int, int], list[tuple[int, int]]]]:
    """Per sequence its three symbols and their extra bits.

    The symbols are of literal length, offset and match length; the bits stand as they are read.
    """
    found = []
    last = 0
    for literals, match, offset in sequences:
        # 1 repeats the last offset, if literals come before.
        value = 1 if offset == last and literals else offset + 3
        last = offset
        a = bisect_right(_LITERAL_BASES, literals) - 1
        b = value.bit_length() - 1
        c = bisect_right(_MATCH_BASES, match) - 1
        extra = [
            (value - (1 << b), b),
            (match - _MATCH_BASES[c], _MATCH_BITS[c]),
            (literals - _LITERAL_BASES[a], _LITERAL_BITS[a]),
        ]
        found.append(((a, b, c), extra))
    return found


def _count(number: int) -> bytes:
    if number < 0x80:
        return bytes([number])
    if number < 0x7F00:
        return bytes([(number >> 8) + 0x80, number & 0xFF])
    return b"\xff" + (number - 0x7F00).to_bytes(2, "little")
