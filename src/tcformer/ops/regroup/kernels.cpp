// Regrouping: index structures by counting sort, and the weighted gather-sum that they serve.
#include "simd.h"

#include <vector>

namespace {

// One image: `order` becomes the stable order of `items` (in the order `before`) by key.
void counting_sort(const int64_t* key, const int32_t* before, int32_t* order, int64_t items,
                   std::vector<int32_t>& first, int64_t keys) {
    first.assign(keys + 1, 0);
    for (int64_t i = 0; i < items; ++i) ++first[key[i] + 1];
    for (int64_t k = 0; k < keys; ++k) first[k + 1] += first[k];
    for (int64_t i = 0; i < items; ++i) {
        const int32_t item = before ? before[i] : static_cast<int32_t>(i);
        order[first[key[item]]++] = item;
    }
}

bool within(const int64_t* index, int64_t items, int64_t size) {
    bool good = true;
    for (int64_t i = 0; i < items; ++i) good &= index[i] >= 0 && index[i] < size;
    return good;
}

// Both ways through the entries of one image. Rows in one direction are columns in the other.
struct Side {
    int32_t* start;   // (images*rows + 1)
    int32_t* column;  // (images*entries), local to the image until the end
    float* value;     // (images*entries), raw weights
};

template <class T>
void gather(const T* x, const int32_t* start, const int32_t* column, const float* weight, T* out,
            int64_t rows, int64_t channels, int64_t threads) {
    const int64_t step = 16;
    parallel_for((rows + step - 1) / step, threads, [&](int64_t task) {
        const int64_t end = (task + 1) * step < rows ? (task + 1) * step : rows;
        for (int64_t row = task * step; row < end; ++row) {
            const int32_t first = start[row], last = start[row + 1];
            T* to = out + row * channels;
            int64_t c = 0;
            for (; c + 4 * VL <= channels; c += 4 * VL) {
                vf sum[4] = {};
                for (int32_t e = first; e < last; ++e) {
                    const T* from = x + column[e] * channels + c;
                    for (int v = 0; v < 4; ++v) sum[v] += weight[e] * load(from + v * VL);
                }
                for (int v = 0; v < 4; ++v) store(to + c + v * VL, sum[v]);
            }
            for (; c < channels; c += VL) {
                const int part = static_cast<int>(channels - c < VL ? channels - c : VL);
                vf sum = {};
                for (int32_t e = first; e < last; ++e)
                    sum += weight[e] * load_part(x + column[e] * channels + c, part);
                store_part(to + c, sum, part);
            }
        }
    });
}

}  // namespace

extern "C" {

// Merge the entries (a, b) of every image into distinct pairs, in both directions.
//
//   a, b            (images, entries), in 0..num_a-1 and 0..num_b-1
//   weight          (images, entries), or null for ones
//   *_start         (images*rows + 1), *_column and all weights (images*entries): the used part
//                   ends at *_start[images*rows], after it zeros
//   into_b, from_b  weights of rows b and rows a, over the totals of b
//   into_a, from_a  the same over the totals of a; both null where that way is not wanted
//   status          1 if an index is out of range (then nothing else is written), else 0
//
// Rows are sorted by column, so sums have the same order whatever the order of the entries.
void tcf_regroup_plan(const int64_t* a, const int64_t* b, const float* weight, int32_t* b_start,
                      int32_t* b_column, float* into_b, int32_t* a_start, int32_t* a_column,
                      float* from_b, float* into_a, float* from_a, int64_t* status, int64_t images,
                      int64_t entries, int64_t num_a, int64_t num_b, double eps, int64_t threads) {
    std::vector<int32_t> used(images, 0);
    std::vector<float> raw_b(images * entries), raw_a(images * entries);
    std::vector<float> total_a(images * num_a, 0.0f), total_b(images * num_b, 0.0f);
    std::atomic<int64_t> bad{0};
    const Side by_b = {b_start, b_column, raw_b.data()}, by_a = {a_start, a_column, raw_a.data()};

    parallel_for(images, threads, [&](int64_t image) {
        const int64_t at = image * entries;
        if (!within(a + at, entries, num_a) || !within(b + at, entries, num_b)) {
            bad = 1;
            return;
        }
        std::vector<int32_t> first, order(entries), sorted(entries), row(entries);
        counting_sort(a + at, nullptr, order.data(), entries, first, num_a);
        counting_sort(b + at, order.data(), sorted.data(), entries, first, num_b);
        int32_t n = 0;
        for (int64_t i = 0; i < entries; ++i) {
            const int32_t item = sorted[i];
            const float value = weight ? weight[at + item] : 1.0f;
            const auto r = static_cast<int32_t>(b[at + item]);
            const auto c = static_cast<int32_t>(a[at + item]);
            if (n && row[n - 1] == r && by_b.column[at + n - 1] == c) {
                by_b.value[at + n - 1] += value;
            } else {
                row[n] = r;
                by_b.column[at + n] = c;
                by_b.value[at + n] = value;
                ++n;
            }
        }
        used[image] = n;
        // The transpose: the same pairs, sorted once more.
        int32_t* starts = by_b.start + image * num_b;
        for (int64_t r = 0, i = 0; r < num_b; ++r) {
            starts[r] = static_cast<int32_t>(i);
            while (i < n && row[i] == r) ++i;
        }
        first.assign(num_a + 1, 0);
        for (int32_t i = 0; i < n; ++i) ++first[by_b.column[at + i] + 1];
        for (int64_t r = 0; r < num_a; ++r) first[r + 1] += first[r];
        for (int64_t r = 0; r < num_a; ++r) by_a.start[image * num_a + r] = first[r];
        for (int32_t i = 0; i < n; ++i) {
            const int32_t c = by_b.column[at + i], to = first[c]++;
            by_a.column[at + to] = row[i];
            by_a.value[at + to] = by_b.value[at + i];
            total_a[image * num_a + c] += by_b.value[at + i];
            total_b[image * num_b + row[i]] += by_b.value[at + i];
        }
    });
    status[0] = bad;
    if (bad) return;

    // Close the gaps between the images.
    int32_t end = 0;
    for (int64_t image = 0; image < images; ++image) {
        const int64_t at = image * entries, size = used[image];
        const auto finish = [&](const Side& side, int64_t rows, int64_t columns) {
            for (int64_t r = 0; r < rows; ++r) side.start[image * rows + r] += end;
            for (int64_t i = 0; i < size; ++i) {
                side.column[end + i] =
                    side.column[at + i] + static_cast<int32_t>(image * columns);
                side.value[end + i] = side.value[at + i];
            }
        };
        finish(by_b, num_b, num_a);
        finish(by_a, num_a, num_b);
        end += static_cast<int32_t>(size);
    }
    b_start[images * num_b] = a_start[images * num_a] = end;
    for (int64_t i = end; i < images * entries; ++i) {
        b_column[i] = a_column[i] = 0;
        into_b[i] = from_b[i] = 0.0f;
        if (into_a) into_a[i] = from_a[i] = 0.0f;
    }

    const auto little = static_cast<float>(eps);
    const auto normalise = [&](const Side& side, int64_t rows, const std::vector<float>& own,
                               const std::vector<float>& other, float* by_own, float* by_other) {
        const int64_t step = 256;
        parallel_for((rows + step - 1) / step, threads, [&](int64_t task) {
            for (int64_t r = task * step; r < rows && r < (task + 1) * step; ++r)
                for (int32_t i = side.start[r]; i < side.start[r + 1]; ++i) {
                    if (by_own) by_own[i] = side.value[i] / (own[r] + little);
                    if (by_other) by_other[i] = side.value[i] / (other[side.column[i]] + little);
                }
        });
    };
    normalise(by_b, images * num_b, total_b, total_a, into_b, from_a);
    normalise(by_a, images * num_a, total_a, total_b, into_a, from_b);
}

// out[r] = sum of weight[e] * x[column[e]] over start[r] <= e < start[r+1]; x (any, channels).
void tcf_regroup_gather_f32(const float* x, const int32_t* start, const int32_t* column,
                            const float* weight, float* out, int64_t rows, int64_t channels,
                            int64_t threads) {
    gather(x, start, column, weight, out, rows, channels, threads);
}

void tcf_regroup_gather_bf16(const bf16* x, const int32_t* start, const int32_t* column,
                             const float* weight, bf16* out, int64_t rows, int64_t channels,
                             int64_t threads) {
    gather(x, start, column, weight, out, rows, channels, threads);
}
}
