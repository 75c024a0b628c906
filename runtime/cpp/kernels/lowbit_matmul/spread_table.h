// Where eight places find their bytes among those kept: an index, or 0x80 where the mask has no
// bit.
//
// Internal linkage: ISA files include this.
#pragma once

#include <stdint.h>

namespace bitfold {
namespace {

struct SpreadTable {
  uint8_t index[256][8];

  constexpr SpreadTable() : index() {
    for (int mask = 0; mask < 256; mask++) {
      uint8_t rank = 0;
      for (int i = 0; i < 8; i++) index[mask][i] = mask >> i & 1 ? rank++ : 0x80;
    }
  }
};

constexpr SpreadTable kSpread;

}  // namespace
}  // namespace bitfold
