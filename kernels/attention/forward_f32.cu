// Attention, forward, for f32: out = softmax(scores) v, and the log-sum-exp, in f32 throughout.
//
// Reads:   as forward_sm80.cu, elements f32
// Writes:  as forward_sm80.cu
// Launch:  <<<B * H * ceil(Nq / 64), 256, bytes>>> with bytes of `Layout<columns>::kBytes`; the
//          first tile's blocks also write the rows that no sequence has
// Order:   a block owns its rows and takes the keys in ascending order: nothing depends on the
//          schedule
// Cost:    per tile of 64 queries: q, out and lse once, the keys and values it sees once; 4 Nq Nk D
//          operations on the f32 units, at 12 passes over shared memory for each 64 multiply-adds
//          of a warp, which take 16 cycles
// Source:  as forward_sm80.cu
// archs: sm_80

#include "attention/forward_tile.cuh"

constexpr int kThreads = 256;
constexpr int kRows = 64;
constexpr int kThreadRows = 4;  // of a thread, one below the other
constexpr int kLanes = 16;      // threads of a row: keys kLanes apart, columns in fours

// Rows in shared memory are four floats longer than they need be: the two rows that a warp's halves
// read then lie 16 banks apart, and eight keys' fours in eight different groups of four banks.
constexpr int kPad = 4;

template <int D>
struct Layout {
  // What fits beside the queries in the 163 KiB of a block on sm_80.
  static constexpr int kKeys = D <= 128 ? 64 : 32;
  static constexpr int kStride = D + kPad;
  static constexpr int kProbabilityStride = kKeys + kPad;
  static constexpr int kBytes =
      ((kRows + 2 * kKeys) * kStride + kRows * kProbabilityStride) * static_cast<int>(sizeof(float));
};
static_assert(Layout<64>::kBytes == 69632 && Layout<128>::kBytes == 118784 &&
                  Layout<256>::kBytes == 142336,
              "mirrored by the host");

// Starts the copies of `rows` rows from `from`, of which those from `present` on, and columns from
// head_dim on, are zeros.
template <int D>
__device__ __forceinline__ void copy_rows(float* to, const float* from, long long stride, int rows,
                                          int present, int head_dim) {
  constexpr int kChunks = D / 4;
  const int column = threadIdx.x % kChunks * 4;
  for (int row = threadIdx.x / kChunks; row < rows; row += kThreads / kChunks) {
    const bool valid = row < present && column < head_dim;
    copy_async(shared_address(to + row * Layout<D>::kStride + column),
               valid ? from + row * stride + column : from, valid);
  }
  commit_copies();
}

__device__ __forceinline__ float4 at(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}

// The largest, or the sum, over the lanes of a row; all get it.
template <typename Combine>
__device__ __forceinline__ float over_row(float value, Combine combine) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kFullWarp, value, distance));
  }
  return value;
}

// What a thread holds of its rows: columns 4 lane + 64 c and the three after.
template <int D>
struct ThreadRows {
  float out[kThreadRows][D / 64][4];
  float peak[kThreadRows];
  float sum[kThreadRows];
};

template <int KEYS>
using ThreadScores = float[kThreadRows][KEYS / kLanes];

// scores[r][j] = q . k of the thread's row r and key lane + kLanes * j.
template <int D, int KEYS>
__device__ __forceinline__ void score(ThreadScores<KEYS>& scores, const float* q, const float* k,
                                      int head_dim) {
#pragma unroll
  for (int i = 0; i < kThreadRows * (KEYS / kLanes); ++i) (&scores[0][0])[i] = 0.0f;
#pragma unroll 2
  for (int d = 0; d < head_dim; d += 4) {
    float4 left[kThreadRows];
#pragma unroll
    for (int r = 0; r < kThreadRows; ++r) left[r] = at(q + r * Layout<D>::kStride + d);
#pragma unroll
    for (int j = 0; j < KEYS / kLanes; ++j) {
      const float4 right = at(k + j * kLanes * Layout<D>::kStride + d);
#pragma unroll
      for (int r = 0; r < kThreadRows; ++r) {
        float& s = scores[r][j];
        s = fmaf(left[r].x, right.x, s);
        s = fmaf(left[r].y, right.y, s);
        s = fmaf(left[r].z, right.z, s);
        s = fmaf(left[r].w, right.w, s);
      }
    }
  }
}

// From q . k to scores in base 2, -infinity where the query does not see the key.
__device__ __forceinline__ float shape(float s, const Head<float>& head, int query, int key,
                                       const Range& seen) {
  const AttentionScalars& scalars = head.scalars;
  s *= scalars.scale;
  if (scalars.softcap > 0.0f) s = scalars.softcap * tanhf(s / scalars.softcap);
  if (!contains(seen, key)) return -kInfinity;
  if (head.bias != nullptr && query < scalars.queries) {
    s += head.bias[1LL * query * scalars.keys + key];
  }
  return s * kLog2E;
}

// Takes the scores of a tile into the running softmax, and leaves their exponentials, less what
// dropout takes, in `probabilities`, at the thread's first row and key.
template <int D, int KEYS>
__device__ __forceinline__ void normalise(ThreadRows<D>& rows, ThreadScores<KEYS>& scores,
                                          const Head<float>& head, float* probabilities, int query,
                                          int key) {
  const AttentionScalars& scalars = head.scalars;
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r) {
    const Range seen = seen_by(scalars, head.sequence, query + r);
    float peak = rows.peak[r];
#pragma unroll
    for (int j = 0; j < KEYS / kLanes; ++j) {
      scores[r][j] = shape(scores[r][j], head, query + r, key + j * kLanes, seen);
      peak = fmaxf(peak, scores[r][j]);
    }
    peak = over_row(peak, [](float a, float b) { return fmaxf(a, b); });
    const float base = finite_peak(peak);
    const float correction = exp2f(rows.peak[r] - base);
    rows.peak[r] = peak;
    rows.sum[r] *= correction;
#pragma unroll
    for (int i = 0; i < D / 64 * 4; ++i) rows.out[r][i / 4][i % 4] *= correction;
#pragma unroll
    for (int j = 0; j < KEYS / kLanes; ++j) {
      float p = exp2f(scores[r][j] - base);
      rows.sum[r] += p;
      const int place = key + j * kLanes;
      if (scalars.dropout_threshold != 0 &&
          (kept_keys(scalars, head.number, query + r, place / 4) >> place % 4 & 1) == 0) {
        p = 0.0f;
      }
      probabilities[r * Layout<D>::kProbabilityStride + j * kLanes] = p;
    }
  }
}

// out += probabilities * v over `keys` keys from `key`. CAREFUL: some query does not see some key,
// whose value may be NaN and is not multiplied.
template <bool CAREFUL, int D>
__device__ __forceinline__ void weigh(ThreadRows<D>& rows, const float* probabilities,
                                      const float* v, const Head<float>& head, int query, int key,
                                      int keys) {
#pragma unroll 1
  for (int first = 0; first < keys; first += 4) {
    float4 weights[kThreadRows];
    Range seen[kThreadRows];
#pragma unroll
    for (int r = 0; r < kThreadRows; ++r) {
      weights[r] = at(probabilities + r * Layout<D>::kProbabilityStride + first);
      if (CAREFUL) seen[r] = seen_by(head.scalars, head.sequence, query + r);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int c = 0; c < D / 64; ++c) {
        const float4 values = at(v + (first + i) * Layout<D>::kStride + 64 * c);
#pragma unroll
        for (int r = 0; r < kThreadRows; ++r) {
          if (CAREFUL && !contains(seen[r], key + first + i)) continue;
          const float weight = (&weights[r].x)[i];
          rows.out[r][c][0] = fmaf(weight, values.x, rows.out[r][c][0]);
          rows.out[r][c][1] = fmaf(weight, values.y, rows.out[r][c][1]);
          rows.out[r][c][2] = fmaf(weight, values.z, rows.out[r][c][2]);
          rows.out[r][c][3] = fmaf(weight, values.w, rows.out[r][c][3]);
        }
      }
    }
  }
}

// Divides by the sums and writes the rows that exist, from `query` on.
template <int D>
__device__ __forceinline__ void finish(ThreadRows<D>& rows, const Head<float>& head, float* out,
                                       float* lse, int query, int lane) {
  const AttentionScalars& scalars = head.scalars;
  const int queries = head.sequence.queries.count;
  float log_sum_exp = 0.0f;  // of row `lane`
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r) {
    const float sum = over_row(rows.sum[r], [](float a, float b) { return a + b; });
    // A row that sees nothing has the sum 0. A NaN passes.
    const float weight = sum == 0.0f ? 0.0f : scalars.kept_scale / sum;
    if (lane == r) log_sum_exp = sum == 0.0f ? -kInfinity : fmaf(rows.peak[r], kLn2, logf(sum));
    if (query + r >= queries) continue;
#pragma unroll
    for (int c = 0; c < D / 64; ++c) {
      const int column = 4 * lane + 64 * c;
      if (column >= scalars.head_dim) break;
      float (&from)[4] = rows.out[r][c];
      const float values[4] = {from[0] * weight, from[1] * weight, from[2] * weight,
                               from[3] * weight};
      store_vector(out + (query + r) * scalars.out.token + column, values);
    }
  }
  if (lane < kThreadRows && query + lane < queries) lse[query + lane] = log_sum_exp;
}

template <int D>
__device__ __forceinline__ void forward(const AttentionScalars& scalars, const Blocks& blocks,
                                        const Limits& limits, const float* q, const float* k,
                                        const float* v, const float* bias, float* out,
                                        float* lse) {
  constexpr int kKeys = Layout<D>::kKeys;
  extern __shared__ __align__(16) float shared_floats[];
  float* q_tile = shared_floats;
  float* k_tile = q_tile + kRows * Layout<D>::kStride;
  float* v_tile = k_tile + kKeys * Layout<D>::kStride;
  float* probabilities = v_tile + kKeys * Layout<D>::kStride;

  const Block block = this_block(blocks);
  const Sequence sequence = sequence_of(scalars, limits, block.batch);
  const bool packed = limits.offsets_q != nullptr;
  if (packed && block.tile == 0) {
    write_between(scalars, sequence, out + block.head * scalars.out.head,
                  lse + 1LL * block.head * scalars.total_queries, blockDim.x);
  }
  const int first = block.tile * kRows;
  if (first >= sequence.queries.count) return;

  const int kv_head = divide(block.head, scalars.by_group);
  q += start_of(scalars.q, block.batch, sequence.queries, block.head);
  k += start_of(scalars.k, block.batch, sequence.keys, kv_head);
  v += start_of(scalars.v, block.batch, sequence.keys, kv_head);
  out += start_of(scalars.out, block.batch, sequence.queries, block.head);
  lse += lse_start(scalars, sequence, block.head, packed);
  const Head<float> head = head_at(scalars, sequence, block.head, v, bias, D);

  const int last = min(first + kRows, sequence.queries.count) - 1;
  const Range seen = seen_by_any(scalars, sequence, first, last);
  const int begin = seen.begin / kKeys * kKeys;
  const int lane = threadIdx.x % kLanes;
  const int row = threadIdx.x / kLanes * kThreadRows;
  const int query = first + row;
  const auto copy_tile = [&](float* to, const float* from, long long stride, int key) {
    copy_rows<D>(to, from + key * stride, stride, kKeys, sequence.visible - key, scalars.head_dim);
  };
  copy_rows<D>(q_tile, q + first * scalars.q.token, scalars.q.token, kRows, last - first + 1,
               scalars.head_dim);
  copy_tile(k_tile, k, scalars.k.token, begin);

  ThreadRows<D> rows;
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r) {
    rows.peak[r] = -kInfinity;
    rows.sum[r] = 0.0f;
#pragma unroll
    for (int i = 0; i < D / 64 * 4; ++i) rows.out[r][i / 4][i % 4] = 0.0f;
  }
  for (int key = begin; key < seen.end; key += kKeys) {
    ThreadScores<kKeys> scores;
    wait_for_copies<0>();
    // The queries and this tile's keys are there, and all warps have read the last tile's values.
    __syncthreads();
    copy_tile(v_tile, v, scalars.v.token, key);
    score<D, kKeys>(scores, q_tile + row * Layout<D>::kStride, k_tile + lane * Layout<D>::kStride,
                    scalars.head_dim);
    wait_for_copies<0>();
    // This tile's values are there, and all warps have read its keys.
    __syncthreads();
    if (key + kKeys < seen.end) copy_tile(k_tile, k, scalars.k.token, key + kKeys);
    float* mine = probabilities + row * Layout<D>::kProbabilityStride;
    normalise<D, kKeys>(rows, scores, head, mine + lane, query, key + lane);
    // A row's lanes read what its other lanes wrote.
    __syncwarp();
    const int keys = min(seen.end - key, kKeys);
    if (has_window(scalars)) {
      weigh<true>(rows, mine, v_tile + 4 * lane, head, query, key, keys);
    } else {
      weigh<false>(rows, mine, v_tile + 4 * lane, head, query, key, keys);
    }
    // They have read it before the next tile's is written.
    __syncwarp();
  }
  wait_for_copies<0>();
  finish(rows, head, out, lse, query, lane);
}

#define FORWARD(SYMBOL, D)                                                                       \
  extern "C" __global__ void __launch_bounds__(kThreads, 1)                                      \
  SYMBOL(FORWARD_PARAMETERS(float), float* out, float* lse) {                                    \
    const Limits limits = {kv_lengths, offsets_q, offsets_k};                                    \
    forward<D>(scalars, blocks, limits, q, k, v, bias, out, lse);                                \
  }

FORWARD(attention_forward_d64_f32, 64)
FORWARD(attention_forward_d128_f32, 128)
FORWARD(attention_forward_d256_f32, 256)
