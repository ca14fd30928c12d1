// What the kernels in ops/*/kernels.cpp share: vectors of the widest kind that the processor has,
// conversions, a few exact functions, and a loop over tasks on the threads that torch runs on.
//
// GCC's and Clang's vector extensions, no intrinsics: AVX-512, AVX2 and NEON come from one source.
// Arithmetic is `a * b + c` on `vf`; the compiler makes fused multiply-adds of it.
//
// Contract of every kernel: plain C functions (extern "C"), all integers int64_t, all reals
// double, pointers to dense memory, the number of threads last. Each output element is computed by
// one task in a fixed order, so results depend neither on the number of threads nor on the batch.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__)
constexpr int VL = 16;  // float32 lanes of a vector
#elif defined(__AVX__)
constexpr int VL = 8;
#else
constexpr int VL = 4;
#endif

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef uint16_t vh __attribute__((vector_size(VL * 2)));  // VL bfloat16 in their bits
typedef uint16_t bf16;                                     // one of them

static inline vf splat(float x) { return x - (vf){}; }

// ---- memory ---------------------------------------------------------------------------------

static inline vf load(const float* p) {
    vf x;
    std::memcpy(&x, p, sizeof x);
    return x;
}

static inline void store(float* p, vf x) { std::memcpy(p, &x, sizeof x); }

static inline float widen(float x) { return x; }

static inline float widen(bf16 x) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

static inline vf load(const bf16* p) {
    vh x;
    std::memcpy(&x, p, sizeof x);
    return (vf)(__builtin_convertvector(x, vu) << 16);
}

// Round to nearest, ties to even, as torch does; a NaN stays one.
static inline void store(bf16* p, vf x) {
    const vu bits = (vu)x;
    const vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const vu quiet = (bits >> 16) | 0x40u;
    const vh narrow = __builtin_convertvector((x == x) ? rounded : quiet, vh);
    std::memcpy(p, &narrow, sizeof narrow);
}

static inline void narrow(float* p, float x) { *p = x; }

static inline void narrow(bf16* p, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    *p = x == x ? static_cast<bf16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)
                : static_cast<bf16>((bits >> 16) | 0x40u);
}

// The first n < VL items; the other lanes are zero. Nothing beyond them is touched.
template <class T>
static inline vf load_part(const T* p, int n) {
    T items[VL] = {};
    std::memcpy(items, p, n * sizeof(T));
    return load(items);
}

template <class T>
static inline void store_part(T* p, vf x, int n) {
    T items[VL];
    store(items, x);
    std::memcpy(p, items, n * sizeof(T));
}

// ---- functions ------------------------------------------------------------------------------

static inline vf vmin(vf a, vf b) { return a < b ? a : b; }  // b where either is NaN
static inline vf vmax(vf a, vf b) { return a > b ? a : b; }
static inline vf vabs(vf a) { return (vf)((vu)a & 0x7fffffffu); }

// e^x to 1e-7 relative; 0 below -87.3, the largest power below infinity above 88.
static inline vf vexp(vf x) {
    const vf low = x < -87.3f ? splat(-87.3f) : x;
    const vf inside = low > 88.0f ? splat(88.0f) : low;
    const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const vf rounded = inside * 1.44269504f + magic;
    const vf n = rounded - magic;
    const vf r = (inside - n * 0.693359375f) + n * 2.12194440e-4f;
    vf q = splat(0.00138144707f);
    q = q * r + 0.00836877991f;
    q = q * r + 0.0416683927f;
    q = q * r + 0.166665196f;
    q = q * r + 0.49999994f;
    const vf mantissa = r * r * q + (r + 1.0f);
    const vi power = ((vi)rounded - (vi)magic) << 23;
    const vf scaled = (vf)((vi)mantissa + power);
    return x < -87.3f ? splat(0.0f) : scaled;
}

// erf to 1e-7: a rational function fitted on |x| < 3.92, beyond which float32 says one. A third of
// the time of a formula with an exponential, and its error is that of torch.erf.
static inline vf verf(vf x) {
    const vf inside = vmax(splat(-3.92f), vmin(splat(3.92f), x));
    const vf z = inside * inside;
    vf p = splat(2.03473348e-06f);
    p = p * z + 0.000287480379f;
    p = p * z + 0.0038683578f;
    p = p * z + 0.0530605736f;
    p = p * z + 0.192764729f;
    p = p * z + 1.12837902f;
    vf q = splat(3.80706781e-05f);
    q = q * z + 0.00118812313f;
    q = q * z + 0.0151723557f;
    q = q * z + 0.1150849f;
    q = q * z + 0.50416496f;
    q = q * z + 1.0f;
    const vf middle = inside * p / q;
    return x >= 3.92f ? splat(1.0f) : x <= -3.92f ? splat(-1.0f) : middle + (x - x);  // keep NaN
}

// The normal distribution below x.
static inline vf vphi(vf x) { return 0.5f + 0.5f * verf(x * 0.707106781f); }

// GELU with the exact distribution function, as torch.nn.GELU(), and its derivative.
static inline vf gelu(vf x) { return x * vphi(x); }

static inline vf gelu_slope(vf x) {
    return vphi(x) + x * (0.39894228f * vexp(-0.5f * x * x));
}

// ---- threads --------------------------------------------------------------------------------

// GOMP_parallel of the OpenMP runtime that torch has loaded, or null: then one thread does all.
// Set from Python (ops/csrc/build.py) so that there is one pool of threads in the process, and
// so that compiling needs no OpenMP. `#pragma omp` has no effect in these sources.
extern "C" {
typedef void (*tcf_fork_t)(void (*)(void*), void*, unsigned, unsigned);
extern tcf_fork_t tcf_fork;
}

// Call body(task) for task = 0 .. count-1 on up to `threads` threads, in any order and on any of
// them: what a task computes must depend on its number alone.
template <class Body>
static inline void parallel_for(int64_t count, int64_t threads, Body&& body) {
    threads = threads < count ? threads : count;
    if (threads <= 1 || !tcf_fork) {
        for (int64_t task = 0; task < count; ++task) body(task);
        return;
    }
    struct Shared {
        std::remove_reference_t<Body>* body;
        int64_t count;
        std::atomic<int64_t> next;
    } shared = {&body, count, {0}};
    tcf_fork(
        [](void* pointer) {
            auto* s = static_cast<Shared*>(pointer);
            for (int64_t task; (task = s->next.fetch_add(1, std::memory_order_relaxed)) < s->count;)
                (*s->body)(task);
        },
        &shared, static_cast<unsigned>(threads), 0);
}
