// Sums of 8-bit products by scale group, weighed and added in double precision:
//
//   total[m, n] = sum over g of scale[g, n] * sum over k in group g of x[m, k] * u[n, k]
//                             + offset[g, n] * input[m, g]
//
// `evolute.sw.language_model.products` says when every sum is exact; then no order of summation matters, nor whether a
// multiplication is fused with an addition. It also makes the layouts:
//
//   x      int8   [m, 4 * quads]             zeros after the last k
//   u      uint8  [blocks, quads, 16, 4]     16 neighbouring outputs, four neighbours along k
//   scale  double [groups, blocks * 16]      offset alike
//   input  double [m, groups]                sums of x over groups
//   total  double [m, blocks * 16]
//
// A group has `group_quads` quads, the last one those that are left.

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr long kOutputs = 16;

struct Job {
    long rows, quads, blocks, group_quads, groups;
    const int8_t *x;
    const uint8_t *u;
    const double *scale, *offset, *input;
    double *total;

    // What is left from a row and a block of outputs on.
    Job from(long row, long block) const {
        const long at = block * kOutputs;
        return {rows, quads, blocks, group_quads, groups, x + row * quads * 4, u + at * quads * 4,
                scale + at, offset + at, input + row * groups, total + row * blocks * kOutputs + at};
    }
};

#if defined(__x86_64__)

int32_t quad(const int8_t *x) {
    int32_t found;
    std::memcpy(&found, x, sizeof found);
    return found;
}

// The job's first block of outputs for its first rows, in registers throughout.
template <int Rows>
__attribute__((target("avx512f,avx512bw,avx512vnni"))) void wide(const Job &job) {
    const long row_outputs = job.blocks * kOutputs;
    __m512d low[Rows], high[Rows];
    for (int r = 0; r < Rows; ++r) low[r] = high[r] = _mm512_setzero_pd();
    for (long g = 0, q = 0; g < job.groups; ++g) {
        const long end = std::min(q + job.group_quads, job.quads);
        __m512i sum[Rows];
        for (int r = 0; r < Rows; ++r) sum[r] = _mm512_setzero_si512();
        for (; q < end; ++q) {
            const __m512i weights = _mm512_loadu_si512(job.u + q * kOutputs * 4);
            for (int r = 0; r < Rows; ++r) {
                const __m512i inputs = _mm512_set1_epi32(quad(job.x + (r * job.quads + q) * 4));
                sum[r] = _mm512_dpbusd_epi32(sum[r], weights, inputs);
            }
        }
        const double *scale = job.scale + g * row_outputs, *offset = job.offset + g * row_outputs;
        const __m512d scale_low = _mm512_loadu_pd(scale), scale_high = _mm512_loadu_pd(scale + 8);
        const __m512d offset_low = _mm512_loadu_pd(offset);
        const __m512d offset_high = _mm512_loadu_pd(offset + 8);
        for (int r = 0; r < Rows; ++r) {
            const __m512d input = _mm512_set1_pd(job.input[r * job.groups + g]);
            const __m512d first = _mm512_cvtepi32_pd(_mm512_castsi512_si256(sum[r]));
            const __m512d second = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(sum[r], 1));
            low[r] = _mm512_fmadd_pd(first, scale_low, _mm512_fmadd_pd(input, offset_low, low[r]));
            high[r] =
                _mm512_fmadd_pd(second, scale_high, _mm512_fmadd_pd(input, offset_high, high[r]));
        }
    }
    for (int r = 0; r < Rows; ++r) {
        _mm512_storeu_pd(job.total + r * row_outputs, low[r]);
        _mm512_storeu_pd(job.total + r * row_outputs + 8, high[r]);
    }
}

// The same in half as wide registers. Pairs of products must fit 16 bits: codes of at most 128.
template <int Rows>
__attribute__((target("avx2,fma"))) void narrow(const Job &job) {
    const long row_outputs = job.blocks * kOutputs;
    const __m256i ones = _mm256_set1_epi16(1);
    for (int at = 0; at < kOutputs; at += 8) {
        __m256d low[Rows], high[Rows];
        for (int r = 0; r < Rows; ++r) low[r] = high[r] = _mm256_setzero_pd();
        for (long g = 0, q = 0; g < job.groups; ++g) {
            const long end = std::min(q + job.group_quads, job.quads);
            __m256i sum[Rows];
            for (int r = 0; r < Rows; ++r) sum[r] = _mm256_setzero_si256();
            for (; q < end; ++q) {
                const uint8_t *u = job.u + (q * kOutputs + at) * 4;
                const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(u));
                for (int r = 0; r < Rows; ++r) {
                    const __m256i inputs = _mm256_set1_epi32(quad(job.x + (r * job.quads + q) * 4));
                    const __m256i pairs = _mm256_maddubs_epi16(weights, inputs);
                    sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(pairs, ones));
                }
            }
            const double *scale = job.scale + g * row_outputs + at;
            const double *offset = job.offset + g * row_outputs + at;
            const __m256d scale_low = _mm256_loadu_pd(scale);
            const __m256d scale_high = _mm256_loadu_pd(scale + 4);
            const __m256d offset_low = _mm256_loadu_pd(offset);
            const __m256d offset_high = _mm256_loadu_pd(offset + 4);
            for (int r = 0; r < Rows; ++r) {
                const __m256d input = _mm256_set1_pd(job.input[r * job.groups + g]);
                const __m256d first = _mm256_cvtepi32_pd(_mm256_castsi256_si128(sum[r]));
                const __m256d second = _mm256_cvtepi32_pd(_mm256_extracti128_si256(sum[r], 1));
                low[r] =
                    _mm256_fmadd_pd(first, scale_low, _mm256_fmadd_pd(input, offset_low, low[r]));
                high[r] = _mm256_fmadd_pd(second, scale_high,
                                          _mm256_fmadd_pd(input, offset_high, high[r]));
            }
        }
        for (int r = 0; r < Rows; ++r) {
            _mm256_storeu_pd(job.total + r * row_outputs + at, low[r]);
            _mm256_storeu_pd(job.total + r * row_outputs + at + 4, high[r]);
        }
    }
}

template <int AtOnce>
void run(const Job &job, void (*many)(const Job &), void (*one)(const Job &)) {
    for (long block = 0; block < job.blocks; ++block) {
        long row = 0;
        for (; row + AtOnce <= job.rows; row += AtOnce) many(job.from(row, block));
        for (; row < job.rows; ++row) one(job.from(row, block));
    }
}

#endif

}  // namespace

// The best of this machine's instructions: 2 for AVX-512 VNNI, with codes up to 255; 1 for AVX2, with
// codes up to 128; 0 for neither.
extern "C" int instructions() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw")) return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

// `chosen` is one of those that `instructions` says or implies.
extern "C" void group_products(int chosen, long rows, long quads, long blocks, long group_quads,
                               const int8_t *x, const uint8_t *u, const double *scale,
                               const double *offset, const double *input, double *total) {
#if defined(__x86_64__)
    const long groups = (quads + group_quads - 1) / group_quads;
    const Job job{rows, quads, blocks, group_quads, groups, x, u, scale, offset, input, total};
    if (chosen == 2)
        run<8>(job, wide<8>, wide<1>);
    else
        run<2>(job, narrow<2>, narrow<1>);
#endif
}
