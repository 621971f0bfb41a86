// What a decoder layer does around its products and its attention, one pass each, and what is
// done once per step. Compiled with what numbers.cuh names.

// The sum over a block's threads (whole warps), known to all of them.
DEVICE float block_sum(float x) {
    __shared__ float parts[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) parts[warp] = x;
    __syncthreads();
    return warp_sum(lane < (int)blockDim.x / 32 ? parts[lane] : 0);
}

// sum = residual + delta (or residual alone), normed = sum / sqrt(mean(sum²) + eps) · weight;
// all (rows, width). Grid (rows).
extern "C" __global__ void add_norm(const float* residual, const act* delta, const float* weight,
                                    float* sum, act* normed, int width, float eps) {
    const u64 row = (u64)blockIdx.x * width;
    float squares = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float x = residual[row + i] + (delta ? from_act(delta[row + i]) : 0);
        sum[row + i] = x;
        squares += x * x;
    }
    const float factor = 1 / sqrtf(block_sum(squares) / width + eps);
    // A thread reads what it wrote itself.
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        normed[row + i] = to_act(sum[row + i] * factor * weight[i]);
}

// out = gate · sigmoid(gate) · up, (rows, width). Rows of gate and up begin gate_row and up_row
// numbers apart: they may be columns of one product's result. Grid (rows, by width).
extern "C" __global__ void silu_mul(const act* gate, const act* up, act* out, int width,
                                    int gate_row, int up_row) {
    const int i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= width) return;
    const u64 row = blockIdx.x;
    const float x = from_act(gate[row * gate_row + i]);
    out[row * width + i] = to_act(x / (1 + expf(-x)) * from_act(up[row * up_row + i]));
}

// Cosines and sines of the step's tokens, (tokens, 2, pairs), as rope.rs makes them.
// Grid (tokens), pairs threads.
extern "C" __global__ void rotations(const u32* positions, const float* frequencies, float* out,
                                     int pairs) {
    const float angle = (float)positions[blockIdx.x] * frequencies[threadIdx.x];
    float* to = out + (u64)blockIdx.x * 2 * pairs + threadIdx.x;
    sincosf(angle, to + pairs, to);
}

// Norms (where weights are given) and rotates queries and keys; queries go to q_out
// (tokens, heads, dim), keys and values to their slot of the cache. Tokens begin q_row, k_row and
// v_row numbers apart.
// Grid (tokens, heads + 2 · kv_heads, by blockDim.y), a warp per head.
extern "C" __global__ void prepare(const act* q, const act* k, const act* v, const float* q_norm,
                                   const float* k_norm, const float* rotations, const u32* slots,
                                   u16* q_out, u16* keys, u16* values, int q_row, int k_row,
                                   int v_row, int heads, int kv_heads, int dim, int block_size,
                                   float eps) {
    const int lane = threadIdx.x, token = blockIdx.x, pairs = dim / 2;
    int head = blockIdx.y * blockDim.y + threadIdx.y;
    if (head >= heads + 2 * kv_heads) return;
    const act* from;
    const float* norm = nullptr;
    u16* to;
    const bool is_query = head < heads, is_value = head >= heads + kv_heads;
    if (is_query) {
        from = q + (u64)token * q_row + head * dim;
        to = q_out + ((u64)token * heads + head) * dim;
        norm = q_norm;
    } else {
        head = is_value ? head - heads - kv_heads : head - heads;
        from = (is_value ? v + (u64)token * v_row : k + (u64)token * k_row) + head * dim;
        const u64 block = slots[token] / block_size, offset = slots[token] % block_size;
        to = (is_value ? values : keys) + ((block * kv_heads + head) * block_size + offset) * dim;
        if (!is_value) norm = k_norm;
    }
    if (is_value) {
        for (int i = lane; i < dim; i += 32) to[i] = to_kv(from_act(from[i]));
        return;
    }
    float factor = 1;
    if (norm) {
        float squares = 0;
        for (int i = lane; i < dim; i += 32) {
            const float x = from_act(from[i]);
            squares += x * x;
        }
        factor = 1 / sqrtf(warp_sum(squares) / dim + eps);
    }
    const float* cosines = rotations + (u64)token * 2 * pairs;
    for (int i = lane; i < pairs; i += 32) {
        float x = from_act(from[i]), y = from_act(from[i + pairs]);
        if (norm) {
            x *= factor * norm[i];
            y *= factor * norm[i + pairs];
        }
        const float c = cosines[i], s = cosines[pairs + i];
        to[i] = to_kv(x * c - y * s);
        to[i + pairs] = to_kv(y * c + x * s);
    }
}

// Evenly spread numbers in ±limit, as ACT stores them: number i depends on the seed and i alone.
extern "C" __global__ void random_weights(act* out, u64 n, u64 seed, float limit) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (u64)gridDim.x * blockDim.x) {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        u64 z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        const int bits = (int)((z ^ (z >> 31)) >> 32);
        out[i] = to_act((float)bits * (limit / 2147483648.0f));
    }
}

// Reads n words and leaves nothing behind: what memory can give at most.
extern "C" __global__ void read_all(const Words4* data, u64 n, u32* out) {
    u32 x = 0;
#pragma unroll 8
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (u64)gridDim.x * blockDim.x) {
        const Words4 w = data[i];
        x ^= w.x ^ w.y ^ w.z ^ w.w;
    }
    // Hardly ever so, which the compiler cannot know: every read is needed.
    if (x == 0x9e3779b9u) *out = x;
}
