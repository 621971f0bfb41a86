// Runs the kernels on the CPU, thread by thread, and compares them with plain loops in f64.
// Compiled with what the kernels are: HEAD_DIM, KV_BF16, ACT. Prints one line per kernel; ends
// with 1 at the first number that is off.
#include "emulated.h"
#include "numbers.cuh"
#if KV_BF16
static inline float from_kv(u16 x) { return bf16_to_f32(x); }
#else
static inline float from_kv(u16 x) { return f16_to_f32(x); }
#endif
#include "attention.cu"
#include "steps.cu"
#include "sample.cu"

using emulation::launch;
template <class T>
using Vec = std::vector<T>;

// Half a unit in the last place, relative.
static const double KV_ROUNDING = KV_BF16 ? 1.0 / 256 : 1.0 / 2048;
static const double ACT_ROUNDING = ACT == 0 ? 6e-8 : ACT == 1 ? 1.0 / 2048 : 1.0 / 256;

static u64 state = 0x243f6a8885a308d3ull;
static u32 draw() {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (u32)(state >> 32);
}
static int between(int low, int high) { return low + (int)(draw() % (u32)(high - low + 1)); }
static float uniform() { return (float)((double)draw() / 2147483648.0 - 1); }

static void expect(const char* what, double is, double should, double tolerance) {
    if (fabs(is - should) <= tolerance) return;
    printf("%s: %.9g instead of %.9g, more than %.2g off\n", what, is, should, tolerance);
    exit(1);
}

struct Case {
    Shape shape;
    int blocks;
    Vec<Span> spans;
    Vec<u32> tables;
    Vec<u16> q, keys, values;
    int tokens = 0;
};

static u16 random_kv(float size) { return to_kv(uniform() * size); }

// Sequences whose blocks lie anywhere; what they do not use holds NaN.
static Case random_case(bool decode) {
    const int groups[] = {1, 2, 3, 4, 7, 8, 16, 20}, kv_heads = between(1, 3);
    Case c;
    c.shape.kv_heads = kv_heads;
    c.shape.heads = kv_heads * groups[between(0, 7)];
    c.shape.block_size = between(0, 1) ? 16 : 32;
    c.shape.window = between(0, 2) ? 0x40000000 : between(1, 90);
    c.shape.scale = (float)(1.4426950408889634 / sqrt((double)D));
    const int size = c.shape.block_size, sequences = between(1, 4);
    Vec<u32> order;
    for (int i = 0; i < sequences; i++) {
        Span s;
        s.first_token = c.tokens;
        s.tokens = decode ? 1 : between(2, 70);
        s.context = between(0, 3) ? between(0, decode ? 700 : 90) : 0;
        s.table = (int)order.size();
        const int blocks = (s.context + s.tokens + size - 1) / size;
        for (int b = 0; b < blocks; b++) order.push_back((u32)order.size());
        c.tokens += s.tokens;
        c.spans.push_back(s);
    }
    c.blocks = (int)order.size() + 2;
    for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[draw() % i]);
    for (u32& block : order) block += 1;
    c.tables = order;
    const size_t per_block = (size_t)kv_heads * size * D;
    c.keys.assign(c.blocks * per_block, 0x7fff);
    c.values.assign(c.blocks * per_block, 0x7fff);
    for (const Span& s : c.spans)
        for (int p = 0; p < s.context + s.tokens; p++)
            for (int h = 0; h < kv_heads; h++)
                for (int d = 0; d < D; d++) {
                    const size_t at =
                        ((c.tables[s.table + p / size] * (size_t)kv_heads + h) * size + p % size) *
                            D + d;
                    c.keys[at] = random_kv(2);
                    c.values[at] = random_kv(1);
                }
    for (size_t i = 0; i < (size_t)c.tokens * c.shape.heads * D; i++)
        c.q.push_back(random_kv(2));
    return c;
}

static void compare(const char* what, const Case& c, const Vec<act>& out) {
    const int size = c.shape.block_size, group = c.shape.heads / c.shape.kv_heads;
    const double scale = 1 / sqrt((double)D);
    for (const Span& s : c.spans)
        for (int token = 0; token < s.tokens; token++)
            for (int head = 0; head < c.shape.heads; head++) {
                const int position = s.context + token;
                const u16* q = &c.q[((size_t)(s.first_token + token) * c.shape.heads + head) * D];
                double sum[D] = {}, weights = 0;
                for (int p = max(0, position - c.shape.window + 1); p <= position; p++) {
                    const size_t at = ((c.tables[s.table + p / size] * (size_t)c.shape.kv_heads +
                                        head / group) * size + p % size) * D;
                    double score = 0;
                    for (int d = 0; d < D; d++)
                        score += (double)from_kv(q[d]) * from_kv(c.keys[at + d]);
                    // Scores are small: no greatest one need be taken off.
                    const double weight = exp(score * scale);
                    weights += weight;
                    for (int d = 0; d < D; d++) sum[d] += weight * from_kv(c.values[at + d]);
                }
                for (int d = 0; d < D; d++) {
                    const act y =
                        out[((size_t)(s.first_token + token) * c.shape.heads + head) * D + d];
                    // Weights are rounded to 16 bits before they meet values of at most 1.
                    expect(what, from_act(y), sum[d] / weights,
                           KV_ROUNDING + ACT_ROUNDING + 1e-5);
                }
            }
}

static void check_prompts() {
    const Case c = random_case(false);
    const int group = c.shape.heads / c.shape.kv_heads;
    Vec<int2> tiles;
    for (int s = 0; s < (int)c.spans.size(); s++)
        for (int first = 0; first < c.spans[s].tokens * group; first += 16 * WARPS)
            tiles.push_back({s, first});
    Vec<act> out((size_t)c.tokens * c.shape.heads * D, (act)0x7fff);
    launch({(u32)tiles.size(), (u32)c.shape.kv_heads}, {WARPS * 32}, [&] {
        attend_prompts(c.q.data(), c.keys.data(), c.values.data(), c.tables.data(),
                       c.spans.data(), tiles.data(), out.data(), c.shape);
    });
    compare("attend_prompts", c, out);
}

static void check_decode() {
    const Case c = random_case(true);
    const int heads = c.shape.heads, group = heads / c.shape.kv_heads;
    const u32 splits = (u32)between(1, 5), spans = (u32)c.spans.size();
    Vec<act> out((size_t)c.tokens * heads * D, (act)0x7fff);
    Vec<float> sums((size_t)spans * heads * splits * D, NAN);
    Vec<float2> weights((size_t)spans * heads * splits, float2{NAN, NAN});
    launch({spans, (u32)(c.shape.kv_heads * ((group + 15) / 16)), splits}, {WARPS * 32}, [&] {
        attend_decode(c.q.data(), c.keys.data(), c.values.data(), c.tables.data(),
                      c.spans.data(), out.data(), sums.data(), weights.data(), c.shape);
    });
    if (splits > 1)
        launch({spans, (u32)heads}, {64}, [&] {
            join_splits(sums.data(), weights.data(), c.spans.data(), out.data(), heads,
                        (int)splits);
        });
    compare("attend_decode", c, out);
}

static Vec<act> random_acts(size_t n, float size) {
    Vec<act> x(n);
    for (act& value : x) value = to_act(uniform() * size);
    return x;
}

static Vec<float> random_floats(size_t n, float low, float high) {
    Vec<float> x(n);
    for (float& value : x) value = low + (high - low) * (uniform() + 1) / 2;
    return x;
}

static void check_prepare() {
    const int heads = between(1, 6), kv_heads = between(1, 2), tokens = between(1, 4);
    const int size = 16, blocks = 3, pairs = D / 2;
    const bool with_norm = between(0, 1);
    // One product's result, or three.
    const bool together = between(0, 1);
    const int q_width = heads * D, kv_width = kv_heads * D, row = q_width + 2 * kv_width;
    const int q_row = together ? row : q_width, kv_row = together ? row : kv_width;
    const Vec<act> all = random_acts((size_t)tokens * row, 3);
    const act* q = all.data();
    const act* k = q + (together ? q_width : tokens * q_width);
    const act* v = k + (together ? kv_width : tokens * kv_width);
    const Vec<float> q_norm = random_floats(D, 0.5, 1.5), k_norm = random_floats(D, 0.5, 1.5);
    Vec<u32> positions, slots;
    Vec<float> frequencies;
    for (int i = 0; i < tokens; i++) positions.push_back(draw() % 5000);
    for (int i = 0; i < tokens; i++) slots.push_back((u32)(i * 11 + 3));
    for (int i = 0; i < pairs; i++)
        frequencies.push_back((float)pow(10000.0, -2.0 * i / D));
    Vec<float> turns((size_t)tokens * 2 * pairs);
    launch({(u32)tokens}, {(u32)pairs},
           [&] { rotations(positions.data(), frequencies.data(), turns.data(), pairs); });
    Vec<u16> q_out((size_t)tokens * heads * D), keys((size_t)blocks * kv_heads * size * D),
        values(keys.size());
    const float eps = 1e-5f;
    launch({(u32)tokens, (u32)(heads + 2 * kv_heads + 3) / 4}, {32, 4}, [&] {
        prepare(q, k, v, with_norm ? q_norm.data() : nullptr,
                with_norm ? k_norm.data() : nullptr, turns.data(), slots.data(), q_out.data(),
                keys.data(), values.data(), q_row, kv_row, kv_row, heads, kv_heads, D, size, eps);
    });
    for (int token = 0; token < tokens; token++)
        for (int head = 0; head < heads + 2 * kv_heads; head++) {
            const bool is_query = head < heads, is_value = head >= heads + kv_heads;
            const int h = is_query ? head : is_value ? head - heads - kv_heads : head - heads;
            const act* from = is_query ? &q[(size_t)token * q_row + h * D]
                                       : &(is_value ? v : k)[(size_t)token * kv_row + h * D];
            const size_t at =
                ((slots[token] / size * (size_t)kv_heads + h) * size + slots[token] % size) * D;
            const u16* to = is_query ? &q_out[((size_t)token * heads + h) * D]
                                     : &(is_value ? values : keys)[at];
            double x[D], squares = 0;
            for (int d = 0; d < D; d++) squares += (double)from_act(from[d]) * from_act(from[d]);
            const float* weight = is_query ? q_norm.data() : k_norm.data();
            for (int d = 0; d < D; d++) {
                x[d] = from_act(from[d]);
                if (with_norm && !is_value) x[d] *= weight[d] / sqrt(squares / D + eps);
            }
            for (int d = 0; d < D; d++) {
                double should = x[d];
                if (!is_value) {
                    const double angle = positions[token] * frequencies[d % pairs];
                    const double c = cos(angle), s = sin(angle);
                    should = d < pairs ? x[d] * c - x[d + pairs] * s : x[d] * c + x[d - pairs] * s;
                }
                expect("prepare", from_kv(to[d]), should, (fabs(should) + 1e-2) * KV_ROUNDING);
            }
        }
}

static void check_add_norm() {
    const int rows = between(1, 3), width = between(1, 700);
    const bool with_delta = between(0, 1);
    const Vec<float> residual = random_floats((size_t)rows * width, -2, 2),
                     weight = random_floats((size_t)width, 0.5, 1.5);
    const Vec<act> delta = random_acts((size_t)rows * width, 2);
    Vec<float> sum(residual.size());
    Vec<act> normed(residual.size());
    launch({(u32)rows}, {128}, [&] {
        add_norm(residual.data(), with_delta ? delta.data() : nullptr, weight.data(), sum.data(),
                 normed.data(), width, 1e-6f);
    });
    for (int row = 0; row < rows; row++) {
        double squares = 0;
        auto total = [&](int i) {
            const size_t at = (size_t)row * width + i;
            return (double)residual[at] + (with_delta ? from_act(delta[at]) : 0);
        };
        for (int i = 0; i < width; i++) squares += total(i) * total(i);
        for (int i = 0; i < width; i++) {
            const size_t at = (size_t)row * width + i;
            expect("add_norm sum", sum[at], total(i), 1e-6);
            const double should = total(i) / sqrt(squares / width + 1e-6) * weight[i];
            expect("add_norm", from_act(normed[at]), should,
                   (fabs(should) + 1e-4) * (ACT_ROUNDING + 2e-6));
        }
    }
}

static void check_silu_mul() {
    const int rows = between(1, 3), width = between(1, 400), between_rows = between(0, 9);
    const int gate_row = width + between_rows, up_row = between(0, 1) ? gate_row : width;
    const Vec<act> gate = random_acts((size_t)rows * gate_row, 12),
                   up = random_acts((size_t)rows * up_row, 3);
    Vec<act> out((size_t)rows * width);
    launch({(u32)rows, (u32)(width + 63) / 64}, {64}, [&] {
        silu_mul(gate.data(), up.data(), out.data(), width, gate_row, up_row);
    });
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < width; i++) {
            const double x = from_act(gate[(size_t)row * gate_row + i]);
            const double should = x / (1 + exp(-x)) * from_act(up[(size_t)row * up_row + i]);
            expect("silu_mul", from_act(out[(size_t)row * width + i]), should,
                   (fabs(should) + 1e-4) * (ACT_ROUNDING + 1e-6));
        }
}

static void check_greatest() {
    const int rows = between(1, 4), vocab = between(1, 900);
    Vec<float> logits;
    // Few different values: ties are frequent.
    for (int i = 0; i < rows * vocab; i++) logits.push_back((float)between(-9, 9));
    if (between(0, 1)) logits[draw() % logits.size()] = between(0, 1) ? NAN : INFINITY;
    Vec<u32> out((size_t)rows * 2);
    launch({(u32)rows}, {128}, [&] { greatest(logits.data(), out.data(), vocab); });
    for (int row = 0; row < rows; row++) {
        u32 id = ~0u, bad = ~0u;
        for (int i = 0; i < vocab; i++) {
            const float x = logits[(size_t)row * vocab + i];
            if (!isfinite(x)) bad = min(bad, (u32)i);
            else if (id == ~0u || x > logits[(size_t)row * vocab + id]) id = (u32)i;
        }
        expect("greatest id", out[2 * row], id, 0);
        expect("greatest, not finite", out[2 * row + 1], bad, 0);
    }
}

static void check_draw_tokens() {
    const int rows = between(1, 4), vocab = between(0, 3) ? between(1, 3000) : between(1, 40);
    const float spread = between(0, 1) ? 3.0f : 60.0f;  // in the second case many weights are 0
    Vec<float> logits;
    for (int i = 0; i < rows * vocab; i++) logits.push_back(uniform() * spread);
    if (!between(0, 3)) logits[draw() % logits.size()] = NAN;
    Vec<double> draws;
    for (int row = 0; row < rows; row++) {
        const double ends[] = {0, 1 - 1.0 / (1ull << 53)};
        draws.push_back(between(0, 3) ? draw() / 4294967296.0 : ends[between(0, 1)]);
        draws.push_back(between(0, 3) ? 1.0f / (float)between(1, 4) : 0.0f);
    }
    Vec<u32> greatest_of((size_t)rows * 2), out;
    launch({(u32)rows}, {128}, [&] { greatest(logits.data(), greatest_of.data(), vocab); });
    out = greatest_of;
    const u32 threads = 32 * (u32)between(1, 8);
    launch({(u32)rows}, {threads},
           [&] { draw_tokens(logits.data(), draws.data(), out.data(), vocab); });
    for (int row = 0; row < rows; row++) {
        const float* l = &logits[(size_t)row * vocab];
        const double u = draws[2 * row], inverse = draws[2 * row + 1];
        const u32 id = out[2 * row], best = greatest_of[2 * row], bad = greatest_of[2 * row + 1];
        expect("draw_tokens, not finite", out[2 * row + 1], bad, 0);
        if (bad != ~0u) continue;
        if (inverse == 0) {
            expect("draw_tokens, greatest", id, best, 0);
            continue;
        }
        double total = 0, before = 0;
        for (int i = 0; i < vocab; i++) {
            const double weight = exp((l[i] - (double)l[best]) * inverse);
            if (i < (int)id) before += weight;
            total += weight;
        }
        const double weight = exp((l[id] - (double)l[best]) * inverse);
        // Weights are exact to 2e-7; what has less than e^-87 of the greatest cannot be drawn.
        const double tolerance = 4e-7 * total;
        if (!(id < (u32)vocab) || !(before - tolerance <= u * total) ||
            !(u * total <= before + weight + tolerance) || weight < exp(-87.01)) {
            printf("draw_tokens: %u of %d, %.17g of %.17g lies not in %.17g + %.17g\n", id, vocab,
                   u * total, total, before, weight);
            exit(1);
        }
    }
}

static void check_random_weights() {
    const size_t n = 50000;
    Vec<act> out(n), again(n);
    launch({3}, {128}, [&] { random_weights(out.data(), n, 7, 2); });
    launch({5}, {64}, [&] { random_weights(again.data(), n, 7, 2); });
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        const double x = from_act(out[i]);
        expect("random_weights, other grid", from_act(again[i]), x, 0);
        expect("random_weights limit", x, 0, 2 + 1e-6);
        sum += x;
        squares += x * x;
    }
    expect("random_weights mean", sum / n, 0, 0.03);
    expect("random_weights deviation", sqrt(squares / n), 2 / sqrt(3.0), 0.02);
}

static void check_numbers() {
    for (u32 bits = 0; bits < 65536; bits++) {
        const float x = f16_to_f32((u16)bits), y = bf16_to_f32((u16)bits);
        // Every value comes back, and NaN stays NaN.
        if (x == x ? f32_to_f16(x) != bits : !(f16_to_f32(f32_to_f16(x)) != x))
            expect("f16", f32_to_f16(x), bits, 0);
        if (y == y ? f32_to_bf16(y) != bits : bf16_to_f32(f32_to_bf16(y)) == y)
            expect("bf16", f32_to_bf16(y), bits, 0);
    }
}

// Bits of x and of e^x, for who has to have the same.
static void tell_exp() {
    for (int i = 0; i < 2000; i++) {
        const float x = i < 1000 ? -i * 0.09f : -(float)draw() / 4294967296.0f;
        printf("%u %u\n", __float_as_uint(x), __float_as_uint(exp_as_host(x)));
    }
}

int main(int argc, char** argv) {
    if (argc > 1 && !strcmp(argv[1], "exp")) return tell_exp(), 0;
    const int rounds = argc > 1 ? atoi(argv[1]) : 10;
    check_numbers();
    struct { const char* name; void (*run)(); int factor; } const all[] = {
        {"attend_prompts", check_prompts, 1}, {"attend_decode", check_decode, 1},
        {"prepare, rotations", check_prepare, 2}, {"add_norm", check_add_norm, 2},
        {"silu_mul", check_silu_mul, 1}, {"greatest", check_greatest, 3},
        {"draw_tokens", check_draw_tokens, 10},
    };
    for (const auto& check : all) {
        for (int i = 0; i < rounds * check.factor; i++) check.run();
        printf("%s: %d random cases agree\n", check.name, rounds * check.factor);
    }
    check_random_weights();
    printf("random_weights: spread and repeatable\n");
}
