/* Vectors of LANES floats, the number that fits a register of the processor; for native.c and training.c. */

#ifndef VECTORS_H
#define VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* LANES: floats in a register. */
#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t vec_int __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint32_t vec_uint __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint16_t vec_uint16 __attribute__((vector_size(LANES * 2), aligned(2)));
#ifdef __FLT16_MAX__
typedef _Float16 vec_float16 __attribute__((vector_size(LANES * 2), aligned(2)));
#endif

INLINE int padded(int n) { return (n + LANES - 1) / LANES * LANES; }
INLINE int min_int(int a, int b) { return a < b ? a : b; }
INLINE vec broadcast(float x) { return x - (vec){}; }
INLINE vec blend(vec_int condition, vec a, vec b) { return (vec)((condition & (vec_int)a) | (~condition & (vec_int)b)); }
INLINE vec maximum(vec a, vec b) { return blend(a > b, a, b); }

/* a * b + c, rounded once if the processor has the instruction. The instruction is written explicitly, because with -ffp-contract=fast
   a compiler may fuse in one copy of a loop and not in another copy. A row's numbers would then depend on the size of the batch. */
INLINE vec multiply_add(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

INLINE float reduce_sum(vec v) {
    for (int n = LANES / 2; n; n /= 2)
        for (int i = 0; i < n; i++) v[i] += v[i + n];
    return v[0];
}

INLINE float reduce_max(vec v) {
    float most = v[0];
    for (int i = 1; i < LANES; i++) most = v[i] > most ? v[i] : most;
    return most;
}

/* The first `n` numbers of x, followed by zeros. */
INLINE vec load_partial(const float *x, int n) {
    if (n == LANES) return *(const vec *)x;
    vec loaded = broadcast(0);
    memcpy(&loaded, x, n * sizeof(float));
    return loaded;
}

/* Stores the first `n` numbers of v. */
INLINE void store_partial(float *x, vec v, int n) {
    if (n == LANES) *(vec *)x = v;
    else memcpy(x, &v, n * sizeof(float));
}

/* e^x with an error of a few units in the last place: 2^n e^r with |r| <= ln(2)/2, where e^r is a Taylor polynomial. Below -87,
   e^x would be denormal, and the result is 0. */
INLINE vec exponential(vec x) {
    vec clamped = maximum(x, broadcast(-87.0f));
    clamped = blend(clamped > 88.0f, broadcast(88.0f), clamped);
    /* Adding 1.5 * 2^23 rounds to an integer: n is in the lowest bits. */
    vec shifted = multiply_add(clamped, broadcast(1.44269504088896341f), broadcast(12582912.0f));
    vec n = shifted - 12582912.0f;
    vec r = multiply_add(n, broadcast(2.12194440e-4f), multiply_add(n, broadcast(-0.693359375f), clamped)); /* ln(2) as two constants */
    vec p = broadcast(1.0f / 5040);
    p = multiply_add(p, r, broadcast(1.0f / 720));
    p = multiply_add(p, r, broadcast(1.0f / 120));
    p = multiply_add(p, r, broadcast(1.0f / 24));
    p = multiply_add(p, r, broadcast(1.0f / 6));
    p = multiply_add(p, r, broadcast(0.5f));
    p = multiply_add(p, r, broadcast(1.0f));
    p = multiply_add(p, r, broadcast(1.0f));
    vec power = (vec)(((vec_uint)shifted + 127) << 23);
    return blend(x < -87.0f, broadcast(0), p * power);
}

/* The probability that a standard normal variable is below x, with an error below 2e-7 (Abramowitz and Stegun, 1964, 7.1.26). */
INLINE vec normal_cdf(vec x) {
    vec z = blend(x < 0, -x, x) * 0.70710678118654752f, t = 1.0f / multiply_add(z, broadcast(0.3275911f), broadcast(1));
    vec p = broadcast(1.061405429f);
    p = multiply_add(p, t, broadcast(-1.453152027f));
    p = multiply_add(p, t, broadcast(1.421413741f));
    p = multiply_add(p, t, broadcast(-0.284496736f));
    p = multiply_add(p, t, broadcast(0.254829592f));
    vec tail = 0.5f * p * t * exponential(-z * z);
    return blend(x < 0, tail, 1.0f - tail);
}

#endif
