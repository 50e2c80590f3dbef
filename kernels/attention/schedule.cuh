// Which tiles of queries a resident block takes, one after another.
#pragma once

#include "attention/sequence.cuh"

// Tiles are counted section by section of `section` heads, whose keys stay in the L2 cache for all their
// tiles; in a section from the last tile of each head to the first, since under a causal mask the last is
// the longest. Mirrors `Schedule` in src/cuda/attention/schedule.rs.
struct Schedule {
  int count;    // tiles of all heads of all sequences
  int tiles;    // of a head
  int heads;    // of a sequence
  int section;  // heads, at least 1
};
static_assert(sizeof(Schedule) == 16, "mirrored by the host");

__device__ __forceinline__ Block tile_at(const Schedule& schedule, int index) {
  const int in_section = schedule.section * schedule.tiles;
  const int section = index / in_section;
  const int first = section * schedule.section;
  const int heads = min(schedule.section, schedule.count / schedule.tiles - first);
  const int place = index - section * in_section;
  const int round = place / heads;
  const int head = first + place - round * heads;
  const int batch = head / schedule.heads;
  return {batch, head - batch * schedule.heads, schedule.tiles - 1 - round};
}

// The tile that this block takes in its round number `round`, `count` or more where there is none. Every
// other round goes the other way, so that no block has the longest of each. A count is below 2^31, and
// this at most two rounds beyond.
__device__ __forceinline__ unsigned index_in_round(unsigned round) {
  return round * gridDim.x + (round % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x);
}

// Queries [first, last] of a head, and the keys [begin, end) that some of them see, from a multiple of a
// tile of keys on. There may be none of either.
struct Work {
  Block block;
  Sequence sequence;
  int first;
  int last;
  int begin;
  int end;
};

// The ROWS queries of a tile, for KEYS keys a tile. All lanes of a warp take part and hold the result.
template <int ROWS, int KEYS>
__device__ __forceinline__ Work work_at(const AttentionScalars& scalars, const Schedule& schedule,
                                        const Limits& limits, int index) {
  Work work;
  work.block = tile_at(schedule, index);
  work.sequence = sequence_of(scalars, limits, work.block.batch);
  work.first = work.block.tile * ROWS;
  work.last = min(work.first + ROWS, work.sequence.queries.count) - 1;
  const Range seen = seen_by_any(scalars, work.sequence, work.first, work.last);
  const bool none = work.last < work.first || seen.end <= seen.begin;
  work.begin = none ? 0 : seen.begin / KEYS * KEYS;
  work.end = none ? 0 : seen.end;
  return work;
}
