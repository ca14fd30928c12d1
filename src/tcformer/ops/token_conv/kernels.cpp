// Depthwise 3x3 convolution of tokens, fused: onto the map, convolve, back, skip, GELU.
//
// Channels do not mix, so a task takes one image (or some rows of a large grid) and one slab of
// V vectors of channels, and everything between reading x and writing the result stays in the
// second-level cache. What a task computes depends neither on the other tasks nor on V.
#include "simd.h"

#include <vector>

namespace {

constexpr int64_t CACHE = 256 * 1024;  // bytes a map may take: it, its copy and x in 1 MiB of L2

struct Rows {  // a GatherSum: row r sums weight[e] * x[column[e]], start[r] <= e < start[r+1]
    const int32_t* start;
    const int32_t* column;
    const float* weight;
};

struct Plan {  // all null where token n is pixel n
    Rows to_map, to_map_back, to_tokens, to_tokens_back;
};

struct Sizes {
    int64_t images, tokens, channels, height, width;
    bool gelu;
    int64_t first;  // which image of the plan's batch is the first one of x
};

template <class T>
struct Layer {
    const T* x;           // (images, tokens, channels)
    const float* weight;  // (channels, 9)
    const float* bias;    // (channels)
    const float* skip;    // (channels) or null
    Sizes size;
    Plan plan;
};

float* scratch(int slot, int64_t items) {
    thread_local std::vector<float> memory[4];
    auto& floats = memory[slot];
    if (static_cast<int64_t>(floats.size()) < items + 16) floats.resize(items + 16);
    const auto address = reinterpret_cast<uintptr_t>(floats.data());
    return reinterpret_cast<float*>((address + 63) & ~static_cast<uintptr_t>(63));
}

// A slab: V vectors of channels from `channel` on; the last ones may be partly or wholly beyond.
template <int V>
struct Slab {
    static constexpr int64_t S = V * VL;
    int64_t channel;
    int part[V];  // channels of each vector that exist
    bool full;

    Slab(int64_t number, int64_t channels) : channel(number * S), full(true) {
        for (int v = 0; v < V; ++v) {
            const int64_t left = channels - channel - v * VL;
            part[v] = static_cast<int>(left < 0 ? 0 : left < VL ? left : VL);
            full &= part[v] == VL;
        }
    }
    template <class T>
    vf get(const T* p, int v) const {
        if (full) return load(p + v * VL);
        return part[v] ? load_part(p + v * VL, part[v]) : vf{};
    }
    template <class T>
    void put(T* p, int v, vf value) const {
        if (full)
            store(p + v * VL, value);
        else if (part[v])
            store_part(p + v * VL, value, part[v]);
    }
    void of_channels(const float* values, float* out) const {
        for (int v = 0; v < V; ++v) store(out + v * VL, values ? get(values + channel, v) : vf{});
    }
    void taps_of(const float* weight, float* out) const {  // (channels, 9) -> (9, S)
        for (int k = 0; k < 9; ++k)
            for (int v = 0; v < V; ++v)
                for (int i = 0; i < VL; ++i)
                    out[k * S + v * VL + i] =
                        i < part[v] ? weight[(channel + v * VL + i) * 9 + k] : 0.0f;
    }
};

// Columns count from `first`, which is where x begins.
template <int V, class T>
void gather(const Slab<V>& slab, const Rows& rows, int64_t row, const T* x, int64_t stride,
            int64_t first, vf (&sum)[V]) {
    for (int v = 0; v < V; ++v) sum[v] = vf{};
    for (int32_t e = rows.start[row]; e < rows.start[row + 1]; ++e) {
        const T* from = x + (rows.column[e] - first) * stride;
        for (int v = 0; v < V; ++v) sum[v] += rows.weight[e] * slab.get(from, v);
    }
}

// The same from scratch memory, where every channel exists.
template <int V>
void gather_near(const Rows& rows, int64_t row, const float* x, int64_t first, vf (&sum)[V]) {
    for (int v = 0; v < V; ++v) sum[v] = vf{};
    for (int32_t e = rows.start[row]; e < rows.start[row + 1]; ++e) {
        const float* from = x + (rows.column[e] - first) * (V * VL);
        for (int v = 0; v < V; ++v) sum[v] += rows.weight[e] * load(from + v * VL);
    }
}

// Add what was summed so far and begin anew: long sums by parts, so that rounding stays small.
template <int V>
void add(float* sums, vf (&part)[V]) {
    for (int v = 0; v < V; ++v) {
        store(sums + v * VL, load(sums + v * VL) + part[v]);
        part[v] = vf{};
    }
}

// Zero the frame of a padded map (rows + 2, width + 2).
template <int V>
void clear_frame(float* map, int64_t rows, int64_t width) {
    const int64_t line = (width + 2) * V * VL;
    std::memset(map, 0, line * sizeof(float));
    std::memset(map + (rows + 1) * line, 0, line * sizeof(float));
    for (int64_t y = 1; y <= rows; ++y) {
        std::memset(map + y * line, 0, V * VL * sizeof(float));
        std::memset(map + (y + 1) * line - V * VL, 0, V * VL * sizeof(float));
    }
}

// Convolve `rows` rows of a padded map; `map` is the line above the first one. Row y is written
// to out + y * step, then done(y) is called: with step 0 it uses the row before the next one comes.
// What is costly per pixel belongs there, not here, where it would crowd the taps out of registers.
template <int V, class Done>
void convolve(const float* map, int64_t rows, int64_t width, const float* taps, const float* bias,
              float* out, int64_t step, Done&& done) {
    constexpr int64_t S = V * VL;
    const int64_t line = (width + 2) * S;
    for (int64_t y = 0; y < rows; ++y) {
        for (int v = 0; v < V; ++v) {
            vf w[9];
            for (int k = 0; k < 9; ++k) w[k] = load(taps + k * S + v * VL);
            const vf start = bias ? load(bias + v * VL) : vf{};
            const float *up = map + y * line + v * VL, *here = up + line, *down = here + line;
            vf a0 = load(up), b0 = load(here), c0 = load(down);
            vf a1 = load(up + S), b1 = load(here + S), c1 = load(down + S);
            for (int64_t x = 0; x < width; ++x) {
                const int64_t next = (x + 2) * S;
                const vf a2 = load(up + next), b2 = load(here + next), c2 = load(down + next);
                vf sum = start + w[0] * a0;
                sum += w[1] * a1;
                sum += w[2] * a2;
                sum += w[3] * b0;
                sum += w[4] * b1;
                sum += w[5] * b2;
                sum += w[6] * c0;
                sum += w[7] * c1;
                sum += w[8] * c2;
                store(out + y * step + x * S + v * VL, sum);
                a0 = a1, b0 = b1, c0 = c1;
                a1 = a2, b1 = b2, c1 = c2;
            }
        }
        done(y);
    }
}

// Finish a row of the convolution on the grid: skip, GELU, and out to the result.
template <int V, class T>
void finish(const Slab<V>& slab, const float* sums, const float* skip, const float* x,
            int64_t width, bool activate, T* out, int64_t channels) {
    for (int64_t c = 0; c < width; ++c)
        for (int v = 0; v < V; ++v) {
            const int64_t at = (c * V + v) * VL;
            vf z = load(sums + at);
            if (skip) z += load(skip + v * VL) * load(x + at);
            slab.put(out + c * channels, v, activate ? gelu(z) : z);
        }
}

// sums (10, S) += grad * map shifted by each tap, and grad itself; both padded, `rows` rows from
// the second line on. Row by row, so that rounding errors of long sums stay small.
template <int V>
void correlate(const float* grad, const float* map, int64_t rows, int64_t width, float* sums) {
    constexpr int64_t S = V * VL;
    const int64_t line = (width + 2) * S;
    for (int64_t y = 0; y < rows; ++y)
        for (int v = 0; v < V; ++v) {
            const float *up = map + y * line + v * VL, *here = up + line, *down = here + line;
            const float* g = grad + (y + 1) * line + S + v * VL;
            vf sum[10] = {};
            vf a0 = load(up), b0 = load(here), c0 = load(down);
            vf a1 = load(up + S), b1 = load(here + S), c1 = load(down + S);
            for (int64_t x = 0; x < width; ++x) {
                const int64_t next = (x + 2) * S;
                const vf a2 = load(up + next), b2 = load(here + next), c2 = load(down + next);
                const vf d = load(g + x * S);
                sum[0] += d * a0;
                sum[1] += d * a1;
                sum[2] += d * a2;
                sum[3] += d * b0;
                sum[4] += d * b1;
                sum[5] += d * b2;
                sum[6] += d * c0;
                sum[7] += d * c1;
                sum[8] += d * c2;
                sum[9] += d;
                a0 = a1, b0 = b1, c0 = c1;
                a1 = a2, b1 = b2, c1 = c2;
            }
            for (int k = 0; k < 10; ++k) {
                float* to = sums + k * S + v * VL;
                store(to, load(to) + sum[k]);
            }
        }
}

// ---- tokens ---------------------------------------------------------------------------------

template <int V, class T>
void lay_out(const Layer<T>& layer, const Slab<V>& slab, int64_t image, float* map) {
    const Sizes& size = layer.size;
    const int64_t height = size.height, width = size.width;
    const int64_t pixel = (size.first + image) * height * width;
    clear_frame<V>(map, height, width);
    for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x) {
            vf sum[V];
            gather<V>(slab, layer.plan.to_map, pixel + y * width + x, layer.x + slab.channel,
                      size.channels, size.first * size.tokens, sum);
            float* to = map + ((y + 1) * (width + 2) + x + 1) * slab.S;
            for (int v = 0; v < V; ++v) store(to + v * VL, sum[v]);
        }
}

template <int V, class T>
void tokens_forward(const Layer<T>& layer, T* out, int64_t image, int64_t number) {
    const Sizes& size = layer.size;
    const Slab<V> slab(number, size.channels);
    constexpr int64_t S = V * VL;
    const int64_t height = size.height, width = size.width, pixels = height * width;
    float taps[9 * S], bias[S], skip[S];
    slab.taps_of(layer.weight, taps);
    slab.of_channels(layer.bias, bias);
    slab.of_channels(layer.skip, skip);
    float* map = scratch(0, (height + 2) * (width + 2) * S);
    float* mixed = scratch(1, pixels * S);
    lay_out<V>(layer, slab, image, map);
    convolve<V>(map, height, width, taps, bias, mixed, width * S, [](int64_t) {});
    const int64_t planned = size.first + image;  // this image in the plan
    // Some tokens at a time: gathering and GELU apart keep each in its own registers.
    constexpr int64_t SOME = 32;
    float sums[SOME * S], own[SOME * S];
    for (int64_t first = 0; first < size.tokens; first += SOME) {
        const int64_t count = size.tokens - first < SOME ? size.tokens - first : SOME;
        const int64_t at = (image * size.tokens + first) * size.channels + slab.channel;
        for (int64_t n = 0; n < count; ++n) {
            vf sum[V];
            gather_near<V>(layer.plan.to_tokens, planned * size.tokens + first + n, mixed,
                           planned * pixels, sum);
            for (int v = 0; v < V; ++v) {
                store(sums + n * S + v * VL, sum[v]);
                store(own + n * S + v * VL, slab.get(layer.x + at + n * size.channels, v));
            }
        }
        finish<V>(slab, sums, skip, own, count, size.gelu, out + at, size.channels);
    }
}

template <int V, class T>
void tokens_backward(const Layer<T>& layer, const T* grad, T* grad_x, float* sums, int64_t image,
                     int64_t number) {
    const Sizes& size = layer.size;
    const Slab<V> slab(number, size.channels);
    constexpr int64_t S = V * VL;
    const int64_t height = size.height, width = size.width, pixels = height * width;
    const int64_t tokens = size.tokens;
    float taps[9 * S], turned[9 * S], bias[S], skip[S];
    slab.taps_of(layer.weight, taps);
    for (int k = 0; k < 9; ++k) std::memcpy(turned + k * S, taps + (8 - k) * S, S * sizeof(float));
    slab.of_channels(layer.bias, bias);
    slab.of_channels(layer.skip, skip);
    float* map = scratch(0, (height + 2) * (width + 2) * S);
    float* mixed = scratch(1, pixels * S);
    float* grad_z = scratch(2, tokens * S);
    float* grad_mixed = scratch(3, (height + 2) * (width + 2) * S);

    lay_out<V>(layer, slab, image, map);
    if (size.gelu)
        convolve<V>(map, height, width, taps, bias, mixed, width * S, [](int64_t) {});
    vf by_skip[V] = {};
    for (int64_t n = 0; n < tokens; ++n) {
        vf z[V];
        if (size.gelu) gather_near<V>(layer.plan.to_tokens, image * tokens + n, mixed,
                                      image * pixels, z);
        const int64_t at = (image * tokens + n) * size.channels + slab.channel;
        for (int v = 0; v < V; ++v) {
            const vf x = slab.get(layer.x + at, v);
            vf d = slab.get(grad + at, v);
            if (size.gelu) d *= gelu_slope(z[v] + load(skip + v * VL) * x);
            store(grad_z + n * S + v * VL, d);
            by_skip[v] += d * x;
        }
        if (n % 32 == 31 || n + 1 == tokens) add<V>(sums + 10 * S, by_skip);
    }
    clear_frame<V>(grad_mixed, height, width);
    for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x) {
            vf sum[V];
            gather_near<V>(layer.plan.to_tokens_back, image * pixels + y * width + x, grad_z,
                           image * tokens, sum);
            float* to = grad_mixed + ((y + 1) * (width + 2) + x + 1) * S;
            for (int v = 0; v < V; ++v) store(to + v * VL, sum[v]);
        }
    correlate<V>(grad_mixed, map, height, width, sums);
    float* grad_map = mixed;
    convolve<V>(grad_mixed, height, width, turned, nullptr, grad_map, width * S, [](int64_t) {});
    for (int64_t n = 0; n < tokens; ++n) {
        vf sum[V];
        gather_near<V>(layer.plan.to_map_back, image * tokens + n, grad_map, image * pixels, sum);
        const int64_t at = (image * tokens + n) * size.channels + slab.channel;
        for (int v = 0; v < V; ++v)
            slab.put(grad_x + at, v,
                     sum[v] + load(skip + v * VL) * load(grad_z + n * S + v * VL));
    }
}

// ---- the grid, where token n is pixel n -------------------------------------------------------

// Copy the rows from..to-1 of an image into a padded buffer whose first line is row `from`; what
// lies outside the image is zero.
template <int V, class T>
void copy_rows(const T* x, const Slab<V>& slab, const Sizes& size, int64_t image, int64_t from,
               int64_t to, float* buffer) {
    constexpr int64_t S = V * VL;
    const int64_t line = (size.width + 2) * S;
    for (int64_t y = from; y < to; ++y) {
        float* row = buffer + (y - from) * line;
        if (y < 0 || y >= size.height) {
            std::memset(row, 0, line * sizeof(float));
            continue;
        }
        std::memset(row, 0, S * sizeof(float));
        std::memset(row + line - S, 0, S * sizeof(float));
        const T* source =
            x + ((image * size.height + y) * size.width) * size.channels + slab.channel;
        for (int64_t c = 0; c < size.width; ++c)
            for (int v = 0; v < V; ++v)
                store(row + (c + 1) * S + v * VL, slab.get(source + c * size.channels, v));
    }
}

template <int V, class T>
void grid_forward(const Layer<T>& layer, T* out, int64_t image, int64_t top, int64_t bottom,
                  int64_t number) {
    const Sizes& size = layer.size;
    const Slab<V> slab(number, size.channels);
    constexpr int64_t S = V * VL;
    const int64_t width = size.width, line = (width + 2) * S;
    float taps[9 * S], bias[S], skip[S];
    slab.taps_of(layer.weight, taps);
    slab.of_channels(layer.bias, bias);
    slab.of_channels(layer.skip, skip);
    float* map = scratch(0, (bottom - top + 2) * line);
    copy_rows<V>(layer.x, slab, size, image, top - 1, bottom + 1, map);
    T* to = out + ((image * size.height + top) * width) * size.channels + slab.channel;
    float* sums = scratch(1, width * S);
    convolve<V>(map, bottom - top, width, taps, bias, sums, 0, [&](int64_t y) {
        finish<V>(slab, sums, layer.skip ? skip : nullptr, map + (y + 1) * line + S, width,
                  size.gelu, to + y * width * size.channels, size.channels);
    });
}

// The same for a whole image, the result taking the place of x: of every band the lines that the
// next one needs are kept before they are written over.
template <int V, class T>
void grid_in_place(const Layer<T>& layer, T* x, int64_t image, int64_t step, int64_t number) {
    const Sizes& size = layer.size;
    const Slab<V> slab(number, size.channels);
    constexpr int64_t S = V * VL;
    const int64_t width = size.width, line = (width + 2) * S;
    float taps[9 * S], bias[S], skip[S];
    slab.taps_of(layer.weight, taps);
    slab.of_channels(layer.bias, bias);
    slab.of_channels(layer.skip, skip);
    float* map = scratch(0, (step + 2) * line);
    float* sums = scratch(1, width * S);
    copy_rows<V>(layer.x, slab, size, image, -1, 1, map);
    for (int64_t top = 0; top < size.height; top += step) {
        const int64_t rows = top + step < size.height ? step : size.height - top;
        copy_rows<V>(layer.x, slab, size, image, top + 1, top + rows + 1, map + 2 * line);
        T* to = x + ((image * size.height + top) * width) * size.channels + slab.channel;
        convolve<V>(map, rows, width, taps, bias, sums, 0, [&](int64_t y) {
            finish<V>(slab, sums, layer.skip ? skip : nullptr, map + (y + 1) * line + S, width,
                      size.gelu, to + y * width * size.channels, size.channels);
        });
        std::memmove(map, map + rows * line, 2 * line * sizeof(float));
    }
}

template <int V, class T>
void grid_backward(const Layer<T>& layer, const T* grad, T* grad_x, float* sums, int64_t image,
                   int64_t top, int64_t bottom, int64_t number) {
    const Sizes& size = layer.size;
    const Slab<V> slab(number, size.channels);
    constexpr int64_t S = V * VL;
    const int64_t width = size.width, line = (width + 2) * S, rows = bottom - top;
    float taps[9 * S], turned[9 * S], bias[S], skip[S];
    slab.taps_of(layer.weight, taps);
    for (int k = 0; k < 9; ++k) std::memcpy(turned + k * S, taps + (8 - k) * S, S * sizeof(float));
    slab.of_channels(layer.bias, bias);
    slab.of_channels(layer.skip, skip);
    float* map = scratch(0, (rows + 4) * line);     // first line: row top - 2
    float* grad_z = scratch(1, (rows + 2) * line);  // first line: row top - 1
    copy_rows<V>(layer.x, slab, size, image, top - 2, bottom + 2, map);
    copy_rows<V>(grad, slab, size, image, top - 1, bottom + 1, grad_z);
    float* row = scratch(2, width * S);
    if (size.gelu)
        // Rows outside the image have a gradient of zero whatever the slope is.
        convolve<V>(map, rows + 2, width, taps, bias, row, 0, [&](int64_t y) {
            for (int64_t at = 0; at < width * S; at += VL) {
                vf z = load(row + at);
                if (layer.skip) z += load(skip + at % S) * load(map + (y + 1) * line + S + at);
                float* d = grad_z + y * line + S + at;
                store(d, load(d) * gelu_slope(z));
            }
        });
    correlate<V>(grad_z, map + line, rows, width, sums);
    T* to = grad_x + ((image * size.height + top) * width) * size.channels + slab.channel;
    convolve<V>(grad_z, rows, width, turned, nullptr, row, 0, [&](int64_t y) {
        finish<V>(slab, row, layer.skip ? skip : nullptr, grad_z + (y + 1) * line + S, width, false,
                  to + y * width * size.channels, size.channels);
    });
    for (int64_t y = 0; layer.skip && y < rows; ++y) {
        vf by_skip[V] = {};
        for (int64_t x = 1; x <= width; ++x)
            for (int v = 0; v < V; ++v)
                by_skip[v] += load(grad_z + (y + 1) * line + x * S + v * VL) *
                              load(map + (y + 2) * line + x * S + v * VL);
        add<V>(sums + 10 * S, by_skip);
    }
}

// ---- partition --------------------------------------------------------------------------------

// How many rows of a grid one task takes; all where the map is small or tokens are spread over it.
template <class T>
int64_t band(const Layer<T>& layer, int vectors) {
    const Sizes& size = layer.size;
    if (layer.plan.to_map.start) return size.height;
    const int64_t fit = CACHE / ((size.width + 2) * vectors * VL * int64_t(sizeof(float)));
    return fit < 8 ? (size.height < 8 ? size.height : 8) : fit < size.height ? fit : size.height;
}

template <class T>
int width_of_slab(const Layer<T>& layer) {
    const Sizes& size = layer.size;
    const int64_t rows = layer.plan.to_map.start ? size.height + 2 : 16;
    const int64_t bytes = rows * (size.width + 2) * VL * int64_t(sizeof(float));
    return 4 * bytes <= CACHE ? 4 : 2 * bytes <= CACHE ? 2 : 1;
}

template <int V, class T>
void run_forward(const Layer<T>& layer, T* out, int64_t threads) {
    const Sizes& size = layer.size;
    const int64_t step = band(layer, V), bands = (size.height + step - 1) / step;
    const int64_t slabs = (size.channels + V * VL - 1) / (V * VL);
    parallel_for(size.images * bands * slabs, threads, [&](int64_t task) {
        const int64_t slab = task % slabs, top = task / slabs % bands * step;
        const int64_t image = task / slabs / bands;
        const int64_t bottom = top + step < size.height ? top + step : size.height;
        if (layer.plan.to_map.start)
            tokens_forward<V>(layer, out, image, slab);
        else
            grid_forward<V>(layer, out, image, top, bottom, slab);
    });
}

template <int V, class T>
void run_in_place(const Layer<T>& layer, T* x, int64_t threads) {
    const Sizes& size = layer.size;
    const int64_t step = band(layer, V), slabs = (size.channels + V * VL - 1) / (V * VL);
    parallel_for(size.images * slabs, threads, [&](int64_t task) {
        grid_in_place<V>(layer, x, task / slabs, step, task % slabs);
    });
}

template <int V, class T>
void run_backward(const Layer<T>& layer, const T* grad, T* grad_x, float* grad_weight,
                  float* grad_bias, float* grad_skip, int64_t threads) {
    const Sizes& size = layer.size;
    constexpr int64_t S = V * VL;
    const int64_t step = band(layer, V), bands = (size.height + step - 1) / step;
    const int64_t slabs = (size.channels + S - 1) / S, parts = size.images * bands;
    // The sums of every part apart, added in a fixed order: the same bits for any threads.
    std::vector<float> sums(parts * slabs * 11 * S, 0.0f);
    parallel_for(parts * slabs, threads, [&](int64_t task) {
        const int64_t slab = task % slabs, top = task / slabs % bands * step;
        const int64_t image = task / slabs / bands;
        const int64_t bottom = top + step < size.height ? top + step : size.height;
        float* own = sums.data() + task * 11 * S;
        if (layer.plan.to_map.start)
            tokens_backward<V>(layer, grad, grad_x, own, image, slab);
        else
            grid_backward<V>(layer, grad, grad_x, own, image, top, bottom, slab);
    });
    parallel_for(slabs, threads, [&](int64_t slab) {
        for (int64_t k = 0; k < 11; ++k)
            for (int64_t i = 0; i < S && slab * S + i < size.channels; ++i) {
                double sum = 0.0;
                for (int64_t part = 0; part < parts; ++part)
                    sum += sums[((part * slabs + slab) * 11 + k) * S + i];
                const int64_t channel = slab * S + i;
                const auto total = static_cast<float>(sum);
                if (k < 9) grad_weight[channel * 9 + k] = total;
                if (k == 9) grad_bias[channel] = total;
                if (k == 10 && grad_skip) grad_skip[channel] = total;
            }
    });
}

template <class T>
Layer<T> layer_of(const T* x, const float* weight, const float* bias, const float* skip,
                  const void* const* plan, int64_t images, int64_t tokens, int64_t channels,
                  int64_t height, int64_t width, int64_t gelu, int64_t first) {
    Layer<T> layer = {x, weight, bias, skip,
                      {images, tokens, channels, height, width, gelu != 0, first}, {}};
    // In turns rows that are pixels and rows that are tokens.
    Rows* rows[4] = {&layer.plan.to_map, &layer.plan.to_map_back, &layer.plan.to_tokens_back,
                     &layer.plan.to_tokens};
    for (int i = 0; i < 4 && plan; ++i)
        *rows[i] = {static_cast<const int32_t*>(plan[i % 2 ? 2 : 0]),
                    static_cast<const int32_t*>(plan[i % 2 ? 3 : 1]),
                    static_cast<const float*>(plan[4 + i])};
    return layer;
}

template <class T>
void forward(const Layer<T>& layer, T* out, int64_t threads) {
    // Slabs of 2 where a task is a whole image: more tasks of less each.
    if (out == layer.x && !layer.plan.to_map.start) return run_in_place<2>(layer, out, threads);
    const int vectors = width_of_slab(layer);
    if (vectors == 4) return run_forward<4>(layer, out, threads);
    if (vectors == 2) return run_forward<2>(layer, out, threads);
    run_forward<1>(layer, out, threads);
}

template <class T>
void backward(const Layer<T>& layer, const T* grad, T* grad_x, float* grad_weight,
              float* grad_bias, float* grad_skip, int64_t threads) {
    if (width_of_slab(layer) >= 2)
        return run_backward<2>(layer, grad, grad_x, grad_weight, grad_bias, grad_skip, threads);
    run_backward<1>(layer, grad, grad_x, grad_weight, grad_bias, grad_skip, threads);
}

}  // namespace

#define TCF_TOKEN_CONV(SUFFIX, T)                                                                 \
    void tcf_token_conv_##SUFFIX(const T* x, const float* weight, const float* bias,              \
                                 const float* skip, const void* const* plan, T* out,              \
                                 int64_t images, int64_t tokens, int64_t channels,                \
                                 int64_t height, int64_t width, int64_t gelu, int64_t first,      \
                                 int64_t threads) {                                               \
        forward(layer_of(x, weight, bias, skip, plan, images, tokens, channels, height, width,    \
                         gelu, first),                                                            \
                out, threads);                                                                    \
    }                                                                                             \
    void tcf_token_conv_back_##SUFFIX(                                                            \
        const T* x, const float* weight, const float* bias, const float* skip,                    \
        const void* const* plan, const T* grad, T* grad_x, float* grad_weight, float* grad_bias,  \
        float* grad_skip, int64_t images, int64_t tokens, int64_t channels, int64_t height,       \
        int64_t width, int64_t gelu, int64_t threads) {                                           \
        backward(layer_of(x, weight, bias, skip, plan, images, tokens, channels, height, width,   \
                          gelu, 0),                                                               \
                 grad, grad_x, grad_weight, grad_bias, grad_skip, threads);                       \
    }

extern "C" {

// x, out, grad, grad_x (images, tokens, channels); weight (channels, 9); bias, skip (channels),
// skip null for none. plan: eight pointers, start and column of the rows that are pixels, the same
// of the rows that are tokens, the weights of to_map, of its transpose, of the transpose of
// to_tokens, of to_tokens; or null where token n is pixel n. out may be x.
TCF_TOKEN_CONV(f32, float)
TCF_TOKEN_CONV(bf16, bf16)
}
