// Which token each row of logits brings: only ids go back to the host.

// The greatest logit of each row, of equal ones the lowest id; and the lowest id whose logit is
// NaN or infinite, or 0xffffffff. out (rows, 2). Grid (rows), at most 1024 threads.
extern "C" __global__ void greatest(const float* logits, u32* out, int vocab) {
    __shared__ float best[32];
    __shared__ u32 best_id[32], bad_id[32];
    const float* row = logits + (u64)blockIdx.x * vocab;
    float most = -INFINITE;
    u32 id = 0xffffffffu, bad = 0xffffffffu;
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
        const float x = row[i];
        // x − x is 0 for finite x and NaN otherwise.
        if (!(x - x == 0)) {
            bad = min(bad, (u32)i);
        } else if (x > most) {
            most = x;
            id = i;
        }
    }
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int pass = 0; pass < 2; pass++) {
        for (int offset = 16; offset > 0; offset /= 2) {
            const float other = __shfl_xor_sync(ALL_LANES, most, offset);
            const u32 other_id = __shfl_xor_sync(ALL_LANES, id, offset);
            bad = min(bad, __shfl_xor_sync(ALL_LANES, bad, offset));
            if (other > most || (other == most && other_id < id)) {
                most = other;
                id = other_id;
            }
        }
        if (pass == 1) break;
        if (lane == 0) {
            best[warp] = most;
            best_id[warp] = id;
            bad_id[warp] = bad;
        }
        __syncthreads();
        const bool holds = lane < (int)blockDim.x / 32;
        most = holds ? best[lane] : -INFINITE;
        id = holds ? best_id[lane] : 0xffffffffu;
        bad = holds ? bad_id[lane] : 0xffffffffu;
    }
    if (threadIdx.x == 0) {
        out[2 * blockIdx.x] = id;
        out[2 * blockIdx.x + 1] = bad;
    }
}

// e^x for x of at most 0, to the bits that the host gives it (`math::exp`), so that equal logits
// have equal weights on both.
DEVICE float exp_as_host(float x) {
    const float round = 12582912.0f, clamped = x > -87.0f ? x : -87.0f;
    const float rounded = fmaf(clamped, 1.44269504088896340736f, round), n = rounded - round;
    const float r = fmaf(n, 2.1219444e-4f, fmaf(n, -0.6933594f, clamped));
    float p = 1.0f / 5040;
    p = fmaf(r, p, 1.0f / 720);
    p = fmaf(r, p, 1.0f / 120);
    p = fmaf(r, p, 1.0f / 24);
    p = fmaf(r, p, 1.0f / 6);
    p = fmaf(r, p, 0.5f);
    p = fmaf(r, p, 1.0f);
    p = fmaf(r, p, 1.0f);
    const u32 exponent = (__float_as_uint(rounded) - __float_as_uint(round) + 127) << 23;
    return x < -87.0f ? 0.0f : p * __uint_as_float(exponent);
}

// Draws a token for each row that wants one, with probability in proportion to
// exp(logit · inverse): the first at which the sum of these in the order of ids exceeds uniform
// times the sum of all. draws (rows, 2): uniform, of [0, 1), and inverse, the reciprocal of the
// temperature, or 0 where the greatest was wanted. out is what `greatest` wrote.
// Grid (rows), at most 1024 threads in whole warps, each with a share of the row.
extern "C" __global__ void draw_tokens(const float* logits, const double* draws, u32* out,
                                       int vocab) {
    __shared__ double sums[32];
    const float* row = logits + (u64)blockIdx.x * vocab;
    const double uniform = draws[2 * blockIdx.x];
    const float inverse = (float)draws[2 * blockIdx.x + 1];
    const u32 best = out[2 * blockIdx.x];
    if (inverse == 0 || out[2 * blockIdx.x + 1] != 0xffffffffu) return;
    const float most = row[best];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int share = (vocab + warps * 32 - 1) / (warps * 32) * 32;
    int first = warp * share, end = min(first + share, vocab);
    double sum = 0;
    for (int i = first + lane; i < end; i += 32) sum += exp_as_host((row[i] - most) * inverse);
    sum = warp_sum(sum);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    double left = 0;
    for (int w = 0; w < warps; w++) left += sums[w];
    left *= uniform;
    // The share in which the sum is exceeded; by rounding maybe none, then the last that counts.
    int found = 0;
    bool exceeded = false;
    for (int w = 0; w < warps && !exceeded; w++) {
        if (sums[w] > 0) found = w;
        exceeded = left < sums[w];
        if (!exceeded) left -= sums[w];
    }
    if (warp != found) return;
    if (!exceeded) left = INFINITE;
    u32 id = 0xffffffffu, last = 0;
    for (int step = first; step < end; step += 32) {
        const int i = step + lane;
        const double weight = i < end ? exp_as_host((row[i] - most) * inverse) : 0;
        double until = weight;
        for (int offset = 1; offset < 32; offset *= 2) {
            const double before = __shfl_up_sync(ALL_LANES, until, offset);
            if (lane >= offset) until += before;
        }
        if (weight > 0) {
            last = (u32)i;
            if (until > left) id = (u32)i;
        }
        const double all = __shfl_sync(ALL_LANES, until, 31);
        if (all > left) break;
        left -= all;
    }
    for (int offset = 16; offset > 0; offset /= 2) {
        id = min(id, __shfl_xor_sync(ALL_LANES, id, offset));
        last = max(last, __shfl_xor_sync(ALL_LANES, last, offset));
    }
    if (lane == 0) out[2 * blockIdx.x] = id == 0xffffffffu ? last : id;
}
