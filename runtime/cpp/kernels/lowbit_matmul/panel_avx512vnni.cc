// int8 activations on AVX-512 VNNI, many rows: products at the speed at which they can start.
//
// Tiles go two at a time, and very many input channels in segments: a segment of both tiles is
// decoded into a panel of operand bytes that stays in L2, or L1, while the rows of `kGroupBlocks`
// blocks pass by.  Between segments the blocks' sums wait in memory, which takes longer than bytes
// take from L2: segments that fit in L1 are slower.

#include "panel_avx512.h"

namespace bitfold {
namespace {

constexpr int64_t kSegment = 4096;  // input channels at most: 128 KiB of operands
constexpr int kGroupBlocks = 32;

// Chunks of a segment: whole groups, or all there are; segments are as even as possible.
int32_t segment_chunks(const PackedWeight* w) {
  int64_t unit = w->group_size;
  while (unit % kChunk && unit <= kSegment) unit += w->group_size;
  if (unit > kSegment) return w->chunks;
  const int64_t units = (w->k + unit - 1) / unit, most = kSegment / unit;
  const int64_t segments = (units + most - 1) / most;
  const int64_t chunks = (units + segments - 1) / segments * unit / kChunk;
  return (int32_t)(chunks < w->chunks ? chunks : w->chunks);
}

int64_t segment_groups(const PackedWeight* w) {
  return (int64_t)segment_chunks(w) * kChunk / w->group_size + 1;
}

// All segments of one or two tiles, for the blocks [block0, block1).
class Walk {
 public:
  Walk(const MatMul* op, Decode decode, uint8_t* scratch)
      : op_(op),
        w_(op->weight),
        decode_(decode),
        chunks_(segment_chunks(w_)),
        bytes_(scratch),
        scales_((float*)(scratch + kTiles * chunks_ * kChunk * kTile)),
        zeros_(scales_ + kTiles * segment_groups(w_) * kTile),
        sums_(zeros_ + kTiles * segment_groups(w_) * kTile),
        branches_(sums_ + kGroupBlocks * kTiles * kBlockRows * kTile),
        lines_((uint8_t*)(branches_ + branch_floats(op))) {}

  // Floats for the sums of a low-rank branch.
  static int64_t branch_floats(const MatMul* op) {
    return op->low_rank.rank ? kGroupBlocks * kTiles * kBlockRows * kTile : 0;
  }

  // Y of one or two tiles for a few blocks of equally many rows.
  void run(int32_t tile, int32_t tiles, int32_t block0, int32_t block1) {
    const Block b = block_at(op_, block0);
    const bool direct = is_direct(tile, tiles);
    const Rows own = rows_of(sums_, b.rows), branches = rows_of(branches_, b.rows);
    const Rows residual = residual_rows(&b, tile);
    const bool branch = op_->low_rank.rank;
    if (direct && branch) begin_branches(branches, residual, tile, tiles, block0, block1);
    for (int32_t first = 0; first < w_->chunks; first += chunks_) {
      const int32_t last = first + chunks_ < w_->chunks ? first + chunks_ : w_->chunks;
      Panel panel = panel_of(tile, tiles, first, last);
      fetch_ahead(&panel, tile, tiles, last, block1 - block0);
      const int64_t group = (int64_t)first * kChunk / w_->group_size * b.rows;
      const Acts acts = {b.q + (int64_t)first * kChunk / 4 * b.rows,
                         b.start + group,
                         b.scale + group,
                         b.sum + group,
                         op_->block_stride / 4,
                         block1 - block0};
      Sums sums = {first ? &own : nullptr, own, last == w_->chunks, {}, nullptr};
      if (direct && sums.last) {
        sums.to = rows_of_y(&b, tile, tiles);
        for (int32_t t = 0; t < tiles && op_->bias; t++)
          sums.bias[t] = _mm512_loadu_ps(op_->bias + (int64_t)(tile + t) * kTile);
        if (op_->residual || branch) sums.residual = branch ? &branches : &residual;
      }
      panel_dot_for(panel.zeros, has_row_scales(op_), b.rows, tiles)(&panel, acts, &sums);
    }
    for (int32_t index = block0; index < block1 && !direct; index++)
      write_sums(index, index - block0, tile, tiles);
  }

 private:
  // Whether sums go to Y as they are: whole tiles without an activation.
  bool is_direct(int32_t tile, int32_t tiles) const {
    return op_->activation == kIdentity && op_->digits == 1 &&
           (int64_t)(tile + tiles) * kTile <= op_->columns;
  }

  Panel panel_of(int32_t tile, int32_t tiles, int32_t first, int32_t last) {
    Panel panel;
    panel.group_halves = (w_->group_size + 15) / 16;
    const int64_t halves = (w_->k + 15) / 16;
    panel.halves = (last * 2 < halves ? last * 2 : halves) - first * 2;
    panel.groups = (panel.halves + panel.group_halves - 1) / panel.group_halves;
    const int64_t group = first * 2 / panel.group_halves;
    bool folded = false;
    if (is_decoded(w_)) {
      panel.stride = tile_bytes(w_);
      panel.bytes = w_->packed + tile * panel.stride + first * 8 * kLine;
    } else {
      panel.stride = (int64_t)chunks_ * 8 * kLine;
      panel.bytes = bytes_;
      folded = folds(op_);
      const int64_t all = (int64_t)w_->groups * kTile;
      for (int32_t t = 0; t < tiles && folded; t++)
        folded = tile_folds(w_, w_->zero_points + (tile + t) * all);
      for (int32_t t = 0; t < tiles; t++) {
        const Shift shift = {folded ? w_->zero_points + (tile + t) * all : nullptr,
                             op_->offset - w_->offset};
        if (first == 0) next_[t] = tile_at(w_, tile + t);
        next_[t] = decode_chunks(op_, decode_, tile + t, first, last, next_[t], &shift, lines_,
                                 bytes_ + t * panel.stride);
      }
    }
    panel.scales = scales_;
    panel.zeros = w_->zero_points && !folded ? zeros_ : nullptr;
    for (int32_t t = 0; t < tiles; t++)
      for (int64_t g = 0; g < panel.groups; g++) {
        const int64_t at = (int64_t)(tile + t) * w_->groups + group + g;
        _mm512_storeu_ps(scales_ + (t * panel.groups + g) * kTile, scales_at(w_, at));
        if (panel.zeros)
          _mm512_storeu_ps(zeros_ + (t * panel.groups + g) * kTile, zeros_at(w_->zero_points, at));
      }
    return panel;
  }

  // Name the bytes that follow this segment of the tiles, or the next tiles' first ones.
  void fetch_ahead(Panel* panel, int32_t tile, int32_t tiles, int32_t last, int32_t blocks) {
    const bool more = last < w_->chunks;
    const int64_t turns = blocks * panel->groups;
    const int64_t lines = w_->masks ? 0 : (int64_t)chunks_ * w_->bits * tiles;
    panel->rows_ahead = (kBlockRows + panel->groups - 1) / panel->groups;
    panel->lines_ahead = (lines + turns - 1) / turns;
    panel->ahead = w_->packed + (tile + (more ? 0 : tiles)) * tile_bytes(w_) +
                   (more ? last * w_->bits * kLine : 0);
    panel->ahead_end = panel->ahead + lines * kLine;
  }

  static Rows rows_of(float* at, int32_t rows) {
    const int64_t block = kTiles * kBlockRows * kTile;
    return {{at, at + rows * kTile}, {kTile, kTile}, {block, block}};
  }

  Rows residual_rows(const Block* b, int32_t tile) const {
    float* at = (float*)op_->residual + b->first * op_->columns + (int64_t)tile * kTile;
    const int64_t block = b->rows * op_->columns;
    return {{at, at + kTile}, {op_->columns, op_->columns}, {block, block}};
  }

  Rows rows_of_y(const Block* b, int32_t tile, int32_t tiles) const {
    Rows rows = {};
    for (int32_t t = 0; t < tiles; t++) {
      const int64_t n = (int64_t)(tile + t) * kTile;
      const Part* part = part_of(op_, n);
      rows.at[t] = part->y + b->first * part->columns + n - part->first;
      rows.stride[t] = part->columns;
      rows.block[t] = b->rows * part->columns;
    }
    return rows;
  }

  // The residual and the low-rank branch, which are added to sums that go to Y as they are.
  void begin_branches(Rows sums, Rows residual, int32_t tile, int32_t tiles, int32_t block0,
                      int32_t block1) const {
    for (int32_t index = block0; index < block1; index++) {
      const Block b = block_at(op_, index);
      for (int32_t t = 0; t < tiles; t++)
        for (int32_t r = 0; r < b.rows; r++) {
          const float* at = residual.at[t] + r * residual.stride[t];
          const __m512 begin = op_->residual ? _mm512_loadu_ps(at) : _mm512_setzero_ps();
          _mm512_storeu_ps(sums.at[t] + r * kTile, begin);
        }
      add_low_rank_avx512(&op_->low_rank, b.first, b.rows, tile, tiles, sums.at);
      for (int32_t t = 0; t < tiles; t++)
        sums.at[t] += sums.block[t], residual.at[t] += residual.block[t];
    }
  }

  void write_sums(int32_t index, int32_t place, int32_t tile, int32_t tiles) const {
    const Block b = block_at(op_, index);
    const Rows sums = rows_of(sums_, b.rows);
    const int32_t by = is_paired(op_) ? 2 : 1;
    for (int32_t t = 0; t < tiles; t += by)
      write(op_, &b, tile + t, sums.at[t] + place * sums.block[t],
            sums.at[t + by - 1] + place * sums.block[t]);
  }

  const MatMul* op_;
  const PackedWeight* w_;
  Decode decode_;
  int32_t chunks_;  // of a whole segment
  uint8_t* bytes_;
  float *scales_, *zeros_, *sums_, *branches_;
  uint8_t* lines_;               // of a segment with masks
  const uint8_t* next_[kTiles];  // what is to be decoded next, of each tile
};

}  // namespace

void multiply_panels_avx512(const MatMul* op, int32_t tile0, int32_t tile1, int32_t block0,
                            int32_t block1, Decode decode, uint8_t* scratch) {
  Walk walk(op, decode, scratch);
  // Blocks before this one have a row more than the others.
  const auto more = (int32_t)(op->rows % op->blocks);
  for (int32_t first = block0, last; first < block1; first = last) {
    last = first + kGroupBlocks < block1 ? first + kGroupBlocks : block1;
    if (first < more && last > more) last = more;
    for (int32_t tile = tile0; tile < tile1; tile += kTiles)
      walk.run(tile, tile1 - tile < kTiles ? 1 : kTiles, first, last);
  }
}

int64_t panel_scratch_avx512(const MatMul* op) {
  const PackedWeight* w = op->weight;
  const int64_t bytes = (int64_t)kTiles * segment_chunks(w) * kChunk * kTile;
  const int64_t floats = 2 * kTiles * segment_groups(w) * kTile;
  const int64_t sums = kGroupBlocks * kTiles * kBlockRows * kTile + Walk::branch_floats(op);
  return bytes + 4 * (floats + sums) + lines_scratch(w);
}

}  // namespace bitfold
