// Causal attention of packed tokens over the paged cache, on the tensor cores, with a running
// softmax (Milakov and Gimelshein, 2018; Dao et al., 2022; splitting over keys as in
// Flash-Decoding, Dao et al., 2023).
//
// Compiled with HEAD_DIM (a multiple of 16, up to 256) beside what numbers.cuh names.
//
// A warp works on 16 rows of queries that share a key head: row r is token r / group, head
// r % group. Keys and values go from memory straight to the registers the tensor cores read,
// 16 bytes per lane, because both products leave an order open:
//   - scores sum over the head's dimensions, so lane t of four may hold 8 neighbouring ones where
//     the instruction's layout says pairs 8 apart, as long as queries are held alike;
//   - columns of the result may be any dimensions, so lane g of eight takes 8 neighbouring ones of
//     each value, and ends up with whole runs of the result.
//
// cache: (blocks, kv_heads, block_size, HEAD_DIM), one each for keys and values of a layer.

#define D HEAD_DIM
#define KEYS 32 /* per round; blocks hold 16 or 32 */
#define WARPS 4

// What all kernels here need to know of a layer.
struct Shape {
    int heads;
    int kv_heads;
    int block_size;
    int window;   // tokens a query sees back, itself included
    float scale;  // of scores, times log2(e)
};

// A sequence's part in the step.
struct Span {
    int first_token;  // row in the packed batch
    int tokens;
    int context;      // tokens before them in the cache
    int table;        // where its block table begins
};

struct Rows {
    u32 q[D / 16][4];
    float o[D / 8][4];
    float max[2];
    float sum[2];  // of this lane's keys until finish()
};

DEVICE int group_of(const Shape& shape) { return shape.heads / shape.kv_heads; }

// Queries of rows `first` to `first + 15`, those from `rows` on as zeros.
DEVICE void load_queries(Rows& r, const u16* q, const Shape& shape, const Span& span, int kv_head,
                         int first, int rows) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, group = group_of(shape);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first + g + 8 * half;
        const bool valid = row < rows;
        const int token = valid ? row / group : 0, head = valid ? row % group : 0;
        const u16* at =
            q + ((u64)(span.first_token + token) * shape.heads + kv_head * group + head) * D;
#pragma unroll
        for (int c = 0; c < D / 32; c++) {
            Words4 w = valid ? *(const Words4*)(at + c * 32 + t * 8) : Words4{0, 0, 0, 0};
            r.q[2 * c][half] = w.x;
            r.q[2 * c][2 + half] = w.y;
            r.q[2 * c + 1][half] = w.z;
            r.q[2 * c + 1][2 + half] = w.w;
        }
        if (D % 32) {
            Words2 w = valid ? *(const Words2*)(at + D - 16 + t * 4) : Words2{0, 0};
            r.q[D / 16 - 1][half] = w.x;
            r.q[D / 16 - 1][2 + half] = w.y;
        }
        r.max[half] = -INFINITE;
        r.sum[half] = 0;
    }
#pragma unroll
    for (int n = 0; n < D / 8; n++) r.o[n][0] = r.o[n][1] = r.o[n][2] = r.o[n][3] = 0;
}

// One dimension of two values each: what a register of the second product's right side holds.
DEVICE u32 low_halves(u32 a, u32 b) { return __byte_perm(a, b, 0x5410); }
DEVICE u32 high_halves(u32 a, u32 b) { return __byte_perm(a, b, 0x7632); }

// o += p · v for 16 keys and the 16 dimensions of one pair of column tiles.
DEVICE void add_values(float (&even)[4], float (&odd)[4], const u32 (&p)[4], const u32 (&v)[4]) {
    mma(even, p, low_halves(v[0], v[1]), low_halves(v[2], v[3]));
    mma(odd, p, high_halves(v[0], v[1]), high_halves(v[2], v[3]));
}

// Attends to keys `from`, `from + step`, … in rounds of KEYS, before `to`. `from` is a multiple of
// KEYS; `end` is where the sequence ends: what the cache holds beyond is not this sequence's.
// Row g (and g + 8) sees keys up to position[0] (and [1]).
DEVICE void attend(Rows& r, const u16* keys, const u16* values, const u32* table,
                   const Shape& shape, int kv_head, int from, int to, int step, int end,
                   const int (&position)[2]) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int size = shape.block_size;
    const u64 block_stride = (u64)shape.kv_heads * size * D;
    const u64 head_offset = (u64)kv_head * size * D;
    for (int base = from; base < to; base += step) {
        // Blocks of the first and the last 16 keys; one block twice where it holds 32.
        const u64 near = table[base / size] * block_stride + head_offset;
        const u64 far =
            (base + 16 < end ? table[(base + 16) / size] : 0) * block_stride + head_offset;

        float s[KEYS / 8][4];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
            const int key = n * 8 + g;
            const bool valid = base + key < end;
            const u16* at = keys + (n < 2 ? near : far) + (u64)(key % size) * D;
#pragma unroll
            for (int c = 0; c < D / 32; c++) {
                Words4 w = valid ? *(const Words4*)(at + c * 32 + t * 8) : Words4{0, 0, 0, 0};
                mma(s[n], r.q[2 * c], w.x, w.y);
                mma(s[n], r.q[2 * c + 1], w.z, w.w);
            }
            if (D % 32) {
                Words2 w = valid ? *(const Words2*)(at + D - 16 + t * 4) : Words2{0, 0};
                mma(s[n], r.q[D / 16 - 1], w.x, w.y);
            }
        }

        float factor[2];
#pragma unroll
 #pragma unroll
       for (int half = 0; half < 2; half++) {
            float most = r.max[half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int key = base + n * 8 + 2 * t + i;
                    const bool seen = key <= position[half] && position[half] - key < shape.window;
                    float& x = s[n][2 * half + i];
                    x = seen ? x * shape.scale : -INFINITE;
                    most = fmaxf(most, x);
                }
            }
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
            // A row that has seen no key yet: -inf - -inf would not be a number.
            const float origin = most == -INFINITE ? 0 : most;
            factor[half] = exp2_fast(r.max[half] - origin);
            r.max[half] = most;
            float sum = 0;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float& x = s[n][2 * half + i];
                    x = exp2_fast(x - origin);
                    sum += x;
                }
            }
            r.sum[half] = r.sum[half] * factor[half] + sum;
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            r.o[n][0] *= factor[0];
            r.o[n][1] *= factor[0];
            r.o[n][2] *= factor[1];
            r.o[n][3] *= factor[1];
        }

#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            const u32 p[4] = {
                pack_kv(s[2 * k][0], s[2 * k][1]),
                pack_kv(s[2 * k][2], s[2 * k][3]),
                pack_kv(s[2 * k + 1][0], s[2 * k + 1][1]),
                pack_kv(s[2 * k + 1][2], s[2 * k + 1][3]),
            };
            const u16* at[4];
            bool valid[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int key = k * 16 + 2 * t + (i / 2) * 8 + i % 2;
                // A weight of 0 times what another sequence left, even NaN, must be 0.
                valid[i] = base + key < end;
                at[i] = values + (k == 0 ? near : far) + (u64)(key % size) * D;
            }
            // 8 dimensions of each value per lane, then 4 and 2 for what 64 does not divide.
#pragma unroll
            for (int c = 0; c < D / 64; c++) {
                Words4 w[4];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    w[i] = valid[i] ? *(const Words4*)(at[i] + c * 64 + g * 8)
                                    : Words4{0, 0, 0, 0};
                float(*o)[4] = r.o + c * 8;
                add_values(o[0], o[1], p, {w[0].x, w[1].x, w[2].x, w[3].x});
                add_values(o[2], o[3], p, {w[0].y, w[1].y, w[2].y, w[3].y});
                add_values(o[4], o[5], p, {w[0].z, w[1].z, w[2].z, w[3].z});
                add_values(o[6], o[7], p, {w[0].w, w[1].w, w[2].w, w[3].w});
            }
            if (D % 64 >= 32) {
                Words2 w[4];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    w[i] = valid[i] ? *(const Words2*)(at[i] + D / 64 * 64 + g * 4) : Words2{0, 0};
                float(*o)[4] = r.o + D / 64 * 8;
                add_values(o[0], o[1], p, {w[0].x, w[1].x, w[2].x, w[3].x});
                add_values(o[2], o[3], p, {w[0].y, w[1].y, w[2].y, w[3].y});
            }
            if (D % 32) {
                u32 w[4];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    w[i] = valid[i] ? *(const u32*)(at[i] + D - 16 + g * 2) : 0;
                float(*o)[4] = r.o + D / 8 - 2;
                add_values(o[0], o[1], p, {w[0], w[1], w[2], w[3]});
            }
        }
    }
}

// Adds up the sums that four lanes hold in parts.
DEVICE void finish(Rows& r) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        r.sum[half] += __shfl_xor_sync(ALL_LANES, r.sum[half], 1);
        r.sum[half] += __shfl_xor_sync(ALL_LANES, r.sum[half], 2);
    }
}

// Which dimension column tile n's first (i = 0) or second column of this lane is.
DEVICE int dimension(int n, int i) {
    const int t = threadIdx.x % 4, column = 2 * t + i;
    if (n < D / 64 * 8) return n / 8 * 64 + column * 8 + n % 8;
    if (D % 64 >= 32 && n < D / 64 * 8 + 4) return D / 64 * 64 + column * 4 + (n - D / 64 * 8);
    return D - 16 + column * 2 + (n - (D / 8 - 2));
}

// Tokens of prompts: q (tokens, heads, D) → out (tokens, heads · D).
// Grid (tiles, kv_heads), WARPS · 32 threads. A tile is (span, first row), 16 · WARPS rows.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
    attend_prompts(const u16* q, const u16* keys, const u16* values, const u32* tables,
                   const Span* spans, const int2* tiles, act* out, Shape shape) {
    const int2 tile = tiles[blockIdx.x];
    const Span span = spans[tile.x];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, kv_head = blockIdx.y;
    const int group = group_of(shape), rows = span.tokens * group;
    const int first = tile.y + warp * 16;
    if (first >= rows) return;
    Rows r;
    load_queries(r, q, shape, span, kv_head, first, rows);
    const int last_row = min(first + 15, rows - 1);
    int position[2];
#pragma unroll
    for (int half = 0; half < 2; half++)
        position[half] = span.context + min(first + lane / 4 + 8 * half, last_row) / group;
    const int oldest = span.context + first / group - shape.window + 1;
    const int to = span.context + last_row / group + 1;
    attend(r, keys, values, tables + span.table, shape, kv_head, max(oldest, 0) / KEYS * KEYS, to,
           KEYS, span.context + span.tokens, position);
    finish(r);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first + lane / 4 + 8 * half;
        if (row >= rows) continue;
        act* to = out + ((u64)(span.first_token + row / group) * shape.heads + kv_head * group +
                         row % group) * D;
        const float factor = 1 / r.sum[half];
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                to[dimension(n, i)] = to_act(r.o[n][2 * half + i] * factor);
    }
}

// Sequences that decode one token each. Grid (spans, kv_heads · row tiles, splits), WARPS · 32
// threads; all warps of a block share 16 rows, and take turns at the keys of its split.
// With one split writes out (tokens, heads · D); with more, parts for `join_splits`:
// sums (spans, heads, splits, D) relative to their greatest score, and (greatest, weight) of each.
extern "C" __global__ void __launch_bounds__(WARPS * 32)
    attend_decode(const u16* q, const u16* keys, const u16* values, const u32* tables,
                  const Span* spans, act* out, float* part_sums, float2* part_weights,
                  Shape shape) {
    __shared__ float sums[16][D];
    __shared__ float warp_max[WARPS][16], warp_sum_of[WARPS][16];
    const Span span = spans[blockIdx.x];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int group = group_of(shape), row_tiles = (group + 15) / 16;
    const int kv_head = blockIdx.y / row_tiles, first = blockIdx.y % row_tiles * 16;
    const int splits = gridDim.z, split = blockIdx.z;
    const int end = span.context + 1;
    const int oldest = max(end - shape.window, 0) / KEYS * KEYS;
    // Equal shares in whole rounds of all warps.
    const int round = KEYS * WARPS, share = (end - oldest + splits * round - 1) / (splits * round) * round;
    const int from = oldest + split * share, to = min(from + share, end);

    Rows r;
    load_queries(r, q, shape, span, kv_head, first, group);
    const int position[2] = {span.context, span.context};
    attend(r, keys, values, tables + span.table, shape, kv_head, from + warp * KEYS, to, round, end,
           position);
    finish(r);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (lane % 4 == 0) {
            warp_max[warp][lane / 4 + 8 * half] = r.max[half];
            warp_sum_of[warp][lane / 4 + 8 * half] = r.sum[half];
        }
    }
    __syncthreads();
    float most[2], weight[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = lane / 4 + 8 * half;
        most[half] = -INFINITE;
        for (int w = 0; w < WARPS; w++) most[half] = fmaxf(most[half], warp_max[w][row]);
        const float origin = most[half] == -INFINITE ? 0 : most[half];
        weight[half] = 0;
        for (int w = 0; w < WARPS; w++)
            weight[half] += warp_sum_of[w][row] * exp2_fast(warp_max[w][row] - origin);
        const float factor = exp2_fast(r.max[half] - origin);
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) r.o[n][2 * half + i] *= factor;
    }
    // One warp after the other, so that the sum is the same bits every time.
    for (int w = 0; w < WARPS; w++) {
        if (w == warp) {
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float& sum = sums[lane / 4 + 8 * (i / 2)][dimension(n, i % 2)];
                    sum = w == 0 ? r.o[n][i] : sum + r.o[n][i];
                }
            }
        }
        __syncthreads();
    }
    const int rows = min(group - first, 16);
    if (splits == 1) {
        if (warp == 0 && lane % 4 == 0)
#pragma unroll
            for (int half = 0; half < 2; half++)
                warp_sum_of[0][lane / 4 + 8 * half] = 1 / weight[half];
        __syncthreads();
        act* to = out + ((u64)span.first_token * shape.heads + kv_head * group + first) * D;
        for (int i = threadIdx.x; i < rows * D; i += WARPS * 32)
            to[i] = to_act(sums[i / D][i % D] * warp_sum_of[0][i / D]);
        return;
    }
    const u64 head = (u64)blockIdx.x * shape.heads + kv_head * group + first;
    for (int i = threadIdx.x; i < rows * D; i += WARPS * 32)
        part_sums[((head + i / D) * splits + split) * D + i % D] = sums[i / D][i % D];
    if (warp == 0 && lane % 4 == 0)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = lane / 4 + 8 * half;
            if (row < rows)
                part_weights[(head + row) * splits + split] =
                    float2{most[half], weight[half]};
        }
}

// What the splits of a decoding sequence come to. Grid (spans, heads), 64 threads.
extern "C" __global__ void join_splits(const float* part_sums, const float2* part_weights,
                                       const Span* spans, act* out, int heads, int splits) {
    const u64 head = (u64)blockIdx.x * heads + blockIdx.y;
    const float2* weights = part_weights + head * splits;
    float most = -INFINITE;
    for (int s = 0; s < splits; s++) most = fmaxf(most, weights[s].x);
    float weight = 0;
    for (int s = 0; s < splits; s++) weight += weights[s].y * exp2_fast(weights[s].x - most);
    act* to = out + ((u64)spans[blockIdx.x].first_token * heads + blockIdx.y) * D;
    for (int i = threadIdx.x; i < D; i += blockDim.x) {
        float sum = 0;
        for (int s = 0; s < splits; s++)
            sum += part_sums[(head * splits + s) * D + i] * exp2_fast(weights[s].x - most);
        to[i] = to_act(sum / weight);
    }
}
