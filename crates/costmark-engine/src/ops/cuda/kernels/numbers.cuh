// How numbers are stored, and the few instructions that depend on it.
//
// Needs no header, so that a machine with a driver and NVRTC alone can compile it. Compiled with
//   KV_BF16   1: queries, keys and values are bf16; 0: f16
//   ACT       activations around the products: 0 f32, 1 f16, 2 bf16
// With EMULATED a plain C++ compiler takes it, and the instructions come from emulated.h.

#ifndef KV_BF16
#define KV_BF16 0
#endif
#ifndef ACT
#define ACT 0
#endif

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// What one load brings.
struct alignas(16) Words4 { u32 x, y, z, w; };
struct alignas(8) Words2 { u32 x, y; };

#ifndef EMULATED
// Not every kind of numbers needs every function.
#define DEVICE [[maybe_unused]] static __device__ __forceinline__

DEVICE float f16_to_f32(u16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

DEVICE u16 f32_to_f16(float x) {
    u16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

// Two values in one register, the first in its low half.
DEVICE u32 pack_kv(float low, float high) {
    u32 y;
#if KV_BF16
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
#endif
    return y;
}

// 2^x, within 2 units in the last place; 2^-inf is 0.
DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// d += a · b for one (16 × 16) · (16 × 8) tile, spread over the warp as the PTX manual's
// section on mma.m16n8k16 lays it out.
DEVICE void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if KV_BF16
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#endif
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

#define INFINITE __int_as_float(0x7f800000)

DEVICE float bf16_to_f32(u16 x) { return __uint_as_float((u32)x << 16); }

DEVICE u16 f32_to_bf16(float x) {
    u32 bits = __float_as_uint(x);
    // Rounding up a NaN's payload could make it an infinity.
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

#if KV_BF16
DEVICE u16 to_kv(float x) { return f32_to_bf16(x); }
#else
DEVICE u16 to_kv(float x) { return f32_to_f16(x); }
#endif

#if ACT == 0
typedef float act;
DEVICE float from_act(act x) { return x; }
DEVICE act to_act(float x) { return x; }
#elif ACT == 1
typedef u16 act;
DEVICE float from_act(act x) { return f16_to_f32(x); }
DEVICE act to_act(float x) { return f32_to_f16(x); }
#else
typedef u16 act;
DEVICE float from_act(act x) { return bf16_to_f32(x); }
DEVICE act to_act(float x) { return f32_to_bf16(x); }
#endif

#define ALL_LANES 0xffffffffu

template <class T>
DEVICE T warp_sum(T x) {
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}
