// A CUDA block in plain C++, one fiber per thread, so that the kernels can be checked where there
// is no GPU. Slow, exact about what threads of a warp exchange, blind to races within a warp.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#define EMULATED
#define DEVICE static inline
#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(n)

using std::max;
using std::min;
typedef unsigned short u16;
typedef unsigned int u32;
struct int2 { int x, y; };
struct float2 { float x, y; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
constexpr int LANES = 32, STACK = 128 * 1024;
struct Warp {
    u32 words[LANES][8];
    uint64_t arrived[LANES] = {};
};
struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(STACK);
    dim3 index;
    bool done = true;
    uint64_t arrived = 0;
};
static ucontext_t scheduler;
static std::vector<std::unique_ptr<Fiber>> fibers;
static std::vector<Warp> warps;
static size_t current, threads;
static std::function<void()> body;

static void pass_on() { swapcontext(&fibers[current]->context, &scheduler); }
static size_t lane() { return current % LANES; }
static Warp& warp() { return warps[current / LANES]; }
// Threads that ended no longer take part.
static void join_warp() {
    const size_t first = current - lane(), last = min(first + LANES, threads);
    const uint64_t phase = ++warp().arrived[lane()];
    for (size_t i = first; i < last; i++)
        while (!fibers[i]->done && warps[first / LANES].arrived[i - first] < phase) pass_on();
}
static void join_block() {
    const uint64_t phase = ++fibers[current]->arrived;
    for (size_t i = 0; i < threads; i++)
        while (!fibers[i]->done && fibers[i]->arrived < phase) pass_on();
}
static void begin() {
    body();
    fibers[current]->done = true;
    pass_on();
}

// Runs `kernel` once per thread of every block.
static void launch(dim3 grid, dim3 block, std::function<void()> kernel) {
    body = kernel;
    gridDim = grid;
    blockDim = block;
    threads = (size_t)block.x * block.y * block.z;
    while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>());
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                warps.assign((threads + LANES - 1) / LANES, Warp());
                for (size_t i = 0; i < threads; i++) {
                    Fiber& f = *fibers[i];
                    f.index = {unsigned(i % block.x), unsigned(i / block.x % block.y),
                               unsigned(i / block.x / block.y)};
                    f.done = false;
                    f.arrived = 0;
                    getcontext(&f.context);
                    f.context.uc_stack.ss_sp = f.stack.data();
                    f.context.uc_stack.ss_size = STACK;
                    f.context.uc_link = &scheduler;
                    makecontext(&f.context, begin, 0);
                }
                for (bool any = true; any;) {
                    any = false;
                    for (current = 0; current < threads; current++) {
                        if (fibers[current]->done) continue;
                        any = true;
                        threadIdx = fibers[current]->index;
                        swapcontext(&scheduler, &fibers[current]->context);
                    }
                }
            }
}

template <class T>
static T exchange(T value, size_t from) {
    static_assert(sizeof(T) <= sizeof(Warp::words[0]), "");
    memcpy(&warp().words[lane()][0], &value, sizeof(T));
    join_warp();
    memcpy(&value, &warp().words[from][0], sizeof(T));
    join_warp();
    return value;
}
}  // namespace emulation

static inline void __syncthreads() { emulation::join_block(); }
template <class T>
static T __shfl_xor_sync(u32, T value, int mask) {
    return emulation::exchange(value, emulation::lane() ^ (size_t)mask);
}
template <class T>
static T __shfl_up_sync(u32, T value, int offset) {
    const size_t lane = emulation::lane();
    return emulation::exchange(value, lane < (size_t)offset ? lane : lane - offset);
}
template <class T>
static T __shfl_sync(u32, T value, int lane) {
    return emulation::exchange(value, (size_t)lane);
}
static inline float __uint_as_float(u32 x) { float y; memcpy(&y, &x, 4); return y; }
static inline float __int_as_float(int x) { float y; memcpy(&y, &x, 4); return y; }
static inline u32 __float_as_uint(float x) { u32 y; memcpy(&y, &x, 4); return y; }
static inline u32 __byte_perm(u32 a, u32 b, u32 select) {
    const uint64_t both = (uint64_t)b << 32 | a;
    u32 out = 0;
    for (int i = 0; i < 4; i++) out |= (u32)(both >> (select >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return out;
}
static inline float exp2_fast(float x) { return exp2f(x); }

static inline float f16_to_f32(u16 x) {
    const u32 sign = (x & 0x8000u) << 16, exponent = x >> 10 & 31, fraction = x & 0x3ff;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    const float magnitude = exponent ? ldexpf(1024 + fraction, (int)exponent - 25)
                                     : ldexpf((float)fraction, -24);
    return sign ? -magnitude : magnitude;
}
// To nearest, ties to even.
static inline u16 f32_to_f16(float x) {
    const u16 sign = __float_as_uint(x) >> 16 & 0x8000;
    const float magnitude = fabsf(x);
    if (magnitude != magnitude) return sign | 0x7e00;
    if (magnitude >= 65520) return sign | 0x7c00;
    if (magnitude < 6.103515625e-5f) return sign | (u16)rintf(ldexpf(magnitude, 24));
    int exponent;
    frexpf(magnitude, &exponent);  // magnitude in [2^(e-1), 2^e)
    const u32 fraction = (u32)rintf(ldexpf(magnitude, 11 - exponent));  // 1024 to 2048
    return sign | (u16)(((exponent + 13) << 10) + fraction);
}

static inline u16 to_kv(float x);
static inline float from_kv(u16 x);
static inline u32 pack_kv(float low, float high) { return to_kv(low) | (u32)to_kv(high) << 16; }

// The layout is that of the PTX manual, "Matrix Fragments for mma.m16n8k16".
static inline void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    using namespace emulation;
    Warp& w = warp();
    const u32 mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    memcpy(w.words[lane()], mine, sizeof mine);
    join_warp();
    const size_t g = lane() / 4, t = lane() % 4;
    for (int i = 0; i < 4; i++) {
        const size_t row = g + 8 * (i / 2), column = 2 * t + i % 2;
        float sum = d[i];
        for (size_t k = 0; k < 16; k++) {
            const u32 left = w.words[row % 8 * 4 + k % 8 / 2][row / 8 + 2 * (k / 8)];
            const u32 right = w.words[column * 4 + k % 8 / 2][4 + k / 8];
            sum += from_kv(left >> 16 * (k % 2)) * from_kv(right >> 16 * (k % 2));
        }
        d[i] = sum;
    }
    join_warp();
}
