// The entry of the DPC-KNN kernel: batches and masks; one image is the business of image.h.
#include <new>

#include "image.h"

static void cluster_image(const float* x, int64_t n, int64_t c, int64_t m, int64_t k,
                   const unsigned char* mask, const float* noise, float tolerance,
                   int64_t* assignment, int64_t* centres, int64_t threads) {
    std::fill(assignment, assignment + n, -1);
    std::fill(centres, centres + m, -1);
    std::vector<int32_t> tokens;
    tokens.reserve(n);
    for (int64_t i = 0; i < n; ++i)
        if (!mask || mask[i]) tokens.push_back(static_cast<int32_t>(i));
    if (tokens.empty()) return;
    k = std::min<int64_t>(k, tokens.size());
    Image image(x, c, std::move(tokens), tolerance, threads);
    image.cluster(m, static_cast<int>(k), noise, assignment, centres);
}


// Cluster (B, N, C) float32; assignment (B, N) and centres (B, M) int64 are written, -1 where a
// mask leaves nothing. mask and noise may be null; *failed becomes 1 where memory runs out.
extern "C" void tcf_dpc_knn(const float* x, int64_t batch, int64_t n, int64_t c, int64_t m,
                            int64_t k, const unsigned char* mask, const float* noise,
                            double tolerance, int64_t* assignment, int64_t* centres,
                            int64_t* failed, int64_t threads) {
    std::atomic<int64_t> out_of_memory{0};
    auto one = [&](int64_t b, int64_t inner) {
        try {
            cluster_image(x + b * n * c, n, c, m, k, mask ? mask + b * n : nullptr,
                          noise ? noise + b * n : nullptr, static_cast<float>(tolerance),
                          assignment + b * n, centres + b * m, inner);
        } catch (const std::bad_alloc&) {
            out_of_memory = 1;
        }
    };
    // Whole images to every thread as long as there are enough: each in its own cache.
    const int64_t whole = batch / threads * threads;
    parallel_for(whole, threads, [&](int64_t b) { one(b, 1); });
    for (int64_t b = whole; b < batch; ++b) one(b, threads);
    *failed = out_of_memory;
}
