// DPC-KNN for one CPU: candidates from a blocked matrix product, decisions from exact distances.
//
// The half of the distance matrix on and above the diagonal is computed in register tiles, and every
// tile serves its rows and its columns: nothing of size N x N exists. Products only propose; the
// proposed distances are computed again from differences, and where rounding could have hidden a
// nearer token (the certificate below) the row is searched again exactly. So the result is the one
// that float32 differences define: it depends on no tile, thread, or other image.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "lists.h"
#include "tiles.h"

constexpr int EXTRA = 3;  // proposals beyond those that are needed
constexpr int BLOCK = 16 * MR;  // rows that stay in the second-level cache with their columns
static_assert(BLOCK % NR == 0, "panels of columns must not straddle blocks");

// One image: the visible tokens, their features and what is found out about them.
class Image {
  public:
    Image(const float* x, int64_t channels, std::vector<int32_t> tokens, float tolerance,
          int64_t threads)
        : x_(x), tokens_(std::move(tokens)), n_(tokens_.size()), c_(channels), threads_(threads),
          zero_(tolerance * tolerance), mean_(channels), half_(round_up(n_, BLOCK), INF),
          columns_(n_, channels) {
        centre();
    }

    int64_t cluster(int64_t num_clusters, int k, const float* noise, int64_t* assignment,
                    int64_t* centres) {
        std::vector<float> sparsity(n_), separation(n_);
        std::vector<int32_t> rank(n_);
        Lists near(n_, static_cast<int>(std::min<int64_t>(k + EXTRA, n_)));
        search(near);
        refine(near, k);
        for (int64_t i = 0; i < n_; ++i) {
            const float* d2 = near.values(i);
            double sum = 0;
            for (int e = 0; e < k; ++e) sum += d2[e];
            sparsity[i] = static_cast<float>(sum / k);
            if (noise) sparsity[i] = -std::log(std::exp(-sparsity[i]) + noise[tokens_[i]]);
        }
        order(sparsity, rank);
        separate(near, rank, separation);
        std::vector<int32_t> chosen = choose(sparsity, separation, rank, num_clusters);
        assign(near, chosen, assignment);
        for (size_t m = 0; m < chosen.size(); ++m) centres[m] = tokens_[chosen[m]];
        return static_cast<int64_t>(chosen.size());
    }

  private:
    static auto best_of(int64_t m) {
        const int length = static_cast<int>(std::min<int64_t>(1 + EXTRA, m));
        return [length](int64_t, int64_t rows) { return Lists(rows, length); };
    }

    const float* row(int64_t i) const { return x_ + tokens_[i] * c_; }

    // Distances do not change with the origin; near the mean the least is lost to rounding.
    void centre() {
        std::vector<double> sum(c_, 0.0);
        for (int64_t i = 0; i < n_; ++i)
            for (int64_t c = 0; c < c_; ++c) sum[c] += row(i)[c];
        for (int64_t c = 0; c < c_; ++c) mean_[c] = static_cast<float>(sum[c] / n_);
        largest_ = 0;
        for (int64_t i = 0; i < n_; ++i) {
            double norm2 = 0;
            for (int64_t c = 0; c < c_; ++c) {
                const float v = row(i)[c] - mean_[c];
                norm2 += static_cast<double>(v) * v;
            }
            half_[i] = static_cast<float>(0.5 * norm2);
            largest_ = std::max(largest_, static_cast<float>(std::sqrt(norm2)));
        }
        parallel_for(columns_.panels(), threads_, [&](int64_t panel) {
            columns_.pack(panel, [&](int64_t i) { return row(i); }, mean_.data());
        });
    }

    // What rounding may add to or take from a proposal of this row (|a.b - exact| <= C u |a||b|).
    float slack(int64_t i) const {
        const float norm = std::sqrt(2 * half_[i]) + largest_;
        return static_cast<float>(c_ + 16) * 6.0e-8f * 0.5f * norm * norm;
    }

    float exact(int64_t i, int64_t j) const {
        const float d2 = squared_distance(row(i), row(j), c_) / static_cast<float>(c_);
        return d2 <= zero_ ? 0.0f : d2 <= INF ? d2 : INF;  // NaN: as far away as can be
    }

    // -d^2/2 of a product, in the units of exact().
    float as_d2(float p) const { return -2.0f * p / static_cast<float>(c_); }

    // ---- the nearest tokens of every token ---------------------------------------------------

    // Every pair of blocks once, near pairs first: they hold the neighbours, and good lists make
    // the rest quick. A block takes part in its pairs in a fixed order, one at a time: what its
    // lists see does not depend on who computes what.
    void search(Lists& near) {
        struct Pair {
            int32_t a, b, turn_a, turn_b;
        };
        const int32_t blocks = static_cast<int32_t>((n_ + BLOCK - 1) / BLOCK);
        std::vector<int32_t> turns(blocks, 0);
        std::vector<Pair> pairs;
        pairs.reserve(static_cast<size_t>(blocks) * (blocks + 1) / 2);
        auto add = [&](int32_t a, int32_t b) {
            pairs.push_back({a, b, turns[a]++, a == b ? 0 : turns[b]++});
        };
        for (int32_t a = 0; a < blocks; ++a) add(a, a);
        for (int32_t apart = 1; apart < blocks; ++apart)
            for (int32_t odd = 0; odd < 2; ++odd)  // so that neighbours in the list share no block
                for (int32_t a = 0; a + apart < blocks; ++a)
                    if ((a / apart) % 2 == odd) add(a, a + apart);
        std::unique_ptr<std::atomic<int32_t>[]> done(new std::atomic<int32_t>[blocks]());
        parallel_for(static_cast<int64_t>(pairs.size()), threads_, [&](int64_t task) {
            const Pair& pair = pairs[task];
            wait_for(done[pair.a], pair.turn_a);
            if (pair.b != pair.a) wait_for(done[pair.b], pair.turn_b);
            compare(pair.a, pair.b, near);
            done[pair.a].fetch_add(1, std::memory_order_release);
            if (pair.b != pair.a) done[pair.b].fetch_add(1, std::memory_order_release);
        });
    }

    void compare(int64_t a, int64_t b, Lists& near) {
        static thread_local std::vector<float> rows;
        const int64_t first = a * BLOCK, last = std::min(n_, first + BLOCK);
        const RowPanels packed(rows, last - first, c_,
                               [&](int64_t i) { return row(first + i); }, mean_.data());
        const int64_t from = b * BLOCK, to = std::min(n_, from + BLOCK);
        const bool both = a != b;
        float* worst = near.worst();
        for (int64_t panel = from / NR; panel * NR < to; ++panel) {
            const int64_t left = panel * NR;
            for (int64_t top = 0; top < last - first; top += MR) {
                Tile tile;
                multiply(tile, packed.panel(top / MR), columns_.panel(panel), c_);
                const int height = static_cast<int>(std::min<int64_t>(MR, last - first - top));
                for (int r = 0; r < height; ++r) {
                    const int64_t i = first + top + r;
                    for (int v = 0; v < NV; ++v) {
                        const int64_t j0 = left + v * VL;
                        const vf p = (tile.acc[r][v] - load(&half_[j0])) - half_[i];
                        vf least = splat(worst[i]);
                        if (both) least = vmin(least, load(worst + j0));
                        uint32_t hits = lanes(p > least);
                        if (__builtin_expect(hits == 0, 1)) continue;
                        float value[VL];
                        store(value, p);
                        for (; hits; hits &= hits - 1) {
                            const int lane = __builtin_ctz(hits);
                            const int64_t j = j0 + lane;
                            if (value[lane] > worst[i]) near.insert(i, value[lane], j);
                            if (both && value[lane] > worst[j]) near.insert(j, value[lane], i);
                        }
                    }
                }
            }
        }
    }

    // Exact distances in place of the proposals, ascending, equal ones by token; and the
    // certificate: nothing outside the list can be nearer than the k-th of it. From then on
    // worst() is the distance up to which a list is known to be complete.
    void refine(Lists& near, int k) {
        std::vector<unsigned char> certain(n_);
        parallel_for((n_ + 63) / 64, threads_, [&](int64_t chunk) {
            std::vector<std::pair<float, int32_t>> found;
            for (int64_t i = chunk * 64; i < std::min(n_, chunk * 64 + 64); ++i) {
                const int32_t* column = near.columns(i);
                const float outside = near.length == n_ ? INF : as_d2(near.worst(i) + slack(i));
                found.clear();
                for (int e = 0; e < near.length; ++e)
                    if (column[e] >= 0) found.emplace_back(exact(i, column[e]), column[e]);
                const bool complete = static_cast<int64_t>(found.size()) == near.length;
                write(near, i, found);
                const float needed = near.values(i)[k - 1];
                certain[i] = near.length == n_ || (complete && (needed == 0 || needed <= outside));
                near.worst()[i] = outside;
            }
        });
        std::vector<int32_t> open;
        for (int64_t i = 0; i < n_; ++i)
            if (!certain[i]) open.push_back(static_cast<int32_t>(i));
        // All that could be as near as the k-th so far, however the product was rounded.
        auto reach = [&](int64_t i) {
            return -0.5f * near.values(i)[k - 1] * static_cast<float>(c_) - 2 * slack(i);
        };
        scan(
            open, columns_, half_.data(), nullptr, nullptr,
            [&](int64_t first, int64_t rows) {
                Candidates all(rows);
                for (int64_t at = 0; at < rows; ++at) all.worst()[at] = reach(open[first + at]);
                return all;
            },
            [&](int64_t i, const Candidates& all, int64_t at) {
                std::vector<std::pair<float, int32_t>> found;
                for (const int32_t j : all.columns(at)) found.emplace_back(exact(i, j), j);
                // Features that are not numbers are in nobody's reach: any tokens will do.
                for (int32_t j = 0; static_cast<int>(found.size()) < near.length; ++j)
                    found.emplace_back(INF, j);
                write(near, i, found);
                near.worst()[i] = near.values(i)[k - 1];
            });
    }

    // The nearest of what was found, ascending; absent ones are the token itself, at infinity.
    static void write(Lists& near, int64_t i, std::vector<std::pair<float, int32_t>>& found) {
        const int count = std::min(near.length, static_cast<int>(found.size()));
        std::partial_sort(found.begin(), found.begin() + count, found.end());
        for (int e = 0; e < near.length; ++e) {
            near.values(i)[e] = e < count ? found[e].first : INF;
            near.columns(i)[e] = e < count ? found[e].second : static_cast<int32_t>(i);
        }
    }

    // ---- density peaks -----------------------------------------------------------------------

    // rank: the place of every token in the order (denser first, then by token).
    void order(const std::vector<float>& sparsity, std::vector<int32_t>& rank) const {
        std::vector<int32_t> by(n_);
        for (int64_t i = 0; i < n_; ++i) by[i] = static_cast<int32_t>(i);
        std::sort(by.begin(), by.end(), [&](int32_t a, int32_t b) {
            const float s = known(sparsity[a]), t = known(sparsity[b]);
            return s < t || (s == t && a < b);
        });
        for (int64_t place = 0; place < n_; ++place) rank[by[place]] = static_cast<int32_t>(place);
    }

    static float known(float x) { return x == x ? x : INF; }

    // Squared distance to the nearest denser token: the first of the list, if the list has one.
    void separate(const Lists& near, const std::vector<int32_t>& rank, std::vector<float>& out) {
        std::vector<int32_t> open;
        for (int64_t i = 0; i < n_; ++i) {
            out[i] = INF;
            if (rank[i] == 0) continue;
            const float* d2 = near.values(i);
            const int32_t* j = near.columns(i);
            int e = 0;
            while (e < near.length && rank[j[e]] >= rank[i]) ++e;
            if (e < near.length && (d2[e] == 0 || d2[e] <= near.worst(i))) out[i] = d2[e];
            else open.push_back(static_cast<int32_t>(i));
        }
        if (open.empty()) return;
        std::vector<float> place(round_up(n_, NR), INF);  // ranks as floats, exact below 2^24
        for (int64_t i = 0; i < n_; ++i) place[i] = static_cast<float>(rank[i]);
        scan(open, columns_, half_.data(), place.data(), rank.data(), best_of(n_),
             [&](int64_t i, const Lists& found, int64_t at) {
                 out[i] = nearest(i, found, at, rank.data(), n_, nullptr).first;
             });
    }

    std::vector<int32_t> choose(const std::vector<float>& sparsity,
                                const std::vector<float>& separation,
                                const std::vector<int32_t>& rank, int64_t num_clusters) const {
        std::vector<double> score(n_);  // of the logarithm: densities underflow, this does not
        for (int64_t i = 0; i < n_; ++i) {
            const double s = 0.5 * std::log(static_cast<double>(separation[i])) - sparsity[i];
            score[i] = rank[i] == 0 ? INF : s == s ? s : -INF;
        }
        std::vector<int32_t> by(n_);
        for (int64_t i = 0; i < n_; ++i) by[i] = static_cast<int32_t>(i);
        const int64_t count = std::min(num_clusters, n_);
        std::nth_element(by.begin(), by.begin() + (count - 1), by.end(),
                         [&](int32_t a, int32_t b) {
                             return score[a] > score[b] || (score[a] == score[b] && a < b);
                         });
        by.resize(count);
        std::sort(by.begin(), by.end());
        return by;
    }

    // ---- the nearest of some tokens ----------------------------------------------------------

    // Every token joins its nearest centre, a centre itself. Every other token has one among its
    // neighbours already.
    void assign(const Lists& near, const std::vector<int32_t>& centres, int64_t* assignment) {
        const int64_t m = static_cast<int64_t>(centres.size());
        std::vector<int32_t> own(n_, -1), open;  // the cluster that a token is the centre of
        for (int64_t c = 0; c < m; ++c) own[centres[c]] = static_cast<int32_t>(c);
        for (int64_t i = 0; i < n_; ++i) {
            int32_t found = own[i];
            const float* d2 = near.values(i);
            for (int e = 0; found < 0 && e < near.length && d2[e] < near.worst(i); ++e)
                found = own[near.columns(i)[e]];
            if (found < 0) open.push_back(static_cast<int32_t>(i));
            else assignment[tokens_[i]] = found;
        }
        if (open.empty()) return;
        ColumnPanels packed(m, c_);
        parallel_for(packed.panels(), threads_, [&](int64_t panel) {
            packed.pack(panel, [&](int64_t c) { return row(centres[c]); }, mean_.data());
        });
        std::vector<float> half(round_up(m, NR), INF);
        for (int64_t c = 0; c < m; ++c) half[c] = half_[centres[c]];
        scan(open, packed, half.data(), nullptr, nullptr, best_of(m),
             [&](int64_t i, const Lists& found, int64_t at) {
                 assignment[tokens_[i]] = nearest(i, found, at, nullptr, m, centres.data()).second;
             });
    }

    // Proposals for some rows among all columns, or among those of smaller place. `make` gives
    // what keeps the proposals of some rows, `use` takes each row's from it.
    template <class Make, class Use>
    void scan(const std::vector<int32_t>& open, const ColumnPanels& columns, const float* half,
              const float* place, const int32_t* rank, Make&& make, Use&& use) {
        const int64_t count = static_cast<int64_t>(open.size());
        // Small blocks where there is little to do, so that all threads have some of it.
        const int64_t block = count >= 4 * BLOCK ? BLOCK : 4 * MR;
        parallel_for((count + block - 1) / block, threads_, [&](int64_t task) {
            static thread_local std::vector<float> rows;
            const int64_t first = task * block, last = std::min(count, first + block);
            const RowPanels packed(rows, last - first, c_,
                                   [&](int64_t i) { return row(open[first + i]); }, mean_.data());
            auto found = make(first, last - first);
            for (int64_t panel = 0; panel < columns.panels(); ++panel) {
                for (int64_t top = 0; top < last - first; top += MR) {
                    Tile tile;
                    multiply(tile, packed.panel(top / MR), columns.panel(panel), c_);
                    const int height = static_cast<int>(std::min<int64_t>(MR, last - first - top));
                    for (int r = 0; r < height; ++r) {
                        const int64_t at = top + r, i = open[first + at];
                        for (int v = 0; v < NV; ++v) {
                            const int64_t j0 = panel * NR + v * VL;
                            const vf p = (tile.acc[r][v] - load(half + j0)) - half_[i];
                            uint32_t hits = lanes(p > splat(found.worst(at)));
                            if (place)
                                hits &= lanes(load(place + j0) < splat(static_cast<float>(rank[i])));
                            if (__builtin_expect(hits == 0, 1)) continue;
                            float value[VL];
                            store(value, p);
                            for (; hits; hits &= hits - 1) {
                                const int lane = __builtin_ctz(hits);
                                if (value[lane] > found.worst(at))
                                    found.insert(at, value[lane], j0 + lane);
                            }
                        }
                    }
                }
            }
            for (int64_t at = 0; at < last - first; ++at) use(open[first + at], found, at);
        });
    }

    // The nearest column of a scanned row, exactly; equal distances go to the lower column.
    std::pair<float, int32_t> nearest(int64_t i, const Lists& found, int64_t at,
                                      const int32_t* rank, int64_t m, const int32_t* token) const {
        std::pair<float, int32_t> best(INF, 0);
        const int32_t* column = found.columns(at);
        bool full = true;
        for (int e = 0; e < found.length; ++e) {
            if (column[e] < 0) full = false;
            else best = std::min(best, {exact(i, token ? token[column[e]] : column[e]), column[e]});
        }
        // All were seen, or none outside the list can be as near.
        if (found.length == m || (!full && best.first < INF)) return best;
        if (full && best.first < as_d2(found.worst(at) + slack(i))) return best;
        best = {INF, 0};
        for (int32_t j = 0; j < m && best.first > 0; ++j)
            if (!rank || rank[j] < rank[i])
                best = std::min(best, {exact(i, token ? token[j] : j), j});
        return best;
    }

    const float* x_;
    std::vector<int32_t> tokens_;
    int64_t n_, c_, threads_;
    float zero_, largest_ = 0;
    std::vector<float> mean_, half_;
    ColumnPanels columns_;
};
