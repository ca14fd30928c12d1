// What a search keeps of every row of a product.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "tiles.h"

constexpr float INF = std::numeric_limits<float>::infinity();

// The nearest proposals of every row: values -d^2/2, descending, and their columns.
class Lists {
  public:
    const int length;

    Lists(int64_t rows, int length)
        : length(length), stride_(std::max(length, VL)), worst_(round_up(rows, NR), INF),
          value_(rows * stride_, -INF), column_(rows * stride_, -1) {
        std::fill(worst_.begin(), worst_.begin() + rows, -INF);  // beyond: nothing is near enough
    }

    float* values(int64_t row) { return &value_[row * stride_]; }
    const float* values(int64_t row) const { return &value_[row * stride_]; }
    int32_t* columns(int64_t row) { return &column_[row * stride_]; }
    const int32_t* columns(int64_t row) const { return &column_[row * stride_]; }
    float* worst() { return worst_.data(); }  // the last value of every list
    float worst(int64_t row) const { return worst_[row]; }

    // Put a value that is larger than the worst in its place.
    void insert(int64_t row, float p, int32_t j) {
        float* v = values(row);
        int32_t* c = columns(row);
        if (length <= VL) {
            // One vector holds the list (and what fell off its end): shift what is smaller.
            const vf old = load(v), shifted = shift(old, INF), new_ = splat(p);
            const vi columns = load_whole(c);
            store(v, old >= new_ ? old : vmin(new_, shifted));
            const vi moved = shifted >= new_ ? splat_whole(j) : shift(columns, 0);
            store_whole(c, old >= new_ ? columns : moved);
        } else {
            int at = length - 1;
            for (; at > 0 && v[at - 1] < p; --at) {
                v[at] = v[at - 1];
                c[at] = c[at - 1];
            }
            v[at] = p;
            c[at] = j;
        }
        worst_[row] = v[length - 1];
    }

  private:
    int64_t stride_;
    std::vector<float> worst_, value_;
    std::vector<int32_t> column_;
};

// All proposals of every row that are larger than a bound.
class Candidates {
  public:
    explicit Candidates(int64_t rows) : worst_(rows), columns_(rows) {}

    float* worst() { return worst_.data(); }
    float worst(int64_t row) const { return worst_[row]; }
    const std::vector<int32_t>& columns(int64_t row) const { return columns_[row]; }
    void insert(int64_t row, float, int32_t j) { columns_[row].push_back(j); }

  private:
    std::vector<float> worst_;
    std::vector<std::vector<int32_t>> columns_;
};
