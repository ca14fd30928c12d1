// A matrix product in register tiles, for kernels that look at every tile and throw it away.
//
// Rows are packed MR at a time, columns NR = NV vectors at a time, both with the channels outermost,
// so that the inner loop reads memory in order. Sums run over the channels one by one: a product
// has the same bits wherever its row and its column lie.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "simd.h"

#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int MR = 14, NV = 2;  // 28 of 32 registers accumulate
#elif defined(__AVX__)
#include <immintrin.h>
constexpr int MR = 6, NV = 2;  // 12 of 16
#else
constexpr int MR = 12, NV = 2;  // 24 of 32 (NEON)
#endif
constexpr int NR = NV * VL;

static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Tile {
    vf acc[MR][NV];
};

// acc[r][v] = sum over c of rows[c][r] * columns[c][v]
static inline __attribute__((always_inline)) void multiply(Tile& tile, const float* rows,
                                                           const float* columns, int64_t channels) {
    vf acc[MR][NV] = {};
    for (int64_t c = 0; c < channels; ++c) {
        vf b[NV];
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) b[v] = load(columns + c * NR + v * VL);
#pragma GCC unroll 14
        for (int r = 0; r < MR; ++r) {
            const float a = rows[c * MR + r];
#pragma GCC unroll 2
            for (int v = 0; v < NV; ++v) acc[r][v] += a * b[v];
        }
    }
#pragma GCC unroll 14
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) tile.acc[r][v] = acc[r][v];
}

// One bit a lane of a comparison.
static inline uint32_t lanes(vi mask) {
#if defined(__AVX512DQ__)
    return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#elif defined(__AVX__)
    return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask));
#else
    uint32_t bits = 0;
    for (int lane = 0; lane < VL; ++lane) bits |= static_cast<uint32_t>(mask[lane] & 1) << lane;
    return bits;
#endif
}

static inline vi load_whole(const int32_t* p) {
    vi x;
    std::memcpy(&x, p, sizeof x);
    return x;
}

static inline void store_whole(int32_t* p, vi x) { std::memcpy(p, &x, sizeof x); }

static inline vi splat_whole(int32_t x) { return x - (vi){}; }

// Every lane from the one before it; the first one is given.
template <class V, class S>
static inline V shift(V x, S first) {
#if defined(__AVX512F__)
    const vi from = {0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
#elif defined(__AVX__)
    const vi from = {0, 0, 1, 2, 3, 4, 5, 6};
#else
    const vi from = {0, 0, 1, 2};
#endif
#if defined(__clang__)
    V moved = x;
    for (int lane = 1; lane < VL; ++lane) moved[lane] = x[from[lane]];
#else
    V moved = __builtin_shuffle(x, from);
#endif
    moved[0] = first;
    return moved;
}

static inline float squared_distance(const float* a, const float* b, int64_t channels) {
    vf sum = {};
    int64_t c = 0;
    for (; c + VL <= channels; c += VL) {
        const vf d = load(a + c) - load(b + c);
        sum += d * d;
    }
    if (c < channels) {
        const vf d = load_part(a + c, channels - c) - load_part(b + c, channels - c);
        sum += d * d;
    }
    float part[VL];
    store(part, sum);
    for (int half = VL / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; ++lane) part[lane] += part[lane + half];
    return part[0];
}

// Wait until another thread has counted up to a turn; it is at work on an earlier task.
static inline void wait_for(const std::atomic<int32_t>& count, int32_t turn) {
    for (int spins = 0; count.load(std::memory_order_acquire) < turn; ++spins)
        if (spins > 1000) std::this_thread::yield();
}

// MR rows at a time: panel p holds rows p*MR ... with channels outermost, absent rows zero.
class RowPanels {
  public:
    template <class Row>
    RowPanels(std::vector<float>& memory, int64_t count, int64_t channels, Row&& row,
              const float* origin)
        : channels_(channels) {
        const int64_t panels = (count + MR - 1) / MR;
        if (memory.size() < static_cast<size_t>(panels * MR * channels))
            memory.resize(panels * MR * channels);
        data_ = memory.data();
        for (int64_t i = 0; i < panels * MR; ++i) {
            float* out = memory.data() + i / MR * MR * channels + i % MR;
            const float* in = i < count ? row(i) : nullptr;
            for (int64_t c = 0; c < channels; ++c) out[c * MR] = in ? in[c] - origin[c] : 0.0f;
        }
    }

    const float* panel(int64_t p) const { return data_ + p * MR * channels_; }

  private:
    const float* data_;
    int64_t channels_;
};

// NR columns at a time, likewise; aligned, so that no load crosses a cache line.
class ColumnPanels {
  public:
    ColumnPanels(int64_t count, int64_t channels)
        : count_(count), channels_(channels),
          data_(static_cast<float*>(
                    std::aligned_alloc(64, round_up(panels() * NR * channels * 4, 64))),
                &std::free) {
        if (!data_) throw std::bad_alloc();
    }

    int64_t count() const { return count_; }
    int64_t panels() const { return (count_ + NR - 1) / NR; }
    const float* panel(int64_t p) const { return data_.get() + p * NR * channels_; }

    template <class Row>
    void pack(int64_t p, Row&& row, const float* origin) {
        float* out = data_.get() + p * NR * channels_;
        for (int64_t r = 0; r < NR; ++r) {
            const float* in = p * NR + r < count_ ? row(p * NR + r) : nullptr;
            for (int64_t c = 0; c < channels_; ++c)
                out[c * NR + r] = in ? in[c] - origin[c] : 0.0f;
        }
    }

  private:
    int64_t count_, channels_;
    std::unique_ptr<float, decltype(&std::free)> data_;
};
