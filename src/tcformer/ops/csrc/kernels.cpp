// The one variable of the library, and functions by which tests check simd.h.
#include "simd.h"

extern "C" {

tcf_fork_t tcf_fork = nullptr;

void tcf_set_fork(void* fork) { tcf_fork = reinterpret_cast<tcf_fork_t>(fork); }

// Whether kernels run on more than one thread.
int64_t tcf_has_fork() { return tcf_fork != nullptr; }

// The number of float32 lanes that this library was compiled for.
int64_t tcf_lanes() { return VL; }

// out[i] = f(x[i]) in float32; f: 0 exp, 1 gelu, 2 slope of gelu, 3 to bfloat16 and back.
void tcf_map(const float* x, float* out, int64_t n, int64_t f, int64_t threads) {
    const int64_t step = 1024;
    parallel_for((n + step - 1) / step, threads, [&](int64_t task) {
        for (int64_t i = task * step; i < n && i < (task + 1) * step; i += VL) {
            const int part = static_cast<int>(n - i < VL ? n - i : VL);
            vf v = load_part(x + i, part);
            if (f == 0) v = vexp(v);
            if (f == 1) v = gelu(v);
            if (f == 2) v = gelu_slope(v);
            if (f == 3) {
                bf16 narrowed[VL];
                store(narrowed, v);
                v = load(narrowed);
            }
            store_part(out + i, v, part);
        }
    });
}
}
