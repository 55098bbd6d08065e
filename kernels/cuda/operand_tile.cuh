// A matrix in shared memory, laid out for products of warpgroups (warpgroup.cuh), and the
// descriptors by which they are told where it lies.
#pragma once

#include <cstdint>

namespace polystrate::cuda {

// kRows x kColumns of 16 bits, in column blocks of 64 (128 bytes), one behind the other. In one, a
// row's 16-byte pieces are permuted, piece p of row r lying at p ^ r % 8: the "128-byte swizzle",
// with which neither 8 pieces of a row nor 8 rows of a piece share a bank. It is a function of the
// address, so a tile begins at a multiple of 1,024 bytes; kRows is one of 8.
template <int kRows, int kColumns>
struct OperandTile {
  static constexpr int kAlignment = 1024;
  static constexpr int kPiece = 8;  // elements
  static constexpr int kRowBytes = 128;
  static constexpr int kBlockColumns = 64;
  static constexpr int kBlockBytes = kRows * kRowBytes;
  static constexpr int kBytes = (kColumns + kBlockColumns - 1) / kBlockColumns * kBlockBytes;
  static_assert(kRows % 8 == 0);

  // Where the piece that begins at this row and column lies, in bytes from the tile's beginning.
  static __device__ __forceinline__ int PieceOffset(int row, int column) {
    const int piece = column % kBlockColumns / kPiece;
    return column / kBlockColumns * kBlockBytes + row * kRowBytes + (piece ^ row % 8) * 16;
  }

  // Of the tile at `address` (SharedAddress), the rows from `row` on, 16 columns: a side of a
  // product that adds up over columns. Columns 0 to 15 at first, others by AddColumns: the hardware
  // permutes the address where a piece would lie, so that those are a matter of addition.
  static __device__ __forceinline__ uint64_t AlongColumns(uint32_t address, int row) {
    return Descriptor(address + static_cast<uint32_t>(row * kRowBytes), /*leading=*/16);
  }
  static constexpr __device__ uint64_t AddColumns(int column) {
    return (column / kBlockColumns * kBlockBytes + column % kBlockColumns * 2) / 16;
  }
  // 16 rows, all columns: the right side of a product that adds up over rows. Rows 0 to 15 at
  // first, others by AddRows.
  static __device__ __forceinline__ uint64_t AlongRows(uint32_t address) {
    return Descriptor(address, /*leading=*/kBlockBytes);
  }
  static constexpr __device__ uint64_t AddRows(int row) { return row * kRowBytes / 16; }

 private:
  // The stride leads from 8 rows to the next; `leading` from a column block to the next where the
  // sum is over rows, and means nothing where it is over columns. In units of 16 bytes, 14 bits
  // each, the address from bit 0 on, `leading` from 16, the stride from 32; the swizzle is in bits
  // 62 and 63, 128 bytes being 1.
  static __device__ __forceinline__ uint64_t Descriptor(uint32_t address, int leading) {
    constexpr uint64_t kStride = 8 * kRowBytes / 16;
    return uint64_t{(address & 0x3ffff) >> 4} | static_cast<uint64_t>(leading / 16) << 16 |
           kStride << 32 | uint64_t{1} << 62;
  }
};

}  // namespace polystrate::cuda
