/* X25519 (RFC 7748) and the map of Elligator 2 (RFC 9380), eight points at a time, with AVX-512 IFMA.
 * See docs/decisions/psi-curve-kernel.md for measurements.
 *
 * Numbers modulo p = 2^255 - 19 are sums of five c_i 2^(52 i). A vector holds one c_i of eight numbers: the eight lanes
 * compute side by side. A number is in one of two states:
 *
 *     columns   any c_i below 2^63: what sums, differences and products leave behind
 *     digits    after `carry`: the low 52 bits of each c_i count, which is all that an IFMA instruction reads, and
 *               what stands above them has been added to the next one; c_4 < 2^47 + 2^12
 *
 * Why nothing overflows. Digits stand for a number below 2^255 + 2^220. A product of two has in column k at most five
 * low and five high halves of products of 52 bits, nine in all: below 9 2^52. The upper five columns are carried, so
 * that their low 52 bits count, and come back times 608 = 2^260 mod p, one low half and one high half to a column: the
 * columns of a product are below 11 2^52 < 2^56. The last of the upper five is below 2^42 + 2^10, since the product is
 * below 2^510 + 2^476, so that 608 times it has no high half. A difference adds a multiple of p whose columns are
 * between 2^61 and 2^62 (`MULTIPLE`): whatever is subtracted, below 2^56, leaves nothing negative. Sums and differences
 * of products, and of products by small constants (below 2^53), so stay below 2^63, and what `carry` moves up is below
 * 2^16 at the top, where 19 times it goes to c_0, and below 2^12 elsewhere.
 *
 * Time. Nothing branches on a digit or on the scalar, or takes an address from one: the swaps of the ladder are blends
 * under a mask, and inverses are powers. The number of points is not protected.
 *
 * Every function checks its count and returns 0, or 1 for a refused one. The caller makes sure that the buffers are as
 * long as the count says.
 */
#include <stdint.h>
#include <string.h>

enum { DONE = 0, REFUSED = 1 };

/* Goes up whenever a function takes other arguments or data than before: an older library then counts as not built. */
int vfl_curve25519_interface(void) { return 1; }

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512dq,avx512ifma")))
#define INLINE TARGET static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef __m512i v8; /* one digit of eight numbers */

enum {
    LANES = 8,
    DIGITS = 5,
    BYTES = 32,  /* of a point, an element or a scalar */
    BLOCKS = 16, /* of eight points, that share one inversion */
    TOGETHER = 2, /* numbers raised to a power side by side: one alone would wait for its own carries */
    A = 486662,   /* v^2 = u^3 + A u^2 + u */
    A24 = 121665, /* (A - 2) / 4 */
    FOLD = 608,   /* 2^260 mod p */
};

typedef struct { v8 c[DIGITS]; } columns;
typedef struct { v8 c[DIGITS]; } digits;

#define MOST (INT64_MAX / BYTES)
#define MASK52 ((INT64_C(1) << 52) - 1)
#define MASK47 ((INT64_C(1) << 47) - 1)

#define LOW(sum, x, y) ((sum) = _mm512_madd52lo_epu64((sum), (x), (y)))
#define HIGH(sum, x, y) ((sum) = _mm512_madd52hi_epu64((sum), (x), (y)))
#define ADD _mm512_add_epi64
#define SUB _mm512_sub_epi64
#define AND _mm512_and_si512
#define OVER(x) _mm512_srli_epi64((x), 52)
#define ALL(x) _mm512_set1_epi64(x)
#define ZERO _mm512_setzero_si512()

/* A multiple of p: 2^62 (1 + 2^52 + ... + 2^208) less what that leaves modulo p. */
static const int64_t MULTIPLE[DIGITS] = {
    0x3FFFFFFFFFF68000, 0x3FFFFFFFFFFFFC00, 0x3FFFFFFFFFFFFC00, 0x3FFFFFFFFFFFFC00, 0x3FFFFFFFFFFFFC00,
};

/* ---- Numbers modulo p ---- */

INLINE digits carry(columns x)
{
    digits out;
    v8 *const c = out.c;
    const v8 top = _mm512_srli_epi64(x.c[4], 47);
    c[0] = x.c[0];
    LOW(c[0], top, ALL(19));
    c[1] = ADD(x.c[1], OVER(c[0]));
    c[2] = ADD(x.c[2], OVER(c[1]));
    c[3] = ADD(x.c[3], OVER(c[2]));
    c[4] = ADD(AND(x.c[4], ALL(MASK47)), OVER(c[3]));
    return out;
}

/* Digits as columns again: what counts of them. */
INLINE columns counted(digits x)
{
    columns out;
    UNROLL for (int k = 0; k < DIGITS; k++) out.c[k] = AND(x.c[k], ALL(MASK52));
    return out;
}

INLINE columns add(columns x, columns y)
{
    UNROLL for (int k = 0; k < DIGITS; k++) x.c[k] = ADD(x.c[k], y.c[k]);
    return x;
}

INLINE columns subtract(columns x, columns y)
{
    UNROLL for (int k = 0; k < DIGITS; k++) x.c[k] = ADD(x.c[k], SUB(ALL(MULTIPLE[k]), y.c[k]));
    return x;
}

INLINE columns constant(int64_t small)
{
    columns out = {{ALL(small), ZERO, ZERO, ZERO, ZERO}};
    return out;
}

/* y where a bit of `where` is set, x elsewhere. */
INLINE columns choose(__mmask8 where, columns x, columns y)
{
    UNROLL for (int k = 0; k < DIGITS; k++) x.c[k] = _mm512_mask_blend_epi64(where, x.c[k], y.c[k]);
    return x;
}

/* Ten columns of a product as five. */
INLINE columns fold(v8 *w)
{
    columns out;
    UNROLL for (int k = 5; k < 9; k++) w[k + 1] = ADD(w[k + 1], OVER(w[k]));
    UNROLL for (int k = 0; k < DIGITS; k++) LOW(w[k], w[5 + k], ALL(FOLD));
    UNROLL for (int k = 0; k < DIGITS - 1; k++) HIGH(w[k + 1], w[5 + k], ALL(FOLD));
    UNROLL for (int k = 0; k < DIGITS; k++) out.c[k] = w[k];
    return out;
}

INLINE columns multiply(digits x, digits y)
{
    v8 w[2 * DIGITS];
    UNROLL for (int k = 0; k < 2 * DIGITS; k++) w[k] = ZERO;
    UNROLL for (int i = 0; i < DIGITS; i++) {
        UNROLL for (int k = 0; k < DIGITS; k++) LOW(w[i + k], x.c[i], y.c[k]);
        UNROLL for (int k = 0; k < DIGITS; k++) HIGH(w[i + k + 1], x.c[i], y.c[k]);
    }
    return fold(w);
}

/* Products of unequal digits once, doubled, then the squares: 30 IFMA instructions instead of 50. */
INLINE columns square(digits x)
{
    v8 w[2 * DIGITS];
    UNROLL for (int k = 0; k < 2 * DIGITS; k++) w[k] = ZERO;
    UNROLL for (int i = 0; i < DIGITS; i++) {
        UNROLL for (int k = i + 1; k < DIGITS; k++) LOW(w[i + k], x.c[i], x.c[k]);
        UNROLL for (int k = i + 1; k < DIGITS; k++) HIGH(w[i + k + 1], x.c[i], x.c[k]);
    }
    UNROLL for (int k = 1; k < 2 * DIGITS - 1; k++) w[k] = ADD(w[k], w[k]);
    UNROLL for (int k = 0; k < DIGITS; k++) LOW(w[2 * k], x.c[k], x.c[k]);
    UNROLL for (int k = 0; k < DIGITS; k++) HIGH(w[2 * k + 1], x.c[k], x.c[k]);
    return fold(w);
}

/* x times a constant below 2^20; what leaves the top, below 2^17, comes back times 608. */
INLINE columns multiply_small(digits x, int64_t small)
{
    columns out = constant(0);
    v8 top = ZERO;
    HIGH(top, x.c[4], ALL(small));
    UNROLL for (int k = 0; k < DIGITS; k++) LOW(out.c[k], x.c[k], ALL(small));
    UNROLL for (int k = 0; k < DIGITS - 1; k++) HIGH(out.c[k + 1], x.c[k], ALL(small));
    LOW(out.c[0], top, ALL(FOLD));
    return out;
}

/* The digits below 2^52 of the number in [0, p). Digits stand for less than 2 p: x >= p exactly if x + 19 >= 2^255. */
INLINE columns reduce(columns x)
{
    const columns once = counted(carry(x));
    v8 over = ALL(19);
    UNROLL for (int k = 0; k < DIGITS - 1; k++) over = OVER(ADD(once.c[k], over));
    over = _mm512_srli_epi64(ADD(once.c[4], over), 47);
    columns out = once;
    LOW(out.c[0], over, ALL(19));
    UNROLL for (int k = 0; k < DIGITS - 1; k++) {
        out.c[k + 1] = ADD(out.c[k + 1], OVER(out.c[k]));
        out.c[k] = AND(out.c[k], ALL(MASK52));
    }
    out.c[4] = AND(out.c[4], ALL(MASK47));
    return out;
}

/* Where reduced numbers equal a constant below 2^52. */
INLINE __mmask8 equals(columns x, int64_t small)
{
    v8 rest = _mm512_xor_si512(x.c[0], ALL(small));
    UNROLL for (int k = 1; k < DIGITS; k++) rest = _mm512_or_si512(rest, x.c[k]);
    return _mm512_testn_epi64_mask(rest, rest);
}

/* ---- Powers and inverses ---- */

/* x[b]^(2^times) for `count` numbers side by side. */
INLINE void square_often(digits *x, const int times, const int count)
{
    for (int i = 0; i < times; i++)
        UNROLL for (int b = 0; b < count; b++) x[b] = carry(square(x[b]));
}

INLINE void multiply_each(digits *x, const digits *y, const int count)
{
    UNROLL for (int b = 0; b < count; b++) x[b] = carry(multiply(x[b], y[b]));
}

/* out = x^(2^times) y */
INLINE void shift_in(digits *out, const digits *x, const int times, const digits *y, const int count)
{
    digits t[TOGETHER];
    UNROLL for (int b = 0; b < count; b++) t[b] = x[b];
    square_often(t, times, count);
    multiply_each(t, y, count);
    UNROLL for (int b = 0; b < count; b++) out[b] = t[b];
}

/* x^(2^250 - 1), and x^3; D. J. Bernstein, "Curve25519: new Diffie-Hellman speed records", 2006, has the chain. */
INLINE void power_250(digits *out, digits *cube, const digits *x, const int count)
{
    digits a[TOGETHER], b[TOGETHER], c[TOGETHER];
    shift_in(cube, x, 1, x, count);  /* 2^2 - 1 */
    shift_in(a, cube, 1, x, count);  /* 2^3 - 1 */
    shift_in(a, a, 2, cube, count);  /* 2^5 - 1 */
    shift_in(a, a, 5, a, count);     /* 2^10 - 1 */
    shift_in(b, a, 10, a, count);    /* 2^20 - 1 */
    shift_in(c, b, 20, b, count);    /* 2^40 - 1 */
    shift_in(b, c, 10, a, count);    /* 2^50 - 1 */
    shift_in(c, b, 50, b, count);    /* 2^100 - 1 */
    shift_in(c, c, 100, c, count);   /* 2^200 - 1 */
    shift_in(out, c, 50, b, count);  /* 2^250 - 1 */
}

/* x^(p - 2) = x^(2^255 - 21): the exponent is (2^250 - 1) 2^5 + 11. */
TARGET static digits inverse(const digits x)
{
    digits cube, eleven, out;
    power_250(&out, &cube, &x, 1);
    shift_in(&eleven, &x, 2, &x, 1);        /* 5 */
    shift_in(&eleven, &eleven, 1, &x, 1);   /* 11 */
    shift_in(&out, &out, 5, &eleven, 1);
    return out;
}

/* Where x is a square other than zero: x^((p - 1) / 2) = 1, the exponent being (2^250 - 1) 2^4 + 6. */
TARGET static void squares(__mmask8 *where, const digits *x)
{
    digits cube[TOGETHER], out[TOGETHER];
    power_250(out, cube, x, TOGETHER);
    square_often(cube, 1, TOGETHER); /* x^6 */
    shift_in(out, out, 4, cube, TOGETHER);
    UNROLL for (int b = 0; b < TOGETHER; b++) where[b] = equals(reduce(counted(out[b])), 1);
}

/* z[b] = 1 / z[b] by one inversion (P. Montgomery's trick); none may be zero. */
TARGET static void invert_all(digits *z, const int64_t blocks)
{
    digits upto[BLOCKS]; /* z[0] ... z[b] */
    upto[0] = z[0];
    for (int64_t b = 1; b < blocks; b++) upto[b] = carry(multiply(upto[b - 1], z[b]));
    digits rest = inverse(upto[blocks - 1]);
    for (int64_t b = blocks - 1; b > 0; b--) {
        const digits own = carry(multiply(rest, upto[b - 1]));
        rest = carry(multiply(rest, z[b]));
        z[b] = own;
    }
    z[0] = rest;
}

/* ---- Rows of 32 bytes ---- */

/* The low 255 bits of eight rows; rows beyond `count` are zero. */
TARGET static digits load(const uint8_t *in, const int64_t count)
{
    _Alignas(64) uint64_t d[DIGITS][LANES] = {{0}};
    for (int64_t i = 0; i < count && i < LANES; i++) {
        uint64_t w[4];
        memcpy(w, in + i * BYTES, BYTES);
        d[0][i] = w[0] & MASK52;
        d[1][i] = (w[0] >> 52 | w[1] << 12) & MASK52;
        d[2][i] = (w[1] >> 40 | w[2] << 24) & MASK52;
        d[3][i] = (w[2] >> 28 | w[3] << 36) & MASK52;
        d[4][i] = w[3] >> 16 & MASK47;
    }
    digits out;
    UNROLL for (int k = 0; k < DIGITS; k++) out.c[k] = _mm512_load_si512(d[k]);
    return out;
}

/* Eight rows, or as many of them as `count` says, of reduced numbers. */
TARGET static void store(uint8_t *out, const int64_t count, const columns x)
{
    _Alignas(64) uint64_t d[DIGITS][LANES];
    UNROLL for (int k = 0; k < DIGITS; k++) _mm512_store_si512(d[k], x.c[k]);
    for (int64_t i = 0; i < count && i < LANES; i++) {
        const uint64_t w[4] = {
            d[0][i] | d[1][i] << 52,
            d[1][i] >> 12 | d[2][i] << 40,
            d[2][i] >> 24 | d[3][i] << 28,
            d[3][i] >> 36 | d[4][i] << 16,
        };
        memcpy(out + i * BYTES, w, BYTES);
    }
}

/* ---- The ladder ---- */

INLINE void swap(__mmask8 where, columns *x, columns *y)
{
    const columns was = *x;
    *x = choose(where, *x, *y);
    *y = choose(where, *y, was);
}

/* RFC 7748, section 5, with its names: the u of k times a point is x / z. What does not wait for one another stands
 * together, so that the processor overlaps it. */
TARGET static void ladder(columns *x, columns *z, const digits x_1, const uint8_t *k)
{
    columns x_2 = constant(1), z_2 = constant(0), x_3 = counted(x_1), z_3 = constant(1);
    unsigned previous = 0;
    for (int t = 254; t >= 0; t--) {
        const unsigned bit = k[t / 8] >> t % 8 & 1;
        const __mmask8 where = (__mmask8)-(previous ^ bit);
        previous = bit;
        swap(where, &x_2, &x_3);
        swap(where, &z_2, &z_3);
        const digits a = carry(add(x_2, z_2)), b = carry(subtract(x_2, z_2));
        const digits c = carry(add(x_3, z_3)), d = carry(subtract(x_3, z_3));
        const columns da = multiply(d, a), cb = multiply(c, b), aa = square(a), bb = square(b);
        const digits difference = carry(subtract(da, cb)), sum = carry(add(da, cb));
        const digits e = carry(subtract(aa, bb)), aa_digits = carry(aa), bb_digits = carry(bb);
        const digits squared = carry(square(difference));
        x_3 = square(sum);
        x_2 = multiply(aa_digits, bb_digits);
        const digits rest = carry(add(aa, multiply_small(e, A24)));
        z_3 = multiply(x_1, squared);
        z_2 = multiply(e, rest);
    }
    swap((__mmask8)-previous, &x_2, &x_3);
    swap((__mmask8)-previous, &z_2, &z_3);
    *x = x_2;
    *z = z_2;
}

/* out[i] = the u of k times the point with u = in[i], for all i; 0 where in[i] has low order. */
TARGET int vfl_curve25519_multiply(uint8_t *out, const uint8_t *in, const uint8_t *scalar, int64_t count)
{
    if (count < 0 || count > MOST) return REFUSED;
    uint8_t k[BYTES];
    memcpy(k, scalar, BYTES);
    k[0] &= 248;
    k[BYTES - 1] = (uint8_t)((k[BYTES - 1] & 127) | 64);
    for (int64_t at = 0; at < count; at += BLOCKS * LANES) {
        const int64_t left = count - at, blocks = left < BLOCKS * LANES ? (left + LANES - 1) / LANES : BLOCKS;
        digits x[BLOCKS], z[BLOCKS];
        __mmask8 infinite[BLOCKS];
        for (int64_t b = 0; b < blocks; b++) {
            columns above, below;
            ladder(&above, &below, load(in + (at + b * LANES) * BYTES, left - b * LANES), k);
            below = reduce(below);
            infinite[b] = equals(below, 0);
            x[b] = carry(above);
            z[b] = carry(choose(infinite[b], below, constant(1)));
        }
        invert_all(z, blocks);
        for (int64_t b = 0; b < blocks; b++) {
            const columns u = choose(infinite[b], reduce(multiply(x[b], z[b])), constant(0));
            store(out + (at + b * LANES) * BYTES, left - b * LANES, u);
        }
    }
    return DONE;
}

/* ---- The map ---- */

/* out[i] = the u on the curve that belongs to r = in[i]: RFC 9380, section 6.7.1, with Z = 2.
 * v = -A / (1 + 2 r^2), and u is v where v^3 + A v^2 + v is a square, else -v - A. The denominator is never zero, for
 * -1/2 is not a square, and neither is the cubic, for A^2 - 4 is none. */
TARGET int vfl_curve25519_map(uint8_t *out, const uint8_t *in, int64_t count)
{
    if (count < 0 || count > MOST) return REFUSED;
    for (int64_t at = 0; at < count; at += BLOCKS * LANES) {
        const int64_t left = count - at, blocks = left < BLOCKS * LANES ? (left + LANES - 1) / LANES : BLOCKS;
        digits v[BLOCKS + TOGETHER], cubic[BLOCKS + TOGETHER];
        __mmask8 good[BLOCKS + TOGETHER];
        for (int64_t b = 0; b < blocks; b++) {
            const columns r_squared = square(load(in + (at + b * LANES) * BYTES, left - b * LANES));
            v[b] = carry(add(add(r_squared, r_squared), constant(1)));
        }
        invert_all(v, blocks);
        for (int64_t b = 0; b < blocks; b++) {
            v[b] = carry(subtract(constant(0), multiply_small(v[b], A)));
            const columns factor = add(square(v[b]), add(multiply_small(v[b], A), constant(1)));
            cubic[b] = carry(multiply(v[b], carry(factor)));
        }
        for (int64_t b = blocks; b % TOGETHER; b++) cubic[b] = cubic[b - 1];
        for (int64_t b = 0; b < blocks; b += TOGETHER) squares(good + b, cubic + b);
        for (int64_t b = 0; b < blocks; b++) {
            const columns first = counted(v[b]), other = subtract(constant(0), add(first, constant(A)));
            store(out + (at + b * LANES) * BYTES, left - b * LANES, reduce(choose(good[b], other, first)));
        }
    }
    return DONE;
}

/* Whether this processor can do the above. */
int vfl_curve25519_supported(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512ifma");
}

#else /* another processor: there is nothing here but the answer that there is nothing */

int vfl_curve25519_supported(void) { return 0; }

#endif
